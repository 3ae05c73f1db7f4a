"""The content of a shared quota file: which process holds how many slots, and until when.

All times are seconds of the machine's monotonic clock, given as arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .limit import RateLimit
from .sliding_window import HEADROOM_DIVISOR, HEADROOM_SLOWDOWN, next_in_schedule

LEASE_SHARE = 0.02
"""Share of a window for which a process may keep a slot before it must use or return it."""
BATCHES_PER_WINDOW = 20
"""A process leases at most one part in this many of a window at once."""
BEGIN = b'{"cognigy_async_quota": 1, '
"""Each quota file begins with this, also if the rest of it is damaged."""
BLANKS = b"\0 \t\r\n"
"""Nobody's content: what a file system may leave after a crash of the machine."""
CLIENT_MEMORY_WINDOWS = 3
"""Windows for which a client is remembered after its last visit."""
FULL = "full"
"""Name of the batch that makes a ledger count as full."""


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


class ForeignContentError(ValueError):
    """The content is not that of a quota file, and must not be replaced."""


class SharedLedger:
    """The slots of one limit, read from a file and written back to it.

    Each batch of slots counts for one window from the end of its lease, or from its last response.
    A ledger that was made anew forgot who holds how many slots, so it counts as full for one
    window.

    Args:
        limit: the limit, the same for all processes.
        content: content of the file; empty for a new one. Damaged content, for example left by a
            process that died while writing, is discarded: the ledger is made anew.
        now: the time.
        offset: seconds from the monotonic clock to the wall clock. It shows that the machine was
            restarted, which resets the monotonic clock.

    Attributes:
        changed: True if the file does not hold this yet.

    Raises:
        ForeignContentError: the content is something else.
    """

    def __init__(self, limit: RateLimit, content: bytes, now: float, offset: float) -> None:
        self._limit = limit
        self._length = limit.per * (1 + limit.guard)
        self._offset = offset
        self._interval = self._length / limit.capacity if limit.burst is not None else 0.0
        # Slightly enlarged, because sums of intervals are not exact.
        self._burst_tolerance = self._interval * ((limit.burst or 1) - 1) * (1 + 1e-9)
        self._make(now)
        if content:
            try:
                self._read(content, now)
            except ForeignContentError:
                raise
            except ValueError:
                self.make_anew(now)

    def _make(self, now: float) -> None:
        self.changed = True
        self._made_at = now + self._offset
        self._serial = 0
        self._made = now
        self._batches: dict[str, tuple[int, float, int]] = {}
        """For each batch name: slots, start of counting, and 1 if bulk work took it as headroom."""
        self._clients: dict[str, float] = {}
        """Time at which each client was last seen."""
        self._next_headroom_at = -math.inf
        self._theoretical_arrival = -math.inf

    def make_anew(self, now: float) -> None:
        """Discard the content, and count as full for one window from now."""
        self._make(now)
        self._fill()

    @property
    def version(self) -> tuple[float, int]:
        """The wall-clock time at which this ledger was made, and how often it was written."""
        return self._made_at, self._serial

    def follow(self, version: tuple[float, int], now: float) -> None:
        """Count as full for one window if the ledger of this version was removed or replaced."""
        made_at, serial = version
        if made_at == self._made_at and serial > self._serial:
            # An old copy was put in its place.
            self.make_anew(now)
        elif made_at != self._made_at and self._made + self._length > now:
            self._fill()

    def _fill(self) -> None:
        self.changed = True
        self._batches[FULL] = (self._limit.capacity, self._made, 0)

    def full_for(self, now: float) -> float:
        """Return for how many seconds the ledger still counts as full because it was made anew."""
        return self._made + self._length - now if FULL in self._batches else 0.0

    def _read(self, content: bytes, now: float) -> None:
        """Take over the content of a file.

        Raises:
            ForeignContentError: it is not that of a quota file.
            ValueError: it is damaged.
        """
        content = content.strip(BLANKS)
        is_ours = content.startswith(BEGIN) or BEGIN.startswith(content)
        try:
            # A process that was killed while it wrote may have left a part of the longer content of
            # before below the first line.
            state = json.loads(content.partition(b"\n")[0])
            is_ours = is_ours or {"offset", "batches"} <= state.keys()
            self._take_over(state, now)
        except (
            *(AttributeError, KeyError, TypeError, ValueError),
            *(OverflowError, RecursionError),
        ) as error:
            if not is_ours:
                raise ForeignContentError("it is not a quota file") from error
            raise ValueError("it is damaged") from error

    def _take_over(self, state: Mapping[str, Any], now: float) -> None:
        shift = _number(state["offset"]) - self._offset
        times = [_number(at) for _, at, _ in state["batches"].values()]
        if all(at <= now + self._length for at in times):
            # No time lies in the future, so the machine was not restarted: only the wall
            # clock was set.
            shift = 0.0
        made_at, serial = _number(state["made_at"]), _count(state["serial"])
        made = min(_number(state["made"]) + shift, now)
        batches = {
            name: (_count(count), _past(at + shift, now + self._length), _count(headroom))
            for (name, (count, _, headroom)), at in zip(
                state["batches"].items(), times, strict=True
            )
        }
        next_headroom_at = _past(_number(state["next_paced"]) + shift, now + 2 * self._length)
        arrival = _past(
            _number(state["full_at"]) + shift, now + self._burst_tolerance + 2 * self._length
        )
        oldest = now - CLIENT_MEMORY_WINDOWS * self._length
        clients = {name: _number(at) + shift for name, at in state["clients"].items()}
        self._clients = {name: at for name, at in clients.items() if oldest < at <= now}
        self.changed = False
        self._made_at, self._serial, self._made = made_at, serial, made
        self._next_headroom_at, self._theoretical_arrival = next_headroom_at, arrival
        self._batches = {
            name: batch for name, batch in batches.items() if batch[1] + self._length > now
        }

    def content(self) -> bytes:
        """Return the new content of the file."""
        self._serial += 1
        state = {
            "cognigy_async_quota": 1,
            "made_at": self._made_at,
            "made": self._made,
            "serial": self._serial,
            "offset": self._offset,
            "next_paced": max(self._next_headroom_at, -1e300),
            "full_at": max(self._theoretical_arrival, -1e300),
            "clients": self._clients,
            "batches": self._batches,
        }
        return json.dumps(state).encode() + b"\n"

    @property
    def clients(self) -> int:
        """Number of clients that were seen lately and have not left."""
        return len(self._clients)

    def see(self, client: str, now: float) -> None:
        """Remember a client; nothing changes if it was seen in this window."""
        if self._clients.get(client, -math.inf) + self._length <= now:
            self._clients[client] = now
            self.changed = True

    def forget(self, client: str) -> None:
        """Forget a client that closes."""
        self.changed = self._clients.pop(client, None) is not None or self.changed

    @property
    def used(self) -> int:
        """Number of slots that count or are leased."""
        return min(self._limit.capacity, sum(count for count, _, _ in self._batches.values()))

    def report(self, usages: Mapping[str, Usage], now: float) -> None:
        """Return the unused slots of batches, and count the others from their last response."""
        self.changed = self.changed or bool(usages)
        for name, usage in usages.items():
            _, at, headroom = self._batches.pop(name, (0, math.inf, 0))
            if usage.count:
                # A batch may be missing here: the ledger is another one, or was not available.
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
            self.changed = True
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


def _number(value: object) -> float:
    """Return a finite number; raise ValueError if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def _count(value: object) -> int:
    """Return a number of slots; raise ValueError if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a count")
    return value


def _past(at: float, latest: float) -> float:
    """Return a time; raise ValueError if it is after the latest possible one."""
    if at > latest:
        raise ValueError("a time in the far future")
    return at
