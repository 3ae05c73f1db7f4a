"""Requests of a probe: their number, and what the headers of their answers say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Literal, TypeAlias

from cognigy_async import CognigyError, Request, Response, Transport
from cognigy_async.spi import MeasuredClock, MeasuredRateLimit, read_rate_limit

Family: TypeAlias = Literal["ietf", "ietf-early", "x"]
FAMILIES: Mapping[str, Family] = {
    "ratelimit-policy": "ietf",
    "ratelimit": "ietf",
    "ratelimit-limit": "ietf-early",
    "x-ratelimit-limit": "x",
    "x-rate-limit-limit": "x",
}
"""Families of rate-limit headers by the header that tells them apart, the newest first."""


class Tally:
    """Counts requests, and keeps what the headers of all answers say together.

    Args:
        most: number of requests, after which no other is sent.
        wall_clock: function that returns seconds since the epoch.
    """

    def __init__(self, most: int, wall_clock: Callable[[], float] = time.time) -> None:
        self.most = most
        self.requests = 0
        self.wall_clock = wall_clock
        self._least_skew, self._greatest_skew = -math.inf, math.inf
        self._limit = MeasuredRateLimit()

    def begin(self) -> None:
        """Count a request; raise `CognigyError` if it is one too many."""
        if self.requests >= self.most:
            raise CognigyError(
                f"The probe has used its {self.most} requests; run it again when the server "
                "answers each of them"
            )
        self.requests += 1

    def end(self, response: Response, began: float) -> None:
        """Keep what the headers of an answer say; `began` is wall-clock time."""
        ended = self.wall_clock()
        try:
            date = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError, OSError):
            pass
        else:
            # The header is in whole seconds, and was written at some time during the request.
            self._least_skew = max(self._least_skew, date - ended)
            self._greatest_skew = min(self._greatest_skew, date + 1 - began)
        self._keep_limit(response, ended)

    def _keep_limit(self, response: Response, now: float) -> None:
        found = read_rate_limit(response.headers, now)
        if found is None:
            return
        families: list[Family] = [FAMILIES[name] for name in FAMILIES if name in response.headers]
        longest = max(self._limit.reset_seconds or 0.0, found.reset or 0.0)
        self._limit = MeasuredRateLimit(
            headers=families[0],
            requests=found.limit,
            seconds=found.window,
            reset_seconds=longest or None,
        )

    @property
    def rate_limit(self) -> MeasuredRateLimit:
        """The rate limit that the last answer with such headers announced."""
        return self._limit

    @property
    def clock(self) -> MeasuredClock:
        """The clock of the server, by the dates of all answers."""
        least, greatest = self._least_skew, self._greatest_skew
        if math.isinf(least):
            return MeasuredClock(skew_seconds=None)
        agrees = least <= 0.0 <= greatest
        return MeasuredClock(skew_seconds=0.0 if agrees else round((least + greatest) / 2, 1))


class TallyTransport:
    """A transport that counts its requests in a tally, and keeps the last response."""

    def __init__(self, inner: Transport, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally
        self.wall_clock = tally.wall_clock
        self.response: Response | None = None

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request; see `Transport`."""
        self._tally.begin()
        began = self._tally.wall_clock()
        self.response = response = await self._inner.send(request, timeout=timeout)
        self._tally.end(response, began)
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()
