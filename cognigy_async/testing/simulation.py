"""Run one seed, check it, and shrink it if a promise was broken."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
from tenacity import RetryCallState

from cognigy_async import (
    AsyncStateClient,
    DeadLetter,
    DialogState,
    OAuthConfig,
    OAuthTokenProvider,
    RateLimit,
    RetryPolicy,
    RuntimeApi,
    StateUpdate,
    UpdateEvent,
)

from .log import UNENDED, Call, Delivery, Log
from .oracle import REFRESH_MARGIN, SHORTEST_BACKOFF, Breach, check
from .schedule import FAULTS, Schedule, Step
from .server import TOKEN_URL, SimulatedServer
from .virtual_time import Backend, DeadlockError, run

LONGEST = 4 * 3600.0
"""Virtual seconds after which a run counts as hung."""
MAX_SHRINKS = 300
"""Runs that shrinking may take."""


Program = Callable[[AsyncStateClient], Awaitable[object]]


class Violation(AssertionError):  # noqa: N818
    """A promise was broken. The text has the seed, the command, the schedule and the timeline."""

    def __init__(self, schedule: Schedule, breach: Breach, log: Log) -> None:
        self.seed, self.breach, self.schedule = schedule.seed, breach, schedule
        replay = f"python -m cognigy_async.testing {schedule.seed}"
        calls = "shortest schedule found:\n" + "".join(f"{step}\n" for step in schedule.steps)
        if schedule.has_program:
            replay, calls = f"simulate({schedule.seed}, program)", ""
        active = sorted(set(FAULTS) - schedule.quiet) if schedule.strength else []
        where = f", dialog {breach.dialog_id!r}" if breach.dialog_id else ""
        super().__init__(
            f"{breach.promise}{where}: {breach.text}\n"
            f"seed {schedule.seed}; replay: {replay}\n"
            f"settings: {schedule.describe()}\n"
            f"faults that are needed: {', '.join(active) or 'none'}\n"
            f"{calls}timeline:\n{log.timeline(breach.dialog_id)}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One run without a violation.

    Attributes:
        schedule: the settings of the client, and the faults.
        log: every request, and the state of each dialog at the end: `log.sessions`.
    """

    schedule: Schedule
    log: Log


def simulate(
    seed: int,
    program: Program | None = None,
    *,
    backend: Backend = "asyncio",
    shrink: bool = True,
) -> Report:
    """Run one seed in virtual time, under its faults, and check the promises.

    Args:
        seed: settings of the client, faults and latencies of the server; without a program, the
            calls as well. One seed is one exact run on asyncio. On trio, tasks take turns by
            chance.
        program: a coroutine function of yours that gets the open client. Errors of the client
            reach it as they would in production. Logging is off meanwhile.
        shrink: after a violation on asyncio, look for fewer faults and calls that break the same
            promise; this takes up to 300 runs.

    Raises:
        Violation: a promise was broken, or the program raised or did not end in four hours of
            virtual time.
    """
    schedule = Schedule.of(seed)
    if program is not None:
        schedule = replace(schedule, steps=(), has_program=True)
    log = execute(schedule, backend, program)
    breaches = check(schedule, log)
    if not breaches:
        return Report(schedule, log)
    breach = breaches[0]
    if shrink and backend == "asyncio":
        schedule, breach, log = _shrunk(schedule, breach, log, program)
    raise Violation(schedule, breach, log) from log.error


def execute(
    schedule: Schedule, backend: Backend = "asyncio", program: Program | None = None
) -> Log:
    """Run a schedule in virtual time. Return what happened."""
    log = Log()
    before = random.getstate()
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    random.seed(schedule.seed)
    try:
        run(_Run(schedule, log, program).main, backend=backend)
    except DeadlockError as error:
        log.problems.append(("P4 settled", "", f"deadlock: {str(error)[:300]}"))
    except Exception as error:
        log.problems.append(("P4 settled", "", f"{type(error).__name__}: {error!r}"))
        log.error = error
    finally:
        random.setstate(before)
        logging.disable(previous)
    return log


