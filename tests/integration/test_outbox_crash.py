"""A service with an outbox is killed at any moment: nothing applied is ever missing in the CRM."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from standardwebhooks import Webhook

from cognigy_async.emulator import Emulator, Faults, serve

from .commands import CONTEXT
from .outbox_service import POINTS, is_modify, node_of
from .outbox_service import serve as serve_and_be_killed
from .services import CLIENT_ID, CRM_SECRET, HOST, SECRET

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="it sends SIGKILL"),
]

FAULTS = Faults(
    latency=0.005,
    latency_jitter=0.02,
    drop_before=0.005,
    drop_after=0.005,
    error_500=0.005,
    error_503=0.005,
    retry_after_503=0.1,
    conflict=0.005,
    throttle_dialog=0.005,
    throttle_seconds=0.2,
)
"""Together 3% of the requests."""


@dataclass
class Crm:
    """A CRM for the function and for the webhook of the service.

    Attributes:
        faults: share of the requests that it does not serve well.
        taken: for each target, names and ids of the applied updates in the order of their arrival,
            with those that it took and did not answer.
        failed: for each target, the same of failed updates.
    """

    faults: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    taken: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {"function": [], "webhook": []}
    )
    failed: dict[str, set[tuple[str, str]]] = field(
        default_factory=lambda: {"function": set(), "webhook": set()}
    )

    @property
    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/function", self._call)
        app.router.add_post("/events", self._event)
        return app

    async def _call(self, request: web.Request) -> web.Response:
        body = await request.json()
        applied = body["outcome"] == "applied"
        return self._answer(request, "function", (body["name"], body["id"]), applied=applied)

    async def _event(self, request: web.Request) -> web.Response:
        event = Webhook(CRM_SECRET).verify(await request.text(), dict(request.headers))
        update = (event["data"]["metadata"]["name"], request.headers["webhook-id"])
        applied = event["type"] == "dialog.updated"
        return self._answer(request, "webhook", update, applied=applied)

    def _answer(
        self, request: web.Request, target: str, update: tuple[str, str], *, applied: bool
    ) -> web.Response:
        kind = ""
        if self.chance.random() < self.faults:
            kind = self.chance.choice(("500", "503", "lost"))
        if kind == "500":
            return web.Response(status=500)
        if kind == "503":
            return web.Response(status=503, headers={"Retry-After": "1"})
        if applied:
            self.taken[target].append(update)
        else:
            self.failed[target].add(update)
        if kind == "lost":
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=204)


class Service:
    """A process of the service, killed at the end of the context at the latest."""

    def __init__(self, *arguments: Any) -> None:
        self._ear, say = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=serve_and_be_killed, args=(say, *arguments))
        self.process.start()
        say.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self._ear.close()

    def wait_until(self, word: str) -> None:
        assert self._ear.poll(30)
        assert self._ear.recv() == word


@dataclass
class Stage:
    """The servers of a service that is killed, and its folder."""

    emulator: Emulator
    crm: Crm
    url: str
    origin: str
    folder: Path

    def start(self, run: int, seconds: float, point: str = "nowhere") -> Service:
        return Service(self.url, self.origin, self.folder, run, seconds, point)

    def finish(self, run: int) -> None:
        """Let a process deliver all that is left."""
        with self.start(run, 0) as service:
            service.process.join(300)
            assert service.process.exitcode == 0

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def applied(self) -> set[str]:
        """Return the names of all updates that the server applied."""
        return {
            f"{dialog_id}:{number}"
            for dialog_id, dialog in self.emulator.dialogs.items()
            for entry in dialog.history
            for variable, number in entry.body["session"].items()
            if variable != "n"
        }

    def check(self) -> set[str]:
        """Check that the CRM has what the server applied. Return the names of these updates."""
        applied = self.applied()
        reported = set(self.lines("reported"))
        assert reported <= applied
        ids: dict[str, str] = {}
        for target, taken in self.crm.taken.items():
            delivered = {name for name, _ in taken}
            assert delivered <= applied
            # Its response was lost, and its repeat refused. For caller and CRM it is ambiguous.
            missing = applied - delivered
            assert missing <= {name for name, _ in self.crm.failed[target]} - reported
            for name in missing:
                own = int(name.split(":")[1])
                assert is_modify(own) or node_of(own), name
            for name, update_id in taken:
                assert ids.setdefault(name, update_id) == update_id
            arrived: dict[str, list[int]] = {}
            for name, _ in dict.fromkeys(taken):
                dialog_id, _, number = name.partition(":")
                arrived.setdefault(dialog_id, []).append(int(number))
            for dialog_id, numbers in arrived.items():
                assert numbers == sorted(numbers), (target, dialog_id)
        assert len(set(ids.values())) == len(ids)
        left = {path.name for path in (self.folder / "outbox").iterdir()}
        assert left == {"adoption.lock"}
        return applied


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    emulator = Emulator(client_id=CLIENT_ID, client_secret=SECRET)
    crm = Crm()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as url,
    ):
        runner = web.AppRunner(crm.app, access_log=None)
        portal.call(runner.setup)
        portal.call(web.TCPSite(runner, HOST, 0).start)
        origin = f"http://{HOST}:{runner.addresses[0][1]}"
        try:
            yield Stage(emulator, crm, url, origin, folder)
        finally:
            portal.call(runner.cleanup)


@pytest.mark.parametrize("kills", [6])
def test_nothing_applied_is_missing_after_kills_at_random_moments(
    tmp_path: Path, kills: int
) -> None:
    chance = random.Random(kills)
    with staged(tmp_path) as stage:
        stage.emulator.faults, stage.crm.faults = FAULTS, 0.1
        for run in range(kills):
            with stage.start(run, 600) as service:
                # Some are killed while they take over what the one before left.
                if chance.random() < 0.8:
                    service.wait_until("open")
                time.sleep(chance.random() * 1.5)
        stage.emulator.faults, stage.crm.faults = Faults(), 0.0
        stage.finish(kills)
        applied = stage.check()
        taken = {target: len(each) for target, each in stage.crm.taken.items()}
        doubtful = {target: len(each) for target, each in stage.crm.failed.items()}
        print(f"{kills} kills: {len(applied)} applied, delivered {taken}, ambiguous {doubtful}")
        assert len(applied) > 20 * kills


@pytest.mark.parametrize("point", POINTS)
def test_nothing_applied_is_missing_after_a_kill_at(tmp_path: Path, point: str) -> None:
    with staged(tmp_path) as stage:
        stage.emulator.faults = Faults(latency=0.005)
        for run in range(3):
            with stage.start(run, 600, point) as service:
                service.wait_until("open")
                service.wait_until("here")
        stage.finish(3)
        # Those of the last process, at least.
        assert len(stage.check()) >= 2
