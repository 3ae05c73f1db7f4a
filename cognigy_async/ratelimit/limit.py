"""`RateLimit`: the quota of a tenant or a calling address."""

from __future__ import annotations

import math
import os
import reprlib
from dataclasses import dataclass

from ..errors import ConfigurationError

MAX_COUNT = 10**18
"""Maximum of `n`: more than any quota, and small enough for calculations with floats."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Allows `n` requests in any `per` seconds: writes, reads and retries, not token requests.

    Shared SaaS allows ``RateLimit(1000, per=300)`` for each calling address
    (docs.cognigy.com, "Quotas and Limits").

    Args:
        n: maximum number of requests in a window.
        per: length of the window in seconds.
        reserve: share of `n`, from 0 to below 1, that the client leaves to other users of the
            tenant.
        burst: number of requests that may start at once. The client sends further requests at equal
            intervals. 1 spreads all requests. By default all requests of an unused window may start
            at once.
        guard: share of `per` by which the client lengthens the window, because two requests may
            reach the server closer together than the client sent them.
        shared: path of a file that keeps one limit for all processes of a host. The client creates
            a missing file. All processes must give the same numbers.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    n: int
    # Required, but with a default: a missing `per` raises the same error as a wrong one.
    per: float = math.nan
    reserve: float = 0.0
    burst: int | None = None
    guard: float = 0.005
    shared: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _check_count("", self.n, "for example RateLimit(1000, per=300)")
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
            _check_count("burst=", self.burst, "or None for no such bound")
        if self.capacity < 1:
            raise ConfigurationError(
                f"RateLimit({self.n}, reserve={self.reserve!r}): no request is left; reserve less"
            )
        if self.shared is not None and not isinstance(self.shared, str | os.PathLike):
            raise ConfigurationError(f"RateLimit(shared={self.shared!r}): must be a path")

    @property
    def capacity(self) -> int:
        """Number of requests in a window without the reserve."""
        # 1 - 0.9 is a little less than 0.1.
        return math.floor(self.n * (1 - self.reserve) + 1e-9)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise ConfigurationError(
            f"RateLimit({name}{reprlib.repr(value)}): must be an integer from 1 to {MAX_COUNT:,}, "
            f"{remedy}"
        )
