"""One run of a contestant: its updates, how calls are made, and what is measured."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cognigy_async import CognigyError, UpdateResult
from cognigy_async.cli.bench.load import Call, Load, run_callers

from .figures import percentile

HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Authorization": "Bearer 0123456789abcdef",
}
ITEM = {"sku": "A-4711", "name": "a thing with a name", "price": 149.99, "amount": 2}
Run = Callable[[range], Awaitable[None]]


class ItemsLoad(Load):
    """Updates with a list of objects."""

    def session(self, number: int) -> dict[str, Any]:
        return {"n": number, "items": _items(self.payload_bytes)}


@cache
def _items(size: int) -> list[dict[str, Any]]:
    """Return a list that is `size` bytes long as JSON, or a little less."""
    return [ITEM] * (size // len(json.dumps(ITEM) + ", "))


@dataclass(frozen=True)
class Work:
    """One run of one contestant; goes to its process as JSON.

    Attributes:
        dialogs: Number of dialogs, which take turns; 0 for one dialog per update.
        payload_bytes: Approximate size of an update with a list of objects; 0 for 200 bytes text.
        faults: Whether the server has faults, so that requests have to be repeated.
        per_second: Rate limit; 0 for none.
        rate: Calls started per second, however long they take; 0 for a pool of workers.
        steady: Whether to measure while all requests in flight are used: from the last update of
            the warm-up on, and before the last updates.
        authority: PEM file of the certificate authority.
    """

    url: str
    count: int
    warm_up: int = 0
    in_flight: int = 64
    dialogs: int = 0
    payload_bytes: int = 0
    faults: bool = False
    coalesce: bool = False
    per_second: int = 0
    rate: float = 0.0
    latencies: bool = False
    steady: bool = False
    server_pid: int = 0
    authority: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Work:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @cached_property
    def load(self) -> Load:
        dialogs = range(self.dialogs or 1_000_000_000)
        if self.payload_bytes:
            return ItemsLoad(dialogs, "d", self.payload_bytes)
        return Load(dialogs, "d")

    def url_of(self, number: int) -> str:
        return f"{self.url}/runtime/v2/dialogs/{self.load.dialog(number)}/state"

    def content(self, number: int) -> bytes:
        return json.dumps({"session": self.load.session(number)}).encode()

    def shares(self, numbers: range) -> list[Iterator[int]]:
        """Return the numbers of each worker.

        Workers share one iterator. If dialogs have several updates, each worker has all updates of
        some dialogs instead, which keeps their order.
        """
        if not self.dialogs:
            return [iter(numbers)] * self.in_flight
        workers = min(self.in_flight, self.dialogs)
        return [
            iter([n for n in numbers if n % self.dialogs % workers == worker])
            for worker in range(workers)
        ]


class Meter:
    """Measures a contestant: per update, and as a share of the core of the server."""

    def __init__(self, work: Work, clock: Callable[[], float] = time.perf_counter) -> None:
        self.work = work
        self._clock = clock
        self.latencies: list[float] = []
        self.results: dict[str, float] = {}
        self._completed = 0
        self._readings: list[tuple[float, float, float]] = []

    async def measure(self, run: Run) -> None:
        """Run the warm-up, then the measured updates."""
        work = self.work
        if work.steady:
            await run(range(work.warm_up + work.count + 2 * work.in_flight))
        else:
            if work.warm_up:
                await run(range(work.warm_up))
            self.latencies.clear()
            self._read()
            await run(range(work.warm_up, work.warm_up + work.count))
            self._read()
        before, after = self._readings
        server, cpu, seconds = (b - a for a, b in zip(before, after, strict=True))
        self.results |= {
            "per_second": work.count / seconds,
            "cpu_us": cpu / work.count * 1e6,
            "server_share": server / seconds,
        }
        if work.latencies:
            for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
                self.results[name] = percentile(self.latencies, share) * 1000

    def _read(self) -> None:
        """Read the CPU seconds of the server and of this process, and the clock."""
        self._readings.append(
            (server_cpu(self.work.server_pid), time.process_time(), self._clock())
        )

    def _complete(self) -> None:
        """Count an update, and read the clocks where a steady measurement begins and ends."""
        self._completed += 1
        if self._completed in (self.work.warm_up, self.work.warm_up + self.work.count):
            self._read()

    async def measure_calls(self, call: Call) -> None:
        """Measure calls that a pool of workers makes, or that start at a constant rate."""

        async def timed(number: int) -> None:
            began = time.perf_counter()
            await call(number)
            self.latencies.append(time.perf_counter() - began)

        async def counted(number: int) -> None:
            await call(number)
            self._complete()

        async def run(numbers: range) -> None:
            if self.work.rate:
                self.latencies += await arrivals(self.work.rate, numbers, call)
            else:
                one = timed if self.work.latencies else call
                one = counted if self.work.steady else one
                await run_callers(one, self.work.shares(numbers))

        await self.measure(run)

    def take(self, result: UpdateResult | None, error: CognigyError | None) -> None:
        """Record the latency of an outcome."""
        if result is None:
            raise RuntimeError("an update was not applied") from error
        if self.work.latencies:
            self.latencies.append(result.latency)
        if self.work.steady:
            self._complete()


def server_cpu(pid: int) -> float:
    """Return CPU seconds that a process has used; 0.0 if the system does not report them."""
    stat = Path(f"/proc/{pid}/stat")
    if not pid or not stat.exists():
        return 0.0
    # The second field is a name, which may contain spaces.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def arrivals(
    rate: float,
    numbers: range,
    call: Call,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Start `rate` calls per second, wait for all, and return the seconds of each.

    They count from the moment at which a call was due: counted from its start, the slow moments of
    a busy event loop would be missed. So they include what a timer is late, up to a millisecond. To
    poll the event loop would avoid that, but never let the thread of pyreqwest run on its core.
    """
    latencies = [0.0] * len(numbers)
    began = clock()

    async def one(place: int, due: float) -> None:
        await call(numbers[place])
        latencies[place] = clock() - due

    async with asyncio.TaskGroup() as group:
        for place in range(len(numbers)):
            due = began + place / rate
            await asyncio.sleep(due - clock())
            group.create_task(one(place, due))
    return latencies
