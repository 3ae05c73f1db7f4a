"""Programs that outlive crashes of their process: an outbox, and a job with its journal."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from cognigy_async import AsyncStateClient, NotSentError, Request, Response, UpdateEvent
from cognigy_async.bulk import BulkJob, JobOptions, JobResult
from cognigy_async.crm import Outbox, TargetUnavailableError

from .log import Delivery, Log
from .schedule import Schedule, Step
from .seam import inline_threads
from .server import SimulatedServer

DELIVERED_WITHIN = 24 * 3600.0
"""Virtual seconds after the last call in which the targets get everything."""
MOST_RUNS = 20
"""Runs of one job after its last crash."""


@dataclass(eq=False)
class Life:
    """One life of the process, from a start to a crash or to the end.

    Args:
        folder: where this life has its files.
        next_folder: gets a copy of the files as they are at the crash.
        crash_at: crossing at which it crashes; None for the last life.
    """

    folder: Path
    next_folder: Path
    crash_at: int | None
    log: Log
    crossings: int = 0
    is_dead: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def cross(self) -> None:
        """Crash, if this is the moment: keep the files, and cancel all that runs."""
        if self.is_dead or self.crash_at is None:
            return
        self.crossings += 1
        if self.crossings >= self.crash_at:
            self.is_dead = True
            # What SQLite keeps in shared memory is gone with the process.
            ignored = shutil.ignore_patterns("*-shm")
            shutil.copytree(self.folder, self.next_folder, ignore=ignored)
            self.log.crashes.append(anyio.current_time())
            self.scope.cancel()


class _Network:
    """The way of one life to the server, which ends with it."""

    def __init__(self, life: Life, server: SimulatedServer) -> None:
        self._life, self._server = life, server

    async def send(self, request: Request, *, timeout: float) -> Response:
        self._life.cross()
        if self._life.is_dead:
            raise NotSentError("the process has crashed")
        response = await self._server.send(request, timeout=timeout)
        self._life.cross()
        return response

    async def aclose(self) -> None: ...


Caller = Callable[[AsyncStateClient, Step, Life], Coroutine[Any, Any, None]]
ClientFactory = Callable[..., AsyncStateClient]


class DurableProgram:
    """Runs a schedule over several lives of one process.

    Args:
        client: makes a client from a transport and further options.
        call: makes one call and logs it.
    """

    def __init__(
        self,
        schedule: Schedule,
        log: Log,
        server: SimulatedServer,
        client: ClientFactory,
        call: Caller,
    ) -> None:
        self._schedule, self._log, self._server = schedule, log, server
        self._make_client, self._call = client, call
        self._rng = random.Random(f"targets {schedule.seed}")
        self._started = 0
        self._life: Life | None = None

    def _current(self) -> Life:
        assert self._life is not None
        return self._life

    async def main(self) -> None:
        """Live, crash and live again, until a life has no crash."""
        schedule = self._schedule
        with (
            tempfile.TemporaryDirectory() as name,
            inline_threads(schedule.seed, schedule.wall_clock_jump, self._current),
        ):
            root = Path(name)
            (root / "life-0").mkdir(mode=0o700)
            rows = root / "rows.jsonl"
            if schedule.program == "job":
                rows.write_text("".join(map(_row, schedule.steps)), encoding="utf-8")
            for number, crash_at in enumerate([*schedule.crashes, None]):
                folders = root / f"life-{number}", root / f"life-{number + 1}"
                self._life = Life(*folders, crash_at, self._log)
                with self._life.scope:
                    if schedule.program == "job":
                        await self._job(self._life, rows)
                    else:
                        await self._outbox(self._life)
                if not self._life.is_dead:
                    return
                await anyio.sleep(self._rng.choice((0.0, 1.0, 60.0)))

    # An outbox.

    async def _outbox(self, life: Life) -> None:
        schedule = self._schedule
        outbox = Outbox(life.folder / "outbox")
        outbox.deliver_to(self._target(life, "crm"), name="crm")
        outbox.deliver_to(self._target(life, "alerts"), name="alerts", failures=True)
        client = self._make_client(_Network(life, self._server), outbox=outbox)
        async with client:
            async with anyio.create_task_group() as callers:
                for step in schedule.steps[self._started :]:
                    if step.at > anyio.current_time():
                        await anyio.sleep(step.at - anyio.current_time())
                    self._started += 1
                    callers.start_soon(self._call, client, step, life)
            await client.flush()
            with anyio.move_on_after(DELIVERED_WITHIN):
                # An outbox has no event for it, as targets may be down for days.
                while any(target.depth for target in outbox.status()):  # noqa: ASYNC110
                    await anyio.sleep(5)
            left = {target.name: target.depth for target in outbox.status() if target.depth}
            if left and not life.is_dead:
                self._log.problems.append(("P9 hooks: undelivered", "", f"left in outbox: {left}"))

    def _target(self, life: Life, name: str) -> Callable[[UpdateEvent], Awaitable[None]]:
        async def target(event: UpdateEvent) -> None:
            life.cross()
            session = event.update.session if event.update is not None else {}
            delivery = Delivery(
                anyio.current_time(), event.dialog_id, session.get("last", -1), event.update_id
            )
            delivery.target, delivery.applied = name, event.error is None
            if not life.is_dead:
                self._log.deliveries.append(delivery)
            await anyio.sleep(0.01 * self._rng.paretovariate(1.2))
            delivery.ended = anyio.current_time()
            is_down = self._schedule.target_down_until > delivery.ended
            if is_down or self._rng.random() < self._schedule.hook_failures:
                kinds = (ValueError, TargetUnavailableError)
                raise self._rng.choice(kinds)("the target failed")
            delivery.succeeded = not life.is_dead
            life.cross()

        return target

    # A job.

    async def _job(self, life: Life, rows: Path) -> None:
        options = JobOptions(coalesce=self._schedule.coalesce)
        fault = ""
        for _ in range(MOST_RUNS):
            job = BulkJob(rows, journal=life.folder / "rows.journal", options=options)
            async with self._make_client(_Network(life, self._server)) as client:
                result = await job.run(client)
            if life.is_dead:
                return
            if result.ended == "complete":
                self._note(result, job.dead_letters)
                return
            fault = f"{result.reason} {result.fault!r}"
            await anyio.sleep(60)
        text = f"the job does not end: {fault}"
        self._log.problems.append(("P4 settled", "", text))

    def _note(self, result: JobResult, dead_letters: Path) -> None:
        self._log.job = (result.succeeded, result.failed, result.ambiguous, result.pending)
        if dead_letters.exists():
            for line in dead_letters.read_text(encoding="utf-8").splitlines():
                letter = json.loads(line)
                self._log.dead_letters[letter["session"]["last"]] = letter["_error"]["type"]


def _row(step: Step) -> str:
    row: dict[str, Any] = {"dialog_id": step.dialog_id}
    row["session"] = {f"n{step.number}": step.number, "last": step.number}
    if step.moves:
        row["next_step"] = f"s{step.number}"
    return json.dumps(row) + "\n"
