"""One sliding window: how many requests were started in it, and when the next one may be.

Everything takes `now` (seconds of a monotonic clock that never goes back) as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ..metrics import QuotaUse
from .limit import RateLimit

MAX_EXACT = 10_000
"""Up to so many requests for each window are remembered one by one."""
GRAINS_PER_WINDOW = 400
"""Beyond, those of one 400th of the window are remembered as if all came when the last one did."""
HEADROOM_DIVISOR = 10
"""Bulk work spreads the last tenth of a window over it."""
SHORT_WINDOW = 6.0
"""Seconds. In so short a window nobody waits long: there it does so only after live work."""
LIVE_MEMORY_WINDOWS = 10
"""For so many windows."""
HEADROOM_SLOWDOWN = 1.02
"""It takes these places a little slower than they come back, so that a live update finds one."""
LATE_TOLERANCE = 0.1
"""A start that is late by no more than this share of the gap does not delay those after it."""
COLD_AFTER_WINDOWS = 2
"""After so many windows without a request connections have gone cold."""
UNANSWERED_SHARE = 0.25
"""Of a window: so long after its start a request counts although it is not answered."""


class _StartGroup:
    """Requests that count as started at the same time."""

    __slots__ = ("count", "first", "in_headroom", "last")

    def __init__(self, now: float, count: int, in_headroom: int) -> None:
        self.first = self.last = now
        self.count = count
        self.in_headroom = in_headroom


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
        self._unanswered_after = UNANSWERED_SHARE * self._length
        self._in_flight: deque[float] = deque()
        """Starts of those that do not count by a moment of their own yet."""
        self._shortest = math.inf
        self._cold_until = -math.inf
        self._grain = 0.0 if limit.n <= MAX_EXACT else limit.per / GRAINS_PER_WINDOW
        self._starts: deque[_StartGroup] = deque()
        self.used = 0
        """Requests that count now, as of the last question."""
        self._headroom_used = 0
        self._headroom = self.capacity // HEADROOM_DIVISOR
        self._headroom_interval = (
            HEADROOM_SLOWDOWN * self._length / self._headroom if self._headroom else 0.0
        )
        self._next_headroom_at = -math.inf
        # In a short window the first live update waits no longer than it takes.
        self._spreads_until = math.inf if limit.per > SHORT_WINDOW else -math.inf
        self._interval = self._length / self.capacity if limit.burst is not None else 0.0
        # A little more than it is, because sums of gaps are not exact.
        self._burst_tolerance = self._interval * ((limit.burst or 1) - 1) * (1 + 1e-9)
        self._theoretical_arrival = -math.inf
        self._in_flight_headroom = 0
        self._external = 0
        self._external_until = -math.inf
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
        while self._in_flight and self._in_flight[0] + self._unanswered_after <= now:
            if self._in_flight[0] < self._cold_until:
                break
            self._count(self._in_flight.popleft() + self._unanswered_after)
        while starts and starts[0].last + length <= now:
            over = starts.popleft()
            self.used -= over.count
            self._headroom_used -= over.in_headroom
        if self._external and self._external_until <= now:
            self.used -= self._external
            self._external = 0
        at = now if self.used < self.capacity else self._next_free_at()
        if self._interval and self._theoretical_arrival - self._burst_tolerance > at:
            return self._theoretical_arrival - self._burst_tolerance
        return at

    def _next_free_at(self) -> float:
        """When the first place becomes free; infinite while only answers can free one."""
        excess = self.used - self.capacity
        set_external = self._external
        first = math.inf
        if self._in_flight and self._in_flight[0] >= self._cold_until:
            first = self._in_flight[0] + self._unanswered_after + self._length
        in_flight = first
        for each in self._starts:
            at = each.last + self._length
            if first <= at:
                # It counts from before that, although no answer said so yet.
                excess -= 1
                if excess < 0:
                    return first
                first = math.inf
            if set_external and self._external_until <= at:
                excess -= set_external
                set_external = 0
                if excess < 0:
                    return self._external_until
            excess -= each.count
            if excess < 0:
                return at
        return min(in_flight, self._external_until) if set_external > excess else in_flight

    def next_bulk_slot_at(self, now: float) -> float:
        """The same for bulk work, right after `opens` said that a request may start."""
        if now > self._spreads_until:
            return now
        excess = self.used - self._headroom_used - (self.capacity - self._headroom)
        in_headroom = self._next_headroom_at
        if excess < 0 or in_headroom <= now:
            return now
        for each in self._starts:
            at = each.last + self._length
            if at >= in_headroom:
                break
            excess -= each.count - each.in_headroom
            if excess < 0:
                return at
        return in_headroom

    def start(self, now: float, *, bulk: bool) -> None:
        """A request starts."""
        if not bulk:
            self._spreads_until = max(self._spreads_until, now + LIVE_MEMORY_WINDOWS * self._length)
        elif now >= self._next_headroom_at and self._headroom:
            self._next_headroom_at = next_in_schedule(
                self._next_headroom_at, now, self._headroom_interval
            )
            self._headroom_used += 1
            self._in_flight_headroom += 1
        if self._interval:
            self._theoretical_arrival = next_in_schedule(
                self._theoretical_arrival, now, self._interval
            )
        if not self._started:
            self._first = now
        self._started += 1
        if not self.used and now > self._last + COLD_AFTER_WINDOWS * self._length:
            self._cold_until = now + self._length
        self._last = now
        self._in_flight.append(now)
        self.used += 1

    def finish(self, began: float, now: float) -> None:
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
        in_headroom = 1 if self._in_flight_headroom else 0
        self._in_flight_headroom -= in_headroom
        starts = self._starts
        last = starts[-1] if starts else None
        if last is None or at - last.first > self._grain:
            starts.append(_StartGroup(at, 1, in_headroom))
        elif at >= last.first or self._grain:
            if at > last.last:
                last.last = at
            last.count += 1
            last.in_headroom += in_headroom
        else:
            # What was answered late may have been under way for longer than what counts already.
            place = len(starts)
            while place and starts[place - 1].last > at:
                place -= 1
            starts.insert(place, _StartGroup(at, 1, in_headroom))

    def set_external(self, count: int, until: float) -> None:
        """The server counts so many requests that are not ours, until a moment."""
        self.used += count - self._external
        self._external, self._external_until = count, until

    @property
    def external(self) -> int:
        """Requests that count and are not ours, as of the last question."""
        return self._external

    def usage(self, now: float, *, learned: bool = False) -> QuotaUse:
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
        starts = [_StartGroup(at, count, 0) for at, count in taken]
        self._starts = deque(sorted([*starts, *self._starts], key=lambda each: each.last))


def next_in_schedule(planned: float, now: float, gap: float, late: float = LATE_TOLERANCE) -> float:
    """The moment after this one, where one was planned and it is now."""
    return (planned if now - planned <= late * gap else now) + gap
