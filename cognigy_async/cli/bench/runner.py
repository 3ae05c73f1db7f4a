"""The rounds of a benchmark, measured, until they are done or interrupted."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    Metrics,
    RetryPolicy,
    UpdateResult,
)
from cognigy_async.integrations.settings import ClientArguments

from .._connection import DIRECT, Connection
from .._options import LoopName, TransportName
from .._output import REASONS, note, say_if_possible
from .._run import INTERRUPTS
from .load import Call, Load, run_callers, run_stream, turns
from .server import Cores

Target = Literal["emulator", "tenant"]
Mode = Literal["update", "update_many"]
Row = dict[str, Any]

GRACE = 5.0
"""Seconds that requests in flight have to complete after an interrupt."""
PROGRESS_EVERY = 10.0
"""Seconds between two progress lines of a round."""
PENDING_PER_REQUEST = 16
"""Pending updates per request in flight: enough to keep the client busy, few to cancel."""
WARM_UP_RETRY = RetryPolicy(max_attempts=2, max_retry_after=10.0)
"""Few retries, so that the warm-up fails soon if nothing works."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of a benchmark. Each round measures all of `levels` (requests in flight)."""

    target: Target
    mode: Mode
    load: Load
    levels: Sequence[int]
    rounds: int
    transport: TransportName
    loop: LoopName
    client_arguments: ClientArguments
    cores: Cores | None = None
    connection: Connection = DIRECT


@dataclass
class Measurement:
    """Figures of all rounds with one number of requests in flight; each list item is a round."""

    in_flight: int
    outcomes: Counter[str] = field(default_factory=Counter)
    totals: Metrics = field(default_factory=Metrics)
    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    memory_growth: list[int] = field(default_factory=list)
    quota: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0
    latest_per_second: float = 0.0
    first_error: CognigyError | None = None

    def take(self, result: UpdateResult | None, error: CognigyError | None) -> None:
        """Count one outcome."""
        if result is not None:
            self.outcomes["applied"] += 1
            self.totals.latency.record(result.latency)
            self.totals.queued.record(result.queued)
        else:
            ambiguous = isinstance(error, AmbiguousUpdateError)
            self.outcomes["ambiguous" if ambiguous else "failed"] += 1
            self.first_error = self.first_error or error

    @contextmanager
    def round(self, client: AsyncStateClient, clock: Callable[[], float]) -> Iterator[None]:
        """Measure a round, even if it is cancelled. Leave it out if no update completed."""
        totals, metrics, before = self.totals, client.metrics, self.outcomes.copy()
        requests, retries = metrics.requests, Counter(metrics.retries)
        resident, cpu, began = resident_bytes(), time.process_time(), clock()
        try:
            yield
        finally:
            elapsed, cpu = clock() - began, time.process_time() - cpu
            outcomes = self.outcomes - before
            self.latest_per_second = outcomes["applied"] / elapsed if elapsed else 0.0
            if outcomes and elapsed:
                self.per_second.append(self.latest_per_second)
                self.cpu_us.append(cpu / outcomes.total() * 1e6)
                self.quota += [use.utilisation for use in metrics.quota]
                if resident is not None and (now := resident_bytes()) is not None:
                    self.memory_growth.append(now - resident)
                self.elapsed += elapsed
                self.cpu += cpu
                totals.requests += metrics.requests - requests
                totals.retries += Counter(metrics.retries) - retries

    def row(self) -> Row:
        """Return the figures for JSON, in seconds unless a key says otherwise."""
        totals, rates, error = self.totals, self.per_second, self.first_error
        kind, status = type(error).__name__, getattr(error, "status", None)
        latency, queued = (
            {name: round(getattr(each, name), 7) for name in ("mean", "p50", "p95", "p99", "max")}
            for each in (totals.latency.summary(), totals.queued.summary())
        )
        return {
            "in_flight": self.in_flight,
            "rounds": len(rates),
            "per_second": round(statistics.median(rates), 1),
            "per_second_lowest": round(min(rates), 1),
            "per_second_highest": round(max(rates), 1),
            "cpu_us": round(statistics.median(self.cpu_us), 1),
            "cpu_share": round(self.cpu / self.elapsed, 3),
            "latency": latency,
            "queued": queued,
            "succeeded": self.outcomes["applied"],
            "failed": self.outcomes["failed"],
            "ambiguous": self.outcomes["ambiguous"],
            "requests": totals.requests,
            "retries": totals.retries.total(),
            "retries_by_reason": dict(totals.retries),
            "elapsed": round(self.elapsed, 6),
            "quota_utilisation": round(max(self.quota), 4) if self.quota else None,
            "memory_growth": max(self.memory_growth, default=None),
            "first_error": error and {"type": kind, "message": str(error), "status": status},
        }


