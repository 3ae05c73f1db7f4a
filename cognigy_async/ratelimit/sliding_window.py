"""A sliding window over requests: how many count now, and when the next one may start."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..metrics import QuotaUse
from .limit import RateLimit

MAX_EXACT = 10_000
"""Largest limit for which the time of each request is kept."""
GRAINS_PER_WINDOW = 400
"""Larger limits group requests by a 400th of the window; a group counts until its last one ends."""
HEADROOM_DIVISOR = 10
"""A tenth of the slots is headroom for live work: bulk work takes it one by one, evenly."""
HEADROOM_SLOWDOWN = 1.02
"""Bulk work takes headroom 2% slower than it frees up, so that live work finds a slot."""
SHORT_WINDOW = 6.0
"""Seconds. In windows up to this length, bulk work uses the headroom freely if no live work was
seen lately, because the next window starts soon."""
LIVE_MEMORY_WINDOWS = 10
"""Number of windows for which live work is remembered."""
LATE_TOLERANCE = 0.1
"""Share of the interval by which a start may be late without delaying the following ones."""
COLD_AFTER_WINDOWS = 2
"""Windows without a request after which connections are taken to be cold."""
UNANSWERED_SHARE = 0.25
"""Share of the window beyond the shortest latency after which a request counts as unanswered."""


@dataclass(slots=True, eq=False)
class _StartGroup:
    """Requests that leave the window together, when the last of them does."""

    first: float
    last: float
    count: int
    in_headroom: int


class SlidingWindow:
    """The limiter of one `RateLimit`.

    A request takes a slot when it starts and releases it one window after the server saw it. At
    the latest that is its response time minus the shortest latency so far. While connections are
    cold, in the first window and after a long idle time, the response time itself is used.

    Attributes:
        used: slots in use as of the last call of `next_slot_at`.
        external: of these, requests that the server counts and this client did not send.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.used = 0
        self.external = 0
        self._external_until = -math.inf
        self._groups: deque[_StartGroup] = deque()
        self._in_flight: deque[float] = deque()
        """Starts of the requests that are in no group yet."""
        # Until the first response shows how long requests take, none counts as unanswered.
        self._shortest_latency = math.inf
        self._cold_until = -math.inf
        self._headroom_used = 0
        self._headroom_in_flight = 0
        self._next_headroom_at = -math.inf
        self._theoretical_arrival = -math.inf
        self._started = 0
        self._first_start = 0.0
        self._last_start = -math.inf
        self.set_limit(limit)

    def set_limit(self, limit: RateLimit) -> None:
        """Replace the limit; the requests that count continue to count."""
        self.limit = limit
        self.capacity = limit.capacity
        self._length = limit.per + limit.guard * limit.per
        self._grain = 0.0 if limit.n <= MAX_EXACT else limit.per / GRAINS_PER_WINDOW
        self._grace = UNANSWERED_SHARE * self._length
        self._headroom = self.capacity // HEADROOM_DIVISOR
        self._headroom_interval = (
            HEADROOM_SLOWDOWN * self._length / self._headroom if self._headroom else 0.0
        )
        self._headroom_kept_until = math.inf if limit.per > SHORT_WINDOW else -math.inf
        # `burst` is a generic cell rate algorithm: an interval and a tolerance.
        self._interval = self._length / self.capacity if limit.burst is not None else 0.0
        # Slightly enlarged, because sums of intervals are not exact.
        self._burst_tolerance = self._interval * ((limit.burst or 1) - 1) * (1 + 1e-9)

    def __repr__(self) -> str:
        return f"<SlidingWindow {self.used}/{self.capacity} per {self.limit.per:g} s>"

    def next_slot_at(self, now: float, live: bool = True) -> float:
        """Return when a request may start, for live and bulk work alike; see `RateLimiter`."""
        groups, length = self._groups, self._length
        unanswered_after = self._grace + self._shortest_latency
        while self._in_flight and self._in_flight[0] + unanswered_after <= now:
            if self._in_flight[0] < self._cold_until:
                break
            self._count(self._in_flight.popleft() + self._grace)
        while groups and groups[0].last + length <= now:
            group = groups.popleft()
            self.used -= group.count
            self._headroom_used -= group.in_headroom
        if self.external and self._external_until <= now:
            self.used -= self.external
            self.external = 0
        at = now if self.used < self.capacity else self._next_free_at()
        if self._interval and self._theoretical_arrival - self._burst_tolerance > at:
            return self._theoretical_arrival - self._burst_tolerance
        return at

    def _next_free_at(self) -> float:
        """Return when the first slot becomes free; infinity if only a response can free one."""
        excess = self.used - self.capacity
        external = self.external
        unanswered = math.inf
        if self._in_flight and self._in_flight[0] >= self._cold_until:
            hold = self._grace + max(self._length, self._shortest_latency)
            unanswered = self._in_flight[0] + hold
        last_resort = unanswered
        for group in self._groups:
            at = group.last + self._length
            if unanswered <= at:
                excess -= 1
                if excess < 0:
                    return unanswered
                unanswered = math.inf
            if external and self._external_until <= at:
                excess -= external
                external = 0
                if excess < 0:
                    return self._external_until
            excess -= group.count
            if excess < 0:
                return at
        return min(last_resort, self._external_until) if external > excess else last_resort

    def next_bulk_slot_at(self, now: float) -> float:
        """Return when bulk work may start; see `RateLimiter`."""
        if now > self._headroom_kept_until:
            return now
        excess = self.used - self._headroom_used - (self.capacity - self._headroom)
        headroom_at = self._next_headroom_at
        if excess < 0 or headroom_at <= now:
            return now
        for group in self._groups:
            at = group.last + self._length
            if at >= headroom_at:
                break
            excess -= group.count - group.in_headroom
            if excess < 0:
                return at
        return headroom_at

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot for a request that starts now."""
        if not bulk:
            kept_until = now + LIVE_MEMORY_WINDOWS * self._length
            self._headroom_kept_until = max(self._headroom_kept_until, kept_until)
        elif now >= self._next_headroom_at and self._headroom:
            self._next_headroom_at = next_in_schedule(
                self._next_headroom_at, now, self._headroom_interval
            )
            self._headroom_used += 1
            self._headroom_in_flight += 1
        if self._interval:
            self._theoretical_arrival = next_in_schedule(
                self._theoretical_arrival, now, self._interval
            )
        if not self._started:
            self._first_start = now
        self._started += 1
        if not self.used and now > self._last_start + COLD_AFTER_WINDOWS * self._length:
            self._cold_until = now + self._length
        self._last_start = now
        self._in_flight.append(now)
        self.used += 1

    def finish(self, started: float, now: float) -> None:
        """Count the request that started at `started`, whose response came now."""
        is_cold = started < self._cold_until
        if not is_cold:
            self._shortest_latency = min(self._shortest_latency, now - started)
        try:
            # Fast: most responses come in the order of the requests.
            self._in_flight.remove(started)
        except ValueError:
            return  # The request already counts as unanswered.
        self._count(now if is_cold else max(started, now - self._shortest_latency))

    def _count(self, at: float) -> None:
        """Move a request in flight into a group; from then on it counts for one window."""
        # It does not matter which request used headroom, only how many did.
        in_headroom = 1 if self._headroom_in_flight else 0
        self._headroom_in_flight -= in_headroom
        groups = self._groups
        last = groups[-1] if groups else None
        if last is None or at - last.first > self._grain:
            groups.append(_StartGroup(at, at, 1, in_headroom))
        elif at >= last.first or self._grain:
            if at > last.last:
                last.last = at
            last.count += 1
            last.in_headroom += in_headroom
        else:
            # Responses can arrive out of order.
            index = len(groups)
            while index and groups[index - 1].last > at:
                index -= 1
            groups.insert(index, _StartGroup(at, at, 1, in_headroom))

    def set_external(self, count: int, until: float) -> None:
        """Set how many requests of other clients use up this limit, until the time `until`."""
        self.used += count - self.external
        self.external, self._external_until = count, until

    def usage(self, now: float, *, learned: bool = False) -> tuple[QuotaUse, ...]:
        """Return the use of this limit for the metrics.

        Change nothing: an exporter of metrics asks in a thread of its own.
        """
        windows = max(1.0, (self._last_start - self._first_start) / self.limit.per)
        share = min(1.0, self._started / (self.capacity * windows))
        return (QuotaUse(self.capacity, self.limit.per, self._used_at(now), share, learned),)

    def _used_at(self, now: float) -> int:
        """Return the number of requests that count at a time, as `used` after `next_slot_at`."""
        length = self._length
        used = self.used - sum(
            each.count for each in tuple(self._groups) if each.last + length <= now
        )
        hold = self._grace + max(length, self._shortest_latency)
        for at in tuple(self._in_flight):
            if at < self._cold_until or at + hold > now:
                break
            used -= 1
        if self._external_until <= now:
            used -= self.external
        return max(0, used)

    def save(self, now: float) -> list[tuple[float, int]]:
        """Return the requests that count, as pairs of age in seconds and number, for `restore`."""
        ages = [(now - group.last, group.count) for group in self._groups]
        return [*ages, (0.0, len(self._in_flight))] if self._in_flight else ages

    def restore(self, now: float, saved: Iterable[tuple[float, int]]) -> None:
        """Count the requests that another window saved."""
        recent = [(now - age, count) for age, count in saved if age < self._length]
        self.used += sum(count for _, count in recent)
        groups = [_StartGroup(at, at, count, 0) for at, count in recent]
        self._groups = deque(sorted([*groups, *self._groups], key=lambda group: group.last))


def next_in_schedule(
    planned: float, now: float, interval: float, late: float = LATE_TOLERANCE
) -> float:
    """Return the next start; the present one was planned for `planned` and happens now.

    A start that is late by less than `late` intervals does not shift the schedule.
    """
    return (planned if now - planned <= late * interval else now) + interval
