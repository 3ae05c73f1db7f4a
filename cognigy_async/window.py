"""One sliding window: how many requests were started in it, and when the next one may be.

Everything takes `now` (seconds of a monotonic clock that never goes back) as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .metrics import QuotaUse
from .rate import RateLimit

__all__ = ["Window"]

EXACT = 10_000
"""Up to so many requests for each window are remembered one by one."""
GRAINS = 400
"""Beyond, those of one 400th of the window are remembered as if all came when the last one did."""
SPREAD = 10
"""Bulk work spreads the last tenth of a window over it."""
SLOWER = 1.02
"""It takes these places a little slower than they come back, so that a live update finds one."""
LATE = 0.1
"""A start that is late by no more than this share of the gap does not delay those after it."""

IDLE = 2
"""After so many windows without a request connections have gone cold."""


class _Starts:
    """Requests that count as started at the same time."""

    __slots__ = ("count", "first", "last", "paced")

    def __init__(self, now: float, count: int, paced: int) -> None:
        self.first = self.last = now
        self.count = count
        self.paced = paced


class Window:
    """One limit: a sliding window over the starts of requests.

    In the first window, and in the first one after a long idle time, connections are cold and
    requests may be on their way for long: there each one counts from its answer.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.capacity = limit.capacity
        self._length = limit.length
        self._grain = 0.0 if limit.n <= EXACT else limit.per / GRAINS
        self._starts: deque[_Starts] = deque()
        self.used = 0
        """Requests that count now, as of the last question."""
        self._paced = 0
        self._tenth = self.capacity // SPREAD
        self._pace = SLOWER * self._length / self._tenth if self._tenth else 0.0
        self._next_paced = -math.inf
        self._gap = self._length / self.capacity if limit.burst is not None else 0.0
        self._credit = self._gap * ((limit.burst or 1) - 1)
        self._full_at = -math.inf
        self._cold_from = self._cold_until = -math.inf
        self._open_paced = 0
        self._others = 0
        self._others_until = -math.inf
        self._started = 0
        self._first = 0.0
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Window {self.used} of {self.capacity} per {self.limit.per:g} s>"

    def opens(self, now: float, live: bool = True) -> float:
        """When a request may start: not after `now` for at once, infinite where only an answer to
        another one can make room. It is the same for all work.
        """
        starts, length = self._starts, self._length
        while starts and starts[0].last + length <= now:
            over = starts.popleft()
            self.used -= over.count
            self._paced -= over.paced
        if self._others and self._others_until <= now:
            self.used -= self._others
            self._others = 0
        at = now if self.used < self.capacity else self._frees()
        if self._gap and self._full_at - self._credit > at:
            return self._full_at - self._credit
        return at

    def _frees(self) -> float:
        """When the first place becomes free; infinite while only answers can free one."""
        excess = self.used - self.capacity
        others = self._others
        for each in self._starts:
            at = each.last + self._length
            if others and self._others_until <= at:
                excess -= others
                others = 0
                if excess < 0:
                    return self._others_until
            excess -= each.count
            if excess < 0:
                return at
        return self._others_until if others > excess else math.inf

    def bulk_opens(self, now: float) -> float:
        """The same for bulk work, right after `opens` said that a request may start."""
        excess = self.used - self._paced - (self.capacity - self._tenth)
        paced = self._next_paced
        if excess < 0 or paced <= now:
            return now
        for each in self._starts:
            at = each.last + self._length
            if at >= paced:
                break
            excess -= each.count - each.paced
            if excess < 0:
                return at
        return paced

    def start(self, now: float, *, bulk: bool) -> None:
        """A request starts."""
        paced = 0
        if bulk and now >= self._next_paced and self._tenth:
            paced = 1
            self._next_paced = _next(self._next_paced, now, self._pace)
        if self._gap:
            self._full_at = _next(self._full_at, now, self._gap)
        if not self._started:
            self._first = now
        self._started += 1
        if not self.used and now > self._last + IDLE * self._length:
            self._cold_from = now
            self._cold_until = now + self._length
        self._last = now
        self.used += 1
        self._paced += paced
        if now < self._cold_until:
            self._open_paced += paced
        else:
            self._count(now, paced)

    def answered(self, began: float, now: float) -> None:
        """The request that started at `began` is over."""
        if self._cold_from <= began < self._cold_until:
            paced = 1 if self._open_paced else 0
            self._open_paced -= paced
            self._count(now, paced)

    def _count(self, now: float, paced: int) -> None:
        starts = self._starts
        if starts and now - starts[-1].first <= self._grain:
            last = starts[-1]
            last.last = now
            last.count += 1
            last.paced += paced
        else:
            starts.append(_Starts(now, 1, paced))

    def empty_burst(self, now: float) -> None:
        """What was saved up while nothing was sent is not to be sent at once."""
        self._full_at = max(self._full_at, now + self._credit)

    def others(self, count: int, until: float) -> None:
        """The server counts so many requests that are not ours, until a moment."""
        self.used += count - self._others
        self._others, self._others_until = count, until

    def use(self, now: float, *, learned: bool = False) -> QuotaUse:
        """For the metrics."""
        self.opens(now)
        windows = max(1.0, (self._last - self._first) / self.limit.per)
        share = min(1.0, self._started / (self.capacity * windows))
        return QuotaUse(self.capacity, self.limit.per, self.used, share, learned)

    # Across a restart.

    def save(self, now: float) -> list[tuple[float, int]]:
        """How long ago requests were started, and how many then; those under way are of now."""
        told = [(now - each.last, each.count) for each in self._starts]
        under_way = self.used - self._others - sum(count for _, count in told)
        return [*told, (0.0, under_way)] if under_way else told

    def restore(self, now: float, saved: Iterable[tuple[float, int]]) -> None:
        """Take over what another window was told of."""
        taken = [(now - ago, count) for ago, count in saved if ago < self._length]
        self.used += sum(count for _, count in taken)
        starts = [_Starts(at, count, 0) for at, count in taken]
        self._starts = deque(sorted([*starts, *self._starts], key=lambda each: each.last))


def _next(planned: float, now: float, gap: float) -> float:
    """The moment after this one, where one was planned and it is now."""
    return (planned if now - planned <= LATE * gap else now) + gap
