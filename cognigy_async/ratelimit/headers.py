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

from ..retry import MAX_NUMBER, listed, seconds_until

PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
"""Prefixes of the headers for a limit, its remaining requests and its reset."""
MAX_HEADER_LENGTH = 1024
"""Maximum number of characters that are read from a header."""

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
        reset: seconds until more are available; see `seconds_until` for its formats.
    """

    limit: int
    window: float | None = None
    remaining: int | None = None
    reset: float | None = None


def read_headers(headers: Mapping[str, str], wall_clock: float) -> RateLimitHeaders | None:
    """Return the rate limit that a response names, the tightest of several; None if it names none.

    Args:
        headers: header values by lower-case name.
        wall_clock: seconds since the epoch, used if the response has no `Date`.
    """
    policies = _policies(headers.get("ratelimit-policy", "")[:MAX_HEADER_LENGTH])
    state = headers.get("ratelimit", "")[:MAX_HEADER_LENGTH]
    if state and policies:
        found = [
            _limit_from(*policies[name], remaining, seconds_until(reset, headers, wall_clock))
            for name, (remaining, reset) in _states(state).items()
            if name in policies and remaining is not None
        ]
        if found:
            return min(found, key=lambda each: (each.remaining or 0) / each.limit)
    pairs = dict(_PAIR.findall(state))
    first, window = next(iter(policies.values()), (0, None))
    limit = _number(pairs.get("limit", "")) or first
    if pairs and limit:
        reset = seconds_until(pairs.get("reset", ""), headers, wall_clock)
        return _limit_from(limit, window, _number(pairs.get("remaining", "")), reset)
    for prefix in PREFIXES:
        value, _, policy = headers.get(f"{prefix}limit", "")[:MAX_HEADER_LENGTH].partition(",")
        number = _number(value)
        if number is not None and number >= 1:
            window = window or next(iter(_policies(policy).values()), (0, None))[1]
            reset = seconds_until(headers.get(f"{prefix}reset", ""), headers, wall_clock)
            remaining = _number(headers.get(f"{prefix}remaining", "").partition(",")[0])
            return _limit_from(number, window, remaining, reset)
    if policies:
        limit, window = min(policies.values(), key=lambda each: each[0] / (each[1] or math.inf))
        return _limit_from(limit, window, None, None)
    return None


def reset_after(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return the seconds until the reset that a 429 or 503 names, the latest of several.

    A limit with remaining requests is not the one that refused the request: its reset is ignored.

    Args:
        headers: header values by lower-case name.
        wall_clock: seconds since the epoch, used if the response has no `Date`.

    Returns:
        More than 0; None if no header names a reset that lies ahead.
    """
    state = headers.get("ratelimit", "")[:MAX_HEADER_LENGTH]
    pairs = dict(_PAIR.findall(state))
    named = [*_states(state).values()]
    named.append((_number(pairs.get("remaining", "")), pairs.get("reset", "")))
    for prefix in PREFIXES:
        resets = listed(headers.get(f"{prefix}reset", ""))
        remaining = [_number(text) for text in listed(headers.get(f"{prefix}remaining", ""))]
        if len(remaining) != len(resets):
            remaining = (remaining[:1] or [None]) * len(resets)
        named += zip(remaining, resets, strict=True)
    found = [
        seconds_until(reset, headers, wall_clock) or 0.0
        for left, reset in named
        if left is None or left < 1
    ]
    return max(found, default=0.0) or None


def _limit_from(
    limit: float, window: float | None, remaining: float | None, reset: float | None
) -> RateLimitHeaders:
    left = None if remaining is None else int(remaining)
    return RateLimitHeaders(int(limit), window or None, left, reset)


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


def _states(text: str) -> dict[str, tuple[float | None, str]]:
    """Return remaining requests and reset of each policy, ``"name";r=50;t=30``, by name."""
    found: dict[str, tuple[float | None, str]] = {}
    for quoted, bare, parameters in _MEMBER.findall(text):
        values = dict(_PARAMETER.findall(parameters))
        found[quoted or bare] = (_number(values.get("r", "")), values.get("t", ""))
    return found
