"""The example services as processes, with callers, an emulator and a CRM."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from standardwebhooks import Webhook

from cognigy_async.emulator import Emulator, Faults, Rules, Stats, serve

from .ports import free_port

ROOT = Path(__file__).parents[2]
CLIENT_ID = "the-service"
SECRET = "correct-horse-battery-staple"

HOST = "127.0.0.1"
CRM_SECRET = "whsec_" + base64.b64encode(b"the key of the webhooks of the CRM").decode()

GRACE = "5"
"""Seconds that a server grants its requests after SIGTERM, before the drain of the client."""

UVICORN = ["-m", "uvicorn", "--host", HOST, "--timeout-graceful-shutdown", GRACE]
FASTAPI = "examples.fastapi_service:app"
HYPERCORN = ["-m", "hypercorn", "-k", "trio", "--graceful-timeout", GRACE]
AIOHTTP = ["examples/aiohttp_service.py", "--shutdown-timeout", "2.5"]
ON_UVLOOP = f"""
import sys, uvloop
from aiohttp import web
from examples.aiohttp_service import make_app
loop = uvloop.new_event_loop()
web.run_app(make_app(), host="{HOST}", port=int(sys.argv[1]), loop=loop, shutdown_timeout=2.5)
"""


@dataclass(frozen=True)
class Kind:
    """Command that runs a service; `{port}` stands for its port.

    Attributes:
        started: Text that it prints when a worker is ready.
        workers: Number of workers; each is a process if `processes` is set.
    """

    name: str
    arguments: Sequence[str]
    started: str
    workers: int = 1
    processes: int = 1


STARTUP = "Application startup complete."
KINDS = [
    Kind("uvicorn", [*UVICORN, "--port", "{port}", "--loop", "asyncio", FASTAPI], STARTUP),
    Kind("uvicorn-uvloop", [*UVICORN, "--port", "{port}", "--loop", "uvloop", FASTAPI], STARTUP),
    Kind(
        "uvicorn-2-workers",
        [*UVICORN, "--port", "{port}", "--workers", "2", FASTAPI],
        STARTUP,
        workers=2,
    ),
    Kind(
        "hypercorn-trio",
        [*HYPERCORN, "-b", f"{HOST}:{{port}}", FASTAPI],
        "Running on",
    ),
    Kind("aiohttp", [*AIOHTTP, "--port", "{port}"], "Running on"),
    Kind("aiohttp-uvloop", ["-c", ON_UVLOOP, "{port}"], "Running on"),
    Kind(
        "aiohttp-2-workers",
        [*AIOHTTP, "--port", "{port}", "--reuse-port"],
        "Running on",
        workers=2,
        processes=2,
    ),
]


@dataclass
class Crm:
    """A CRM that stores what webhooks and callbacks send, after `latency` seconds each.

    Attributes:
        refusals: Number of requests to answer 503 first.
        keys: Update ids of all requests that it took, repeats included.
        failed: Update ids of failed updates.
    """

    latency: float = 0.0
    refusals: int = 0
    keys: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    by_dialog: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    base_url: str = ""

    @property
    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_put("/dialogs/{dialog_id}", self._take)
        app.router.add_post("/events", self._take_event)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        payload = await request.json()
        await asyncio.sleep(self.latency)
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        self.by_dialog.setdefault(request.match_info["dialog_id"], []).append(payload)
        return web.Response(status=204)

    async def _take_event(self, request: web.Request) -> web.Response:
        event = Webhook(CRM_SECRET).verify(await request.text(), dict(request.headers))
        await asyncio.sleep(self.latency)
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        data = event["data"]
        if event["type"] == "dialog.update_failed":
            self.failed.add(data["update_id"])
            return web.Response(status=204)
        self.keys.append(data["update_id"])
        payload = {name: data[name] for name in ("session", "user", "transition") if name in data}
        self.by_dialog.setdefault(data["dialog_id"], []).append(payload)
        return web.Response(status=204)


@dataclass
class World:
    """The servers that a service calls, in the event loop of one thread."""

    portal: BlockingPortal
    emulator: Emulator
    crm: Crm
    environment: dict[str, str]

    def applied(self) -> set[str]:
        """Return the ids of all updates that the server has applied."""
        dialogs = self.emulator.dialogs.values()
        return {str(entry.key) for dialog in dialogs for entry in dialog.history}


@contextmanager
def world(latency: float = 0.0, token_latency: float = 0.0) -> Iterator[World]:
    """Start the servers that a service calls, and yield them."""
    emulator = Emulator(
        client_id=CLIENT_ID,
        client_secret=SECRET,
        rules=Rules(honour_idempotency_keys=True),
        faults=Faults(latency=latency, token_latency=token_latency),
    )
    crm = Crm(latency / 2)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
    ):
        runner = web.AppRunner(crm.app)
        portal.call(runner.setup)
        site = web.TCPSite(runner, HOST, 0)
        portal.call(site.start)
        port = runner.addresses[0][1]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("COGNIGY_")
        }
        environment = inherited | {
            "COGNIGY_BASE_URL": base_url,
            "COGNIGY_CLIENT_ID": CLIENT_ID,
            "COGNIGY_CLIENT_SECRET": SECRET,
            "CRM_URL": f"http://{HOST}:{port}",
            "CRM_WEBHOOK": f"http://{HOST}:{port}/events",
            "CRM_SECRET": CRM_SECRET,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            # Proxies are for other hosts.
            "NO_PROXY": "*",
        }
        try:
            yield World(portal, emulator, crm, environment)
        finally:
            portal.call(runner.cleanup)


@dataclass
class Service:
    """A running service, which may be several processes."""

    base_url: str
    processes: list[subprocess.Popen[bytes]]
    log_path: Path

    def terminate(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)

    def wait_until(self, end: float) -> list[int]:
        """Return the exit statuses.

        Raises:
            subprocess.TimeoutExpired: A process runs longer than `end`, by the monotonic clock.
        """
        return [process.wait(max(0.0, end - time.monotonic())) for process in self.processes]

    def read_log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running(
    kind: Kind, surroundings: World, directory: Path, outbox: Path | None = None
) -> Iterator[Service]:
    """Start a service and yield it once it answers; kill what is left of it at the end.

    Its outbox is in the directory unless it is given.
    """
    port = free_port()
    log = directory / "service.log"
    arguments = [argument.replace("{port}", str(port)) for argument in kind.arguments]
    with log.open("wb") as out:
        processes = [
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=surroundings.environment
                | {"CRM_OUTBOX": str(outbox or directory / "crm-outbox")},
                stdout=out,
                stderr=subprocess.STDOUT,
                # Its workers are in its process group and end with it.
                start_new_session=True,
            )
            for _ in range(kind.processes)
        ]
    service = Service(f"http://{HOST}:{port}", processes, log)
    try:
        wait_for(lambda: _is_up(service, kind), service.read_log)
        yield service
    finally:
        for process in processes:
            with process:
                _kill(process)


def _is_up(service: Service, kind: Kind) -> bool:
    for process in service.processes:
        assert process.poll() is None, service.read_log()
    if service.read_log().count(kind.started) < kind.workers:
        return False
    with httpx.Client(trust_env=False) as http:
        try:
            answer = http.get(f"{service.base_url}/openapi.json")
        except httpx.TransportError:
            return False
    return answer.status_code in (200, 404)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def wait_for(condition: Callable[[], bool], detail: Callable[[], str] = str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"it does not happen: {detail()}"
        time.sleep(0.02)


@dataclass
class Answers:
    """Responses that callers got.

    Attributes:
        succeeded: Ids of updates that were answered with success.
        refused: Statuses of other responses.
        cut: Number of callers whose connection was refused or closed.
        left: Number of callers that disconnected before the response.
        applied_before: Number of updates that were applied when SIGTERM was sent.
        terminated_at: Time of the SIGTERM, by the monotonic clock.
    """

    succeeded: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    cut: int = 0
    left: int = 0
    applied_before: int = 0
    terminated_at: float = 0.0


async def call_together(
    service: Service,
    surroundings: World,
    *,
    callers: int,
    first: int = 0,
    impatient: bool = False,
    terminate_when: Callable[[Stats], bool] | None = None,
) -> Answers:
    """Call a service many times at once.

    Args:
        service, surroundings: Service to call, and the servers that it calls.
        callers: Number of calls.
        first: Number of the first one, which its values show.
        impatient: Whether half of the callers disconnect at a random moment.
        terminate_when: Condition on the server at which SIGTERM is sent.
    """
    answers = Answers()
    chance = random.Random(7)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(service.base_url, connector=connector) as http:

        async def call(number: int, patience: float | None) -> None:
            url = f"/dialogs/d-{number % 40}"
            change = {"session": {f"n{number}": number}}
            try:
                async with asyncio.timeout(patience), http.post(url, json=change) as answer:
                    body = await answer.json()
            except TimeoutError:
                answers.left += 1
            except aiohttp.ClientError:
                answers.cut += 1
            else:
                if answer.status == 200:
                    answers.succeeded.append(body["update_id"])
                else:
                    answers.refused.append(answer.status)

        async with asyncio.TaskGroup() as tasks:
            for number in range(first, first + callers):
                leaves = impatient and chance.random() < 0.5
                tasks.create_task(call(number, chance.uniform(0.0, 1.0) if leaves else None))
            if terminate_when is not None:
                while not terminate_when(surroundings.emulator.stats):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                answers.applied_before = surroundings.emulator.stats.applied
                answers.terminated_at = time.monotonic()
                service.terminate()
    return answers
