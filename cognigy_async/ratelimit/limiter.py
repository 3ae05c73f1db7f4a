"""The rate limiter of one client: one limit, several at once, or a learned one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from ..errors import ConfigurationError, SharedQuotaError
from ..metrics import QuotaUse
from ..retry import MAX_BULK_WAIT
from .adaptive import AdaptiveLimiter
from .limit import RateLimit
from .shared_file import SharedFileLimiter
from .sliding_window import SlidingWindow

QuotaState: TypeAlias = dict[str, Any]
"""The JSON object that `CompositeLimiter.save` returns and `restore` takes."""

RateLimits: TypeAlias = RateLimit | Sequence[RateLimit] | Literal["auto"] | None
"""One limit, several that hold at once, a limit learned from the server, or none."""


class RateLimiter(Protocol):
    """Decides when requests may start.

    All times are seconds of one monotonic clock. `now` never decreases from call to call.
    """

    def next_slot_at(self, now: float, live: bool) -> float:
        """Return when a request may start: `now` or less is at once, infinity if a response must
        come first. `live` says whether live work waits.
        """
        ...

    def next_bulk_slot_at(self, now: float) -> float:
        """Return the time from which bulk work may start.

        Call this only if `next_slot_at` allows a request now.
        """
        ...

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot for a request that starts now."""
        ...

    def finish(self, started: float, now: float) -> None:
        """Record the end, with or without a response, of the request that started at `started`."""
        ...

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """Return the use of each limit for the metrics; empty while no limit is known."""
        ...


class CompositeLimiter:
    """Several limits at once: a request may start when each of them allows it.

    Attributes:
        adaptive: the limiter that learns from responses; None if there is none.
        hot_path: the limiter to ask for each request: the only one if there is one, else this.
        shared_files: the limiters whose `run` has to run while the client is open.
    """

    def __init__(self, limiters: Sequence[RateLimiter]) -> None:
        self.limiters = limiters
        self.adaptive = next((each for each in limiters if isinstance(each, AdaptiveLimiter)), None)
        self.hot_path: RateLimiter = limiters[0] if len(limiters) == 1 else self
        self.shared_files = [each for each in limiters if isinstance(each, SharedFileLimiter)]
        self._clock: Callable[[], float] | None = None

    def __repr__(self) -> str:
        return f"<CompositeLimiter {' '.join(map(repr, self.limiters))}>"

    def bind_clock(self, clock: Callable[[], float]) -> None:
        """Set the clock of `current_usage` when the client is opened."""
        self._clock = clock

    def current_usage(self) -> tuple[QuotaUse, ...]:
        """Return the use of each limit now; empty before the client is opened."""
        return () if self._clock is None else self.usage(self._clock())

    def bulk_refusal(self) -> SharedQuotaError | None:
        """Return the error for bulk work while the file of a limit cannot be used, else None."""
        for limiter in self.shared_files:
            error = limiter.bulk_refusal()
            if error is not None:
                return error
        return None

    def next_slot_at(self, now: float, live: bool) -> float:
        """Return when all limits allow a request."""
        return max([limiter.next_slot_at(now, live) for limiter in self.limiters])

    def next_bulk_slot_at(self, now: float) -> float:
        """Return when all limits allow bulk work."""
        return max([limiter.next_bulk_slot_at(now) for limiter in self.limiters])

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot of each limit."""
        for limiter in self.limiters:
            limiter.start(now, bulk=bulk)

    def finish(self, started: float, now: float) -> None:
        """Record the end of a request with each limit."""
        for limiter in self.limiters:
            limiter.finish(started, now)

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """Return the use of each limit, in the order given."""
        return tuple(use for limiter in self.limiters for use in limiter.usage(now))

    def _windows(self) -> list[SlidingWindow]:
        # Limits in a shared file persist there; a learned limit is learned again.
        return [each for each in self.limiters if isinstance(each, SlidingWindow)]

    def save(self, now: float, wall_clock: float) -> QuotaState:
        """Return the requests that count as a JSON object, for `restore` after a restart.

        `wall_clock` is in seconds since the epoch.
        """
        starts: list[tuple[float, int]] = []
        longest = max(self._windows(), key=lambda window: window.limit.per, default=None)
        if longest is not None:
            longest.next_slot_at(now)
            starts = longest.save(now)
        return {"at": wall_clock, "starts": starts}

    def restore(self, state: QuotaState, now: float, wall_clock: float) -> None:
        """Count the requests that `save` returned.

        Raises:
            ConfigurationError: the state was not returned by `save`.
        """
        saved: list[tuple[float, int]] = []
        try:
            # If the wall clock was set back, requests must not appear newer than they are.
            elapsed = max(0.0, wall_clock - float(state["at"]))
            saved = [(max(0.0, float(age)) + elapsed, int(count)) for age, count in state["starts"]]
            usable = all(count > 0 and math.isfinite(age) for age, count in saved)
        except (KeyError, TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise ConfigurationError(
                "the quota state cannot be read; pass what quota_state() returned"
            )
        for window in self._windows():
            window.restore(now, saved)


def create_limiter(
    rate_limit: RateLimits, longest_live: float = MAX_BULK_WAIT
) -> CompositeLimiter | None:
    """Return the limiter for the client argument `rate_limit`; None if there is no limit.

    Args:
        longest_live: seconds for which a learned limit may hold live work before a request asks.

    Raises:
        ConfigurationError: the argument is not one of `RateLimits`.
    """
    if rate_limit is None:
        return None
    if rate_limit == "auto":
        return CompositeLimiter([AdaptiveLimiter(longest_live)])
    limits = _as_list(rate_limit)
    files = [str(limit.shared) for limit in limits if limit.shared is not None]
    if len(set(files)) < len(files):
        raise ConfigurationError(
            f"rate_limit={rate_limit!r}: each of several shared limits needs a file of its own"
        )
    return CompositeLimiter(
        [
            SlidingWindow(limit) if limit.shared is None else SharedFileLimiter(limit)
            for limit in limits
        ]
    )


def _as_list(given: object) -> list[RateLimit]:
    several = [given] if isinstance(given, RateLimit) else given
    if isinstance(several, Sequence) and not isinstance(several, str):
        limits = [each for each in several if isinstance(each, RateLimit)]
        if limits and len(limits) == len(several):
            return limits
    raise ConfigurationError(
        f"rate_limit={given!r}: must be a RateLimit, for example RateLimit(1000, per=300), "
        'a list of several, or "auto"'
    )
