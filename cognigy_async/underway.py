"""From which moment on a request counts: the server sees it some time after it was started.

A window that begins with the start of a request and ends before the server has seen it may look
over-full there. So a request counts from its answer, by which the server has certainly seen it,
less most of the shortest time that any took: what all of them need shifts them alike. This is done
as far as it costs no more than the guard of the limit: on the average of all requests, so that a
few slow ones may take longer.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["UnderWay"]

IDLE = 2
"""After so many windows without a request connections have gone cold."""
SURE = 0.5
"""Of that share: the shortest time that any took was not only spent on what all of them need."""
LONGEST = 0.25
"""Of a window: so much later than it was started a request counts at most."""


class UnderWay:
    """The requests that were started and do not yet count by a moment of their own.

    In the first window, and in the first one after a long idle time, connections are cold and
    requests may be on their way for long: those are waited for whatever it takes.

    Args:
        length: seconds of a window.
        share: seconds that a request may count later than it was started, on the average.
        most: seconds that may be saved up for slow ones, all of which are there at the beginning.
    """

    def __init__(self, length: float, share: float, most: float) -> None:
        self._length = length
        self._share = share
        self._most = self._saved = most
        self._shortest = math.inf
        self._certain = 0.0
        """Seconds before an answer by which the server has seen its request."""
        self._cold: deque[float] = deque()
        self._starts: deque[float] = deque()
        self._cold_until = -math.inf
        self._last = -math.inf
        self.quiet_until = math.inf
        """Until then none is overdue, which is as much as has to be asked with most requests."""

    def __len__(self) -> int:
        return len(self._cold) + len(self._starts)

    def start(self, now: float, *, empty: bool) -> None:
        """A request starts; `empty` says that no other one counts."""
        if empty and now > self._last + IDLE * self._length:
            self._cold_until = now + self._length
        self._last = now
        if now < self._cold_until:
            self._cold.append(now)
        else:
            if not self._starts:
                self.quiet_until = now + self._share
            self._starts.append(now)

    def answered(self, began: float, now: float) -> float | None:
        """From when on the request that started at `began` counts; None if it did so already."""
        if now - began < self._shortest:
            self._shortest = now - began
            self._certain = max(0.0, self._shortest - SURE * self._share)
        if self._cold and _took(self._cold, began):
            return now
        if not _took(self._starts, began):
            return None
        self._look_at_oldest()
        at = now - self._certain
        if at < began:
            at = began
        self._spend(at - began)
        return at

    def overdue(self, now: float) -> float | None:
        """From when on the oldest one counts although it is not answered, if it is time to say so:
        either an answer could not tell of an earlier moment, or nothing depends on it any more.
        """
        at = self.first_counts_at()
        if at + min(self._certain, self._length) > now:
            return None
        self._spend(at - self._starts.popleft())
        self._look_at_oldest()
        return at

    def first_counts_at(self) -> float:
        """The moment by which the oldest one counts, infinite where only answers tell."""
        if not self._starts:
            return math.inf
        return self._starts[0] + min(self._share + self._saved, LONGEST * self._length)

    def _look_at_oldest(self) -> None:
        # It counts no earlier, however little is saved up.
        self.quiet_until = self._starts[0] + self._share if self._starts else math.inf

    def _spend(self, seconds: float) -> None:
        saved = self._saved + self._share - seconds
        self._saved = 0.0 if saved < 0.0 else saved if saved < self._most else self._most


def _took(starts: deque[float], began: float) -> bool:
    """Whether it was among them and is no more; most answers come in the order of the requests."""
    if starts and starts[0] == began:
        starts.popleft()
        return True
    try:
        starts.remove(began)
    except ValueError:
        return False
    return True
