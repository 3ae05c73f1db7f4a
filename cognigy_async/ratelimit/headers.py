"""Read rate-limit headers.

Three families are in use: `RateLimit-Policy` with `RateLimit` (draft-ietf-httpapi-ratelimit-headers
in its present and earlier forms), `RateLimit-Limit`, `-Remaining` and `-Reset` (its first forms),
and the latter with an `X-` prefix, also as `X-Rate-Limit-`, which no document defines. The vendor
documents none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
"""Prefixes of the headers for a limit, its remaining requests and its reset."""
MAX_HEADER_LENGTH = 1024
"""Maximum number of characters that are read from a header."""
MIN_EPOCH = 1e9
"""A larger reset is not a waiting time but seconds or milliseconds since 1970."""
MAX_NUMBER = 1e15
"""Larger numbers are ignored; they would not survive arithmetic."""

_MEMBER = re.compile(r'(?:"([^"]*)"|([\w.*-]+))((?:\s*;\s*[\w-]+\s*=\s*[\w."-]+)*)')
_PARAMETER = re.compile(r";\s*([\w-]+)\s*=\s*([\w.]+)")
_PAIR = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d+)")


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """One rate limit of the server; an attribute is None if its header is missing.

    Attributes:
        limit: requests in a window.
        window: length of the window in seconds.
        remaining: requests that are left in the present window.
        reset: seconds until more are available.
    """

    limit: int
    window: float | None = None
    remaining: int | None = None
    reset: float | None = None


def read_headers(headers: Mapping[str, str], wall_clock: float) -> RateLimitHeaders | None:
    """Return the rate limit that a response names, the tightest of several; None if it names none.

    Args:
        headers: header values by lower-case name.
        wall_clock: seconds since the epoch.
    """
    policies = _policies(headers.get("ratelimit-policy", "")[:MAX_HEADER_LENGTH])
    state = headers.get("ratelimit", "")[:MAX_HEADER_LENGTH]
    if state and policies:
        found = [
            RateLimitHeaders(*policies[name], remaining, reset)
            for name, (remaining, reset) in _states(state).items()
            if name in policies
        ]
        if found:
            return min(found, key=lambda each: (each.remaining or 0) / each.limit)
    found_pairs = ((name, _number(number)) for name, number in _PAIR.findall(state))
    pairs = {name: number for name, number in found_pairs if number is not None}
    limit, window = next(iter(policies.values()), (0, None))
    if "limit" in pairs or (pairs and limit):
        remaining, reset = pairs.get("remaining"), pairs.get("reset")
        return _limit_from(pairs.get("limit", limit), window, remaining, reset)
    for prefix in PREFIXES:
        first, _, policy = headers.get(f"{prefix}limit", "")[:MAX_HEADER_LENGTH].partition(",")
        number = _number(first)
        if number is not None:
            window = window or next(iter(_policies(policy).values()), (0, None))[1]
            reset = _number(headers.get(f"{prefix}reset", ""))
            if reset is not None and reset > MIN_EPOCH:
                reset = (reset / 1000 if reset > MIN_EPOCH * 1000 else reset) - wall_clock
            remaining = _number(headers.get(f"{prefix}remaining", ""))
            return _limit_from(number, window, remaining, reset)
    if policies:
        limit, window = min(policies.values(), key=lambda each: each[0] / (each[1] or math.inf))
        return _limit_from(limit, window, None, None)
    return None


def _limit_from(
    limit: float, window: float | None, remaining: float | None, reset: float | None
) -> RateLimitHeaders | None:
    if limit < 1:
        return None
    return RateLimitHeaders(
        int(limit),
        window or None,
        None if remaining is None else max(0, int(remaining)),
        None if reset is None else max(0.0, reset),
    )


def _number(text: str) -> float | None:
    try:
        number = float(text[:32])
    except ValueError:
        return None
    return number if 0 <= number <= MAX_NUMBER else None


def _policies(text: str) -> dict[str, tuple[int, float | None]]:
    """Return limit and window of each policy, ``"name";q=100;w=60`` or ``100;w=60``, by name."""
    found: dict[str, tuple[int, float | None]] = {}
    for quoted, bare, parameters in _MEMBER.findall(text):
        values = dict(_PARAMETER.findall(parameters))
        limit = _number(values.get("q", bare))
        if limit is not None and limit >= 1:
            found[quoted or bare] = (int(limit), _number(values.get("w", "")) or None)
    return found


def _states(text: str) -> dict[str, tuple[int, float | None]]:
    """Return remaining requests and reset of each policy, ``"name";r=50;t=30``, by name."""
    found: dict[str, tuple[int, float | None]] = {}
    for quoted, bare, parameters in _MEMBER.findall(text):
        values = dict(_PARAMETER.findall(parameters))
        remaining = _number(values.get("r", ""))
        if remaining is not None:
            found[quoted or bare] = (int(remaining), _number(values.get("t", "")))
    return found
