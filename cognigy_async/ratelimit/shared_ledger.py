"""The content of a shared quota file: which process holds how many slots, and until when.

All times are seconds of the machine's monotonic clock, given as arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from .limit import RateLimit
from .sliding_window import HEADROOM_DIVISOR, HEADROOM_SLOWDOWN, next_in_schedule

LEASE_SHARE = 0.02
"""Share of a window for which a process may keep a slot before it must use or return it."""
BATCHES_PER_WINDOW = 20
"""A process leases at most one part in this many of a window at once."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The slots that a process got.

    Attributes:
        count: number of slots.
        wait: seconds after which to ask again if there were none.
    """

    count: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of a batch that is over.

    Attributes:
        count: number of used slots.
        age: seconds since the last response.
    """

    count: int
    age: float


class SharedLedger:
    """The slots of one limit, read from a file and written back to it.

    Each batch of slots counts for one window from the end of its lease, or from its last response.

    Args:
        limit: the limit, the same for all processes.
        content: content of the file; empty for a new one. Unreadable content, left by a process
            that died while writing, counts as a full window.
        now: the time.
        offset: seconds from the monotonic clock to the wall clock. It shows that the machine was
            restarted, which resets the monotonic clock.
    """

    def __init__(self, limit: RateLimit, content: bytes, now: float, offset: float) -> None:
        self._limit = limit
        self._length = limit.per * (1 + limit.guard)
        self._offset = offset
        self._batches: dict[str, tuple[int, float, int]] = {}
        """For each batch name: slots, start of counting, and 1 if bulk work took it as headroom."""
        self._next_headroom_at = -math.inf
        self._interval = self._length / limit.capacity if limit.burst is not None else 0.0
        # Slightly enlarged, because sums of intervals are not exact.
        self._burst_tolerance = self._interval * ((limit.burst or 1) - 1) * (1 + 1e-9)
        self._theoretical_arrival = -math.inf
        if content:
            self._read(content, now)

    def _read(self, content: bytes, now: float) -> None:
        try:
            state = json.loads(content)
            shift = float(state["offset"]) - self._offset
            if all(at <= now + self._length for _, at, _ in state["batches"].values()):
                # No time lies in the future, so the machine was not restarted: only the wall
                # clock was set.
                shift = 0.0
            self._batches = {
                str(name): (int(count), float(at) + shift, int(headroom))
                for name, (count, at, headroom) in state["batches"].items()
            }
            self._next_headroom_at = float(state["next_paced"]) + shift
            self._theoretical_arrival = float(state["full_at"]) + shift
        except (KeyError, TypeError, ValueError, AttributeError):
            self._batches = {"unreadable": (self._limit.capacity, now, 0)}
            self._next_headroom_at = self._theoretical_arrival = -math.inf
        for name, (_, at, _) in list(self._batches.items()):
            if at + self._length <= now:
                del self._batches[name]

    def content(self) -> bytes:
        """Return the new content of the file."""
        state = {
            "offset": self._offset,
            "next_paced": max(self._next_headroom_at, -1e300),
            "full_at": max(self._theoretical_arrival, -1e300),
            "batches": self._batches,
        }
        return json.dumps(state).encode()

    @property
    def used(self) -> int:
        """Number of slots that count or are leased."""
        return sum(count for count, _, _ in self._batches.values())

    def report(self, usages: Mapping[str, Usage], now: float) -> None:
        """Return the unused slots of batches, and count the others from their last response."""
        for name, usage in usages.items():
            if not usage.count:
                self._batches.pop(name, None)
            elif name in self._batches:
                _, at, headroom = self._batches[name]
                self._batches[name] = (usage.count, min(at, now - usage.age), headroom)

    def _burst(self, now: float) -> int:
        """Return how many requests `burst` allows at once."""
        if not self._interval:
            return self._limit.capacity
        saved = min(self._burst_tolerance, now + self._burst_tolerance - self._theoretical_arrival)
        return max(0, math.floor(saved / self._interval) + 1) if saved >= 0 else 0

    def take(self, name: str, want: int, now: float, *, live: bool) -> Grant:
        """Lease a new batch of at most `want` slots.

        Bulk work (`live` is False) takes headroom one slot at a time, as in `SlidingWindow`.
        """
        limit = self._limit
        free = limit.capacity - self.used
        count = min(want, free, max(1, limit.capacity // BATCHES_PER_WINDOW), self._burst(now))
        in_headroom = 0
        headroom = limit.capacity // HEADROOM_DIVISOR
        if not live and headroom and count > 0:
            headroom_used = sum(each for _, _, each in self._batches.values())
            if now >= self._next_headroom_at:
                count = in_headroom = 1
                interval = HEADROOM_SLOWDOWN * self._length / headroom
                self._next_headroom_at = next_in_schedule(self._next_headroom_at, now, interval)
            else:
                count = min(count, limit.capacity - headroom - (self.used - headroom_used))
        if count > 0:
            self._batches[name] = (count, now + LEASE_SHARE * limit.per, in_headroom)
            for _ in range(count if self._interval else 0):
                self._theoretical_arrival = next_in_schedule(
                    self._theoretical_arrival, now, self._interval
                )
            return Grant(count)
        wait = min((at for _, at, _ in self._batches.values()), default=now) + self._length - now
        if free > 0:
            wait = min(wait, self._next_headroom_at - now)
        wait = max(wait, self._theoretical_arrival - self._burst_tolerance - now)
        # Other processes may return slots before their lease ends.
        return Grant(0, max(0.001, min(wait, LEASE_SHARE * limit.per)))
