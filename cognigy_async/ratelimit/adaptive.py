"""Adaptive limit, learned from rate-limit headers or, if there are none, from 429 responses.

Headers that name requests and seconds are kept like a configured limit. Without them requests are
spread evenly at an estimated rate. It doubles each second until the first 429. Then it grows by a
fixed amount with each accepted request and shrinks by a factor at a 429, once for each pause.

A wrong header must not hold work for hours. If no request was made for `longest_live` seconds, or
`MAX_BULK_WAIT` for bulk work, one request asks the server. If it is accepted long before the limit
allows it, what was learned is forgotten, and headers are ignored from then on.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from logging import WARNING

from .._utils.logging import log
from ..metrics import QuotaUse
from ..retry import MAX_BULK_WAIT
from .headers import RateLimitHeaders, read_headers
from .limit import RateLimit
from .sliding_window import SlidingWindow, next_in_schedule

INITIAL_RATE = 50.0
"""Requests per second."""
MIN_RATE = 1e-3
INCREASE = 0.05
"""Share of the ceiling, the rate of the last 429, by which the rate grows in one period."""
INCREASE_NEAR_CEILING = 0.002
"""The same share near the ceiling. It is smaller: exceeding the ceiling costs a pause."""
NEAR_CEILING, ABOVE_CEILING = 0.93, 1.05
"""A rate between these shares is near the ceiling; above them, the server raised its limit."""
DECREASE, REPEATED_DECREASE = 0.95, 0.8
"""Factors of the rate after a pause, and after one that follows within `REPEATED_WITHIN`."""
REPEATED_WITHIN = 3
"""Number of periods. A period is the estimated length of the server's window."""
RATE_LATE_TOLERANCE = 0.5
"""Like `LATE_TOLERANCE`, but larger: the average rate matters, not even spacing."""
EARLY_SHARE = 0.05
"""Share of a window by which an accepted request must be early to show that headers are wrong."""
MAX_STARTS = 20_000
"""Number of requests whose start times are remembered at most, however long a window is."""


