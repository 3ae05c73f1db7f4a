"""What the headers of an answer tell of a rate limit.

Three families are in use: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers,
its present and its earlier forms), `RateLimit-Limit`, `-Remaining` and `-Reset` (its first forms),
and the same with `X-` before them, which no document defines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEADER_LENGTH = 1024
"""Characters of a header that are read."""
EPOCH_THRESHOLD = 1e9
"""A reset above it is no number of seconds to wait, but a time since 1970; or milliseconds."""

_MEMBER = re.compile(r'(?:"([^"]*)"|([\w.*-]+))((?:\s*;\s*[\w-]+\s*=\s*[\w."-]+)*)')
_PARAMETER = re.compile(r";\s*([\w-]+)\s*=\s*([\w.]+)")
_PAIR = re.compile(r"\b(limit|remaining|reset)\s*=\s*(\d+)")
MAX_NUMBER = 1e15
"""Larger numbers say nothing, and would not survive arithmetic."""


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """One rate limit of the server.

    Attributes:
        limit: requests in a window. window: its seconds, None where it is not told.
        remaining: requests that are left. reset: seconds until there are more. None if not told.
    """

    limit: int
    window: float | None = None
    remaining: int | None = None
    reset: float | None = None


def read_headers(headers: Mapping[str, str], wall_clock: float) -> RateLimitHeaders | None:
    """The limit that an answer tells of, the tightest of several; None where there is none.

    Args:
        headers: with names in lower case.
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
            return min(found, key=lambda one: (one.remaining or 0) / one.limit)
    found_pairs = ((name, _number(number)) for name, number in _PAIR.findall(state))
    pairs = {name: number for name, number in found_pairs if number is not None}
    told = next(iter(policies.values()), (0, None))
    if "limit" in pairs or (pairs and told[0]):
        return _limit_from(
            pairs.get("limit", told[0]), told[1], pairs.get("remaining"), pairs.get("reset")
        )
    for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-"):
        first, _, policy = headers.get(f"{prefix}limit", "")[:MAX_HEADER_LENGTH].partition(",")
        limit = _number(first)
        if limit is not None:
            window = told[1] or next(iter(_policies(policy).values()), (0, None))[1]
            reset = _number(headers.get(f"{prefix}reset", ""))
            if reset is not None and reset > EPOCH_THRESHOLD:
                reset = (reset / 1000 if reset > EPOCH_THRESHOLD * 1000 else reset) - wall_clock
            remaining = _number(headers.get(f"{prefix}remaining", ""))
            return _limit_from(limit, window, remaining, reset)
    if policies:
        limit, window = min(policies.values(), key=lambda one: one[0] / (one[1] or math.inf))
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
    """Requests and seconds of each policy, ``"name";q=100;w=60`` or ``100;w=60``."""
    found: dict[str, tuple[int, float | None]] = {}
    for quoted, bare, parameters in _MEMBER.findall(text):
        values = dict(_PARAMETER.findall(parameters))
        limit = _number(values.get("q", bare))
        if limit is not None and limit >= 1:
            found[quoted or bare] = (int(limit), _number(values.get("w", "")) or None)
    return found


def _states(text: str) -> dict[str, tuple[int, float | None]]:
    """What is left, and for how long, ``"name";r=50;t=30``."""
    found: dict[str, tuple[int, float | None]] = {}
    for quoted, bare, parameters in _MEMBER.findall(text):
        values = dict(_PARAMETER.findall(parameters))
        remaining = _number(values.get("r", ""))
        if remaining is not None:
            found[quoted or bare] = (int(remaining), _number(values.get("t", "")))
    return found
