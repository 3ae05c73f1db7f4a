"""Drive a limiter with requests that start as early as they may."""

from __future__ import annotations

from bisect import bisect_right

from cognigy_async import RateLimit
from cognigy_async.ratelimit.limiter import CompositeLimiter
from cognigy_async.ratelimit.sliding_window import SlidingWindow


def busy(
    window: SlidingWindow | CompositeLimiter,
    count: int,
    *,
    latency: float = 0.0,
    bulk: bool = False,
) -> list[float]:
    """Return the starts of `count` requests, each as early as the limiter allows."""
    now = 0.0
    starts: list[float] = []
    in_flight: list[float] = []
    while len(starts) < count:
        at = next_slot_at(window, now)
        if at <= now and bulk:
            at = window.next_bulk_slot_at(now)
        if at <= now:
            window.start(now, bulk=bulk)
            starts.append(now)
            in_flight.append(now)
        if in_flight and (at > now or not latency) and in_flight[0] + latency <= at:
            now = max(now, in_flight[0] + latency)
            window.finish(in_flight.pop(0), now)
        else:
            now = max(now, at)
    return starts


def limiter_of(*limits: RateLimit) -> CompositeLimiter:
    return CompositeLimiter([SlidingWindow(limit) for limit in limits])


def next_slot_at(window: SlidingWindow | CompositeLimiter, now: float) -> float:
    return (
        window.next_slot_at(now, True)
        if isinstance(window, CompositeLimiter)
        else window.next_slot_at(now)
    )


def most(starts: list[float], per: float) -> int:
    """Return the largest number of starts in one window, its end excluded."""
    return max(bisect_right(starts, at + per - 1e-9) - index for index, at in enumerate(starts))
