"""One round of a benchmark: what it does with a client, and what is measured of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

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

from .bench_load import Load, Mode, warm_up_of
from .bench_machine import resident_bytes

IMPATIENT = RetryPolicy(max_attempts=2, max_retry_after=10.0)
"""Of the warm-up, which tells whether it works at all."""


@dataclass
class Sample:
    """What one round measured; consistent at each moment of it.

    Attributes:
        latencies: where latencies are recorded; rounds may share one.
        applied, failed, ambiguous: settled updates by outcome.
        elapsed: seconds. cpu: those of the processor, of this process with all its threads.
        requests, retries: as in `MetricsSnapshot`, of this round alone.
        grown: bytes that the process has more in memory; None where the system does not tell.
        quota: the largest share of a limit that was used; None where there is none.
        first_error: of the updates that were not applied.
    """

    latencies: Metrics = field(default_factory=Metrics)
    applied: int = 0
    failed: int = 0
    ambiguous: int = 0
    elapsed: float = 0.0
    cpu: float = 0.0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    grown: int | None = None
    quota: float | None = None
    first_error: CognigyError | None = None

    @property
    def settled(self) -> int:
        """Updates that ended, however."""
        return self.applied + self.failed + self.ambiguous

    @property
    def per_second(self) -> float:
        """Updates applied in a second."""
        return self.applied / self.elapsed if self.elapsed else 0.0

    def take(self, result: UpdateResult | None, error: CognigyError | None) -> None:
        """Count one outcome."""
        if result is not None:
            self.applied += 1
            self.latencies.latency.record(result.latency)
            self.latencies.queued.record(result.queued)
            return
        if isinstance(error, AmbiguousUpdateError):
            self.ambiguous += 1
        else:
            self.failed += 1
        if self.first_error is None:
            self.first_error = error


async def warm_up(client: AsyncStateClient, load: Load, in_flight: int) -> None:
    """Open the connections, and see whether anything is applied.

    Raises:
        CognigyError: the first error, where nothing was.
    """
    sample = Sample()
    await _call(client, load, in_flight, iter(range(warm_up_of(in_flight))), sample, IMPATIENT)
    if sample.first_error is not None and not sample.applied:
        raise sample.first_error


async def run_round(
    client: AsyncStateClient,
    load: Load,
    in_flight: int,
    sample: Sample,
    clock: Callable[[], float],
) -> None:
    """Do the work of a round, and fill the sample; also where it is cancelled.

    What is under way when the time of a round is over ends in the background, uncounted.
    """
    measured = _Measured(client, sample, clock)
    try:
        with anyio.CancelScope(deadline=anyio.current_time() + load.seconds):
            numbers = count() if load.count is None else iter(range(load.count))
            if load.mode is Mode.UPDATE:
                await _call(client, load, in_flight, numbers, sample)
            else:
                await _stream(client, load, numbers, sample)
    finally:
        measured.end()


async def _call(
    client: AsyncStateClient,
    load: Load,
    in_flight: int,
    numbers: Iterator[int],
    sample: Sample,
    retry: RetryPolicy | None = None,
) -> None:
    """As many callers as requests may be in flight, each with one update at a time."""

    async def call() -> None:
        for number in numbers:
            try:
                result = await client.update(
                    load.dialog(number), session=load.session(number), retry=retry
                )
            except CognigyError as error:
                sample.take(None, error)
                # One that is raised without waiting must not hold up the others.
                await anyio.lowlevel.checkpoint()
            else:
                sample.take(result, None)

    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(call)


async def _stream(
    client: AsyncStateClient, load: Load, numbers: Iterator[int], sample: Sample
) -> None:
    async with client.update_many(load.row(number) for number in numbers) as outcomes:
        async for outcome in outcomes:
            sample.take(outcome.result, outcome.error)


class _Measured:
    """Clocks and counters from now on; written into the sample at the end."""

    def __init__(
        self, client: AsyncStateClient, sample: Sample, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._client = client
        self._sample = sample
        self._requests = client.metrics.requests
        self._retries = Counter(client.metrics.retries)
        self._resident = resident_bytes()
        self._cpu = time.process_time()
        self._began = clock()

    def end(self) -> None:
        sample, metrics = self._sample, self._client.metrics
        sample.elapsed = self._clock() - self._began
        sample.cpu = time.process_time() - self._cpu
        now = resident_bytes()
        if now is not None and self._resident is not None:
            sample.grown = now - self._resident
        sample.requests = metrics.requests - self._requests
        sample.retries = Counter(metrics.retries) - self._retries
        sample.quota = max((use.utilisation for use in metrics.quota), default=None)
