"""The option `--rate`: a quota, as ``1000/300``."""

from __future__ import annotations

from typing import Literal

from cognigy_async import ConfigurationError, RateLimit


def parse_rate(text: str) -> tuple[RateLimit, ...]:
    """``1000/300``: so many requests in so many seconds.

    Raises:
        ConfigurationError: it is something else.
    """
    n, _, per = text.partition("/")
    try:
        return (RateLimit(int(n), per=float(per)),)
    except ValueError:
        raise ConfigurationError(
            f"--rate {text}: must be requests/seconds, for example 1000/300, both positive"
        ) from None


def told_rate(rate_limit: tuple[RateLimit, ...] | Literal["auto"] | None) -> str | None:
    """As it is written in an option."""
    if rate_limit is None or isinstance(rate_limit, str):
        return rate_limit
    return " ".join(f"{limit.n}/{limit.per:g}" for limit in rate_limit)
