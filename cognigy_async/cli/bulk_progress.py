"""Where a job is: a panel on a terminal, a line now and then elsewhere; both on stderr."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

import anyio
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from cognigy_async import AsyncStateClient
from cognigy_async.bulk import BulkJob, JobProgress

from .output import console, say

REFRESH = 0.5
LINE = 30
"""Seconds between two lines where stderr is no terminal."""
RATE_OVER = 30.0
"""Seconds over which the rate is taken."""

REASONS = {
    "conflict": "somebody else writes the same dialogs",
    "fault": "the server fails (500)",
    "gateway": "a gateway fails (502, 504)",
    "no_response": "no answer",
    "not_sent": "the server cannot be reached",
    "throttled": "throttled (429)",
    "unauthorized": "a token was refused (401)",
    "unavailable": "the server is unavailable (503)",
}


class Progress:
    """Shows a job until it is cancelled."""

    def __init__(self, job: BulkJob, client: AsyncStateClient) -> None:
        self._job = job
        self._client = client
        self._points: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Show it; a terminal that is gone ends the showing and nothing else."""
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
        share = self._job.progress.share
        done = None if share is None else 1000 * share
        bar = ProgressBar(total=1000 if done is not None else None, completed=done or 0)
        return Group(bar, Text(self._line()), Text(self._details(), style="dim"))

    def _line(self) -> str:
        progress, metrics = self._job.progress, self._client.metrics
        rate = self._rate(progress)
        told = f"{progress.done} done, {progress.failed} failed, {rate:.1f} rows/s"
        if (eta := self._eta(rate)) is not None:
            told += f", {duration(eta)} left"
        return f"{told}, {metrics.in_flight} in flight"

    def _details(self) -> str:
        progress, metrics = self._job.progress, self._client.metrics
        told = [f"{sum(metrics.retries.values())} retries"]
        told += [f"quota {use.used} of {use.n} in {use.per:g} s" for use in metrics.quota]
        remaining = (progress.until or 0.0) - time.time()
        if progress.reason is not None and not metrics.in_flight:
            why = REASONS.get(progress.reason, progress.reason)
            time_left = f" {duration(remaining)}" if remaining > 0 else ""
            told.append(f"waiting{time_left}: {why}")
        return ", ".join(told)

    def _rate(self, progress: JobProgress) -> float:
        """Rows a second, lately."""
        if not progress.seen:
            return 0.0
        now, done = anyio.current_time(), progress.done
        points = self._points
        points.append((now, done))
        while len(points) > 2 and points[1][0] < now - RATE_OVER:
            points.popleft()
        began, before = points[0]
        return (done - before) / (now - began) if now > began else 0.0

    def _eta(self, rate: float) -> float | None:
        """Seconds that are left, as far as can be told from what was read."""
        progress = self._job.progress
        if not progress.share or not rate:
            return None
        left = max(progress.seen / progress.share, progress.done) - progress.done
        quota, requests = self._client.metrics.quota, self._client.metrics.requests
        here = progress.done - progress.skipped
        if not quota or not requests or here <= 0:
            return left / rate
        # What the quota allows holds in the long run, whatever the rate is just now.
        return left * max(requests / here * use.per / use.n for use in quota)


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