class _Run:
    """The client of one run, its callers and its callbacks."""

    def __init__(self, schedule: Schedule, log: Log, program: Program | None) -> None:
        self._program = program
        self._schedule = schedule
        self._log = log
        self._server = SimulatedServer(schedule, log)
        self._rng = random.Random(f"callbacks {schedule.seed}")

    async def main(self) -> None:
        log = self._log
        with anyio.move_on_after(LONGEST) as scope:
            client = self._client()
            async with client:
                if self._program is None:
                    await self._make_calls(client)
                else:
                    await self._run_program(self._program, client)
                await client.flush()
            log.pending = client.metrics.pending
            self._close_report(client)
        log.seconds = anyio.current_time()
        if scope.cancelled_caught:
            text = f"the run did not end in {LONGEST / 3600:g} hours of virtual time"
            log.problems.append(("P4 settled", "", text))
        self._server.settle()

    async def _run_program(self, program: Program, client: AsyncStateClient) -> None:
        try:
            await program(client)
        except Exception as error:
            text = f"it raised {type(error).__name__}: {error}"
            self._log.problems.append(("the program", "", text))
            self._log.error = error

    async def _make_calls(self, client: AsyncStateClient) -> None:
        options: dict[str, Any] = {"max_queue": self._schedule.hook_queue}
        options["on_dead_letter"] = self._dead_letter
        client.on_state_updated(self._updated, **options)
        client.on_update_failed(self._failed, on_dead_letter=self._dead_letter)
        async with anyio.create_task_group() as callers:
            for step in self._schedule.steps:
                # Without a turn of the event loop between the calls of a burst.
                if step.at > anyio.current_time():
                    await anyio.sleep(step.at - anyio.current_time())
                callers.start_soon(self._call, client, step)

    def _close_report(self, client: AsyncStateClient) -> None:
        report = client.close_report
        if report is None:
            self._log.problems.append(("P4 settled", "", "there is no report"))
            return
        applied = sum(call.outcome == "ok" and call.kind != "read" for call in self._log.calls)
        if report.applied < applied or report.unsent:
            text = f"the report counts {report.applied} applied of {applied}, {report.unsent}"
            self._log.problems.append(("P4 settled", "", text))

    def _client(self) -> AsyncStateClient:
        schedule = self._schedule
        config = OAuthConfig(
            token_url=TOKEN_URL, client_id="c-1", client_secret="s-1", refresh_margin=REFRESH_MARGIN
        )
        provider = OAuthTokenProvider(config, transport=self._server, clock=anyio.current_time)
        return AsyncStateClient(
            "https://simulated.invalid",
            auth=provider,
            api=RuntimeApi(honours_idempotency_keys=schedule.honours_keys),
            max_in_flight=schedule.max_in_flight,
            rate_limit=None if schedule.rate is None else RateLimit(*schedule.rate),
            retry=RetryPolicy(wait=_backoff),
            coalesce=schedule.coalesce,
            timeout=schedule.timeout,
            transport=self._server,
        )

    # The callers.

    async def _call(self, client: AsyncStateClient, step: Step) -> None:
        etag = None
        if step.kind == "strict":
            try:
                etag = (await client.get_state(step.dialog_id)).etag
            except Exception:
                return
        call = Call(step.number, step.kind, step.dialog_id, anyio.current_time())
        self._log.calls.append(call)
        scope = anyio.CancelScope()
        patience = UNENDED if step.patience is None or step.kind == "submit" else step.patience
        scope.deadline = call.called_at + patience
        try:
            with scope:
                call.outcome = await self._outcome(client, step, etag)
        except Exception as error:
            call.outcome = type(error).__name__
            call.status = getattr(error, "status", None)
        if scope.cancelled_caught:
            call.outcome, call.cancelled_at = "cancelled", scope.deadline
        call.ended_at = anyio.current_time()

    async def _outcome(self, client: AsyncStateClient, step: Step, etag: str | None) -> str:
        if step.kind == "read":
            await client.get_state(step.dialog_id)
            return "ok"
        if step.kind == "modify":
            await client.modify(step.dialog_id, _add_one)
            return "ok"
        session = {f"n{step.number}": step.number, "last": step.number}
        values: dict[str, Any] = {"session": session}
        if step.moves:
            values["next_step"] = f"s{step.number}"
        if step.kind == "submit":
            update = StateUpdate(step.dialog_id, update_id=f"u-{step.number}", **values)
            await client.submit_nowait(update)
        else:
            priority: Any = "bulk" if step.kind == "bulk" else "live"
            await client.update(
                step.dialog_id,
                update_id=f"u-{step.number}",
                if_match=etag,
                priority=priority,
                **values,
            )
        return "ok"

    # The callbacks.

    async def _updated(self, event: UpdateEvent) -> None:
        await self._receive(event, failures=False)

    async def _failed(self, event: UpdateEvent) -> None:
        await self._receive(event, failures=True)

    async def _receive(self, event: UpdateEvent, *, failures: bool) -> None:
        delivery = self._delivery(event)
        delivery.failures = failures
        try:
            await anyio.sleep(0.02 * self._rng.paretovariate(1.2))
            if self._rng.random() < self._schedule.hook_failures:
                raise ValueError("the callback failed")
            delivery.succeeded = True
        finally:
            delivery.ended = anyio.current_time()

    async def _dead_letter(self, letter: DeadLetter) -> None:
        delivery = self._delivery(letter.event)
        delivery.dead, delivery.ended = True, delivery.began

    def _delivery(self, event: UpdateEvent) -> Delivery:
        session = event.update.session if event.update is not None else {}
        number = session.get("last", -1)
        delivery = Delivery(anyio.current_time(), event.dialog_id, number, event.update_id)
        self._log.deliveries.append(delivery)
        return delivery


def _backoff(state: RetryCallState) -> float:
    return random.uniform(SHORTEST_BACKOFF, SHORTEST_BACKOFF * 2 ** min(state.attempt_number, 5))


def _add_one(state: DialogState) -> dict[str, Any]:
    return {"session": {"count": state.session.get("count", 0) + 1}}


# Shrinking.


def _shrunk(
    schedule: Schedule, breach: Breach, log: Log, program: Program | None
) -> tuple[Schedule, Breach, Log]:
    """Return the smallest schedule found that breaks the same promise."""
    left = MAX_SHRINKS

    def try_it(smaller: Schedule) -> bool:
        nonlocal schedule, breach, log, left
        left -= 1
        new_log = execute(smaller, program=program)
        same = [one for one in check(smaller, new_log) if one.promise == breach.promise]
        if same:
            schedule, breach, log = smaller, same[0], new_log
        return bool(same)

    for fault in FAULTS:
        try_it(schedule.without(fault=fault))
    size = max(1, len(schedule.steps) // 2)
    while left > 0:
        numbers = [step.number for step in schedule.steps]
        removed = False
        for start in range(0, len(numbers), size):
            if left <= 0:
                break
            chunk = frozenset(numbers[start : start + size])
            removed |= try_it(schedule.without(steps=chunk))
        if size == 1 and not removed:
            break
        size = max(1, size // 2)
    return schedule, breach, log