class AdaptiveLimiter:
    """The limiter of ``rate_limit="auto"``; see `RateLimiter` for the methods they share.

    Args:
        longest_live: seconds after which live work asks the server again.
    """

    def __init__(self, longest_live: float = MAX_BULK_WAIT) -> None:
        self._longest_live = longest_live
        self._last_start = self._last_bulk_start = -math.inf
        self._asked_at = math.nan
        """Start of the last request that was sent earlier than was learned."""
        self._reads_headers = True
        self._longest_reset = 0.0
        self._last_headers_at = -math.inf
        self._recent_starts: list[float] = []
        """Start times of the requests in the last window, and possibly earlier ones."""
        self._forget()

    def _forget(self) -> None:
        """Forget what was learned of the limit."""
        self._window: SlidingWindow | None = None
        """The limit that response headers stated last; None if there was no such header yet."""
        self._rate = INITIAL_RATE
        self._ceiling = math.inf
        self._period = 1.0
        """Length of the server's window in seconds, estimated from pauses."""
        self._next_start_at = -math.inf
        self._counting_since = math.nan
        """Start of the time in which `_accepted` requests were accepted."""
        self._accepted = 0
        self._before_pause = (math.nan, 0)
        """`_counting_since` and `_accepted` as of the last pause."""
        self._paused_until = -math.inf

    def __repr__(self) -> str:
        limit = self._window if self._window is not None else f"{self._rate:.3g}/s"
        return f"<AdaptiveLimiter {limit}>"

    def next_slot_at(self, now: float, live: bool) -> float:
        """Return when a request may start."""
        window = self._window
        at = self._next_start_at if window is None else window.next_slot_at(now)
        if now < at < math.inf:
            at = min(at, self._last_start + (self._longest_live if live else MAX_BULK_WAIT))
        return at if at > now else now

    def next_bulk_slot_at(self, now: float) -> float:
        """Return the time from which bulk work may start; live work has room at an even rate."""
        if self._window is None:
            return now
        asks_at = max(now, self._last_bulk_start + MAX_BULK_WAIT)
        return min(self._window.next_bulk_slot_at(now), asks_at)

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot."""
        self._record_start(now)
        if bulk:
            self._last_bulk_start = now
        window = self._window
        if window is not None:
            if window.used >= window.capacity:
                early = window.next_slot_at(now) - now
                if early > EARLY_SHARE * window.limit.per:
                    self._asked_at = now
            window.start(now, bulk=bulk)
            return
        if now < self._next_start_at or now < self._paused_until:
            self._asked_at = now
        if math.isnan(self._counting_since):
            self._counting_since = now
        self._next_start_at = next_in_schedule(
            self._next_start_at, now, 1 / self._rate, RATE_LATE_TOLERANCE
        )

    def _record_start(self, now: float) -> None:
        self._last_start = now
        starts = self._recent_starts
        window = self._window
        # Keep two windows: the headers of a slow response cover older requests as well.
        kept = self._period if window is None else 2 * window.limit.per
        half = len(starts) // 2
        if half and (starts[half] <= now - kept or len(starts) >= MAX_STARTS):
            del starts[:half]
        starts.append(now)

    def finish(self, started: float, now: float) -> None:
        """Record the end of a request."""
        if self._window is not None:
            self._window.finish(started, now)

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """Return the use of the learned limit; empty before the first 429 or header."""
        if self._window is not None:
            return self._window.usage(now, learned=True)
        if self._ceiling == math.inf:
            return ()
        allowed = max(1, round(self._rate * self._period))
        used = len(self._recent_starts) - bisect_right(self._recent_starts, now - self._period)
        return (QuotaUse(allowed, self._period, used, min(1.0, used / allowed), learned=True),)

    def on_headers(
        self, headers: Mapping[str, str], started: float, now: float, wall_clock: float
    ) -> None:
        """Learn from the headers of a response to a request that started at `started`.

        `wall_clock` is in seconds since the epoch.
        """
        server = read_headers(headers, wall_clock) if self._reads_headers else None
        if server is None:
            return
        length = server.window
        if length is None:
            # Just after a reset the time until the next one is close to the window.
            self._longest_reset = max(self._longest_reset, server.reset or 0.0)
            length = self._longest_reset
        if not 0 < length < math.inf:
            return
        window = self._window
        if window is None:
            self._window = window = SlidingWindow(RateLimit(server.limit, per=length))
            window.restore(now, [(now - at, 1) for at in self._recent_starts])
        elif (window.limit.n, window.limit.per) != (server.limit, length):
            # Some servers name a longer time with each response: do not copy all that counts.
            window.set_limit(RateLimit(server.limit, per=length))
        self._count_external(window, server, started, now)

    def _count_external(
        self, window: SlidingWindow, server: RateLimitHeaders, started: float, now: float
    ) -> None:
        """Count requests of other clients: the server's count minus this client's requests."""
        if server.remaining is None or server.reset is None:
            return
        window.next_slot_at(now)
        # Older requests may have taken longer to reach the server than this one.
        since = started - window.limit.per - (now - started)
        own = bisect_right(self._recent_starts, started) - bisect_right(self._recent_starts, since)
        external = max(0, server.limit - server.remaining - own)
        # Responses can arrive out of order: keep the highest count.
        if started > self._last_headers_at or external >= window.external:
            window.set_external(external, now + server.reset)
        self._last_headers_at = now

    def on_accepted(self, started: float) -> None:
        """Raise the rate after a request that was not throttled."""
        if started == self._asked_at:
            self._limit_is_wrong()
            return
        if started < self._paused_until or self._window is not None:
            return
        self._accepted += 1
        if self._ceiling == math.inf:
            self._rate += 1.0
            return
        near = NEAR_CEILING * self._ceiling < self._rate < ABOVE_CEILING * self._ceiling
        increase = (INCREASE_NEAR_CEILING if near else INCREASE) * self._ceiling
        self._rate += increase / (self._rate * self._period)

    def _limit_is_wrong(self) -> None:
        self._asked_at = math.nan
        if self._window is not None:
            self._reads_headers = False
            log(
                WARNING,
                "the server accepts requests that its rate-limit headers exclude: %s; "
                'rate_limit="auto" ignores its headers from now on',
                self._window,
            )
        self._forget()

    def on_throttled(self, now: float, started: float, seconds: float) -> None:
        """Lower the rate after a 429 that pauses the tenant for `seconds`, once for each pause."""
        if started < self._paused_until or self._window is not None:
            return
        self._paused_until = now + seconds
        until = now + min(seconds, MAX_BULK_WAIT)
        if self._accepted:
            self._before_pause = (self._counting_since, self._accepted)
            self._decrease(until)
        else:
            # The pause was too short: no new window began at its end.
            since, accepted = self._before_pause
            span = max(1.0, until - (self._counting_since if math.isnan(since) else since))
            self._period = max(self._period, span)
            self._rate = max(MIN_RATE, min(self._rate, max(accepted, 1) / span))
        self._counting_since = until
        self._accepted = 0

    def _decrease(self, until: float) -> None:
        span = max(until - self._counting_since, 1e-3)
        if self._ceiling == math.inf:
            self._period = max(1.0, span)
            self._rate = self._accepted / span
            # The server may have rounded the pause up by a second.
            self._ceiling = self._accepted / max(span - 1.0, span / 2)
        else:
            self._ceiling = self._rate
            self._rate *= DECREASE if span > REPEATED_WITHIN * self._period else REPEATED_DECREASE
        self._rate = max(MIN_RATE, self._rate)
