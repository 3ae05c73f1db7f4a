"""What a file says of one limit that several processes share: who holds how many places, and since
when they count. Times are seconds of the machine's monotonic clock, given as arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from .limit import RateLimit
from .sliding_window import HEADROOM_DIVISOR, HEADROOM_SLOWDOWN, next_in_schedule

LEASE_SHARE = 0.02
"""Of a window: how long a place may be kept before it is used. Then it is given back."""
BATCHES_PER_WINDOW = 20
"""A process takes at most this fraction of a window at once."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Places that were given, perhaps none.

    Attributes:
        wait: seconds until asking again may help, where there are none.
    """

    count: int
    wait: float = 0.0


class SharedLedger:
    """The places of one limit, read from a file and written back to it.

    Args:
        content: of the file; empty for a new one. One that cannot be read, because a process died
            while it was written, is taken for a window that is used up.
        offset: seconds from the monotonic clock to the wall clock, which goes on across a restart
            of the machine.
    """

    def __init__(self, limit: RateLimit, content: bytes, now: float, offset: float) -> None:
        self._limit = limit
        self._length = limit.per * (1 + limit.guard)
        self._offset = offset
        self._batches: dict[str, list[float]] = {}
        self._next_headroom_at = -math.inf
        self._interval = self._length / limit.capacity if limit.burst is not None else 0.0
        self._burst_tolerance = self._interval * ((limit.burst or 1) - 1) * (1 + 1e-9)
        self._theoretical_arrival = -math.inf
        if content:
            self._read(content, now)

    def _read(self, content: bytes, now: float) -> None:
        try:
            told = json.loads(content)
            # Beyond the drift of clocks the machine was started again.
            shift = float(told["offset"]) - self._offset
            if all(at <= now + self._length for _, at, _ in told["batches"].values()):
                shift = 0.0
            self._batches = {
                str(name): [int(count), float(at) + shift, int(in_headroom)]
                for name, (count, at, in_headroom) in told["batches"].items()
            }
            self._next_headroom_at = float(told["next_paced"]) + shift
            self._theoretical_arrival = float(told["full_at"]) + shift
        except (KeyError, TypeError, ValueError, AttributeError):
            self._batches = {"unreadable": [self._limit.capacity, now, 0]}
            self._next_headroom_at = self._theoretical_arrival = -math.inf
        gone = [name for name, batch in self._batches.items() if batch[1] + self._length <= now]
        for name in gone:
            del self._batches[name]

    def content(self) -> bytes:
        """For the file."""
        told = {
            "offset": self._offset,
            "next_paced": max(self._next_headroom_at, -1e300),
            "full_at": max(self._theoretical_arrival, -1e300),
            "batches": self._batches,
        }
        return json.dumps(told).encode()

    @property
    def used(self) -> int:
        """Places that count, or are kept."""
        return int(sum(count for count, _, _ in self._batches.values()))

    def report(self, used: Mapping[str, int]) -> None:
        """Take back what was not used of batches."""
        for batch, count in used.items():
            if not count:
                self._batches.pop(batch, None)
            elif batch in self._batches:
                self._batches[batch][0] = count

    def _in_burst(self, now: float) -> int:
        """How many may go at once, of those that come one by one."""
        if not self._interval:
            return self._limit.capacity
        saved = min(self._burst_tolerance, now + self._burst_tolerance - self._theoretical_arrival)
        return max(0, math.floor(saved / self._interval) + 1) if saved >= 0 else 0

    def take(self, batch: str, want: int, now: float, *, live: bool) -> Grant:
        """Take a batch of places, which count from the end of their lease."""
        limit = self._limit
        free = limit.capacity - self.used
        count = min(want, free, max(1, limit.capacity // BATCHES_PER_WINDOW), self._in_burst(now))
        in_headroom = 0
        tenth = limit.capacity // HEADROOM_DIVISOR
        if not live and tenth and count > 0:
            spread = sum(int(each[2]) for each in self._batches.values())
            room = limit.capacity - tenth - (self.used - spread)
            if now >= self._next_headroom_at:
                count = in_headroom = 1
                pace = HEADROOM_SLOWDOWN * self._length / tenth
                self._next_headroom_at = next_in_schedule(self._next_headroom_at, now, pace)
            else:
                count = min(count, room)
        if count > 0:
            self._batches[batch] = [count, now + LEASE_SHARE * limit.per, in_headroom]
            for _ in range(count if self._interval else 0):
                self._theoretical_arrival = next_in_schedule(
                    self._theoretical_arrival, now, self._interval
                )
            return Grant(count)
        frees = min((at for _, at, _ in self._batches.values()), default=now) + self._length - now
        if free > 0:
            frees = min(frees, self._next_headroom_at - now)
        frees = max(frees, self._theoretical_arrival - self._burst_tolerance - now)
        # What others report may free places earlier than it seems.
        return Grant(0, max(0.001, min(frees, LEASE_SHARE * limit.per)))
