"""`RateLimit`: what a tenant, or an address, is allowed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `n` requests in any `per` seconds, reads and repeats included, token requests not.

    Args:
        n: requests.
        per: seconds; 300 with an `n` of 1000 is what a default tenant allows.
        reserve: the share that is left to other users of the tenant, from 0 to below 1.
        burst: so many at once, and then evenly: 1 spreads all requests. By default a window in
            which nothing was sent yet may go at once.
        guard: a window is longer by this share of `per`, on the average, since requests that leave
            in time may come closer to each other on their way.
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        told = f"{name}={value!r}" if name != "n" else repr(value)
        raise ConfigurationError(f"RateLimit({told}): must be an integer of at least 1, {remedy}")
