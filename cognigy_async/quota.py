"""How many requests may be started in a window of time, and when the next one may be.

Everything takes `now` (seconds of a monotonic clock that never goes back) as an argument.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import ConfigurationError

__all__ = ["Gate", "Quota", "QuotaState", "RateLimit", "Window"]

EXACT = 10_000
"""Up to so many requests for each window are remembered one by one."""
GRAINS = 400
"""Beyond, those of one 400th of the window are remembered as if all came when the last one did."""
SPREAD = 10
"""Bulk work spreads the last tenth of a window over it."""
SLOWER = 1.02
"""It takes these slots a little slower than they come back, so that a live update finds one."""
LATE = 0.1
"""A start that is late by no more than this share of the gap does not delay those after it."""

QuotaState = dict[str, Any]
"""What `Quota.save` gives: JSON that `Quota.restore` takes."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `n` requests in any `per` seconds, reads and repeats included, token requests not.

    Args:
        n: requests.
        per: seconds; 300 with an `n` of 1000 is what a default tenant allows.
        reserve: the share that is left to other users of the tenant, from 0 to below 1.
        burst: so many at once, and then evenly: 1 spreads all requests. By default a window in
            which nothing was sent yet may go at once.
        guard: the window is longer by this share of `per`, since requests that leave in time may
            come closer to each other on their way.
        shared: a file by which the processes of one host keep one limit together; it is made if it
            is not there. All of them have to give the same numbers.

    Raises:
        ConfigurationError: a number out of its range.
    """

    n: int
    # Named where it is missing by the same error as what is wrong, and after what is wrong with n.
    per: float = math.nan
    reserve: float = 0.0
    burst: int | None = None
    guard: float = 0.005
    shared: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _count("n", self.n, "for example RateLimit(1000, per=300)")
        if not _is_number(self.per) or not 0 < self.per < math.inf:
            raise ConfigurationError(
                f"RateLimit(per={self.per!r}): must be a positive number of seconds, "
                "for example RateLimit(1000, per=300)"
            )
        for name in ("reserve", "guard"):
            share = getattr(self, name)
            if not _is_number(share) or not 0 <= share < 1:
                raise ConfigurationError(
                    f"RateLimit({name}={share!r}): must be at least 0 and below 1, "
                    "a share and not a number of requests or seconds"
                )
        if self.burst is not None:
            _count("burst", self.burst, "or None for no such bound")
        if self.capacity < 1:
            raise ConfigurationError(
                f"RateLimit({self.n}, reserve={self.reserve!r}): leaves not one request; "
                "reserve less"
            )
        if self.shared is not None and not isinstance(self.shared, str | os.PathLike):
            raise ConfigurationError(f"RateLimit(shared={self.shared!r}): must be a path")

    @property
    def capacity(self) -> int:
        """What is left of `n` without the reserve."""
        # 1 - 0.9 is a little less than 0.1.
        return math.floor(self.n * (1 - self.reserve) + 1e-9)

    @property
    def length(self) -> float:
        """Seconds that a request counts: `per` with its guard."""
        return self.per * (1 + self.guard)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        told = f"{name}={value!r}" if name != "n" else repr(value)
        raise ConfigurationError(f"RateLimit({told}): must be an integer of at least 1, {remedy}")


class _Starts:
    """Requests that count as started at the same time."""

    __slots__ = ("count", "first", "last", "paced")

    def __init__(self, now: float, count: int, paced: int) -> None:
        self.first = self.last = now
        self.count = count
        self.paced = paced


class Gate(Protocol):
    """What lets requests start."""

    def opens(self, now: float, live: bool) -> float:
        """When a request may start, a moment not after `now` for at once, infinite where something
        else has to happen first. `live` says whether live work waits.
        """
        ...

    def bulk_opens(self, now: float) -> float:
        """The same for bulk work, where `opens` said that a request may start."""
        ...

    def start(self, now: float, *, bulk: bool) -> None:
        """A request starts."""
        ...

    def answered(self, began: float, now: float) -> None:
        """The request that started at `began` is over, whatever became of it."""
        ...


class Window:
    """One limit: a sliding window over the starts of requests.

    In the first window after a time without requests, connections are cold and requests may be on
    their way for long; there each one counts from its answer.
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

    def __repr__(self) -> str:
        return f"<Window {self.used} of {self.capacity} per {self.limit.per:g} s>"

    def opens(self, now: float) -> float:
        """When a request may start; see `Gate`."""
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
        if not self.used:
            self._cold_from = now
            self._cold_until = now + self._length
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


class Quota:
    """Several limits at once, each of which has to allow a request."""

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        self.windows = [Window(limit) for limit in limits]

    def __repr__(self) -> str:
        return f"<Quota {' '.join(map(repr, self.windows))}>"

    def opens(self, now: float, live: bool) -> float:
        """See `Gate`."""
        at = now
        for window in self.windows:
            opens = window.opens(now)
            if opens > at:
                at = opens
        return at

    def bulk_opens(self, now: float) -> float:
        """See `Gate`."""
        at = now
        for window in self.windows:
            opens = window.bulk_opens(now)
            if opens > at:
                at = opens
        return at

    def start(self, now: float, *, bulk: bool) -> None:
        """See `Gate`."""
        for window in self.windows:
            window.start(now, bulk=bulk)

    def answered(self, began: float, now: float) -> None:
        """See `Gate`."""
        for window in self.windows:
            window.answered(began, now)

    def save(self, now: float, wall_clock: float) -> QuotaState:
        """What has to be known after a restart, as JSON; `wall_clock` is seconds of the epoch."""
        longest = max(self.windows, key=lambda window: window.limit.per)
        longest.opens(now)
        return {"at": wall_clock, "starts": longest.save(now)}

    def restore(self, state: QuotaState, now: float, wall_clock: float) -> None:
        """Take over what was saved.

        Raises:
            ConfigurationError: it is not what `save` gives.
        """
        try:
            # A clock that was set back must not make requests younger than they are.
            since = max(0.0, wall_clock - float(state["at"]))
            saved = [(max(0.0, float(ago)) + since, int(count)) for ago, count in state["starts"]]
            usable = all(count > 0 and math.isfinite(ago) for ago, count in saved)
        except (KeyError, TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise ConfigurationError("the saved quota cannot be read: use what quota_state() gave")
        for window in self.windows:
            window.restore(now, saved)
