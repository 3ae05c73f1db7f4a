"""From the argument `rate_limit` to what keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from .errors import ConfigurationError
from .learned import Learned
from .quota import Limiter, Quota
from .rate import RateLimit
from .sharing import SharedWindow
from .window import Window

RateLimits: TypeAlias = RateLimit | Sequence[RateLimit] | Literal["auto"] | None
"""One limit, several that hold at once, what is learned from the server, or none."""


def quota_of(rate_limit: RateLimits) -> Quota | None:
    """What keeps the limits of one client.

    Raises:
        ConfigurationError: it is something else.
    """
    if rate_limit == "auto":
        return Quota([Learned()])
    return None if rate_limit is None else Quota([_limiter(one) for one in _several(rate_limit)])


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


def _limiter(limit: RateLimit) -> Limiter:
    return Window(limit) if limit.shared is None else SharedWindow(limit)
