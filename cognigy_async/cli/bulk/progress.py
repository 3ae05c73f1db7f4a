"""The progress of a job on stderr: a panel on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

import anyio
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cognigy_async import AsyncStateClient
from cognigy_async.bulk import BulkJob, JobProgress

from .._output import REASONS, console, duration, say

REFRESH = 0.5
"""Seconds between two panels."""
LINE = 30
"""Seconds between two lines."""
RATE_WINDOW = 30.0
"""Seconds over which the rate is averaged."""


class Rate:
    """The rows per second within the last `RATE_WINDOW`."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int) -> float:
        """Take the number of rows that are done by now, and return the rate."""
        points = self._points
        points.append((now, done))
        while len(points) > 2 and points[1][0] < now - RATE_WINDOW:
            points.popleft()
        began, before = points[0]
        return (done - before) / (now - began) if now > began else 0.0


def bar(total: int | None, completed: int, share: str) -> Table:
    """Return a bar with a text beside it. Without a total, it moves."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(ProgressBar(total=total or None, completed=completed), share)
    return grid


class Progress:
    """The display of a running job."""

    def __init__(self, job: BulkJob, client: AsyncStateClient) -> None:
        self._job = job
        self._client = client
        self._rates = Rate()

    async def run(self) -> None:
        """Show the progress until cancelled, or until stderr cannot be written any more."""
        out = console(stderr=True)
        with suppress(OSError):
            if not out.is_interactive:
                while True:
                    for _ in range(LINE):
                        await anyio.sleep(1)
                        self._rate(self._job.progress)
                    say(f"{self._line()}; {self._details()}")
            with Live(console=out, auto_refresh=False, transient=True) as live:
                while True:
                    live.update(self._panel(), refresh=True)
                    await anyio.sleep(REFRESH)

    def _panel(self) -> Group:
        """Return a bar of the completed rows, and lines that a narrow terminal wraps."""
        progress = self._job.progress
        done, total = progress.done, progress.total
        share = f"{_percent(done, total)} done" if total else f"{done:,} done"
        numbers = f"{progress.done - progress.failed - progress.unchanged:,}"
        if total:
            numbers += f" of {_about(progress)}"
        unchanged = f", {progress.unchanged:,} unchanged" if progress.unchanged else ""
        line = f"{numbers} applied, {progress.failed:,} failed{unchanged}, {self._speed(progress)}"
        return Group(
            bar(total, done, share),
            Text(line),
            Text(f"{self._in_flight()}, {self._details()}", style="dim"),
        )

    def _line(self) -> str:
        progress = self._job.progress
        total = progress.total
        share = f", {_percent(progress.done, total)} of {_about(progress)} rows" if total else ""
        return (
            f"{progress.done} done, {progress.failed} failed, {self._speed(progress)}{share}, "
            f"{self._in_flight()}"
        )

    def _speed(self, progress: JobProgress) -> str:
        rate = self._rate(progress)
        eta = self._eta(progress, rate)
        return f"{rate:.1f} rows/s{'' if eta is None else f', {duration(eta)} left'}"

    def _in_flight(self) -> str:
        return f"{self._client.metrics.in_flight} in flight"

    def _details(self) -> str:
        progress, metrics = self._job.progress, self._client.metrics
        details = [f"{sum(metrics.retries.values())} retries"]
        details += [f"quota {use.used} of {use.n} in {use.per:g} s" for use in metrics.quota]
        if progress.reason is not None and not metrics.in_flight:
            remaining = (progress.until or 0.0) - time.time()
            wait = f" {duration(remaining)}" if remaining > 0 else ""
            details.append(f"waiting{wait}: {REASONS.get(progress.reason, progress.reason)}")
        return ", ".join(details)

    def _rate(self, progress: JobProgress) -> float:
        """Return the rows per second within the last `RATE_WINDOW`."""
        if not progress.seen:
            return 0.0
        return self._rates.update(anyio.current_time(), progress.done)

    def _eta(self, progress: JobProgress, rate: float) -> float | None:
        """Return the estimated seconds until the end; None if nothing is known yet."""
        if not progress.total or not rate:
            return None
        left = progress.total - progress.done
        quota, requests = self._client.metrics.quota, self._client.metrics.requests
        done_by_this_run = progress.done - progress.skipped
        if not quota or not requests or done_by_this_run <= 0:
            return left / rate
        # Over a long time the quota limits the rate, not the current speed.
        return left * max(requests / done_by_this_run * use.per / use.n for use in quota)


def _percent(done: int, total: int) -> str:
    # Rounded down: all is done at 100% only.
    return f"{100 * done // total}%"


def _about(progress: JobProgress) -> str:
    """Return the number of rows of a job, in three digits while it is an estimate."""
    total = progress.total or 0
    return f"{total:,}" if progress.counted else f"about {float(f'{total:.3g}'):,.0f}"
