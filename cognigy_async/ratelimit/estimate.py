"""The time that a number of requests takes under rate limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ConfigurationError
from .limit import RateLimit
from .sliding_window import HEADROOM_DIVISOR


def seconds_under(
    rate_limit: RateLimit | Sequence[RateLimit] | None, requests: int
) -> float | None:
    """Return the seconds from the first of `requests` requests to the last; None without a limit.

    Raises:
        ConfigurationError: A rate limit that is not known in numbers.
    """
    several = numeric_limits(rate_limit)
    return max((_seconds_under_one(limit, requests) for limit in several), default=None)


def _seconds_under_one(limit: RateLimit, requests: int) -> float:
    # Bulk work spreads the last tenth of the requests over the whole window.
    window = limit.per * (1 + limit.guard)
    capacity = limit.capacity
    windows, rest = divmod(requests, capacity)
    tenth = capacity // HEADROOM_DIVISOR
    if tenth:
        seconds = windows * window + max(0, rest - (capacity - tenth)) / tenth * window
    else:
        seconds = max(0, math.ceil(requests / capacity) - 1) * window
    if limit.burst is not None:
        seconds = max(seconds, (requests - limit.burst) * window / capacity)
    return seconds


def numeric_limits(rate_limit: RateLimit | Sequence[RateLimit] | None) -> Sequence[RateLimit]:
    """Return the limits as a sequence.

    Raises:
        ConfigurationError: A limit has no numbers, such as ``"auto"``.
    """
    if rate_limit is None:
        return ()
    several = rate_limit if isinstance(rate_limit, Sequence) else (rate_limit,)
    for limit in several:
        if not hasattr(limit, "capacity"):
            raise ConfigurationError(
                f"rate_limit={rate_limit!r}: a plan needs numbers, "
                "for example RateLimit(1000, per=300)"
            )
    return several
