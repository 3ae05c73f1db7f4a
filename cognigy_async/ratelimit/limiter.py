"""Several limits at once: when the next request may start, and who takes the places.

Everything takes `now` (seconds of a monotonic clock that never goes back) as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from ..errors import ConfigurationError
from ..metrics import QuotaUse
from .adaptive import AdaptiveLimiter
from .limit import RateLimit
from .shared_file import SharedFileLimiter
from .sliding_window import SlidingWindow

QuotaState: TypeAlias = dict[str, Any]
"""What `Quota.save` gives: JSON that `Quota.restore` takes."""


class Pacer(Protocol):
    """Says when requests may start."""

    def next_slot_at(self, now: float, live: bool) -> float:
        """When a request may start, a moment not after `now` for at once, infinite where something
        else has to happen first. `live` says whether live work waits.
        """
        ...

    def next_bulk_slot_at(self, now: float) -> float:
        """The same for bulk work, where `opens` said that a request may start."""
        ...

    def start(self, now: float, *, bulk: bool) -> None:
        """A request starts."""
        ...

    def finish(self, began: float, now: float) -> None:
        """The request that started at `began` is over, whatever became of it."""
        ...


class RateLimiter(Pacer, Protocol):
    """One limit, wherever it is kept."""

    def usage(self, now: float) -> QuotaUse | None:
        """For the metrics; None while there is no limit yet."""
        ...


LimiterTask: TypeAlias = Callable[
    [Callable[[], float], Callable[[], None]], Coroutine[Any, Any, None]
]
"""Given the clock of the client and what to call when a request may start."""


@runtime_checkable
class BackgroundLimiter(Protocol):
    """A limiter that has to run in the background."""

    run: LimiterTask


class CompositeLimiter:
    """Several limits at once, each of which has to allow a request."""

    def __init__(self, limiters: Sequence[RateLimiter]) -> None:
        self.limiters = limiters
        self.adaptive = next((each for each in limiters if isinstance(each, AdaptiveLimiter)), None)
        """The limit that has to be told what the server answers."""
        self.hot_path: Pacer = limiters[0] if len(limiters) == 1 else self
        """What each request asks: without a detour where there is one limit."""

        self._clock: Callable[[], float] | None = None

    def bind_clock(self, clock: Callable[[], float]) -> None:
        """The client that it belongs to is opened: from now on it is used."""
        self._clock = clock

    def current_usage(self) -> tuple[QuotaUse, ...]:
        """How much of each limit is used; nothing before it is used."""
        return () if self._clock is None else self.usage(self._clock())

    def background_tasks(self) -> list[LimiterTask]:
        """What has to run while the quota is in use."""
        return [each.run for each in self.limiters if isinstance(each, BackgroundLimiter)]

    def __repr__(self) -> str:
        return f"<Quota {' '.join(map(repr, self.limiters))}>"

    def next_slot_at(self, now: float, live: bool) -> float:
        """See `Pacer`."""
        at = now
        for limiter in self.limiters:
            next_slot_at = limiter.next_slot_at(now, live)
            if next_slot_at > at:
                at = next_slot_at
        return at

    def next_bulk_slot_at(self, now: float) -> float:
        """See `Pacer`."""
        at = now
        for limiter in self.limiters:
            next_slot_at = limiter.next_bulk_slot_at(now)
            if next_slot_at > at:
                at = next_slot_at
        return at

    def start(self, now: float, *, bulk: bool) -> None:
        """See `Pacer`."""
        for limiter in self.limiters:
            limiter.start(now, bulk=bulk)

    def finish(self, began: float, now: float) -> None:
        """See `Pacer`."""
        for limiter in self.limiters:
            limiter.finish(began, now)

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """How much of each limit is used."""
        uses = (limiter.usage(now) for limiter in self.limiters)
        return tuple(usage for usage in uses if usage is not None)

    def _windows(self) -> list[SlidingWindow]:
        """Those that are kept here; others are kept in a file, and so is what they know."""
        return [each for each in self.limiters if isinstance(each, SlidingWindow)]

    def save(self, now: float, wall_clock: float) -> QuotaState:
        """What has to be known after a restart, as JSON; `wall_clock` is seconds of the epoch."""
        windows = self._windows()
        starts: list[tuple[float, int]] = []
        if windows:
            longest = max(windows, key=lambda window: window.limit.per)
            longest.next_slot_at(now)
            starts = longest.save(now)
        return {"at": wall_clock, "starts": starts}

    def restore(self, state: QuotaState, now: float, wall_clock: float) -> None:
        """Take over what was saved.

        Raises:
            ConfigurationError: it is not what `save` gives.
        """
        saved: list[tuple[float, int]] = []
        try:
            # A clock that was set back must not make requests younger than they are.
            since = max(0.0, wall_clock - float(state["at"]))
            saved = [(max(0.0, float(ago)) + since, int(count)) for ago, count in state["starts"]]
            usable = all(count > 0 and math.isfinite(ago) for ago, count in saved)
        except (KeyError, TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise ConfigurationError("the saved quota cannot be read: use what quota_state() gave")
        for window in self._windows():
            window.restore(now, saved)


RateLimits: TypeAlias = RateLimit | Sequence[RateLimit] | Literal["auto"] | None
"""One limit, several that hold at once, what is learned from the server, or none."""


def create_limiter(rate_limit: RateLimits) -> CompositeLimiter | None:
    """What keeps the limits of one client.

    Raises:
        ConfigurationError: it is something else.
    """
    if rate_limit == "auto":
        return CompositeLimiter([AdaptiveLimiter()])
    return (
        None
        if rate_limit is None
        else CompositeLimiter([_limiter(one) for one in _several(rate_limit)])
    )


def _several(given: object) -> list[RateLimit]:
    several = [given] if isinstance(given, RateLimit) else given
    if isinstance(several, Sequence) and not isinstance(several, str):
        limits = [one for one in several if isinstance(one, RateLimit)]
        if limits and len(limits) == len(several):
            return limits
    raise ConfigurationError(
        f"rate_limit={given!r}: must be a RateLimit, for example RateLimit(1000, per=300), "
        'several of them in a list, or "auto"'
    )


def _limiter(limit: RateLimit) -> RateLimiter:
    return SlidingWindow(limit) if limit.shared is None else SharedFileLimiter(limit)