@dataclass
class Runner:
    """Run the rounds of a benchmark, and measure each number of requests in flight."""

    options: BenchOptions
    # The clock of the event loop is too coarse: uvloop counts milliseconds.
    clock: Callable[[], float] = time.perf_counter
    measurements: dict[int, Measurement] = field(default_factory=dict)
    interrupted: bool = False

    async def run(self) -> None:
        """Run all rounds, but stop at a signal. Raise an error if a warm-up applied no update."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(self._wait_for_interrupt, scope)
            with scope:
                try:
                    await self._run_rounds()
                except* CognigyError as errors:
                    # An error raised inside the task group would be wrapped in an exception group.
                    failure = errors.exceptions[0]
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _run_rounds(self) -> None:
        quota = None
        for number, level in turns(self.options.levels, self.options.rounds):
            async with AsyncStateClient(
                **self.options.client_arguments,
                max_in_flight=level,
                max_pending=PENDING_PER_REQUEST * level,
                transport=self.options.connection.transport(self.options.transport),
            ) as client:
                try:
                    if quota is not None:
                        # The server still counts the requests of the previous round.
                        client.restore_quota(quota)
                    await self._run_round(client, number, level)
                    quota = client.quota_state()
                except anyio.get_cancelled_exc_class():
                    with anyio.CancelScope(shield=True):
                        await client.aclose(drain=False, timeout=GRACE)
                    raise

    async def _run_round(self, client: AsyncStateClient, number: int, level: int) -> None:
        name = f"round {number + 1} of {self.options.rounds}, {level} in flight"
        measurement = self.measurements.setdefault(level, Measurement(level))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show_progress, name, client)
            await self.warm_up(client, level)
            await self.measure(client, measurement)
            tasks.cancel_scope.cancel()
        note(f"{name}: {format_per_second(measurement.latest_per_second)} updates/s")

    async def warm_up(self, client: AsyncStateClient, level: int) -> None:
        """Send updates that are not measured. Raise the first error if none was applied."""
        trial, numbers = Measurement(level), iter(range(warm_up_count(level)))
        await run_callers(self._call(client, trial, WARM_UP_RETRY), [numbers] * level)
        if trial.first_error is not None and not trial.outcomes["applied"]:
            raise trial.first_error

    async def measure(self, client: AsyncStateClient, measurement: Measurement) -> None:
        """Send and measure updates. Updates still in flight complete later, uncounted."""
        load = self.options.load
        numbers = islice(count(), load.count)
        with measurement.round(client, self.clock), anyio.move_on_after(load.seconds):
            if self.options.mode == "update":
                call = self._call(client, measurement, None)
                await run_callers(call, [numbers] * measurement.in_flight)
            else:
                await run_stream(client, load.rows(numbers), measurement.take)

    def _call(self, client: AsyncStateClient, into: Measurement, retry: RetryPolicy | None) -> Call:
        load = self.options.load

        async def call(number: int) -> None:
            dialog_id, session = load.dialog(number), load.session(number)
            try:
                into.take(await client.update(dialog_id, session=session, retry=retry), None)
            except CognigyError as error:
                into.take(None, error)
                # Let the other callers run, even if the error was raised without waiting.
                await anyio.lowlevel.checkpoint()

        return call

    async def _wait_for_interrupt(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(*INTERRUPTS) as signals:
            async for _ in signals:
                if not self.interrupted:
                    self.interrupted = True
                    say_if_possible("Interrupted: completing requests in flight, sending no more.")
                    scope.cancel()


def warm_up_count(in_flight: int) -> int:
    """Return the number of updates that open all connections and warm up the code."""
    return max(20, 2 * in_flight)


async def _show_progress(name: str, client: AsyncStateClient) -> None:
    while True:
        await anyio.sleep(PROGRESS_EVERY)
        metrics = client.metrics
        parts = [f"{metrics.applied:,} updates applied so far, warm-up included"]
        parts += [format_retries(metrics.retries)] if metrics.retries else []
        parts += [f"quota {use.used} of {use.n} in {use.per:g} s" for use in metrics.quota]
        note(f"{name}: {', '.join(parts)}")


def format_per_second(per_second: float) -> str:
    """Return updates per second, with a decimal if they are few."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:,.1f}"


def format_retries(retries: Mapping[str, int]) -> str:
    """Return the number of retries, with reasons."""
    counts = sorted(retries.items(), key=lambda each: -each[1])
    reasons = ", ".join(f"{REASONS.get(reason, reason)}: {count:,}" for reason, count in counts)
    return f"retries: {sum(retries.values()):,} ({reasons})"


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None if the system does not report it."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
