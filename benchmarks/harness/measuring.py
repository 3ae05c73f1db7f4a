"""Time, CPU and latencies of a run, after a warm-up in the same process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .figures import percentile
from .work import Work

__all__ = ["Meter", "Run", "measured", "server_cpu"]

Run = Callable[[int, int], Awaitable[None]]
"""Makes the updates from one number to another."""


class Meter:
    """Is called with a `Run` by a contestant that is ready; `told` is what it found.

    Attributes:
        latencies: seconds, where the work asks for them; contestants add one for each request.
        told: `per_second`, `cpu_us` (of an update), `server_share` (of its core), percentiles in
            milliseconds, and what a contestant adds.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.latencies: list[float] | None = [] if work.latencies else None
        self.told: dict[str, float] = {}

    async def __call__(self, run: Run) -> None:
        start, count = self.work.warm_up, self.work.count
        if start:
            await run(0, start)
        if self.latencies is not None:
            self.latencies.clear()
        server, cpu = server_cpu(self.work.server_pid), time.process_time()
        began = time.perf_counter()
        await run(start, start + count)
        seconds = time.perf_counter() - began
        self.told["per_second"] = count / seconds
        self.told["cpu_us"] = (time.process_time() - cpu) / count * 1e6
        self.told["server_share"] = (server_cpu(self.work.server_pid) - server) / seconds
        if self.latencies:
            for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
                self.told[name] = percentile(self.latencies, share) * 1000


def server_cpu(pid: int) -> float:
    """Seconds of CPU that a process has used; 0.0 where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    if not pid or not stat.exists():
        return 0.0
    # The second field is a name, which may have spaces in it.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(
    play: Callable[[Work, Meter], Awaitable[None]], loop: str
) -> Callable[[Work], dict[str, Any]]:
    """A contestant in this process, on asyncio's own event loop or on uvloop's."""

    def run(work: Work) -> dict[str, Any]:
        meter = Meter(work)

        async def main() -> None:
            await play(work, meter)

        if loop == "uvloop":
            import uvloop

            uvloop.run(main())
        else:
            asyncio.run(main())
        return meter.told

    return run
