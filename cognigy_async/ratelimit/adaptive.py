"""A limit that nobody stated: what the server's headers tell of it, else what its 429s show.

Where headers tell requests and seconds, they are kept like a limit that was stated. Else requests
are spread evenly at a rate that is estimated: it doubles in a second until the first 429, and then
grows by a fixed amount for each request that is accepted and shrinks at a 429, once for each pause.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from ..metrics import QuotaUse
from .headers import RateLimitHeaders, read_headers
from .limit import RateLimit
from .sliding_window import SlidingWindow, following

FIRST_RATE = 50.0
"""Requests in a second to begin with."""
LEAST_RATE = 1e-3
GROWTH = 0.05
"""Of the rate that was too high, in one unit of time at full use."""
CAREFUL = 0.002
"""The same close to that rate: each time it is exceeded costs a pause."""
NEAR, BEYOND = 0.93, 1.05
"""Between these shares of the rate that was too high it grows carefully. Beyond, it was another."""
SHRINKS, SHRINKS_AGAIN = 0.95, 0.8
"""The latter where the last time was less than `SOON` units ago: there is much less than before."""
SOON = 3
LATE = 0.5
"""A start that is late by this share of the gap delays no other: the rate itself is what counts."""


class AdaptiveLimiter:
    """The limiter behind ``rate_limit="auto"``."""

    def __init__(self) -> None:
        self._window: SlidingWindow | None = None
        self._longest_reset = 0.0
        self._heard_at = -math.inf
        self._rate = FIRST_RATE
        self._ceiling = math.inf
        self._unit = 1.0
        """Seconds of the server's window, as far as pauses show it."""
        self._next = -math.inf
        self._since = math.nan
        """When the requests that are counted in `_accepted` began."""
        self._accepted = 0
        self._before = (math.nan, 0)
        """The same of the time before the last pause."""
        self._paused_until = -math.inf
        self._recent: list[float] = []
        """Starts of requests, those of the last window among them."""

    def __repr__(self) -> str:
        kept = self._window if self._window is not None else f"{self._rate:.3g}/s"
        return f"<Learned {kept}>"

    # As every limiter.

    def next_slot_at(self, now: float, live: bool) -> float:
        """See `Limiter`."""
        if self._window is not None:
            return self._window.next_slot_at(now)
        return self._next if self._next > now else now

    def next_bulk_slot_at(self, now: float) -> float:
        """See `Limiter`. What is spread evenly has a next place soon."""
        return now if self._window is None else self._window.next_bulk_slot_at(now)

    def start(self, now: float, *, bulk: bool) -> None:
        """See `Limiter`."""
        self._remember(now)
        if self._window is not None:
            self._window.start(now, bulk=bulk)
            return
        if math.isnan(self._since):
            self._since = now
        self._next = following(self._next, now, 1 / self._rate, LATE)

    def _remember(self, now: float) -> None:
        recent = self._recent
        window = self._window
        # What a slow answer tells may concern a time before the last window.
        kept = self._unit if window is None else 2 * window.limit.per
        half = len(recent) // 2
        if half and recent[half] <= now - kept:
            del recent[:half]
        recent.append(now)

    def answered(self, began: float, now: float) -> None:
        """See `Limiter`."""
        if self._window is not None:
            self._window.answered(began, now)

    def use(self, now: float) -> QuotaUse | None:
        """See `Limiter`."""
        if self._window is not None:
            return self._window.use(now, learned=True)
        if self._ceiling == math.inf:
            return None
        allowed = max(1, round(self._rate * self._unit))
        used = len(self._recent) - bisect_right(self._recent, now - self._unit)
        return QuotaUse(allowed, self._unit, used, min(1.0, used / allowed), learned=True)

    # What the server says.

    def heard(
        self,
        headers: Mapping[str, str],
        began: float,
        now: float,
        wall_clock: float,
    ) -> None:
        """An answer, whatever its status, to a request that began at that moment."""
        advice = read_headers(headers, wall_clock)
        if advice is None:
            return
        length = advice.window
        if length is None:
            # The longest time until a reset comes close to the window after one of them.
            self._longest_reset = max(self._longest_reset, advice.reset or 0.0)
            length = self._longest_reset
        if not 0 < length < math.inf:
            return
        window = self._window
        if window is None or (window.limit.n, window.limit.per) != (advice.limit, length):
            self._window = SlidingWindow(RateLimit(advice.limit, per=length))
            told = [(now - at, 1) for at in self._recent] if window is None else window.save(now)
            self._window.restore(now, told)
        assert self._window is not None
        self._count_others(self._window, advice, began, now)

    def _count_others(
        self, window: SlidingWindow, advice: RateLimitHeaders, began: float, now: float
    ) -> None:
        """What the server counts beyond our own requests is of others, or of before we knew."""
        if advice.remaining is None or advice.reset is None:
            return
        window.next_slot_at(now)
        # Those that the server can have counted when it answered; it may have seen some of them
        # later after their start than this one.
        since = began - window.limit.per - (now - began)
        own = bisect_right(self._recent, began) - bisect_right(self._recent, since)
        unknown = max(0, advice.limit - advice.remaining - own)
        # Of answers that may have overtaken each other the one that counts most is right.
        if began > self._heard_at or unknown >= window.foreign:
            window.others(unknown, now + advice.reset)
        self._heard_at = now

    def accepted(self, began: float) -> None:
        """A request that was not throttled."""
        if began < self._paused_until or self._window is not None:
            return
        self._accepted += 1
        if self._ceiling == math.inf:
            self._rate += 1.0
            return
        near = NEAR * self._ceiling < self._rate < BEYOND * self._ceiling
        grown = (CAREFUL if near else GROWTH) * self._ceiling
        self._rate += grown / (self._rate * self._unit)

    def throttled(self, now: float, began: float, seconds: float) -> None:
        """A 429 of the tenant to a request that began at that moment, and the pause after it."""
        if began < self._paused_until or self._window is not None:
            return
        until = now + seconds
        if self._accepted:
            self._before = (self._since, self._accepted)
            self._shrink(until)
        else:
            # The pause before was too short: its end was not the beginning of a new window.
            since, accepted = self._before
            span = max(1.0, until - (self._since if math.isnan(since) else since))
            self._unit = max(self._unit, span)
            self._rate = max(LEAST_RATE, min(self._rate, max(accepted, 1) / span))
        self._paused_until = self._since = until
        self._accepted = 0

    def _shrink(self, until: float) -> None:
        span = max(until - self._since, 1e-3)
        if self._ceiling == math.inf:
            self._unit = max(1.0, span)
            self._rate = self._accepted / span
            # The pause may have been rounded up by a second.
            self._ceiling = self._accepted / max(span - 1.0, span / 2)
        else:
            self._ceiling = self._rate
            self._rate *= SHRINKS if span > SOON * self._unit else SHRINKS_AGAIN
        self._rate = max(LEAST_RATE, self._rate)
