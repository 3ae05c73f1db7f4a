"""One sliding window: how many requests were started in it, and when the next one may be.

Everything takes `now` (seconds of a monotonic clock that never goes back) as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ..metrics import QuotaUse
from .limit import RateLimit

EXACT = 10_000
"""Up to so many requests for each window are remembered one by one."""
GRAINS = 400
"""Beyond, those of one 400th of the window are remembered as if all came when the last one did."""
SPREAD = 10
"""Bulk work spreads the last tenth of a window over it."""
SHORT = 6.0
"""Seconds. In so short a window nobody waits long: there it does so only after live work."""
REMEMBERED = 10
"""For so many windows."""
SLOWER = 1.02
"""It takes these places a little slower than they come back, so that a live update finds one."""
LATE = 0.1
"""A start that is late by no more than this share of the gap does not delay those after it."""
IDLE = 2
"""After so many windows without a request connections have gone cold."""
LATEST = 0.25
"""Of a window: so long after its start a request counts although it is not answered."""


class _Starts:
    """Requests that count as started at the same time."""

    __slots__ = ("count", "first", "last", "paced")

    def __init__(self, now: float, count: int, paced: int) -> None:
        self.first = self.last = now
        self.count = count
        self.paced = paced


class SlidingWindow:
    """One limit: a sliding window over requests.

    A request takes a place when it starts. It counts, for the length of the window, from its answer
    less the shortest time that any took: by then the server has seen it. In the first window and
    after a long idle time, while connections are cold, it counts from its answer.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.capacity = limit.capacity
        self._length = limit.per + limit.guard * limit.per
        self._latest = LATEST * self._length
        self._in_flight: deque[float] = deque()
        """Starts of those that do not count by a moment of their own yet."""
        self._shortest = math.inf
        self._cold_until = -math.inf
        self._grain = 0.0 if limit.n <= EXACT else limit.per / GRAINS
        self._starts: deque[_Starts] = deque()
        self.used = 0
        """Requests that count now, as of the last question."""
        self._paced = 0
        self._tenth = self.capacity // SPREAD
        self._pace = SLOWER * self._length / self._tenth if self._tenth else 0.0
        self._next_paced = -math.inf
        # In a short window the first live update waits no longer than it takes.
        self._spreads_until = math.inf if limit.per > SHORT else -math.inf
        self._gap = self._length / self.capacity if limit.burst is not None else 0.0
        # A little more than it is, because sums of gaps are not exact.
        self._credit = self._gap * ((limit.burst or 1) - 1) * (1 + 1e-9)
        self._full_at = -math.inf
        self._in_flight_paced = 0
        self._others = 0
        self._others_until = -math.inf
        self._started = 0
        self._first = 0.0
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Window {self.used} of {self.capacity} per {self.limit.per:g} s>"

    def next_slot_at(self, now: float, live: bool = True) -> float:
        """When a request may start: not after `now` for at once, infinite where only an answer to
        another one can make room. It is the same for all work.
        """
        starts, length = self._starts, self._length
        while self._in_flight and self._in_flight[0] + self._latest <= now:
            if self._in_flight[0] < self._cold_until:
                break
            self._count(self._in_flight.popleft() + self._latest)
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
        first = math.inf
        if self._in_flight and self._in_flight[0] >= self._cold_until:
            first = self._in_flight[0] + self._latest + self._length
        in_flight = first
        for each in self._starts:
            at = each.last + self._length
            if first <= at:
                # It counts from before that, although no answer said so yet.
                excess -= 1
                if excess < 0:
                    return first
                first = math.inf
            if others and self._others_until <= at:
                excess -= others
                others = 0
                if excess < 0:
                    return self._others_until
            excess -= each.count
            if excess < 0:
                return at
        return min(in_flight, self._others_until) if others > excess else in_flight

    def next_bulk_slot_at(self, now: float) -> float:
        """The same for bulk work, right after `opens` said that a request may start."""
        if now > self._spreads_until:
            return now
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
        if not bulk:
            self._spreads_until = max(self._spreads_until, now + REMEMBERED * self._length)
        elif now >= self._next_paced and self._tenth:
            self._next_paced = following(self._next_paced, now, self._pace)
            self._paced += 1
            self._in_flight_paced += 1
        if self._gap:
            self._full_at = following(self._full_at, now, self._gap)
        if not self._started:
            self._first = now
        self._started += 1
        if not self.used and now > self._last + IDLE * self._length:
            self._cold_until = now + self._length
        self._last = now
        self._in_flight.append(now)
        self.used += 1

    def answered(self, began: float, now: float) -> None:
        """The request that started at `began` is over."""
        try:
            # Most answers come in the order of the requests.
            self._in_flight.remove(began)
        except ValueError:
            return  # It counts already.
        if began < self._cold_until:
            self._count(now)
        else:
            self._shortest = min(self._shortest, now - began)
            self._count(max(began, now - self._shortest))

    def _count(self, at: float) -> None:
        """A request that was under way counts from a moment on."""
        # Which one does not matter, but how many of them do.
        paced = 1 if self._in_flight_paced else 0
        self._in_flight_paced -= paced
        starts = self._starts
        last = starts[-1] if starts else None
        if last is None or at - last.first > self._grain:
            starts.append(_Starts(at, 1, paced))
        elif at >= last.first or self._grain:
            if at > last.last:
                last.last = at
            last.count += 1
            last.paced += paced
        else:
            # What was answered late may have been under way for longer than what counts already.
            place = len(starts)
            while place and starts[place - 1].last > at:
                place -= 1
            starts.insert(place, _Starts(at, 1, paced))

    def others(self, count: int, until: float) -> None:
        """The server counts so many requests that are not ours, until a moment."""
        self.used += count - self._others
        self._others, self._others_until = count, until

    @property
    def foreign(self) -> int:
        """Requests that count and are not ours, as of the last question."""
        return self._others

    def use(self, now: float, *, learned: bool = False) -> QuotaUse:
        """For the metrics."""
        self.next_slot_at(now)
        windows = max(1.0, (self._last - self._first) / self.limit.per)
        share = min(1.0, self._started / (self.capacity * windows))
        return QuotaUse(self.capacity, self.limit.per, self.used, share, learned)

    # Across a restart.

    def save(self, now: float) -> list[tuple[float, int]]:
        """How long ago requests were started, and how many then; those under way are of now."""
        told = [(now - each.last, each.count) for each in self._starts]
        return [*told, (0.0, len(self._in_flight))] if self._in_flight else told

    def restore(self, now: float, saved: Iterable[tuple[float, int]]) -> None:
        """Take over what another window was told of."""
        taken = [(now - ago, count) for ago, count in saved if ago < self._length]
        self.used += sum(count for _, count in taken)
        starts = [_Starts(at, count, 0) for at, count in taken]
        self._starts = deque(sorted([*starts, *self._starts], key=lambda each: each.last))


def following(planned: float, now: float, gap: float, late: float = LATE) -> float:
    """The moment after this one, where one was planned and it is now."""
    return (planned if now - planned <= late * gap else now) + gap
