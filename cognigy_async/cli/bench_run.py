"""The rounds of a benchmark, in turns, until they are done or interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from cognigy_async import AsyncStateClient, CognigyError
from cognigy_async.integrations.settings import ClientArguments

from ._options import TransportName
from ._output import say_if_possible
from ._run import INTERRUPTS
from .bench_load import Load
from .bench_measure import Sample, run_round, warm_up
from .bench_report import told_retries, told_speed

GRACE = 5.0
"""Seconds that requests in flight are given to end after an interrupt."""

NEWS = 10.0
"""Seconds between two lines about a round that takes its time."""

PENDING = 16
"""Updates that a client holds for each one in flight: enough to keep it busy, and few to take back
when the time of a round is over."""


@dataclass
class Bench:
    """Rounds over each number of requests in flight.

    Attributes:
        samples: what was measured so far, by requests in flight.
        interrupted: whether it ended before all rounds were done.
        clock: seconds; not that of the event loop, as uvloop counts milliseconds.
    """

    arguments: ClientArguments
    load: Load
    levels: Sequence[int]
    rounds: int
    transport: TransportName
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    interrupted: bool = False
    clock: Callable[[], float] = time.perf_counter

    async def run(self) -> None:
        """Do all rounds. SIGINT, SIGTERM and SIGHUP end them early.

        Raises:
            CognigyError: nothing at all is applied.
        """
        error: CognigyError | None = None
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(self._listen, scope)
            with scope:
                try:
                    await self._run()
                except CognigyError as caught:
                    # Raised here it would come out as a group.
                    error = caught
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _run(self) -> None:
        quota = None
        for number in range(self.rounds):
            # Neighbours change places, so that none always follows the other.
            for level in self.levels if number % 2 == 0 else reversed(self.levels):
                client = AsyncStateClient(
                    **self.arguments,
                    max_in_flight=level,
                    max_pending=PENDING * level,
                    transport=self.transport.create(),
                )
                async with client:
                    try:
                        if quota is not None:
                            # The tenant has not forgotten the requests of the round before.
                            client.restore_quota(quota)
                        await self._round(client, number, level)
                        quota = client.quota_state()
                    except anyio.get_cancelled_exc_class():
                        with anyio.CancelScope(shield=True):
                            await client.aclose(drain=False, timeout=GRACE)
                        raise

    async def _round(self, client: AsyncStateClient, number: int, level: int) -> None:
        name = f"round {number + 1} of {self.rounds}, {level} in flight"
        before = self.samples.get(level)
        sample = Sample(before[0].latencies) if before else Sample()
        error: CognigyError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tell_news, name, client)
            try:
                await warm_up(client, self.load, level)
            except CognigyError as caught:
                error = caught
            else:
                self.samples.setdefault(level, []).append(sample)
                await run_round(client, self.load, level, sample, self.clock)
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        say_if_possible(f"{name}: {told_speed(sample.per_second)} updates/s")

    async def _listen(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(*INTERRUPTS) as signals:
            async for _ in signals:
                if not self.interrupted:
                    self.interrupted = True
                    say_if_possible(
                        "Interrupted: what is in flight ends now, and nothing more is sent."
                    )
                    scope.cancel()


async def _tell_news(name: str, client: AsyncStateClient) -> None:
    while True:
        await anyio.sleep(NEWS)
        metrics = client.metrics
        told = [f"{metrics.applied:,} updates applied so far, the warm-up included"]
        if metrics.retries:
            told.append(told_retries(metrics.retries))
        told += [f"quota {use.used} of {use.n} in {use.per:g} s" for use in metrics.quota]
        say_if_possible(f"{name}: {', '.join(told)}")
