"""Quota: each worker keeps its own part of the tenant's limit, without asking the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from cognigy_async import ConfigurationError, RateLimit

RateLimits: TypeAlias = RateLimit | Sequence[RateLimit] | Literal["auto"] | None


def share_of(limits: RateLimits, share: float) -> RateLimits:
    """Return a worker's part of the limits of a tenant.

    Raises:
        ConfigurationError: `share` is not above 0 and at most 1, or no part of a limit can be kept.
    """
    if not 0 < share <= 1:
        raise ConfigurationError(f"quota_share={share!r}: must be above 0 and at most 1")
    if share == 1 or limits is None:
        return limits
    if isinstance(limits, str):
        raise ConfigurationError(
            'quota_share: a worker cannot learn its part of a limit with rate_limit="auto"; set '
            "the limit of the tenant, for example COGNIGY_RATE_LIMIT=1000/300"
        )
    several = (limits,) if isinstance(limits, RateLimit) else limits
    return tuple(_scaled(limit, share) for limit in several)


def _scaled(limit: RateLimit, share: float) -> RateLimit:
    # A third of 300 must not be 99.
    n = math.floor(limit.n * share + 1e-9)
    if n < 1:
        raise ConfigurationError(
            f"quota_share={share!r}: no request of RateLimit({limit.n}, per={limit.per:g}) is "
            "left; use fewer workers"
        )
    burst = None if limit.burst is None else max(1, math.floor(limit.burst * share))
    return replace(limit, n=n, burst=burst)
