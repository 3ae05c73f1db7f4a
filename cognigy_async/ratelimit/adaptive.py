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
from .sliding_window import SlidingWindow, next_in_schedule

INITIAL_RATE = 50.0
"""Requests in a second to begin with."""
MIN_RATE = 1e-3
GROWTH = 0.05
"""Of the rate that was too high, in one unit of time at full use."""
GROWTH_NEAR_CEILING = 0.002
"""The same close to that rate: each time it is exceeded costs a pause."""
NEAR_CEILING, ABOVE_CEILING = 0.93, 1.05
"""Between these shares of the rate that was too high it grows carefully. Beyond, it was another."""
DECREASE, REPEATED_DECREASE = 0.95, 0.8
"""The latter where the last time was less than `SOON` units ago: there is much less than before."""
REPEATED_WITHIN = 3
RATE_LATE_TOLERANCE = 0.5
"""A start that is late by this share of the gap delays no other: the rate itself is what counts."""


class AdaptiveLimiter:
    """The limiter behind ``rate_limit="auto"``."""

    def __init__(self) -> None:
        self._window: SlidingWindow | None = None
        self._longest_reset = 0.0
        self._last_headers_at = -math.inf
        self._rate = INITIAL_RATE
        self._ceiling = math.inf
        self._period = 1.0
        """Seconds of the server's window, as far as pauses show it."""
        self._next_start_at = -math.inf
        self._counting_since = math.nan
        """When the requests that are counted in `_accepted` began."""
        self._accepted_count = 0
        self._previous = (math.nan, 0)
        """The same of the time before the last pause."""
        self._paused_until = -math.inf
        self._recent_starts: list[float] = []
        """Starts of requests, those of the last window among them."""

    def __repr__(self) -> str:
        kept = self._window if self._window is not None else f"{self._rate:.3g}/s"
        return f"<Learned {kept}>"

    # As every limiter.

    def next_slot_at(self, now: float, live: bool) -> float:
        """See `Limiter`."""
        if self._window is not None:
            return self._window.next_slot_at(now)
        return self._next_start_at if self._next_start_at > now else now

    def next_bulk_slot_at(self, now: float) -> float:
        """See `Limiter`. What is spread evenly has a next place soon."""
        return now if self._window is None else self._window.next_bulk_slot_at(now)

    def start(self, now: float, *, bulk: bool) -> None:
        """See `Limiter`."""
        self._record_start(now)
        if self._window is not None:
            self._window.start(now, bulk=bulk)
            return
        if math.isnan(self._counting_since):
            self._counting_since = now
        self._next_start_at = next_in_schedule(
            self._next_start_at, now, 1 / self._rate, RATE_LATE_TOLERANCE
        )

    def _record_start(self, now: float) -> None:
        recent = self._recent_starts
        window = self._window
        # What a slow answer tells may concern a time before the last window.
        kept = self._period if window is None else 2 * window.limit.per
        half = len(recent) // 2
        if half and recent[half] <= now - kept:
            del recent[:half]
        recent.append(now)

    def finish(self, began: float, now: float) -> None:
        """See `Limiter`."""
        if self._window is not None:
            self._window.finish(began, now)

    def usage(self, now: float) -> QuotaUse | None:
        """See `Limiter`."""
        if self._window is not None:
            return self._window.usage(now, learned=True)
        if self._ceiling == math.inf:
            return None
        allowed = max(1, round(self._rate * self._period))
        used = len(self._recent_starts) - bisect_right(self._recent_starts, now - self._period)
        return QuotaUse(allowed, self._period, used, min(1.0, used / allowed), learned=True)

    # What the server says.

    def on_headers(
        self,
        headers: Mapping[str, str],
        began: float,
        now: float,
        wall_clock: float,
    ) -> None:
        """An answer, whatever its status, to a request that began at that moment."""
        parsed = read_headers(headers, wall_clock)
        if parsed is None:
            return
        length = parsed.window
        if length is None:
            # The longest time until a reset comes close to the window after one of them.
            self._longest_reset = max(self._longest_reset, parsed.reset or 0.0)
            length = self._longest_reset
        if not 0 < length < math.inf:
            return
        window = self._window
        if window is None or (window.limit.n, window.limit.per) != (parsed.limit, length):
            self._window = SlidingWindow(RateLimit(parsed.limit, per=length))
            told = (
                [(now - at, 1) for at in self._recent_starts]
                if window is None
                else window.save(now)
            )
            self._window.restore(now, told)
        assert self._window is not None
        self._count_external(self._window, parsed, began, now)

    def _count_external(
        self, window: SlidingWindow, parsed: RateLimitHeaders, began: float, now: float
    ) -> None:
        """What the server counts beyond our own requests is of others, or of before we knew."""
        if parsed.remaining is None or parsed.reset is None:
            return
        window.next_slot_at(now)
        # Those that the server can have counted when it answered; it may have seen some of them
        # later after their start than this one.
        since = began - window.limit.per - (now - began)
        own = bisect_right(self._recent_starts, began) - bisect_right(self._recent_starts, since)
        unknown = max(0, parsed.limit - parsed.remaining - own)
        # Of answers that may have overtaken each other the one that counts most is right.
        if began > self._last_headers_at or unknown >= window.external:
            window.set_external(unknown, now + parsed.reset)
        self._last_headers_at = now

    def on_accepted(self, began: float) -> None:
        """A request that was not throttled."""
        if began < self._paused_until or self._window is not None:
            return
        self._accepted_count += 1
        if self._ceiling == math.inf:
            self._rate += 1.0
            return
        near = NEAR_CEILING * self._ceiling < self._rate < ABOVE_CEILING * self._ceiling
        grown = (GROWTH_NEAR_CEILING if near else GROWTH) * self._ceiling
        self._rate += grown / (self._rate * self._period)

    def on_throttled(self, now: float, began: float, seconds: float) -> None:
        """A 429 of the tenant to a request that began at that moment, and the pause after it."""
        if began < self._paused_until or self._window is not None:
            return
        until = now + seconds
        if self._accepted_count:
            self._previous = (self._counting_since, self._accepted_count)
            self._shrink(until)
        else:
            # The pause before was too short: its end was not the beginning of a new window.
            since, on_accepted = self._previous
            span = max(1.0, until - (self._counting_since if math.isnan(since) else since))
            self._period = max(self._period, span)
            self._rate = max(MIN_RATE, min(self._rate, max(on_accepted, 1) / span))
        self._paused_until = self._counting_since = until
        self._accepted_count = 0

    def _shrink(self, until: float) -> None:
        span = max(until - self._counting_since, 1e-3)
        if self._ceiling == math.inf:
            self._period = max(1.0, span)
            self._rate = self._accepted_count / span
            # The pause may have been rounded up by a second.
            self._ceiling = self._accepted_count / max(span - 1.0, span / 2)
        else:
            self._ceiling = self._rate
            self._rate *= DECREASE if span > REPEATED_WITHIN * self._period else REPEATED_DECREASE
        self._rate = max(MIN_RATE, self._rate)
