"""Log each long pause of a client once when it begins and once when it ends, with its reason.

Nothing here depends on the number of updates that wait. All times are seconds of one monotonic
clock, given as arguments.
"""

from __future__ import annotations

import math
from logging import WARNING
from typing import TYPE_CHECKING

from .._utils.logging import log

if TYPE_CHECKING:
    from .._utils.waker import Waker

LONG_PAUSE = 5.0
"""Seconds from which on a pause is logged."""

SETTLING_TIME = 3.0
"""Seconds after a pause in which the next long one continues it, and nothing is logged.

Longer than a slow start (`MAX_SLOW_START`) with a request.
"""

THROTTLED = "throttled"
QUOTA = "quota"
AWAY = "away"

REASONS = {
    THROTTLED: "the server asked to wait (429 or 503)",
    QUOTA: "the rate limit is used up",
}


class _Pause:
    """A pause that was logged: its first moment, and its end as known now."""

    __slots__ = ("began", "until")

    def __init__(self, began: float, until: float) -> None:
        self.began = began
        self.until = until


class PauseLog:
    """Logs the pauses of one client.

    The server is away from a failure that says so until it serves a request. That is logged after
    `LONG_PAUSE` seconds, because a single failure says nothing about the server.

    Attributes:
        threshold: number of seconds below which a wait need not be noted.
        ends_at: time from which `check` has work; infinity for never. The scheduler wakes up then
            in any case, because updates may be sent.
        check_at: time at which `check` has to be called; infinity for never.
        is_away: True from a failure until the server serves a request.
    """

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._pauses: dict[str, _Pause] = {}
        self._away_since = math.inf
        self._away_logged = False
        self._last_failure = ""
        self.threshold = LONG_PAUSE
        self.ends_at = self.check_at = math.inf
        self.is_away = False

    def pause(self, reason: str, now: float, until: float) -> None:
        """Note that updates wait until a time, at least for `threshold` seconds."""
        pause = self._pauses.get(reason)
        is_long = LONG_PAUSE <= until - now < math.inf
        if pause is None and is_long:
            self._pauses[reason] = _Pause(now, until)
            self._log(reason, "updates wait %.1f s: %s", until - now, REASONS[reason])
            self._plan(now)
        elif pause is not None and until != pause.until and (is_long or until < pause.until):
            pause.until = until
            self._plan(now)

    def end(self, reason: str, now: float) -> None:
        """Note that a pause ended before its announced end."""
        pause = self._pauses.get(reason)
        if pause is not None:
            pause.until = min(pause.until, now)
            self._plan(now)

    def failed(self, now: float, failure: str) -> None:
        """Note that an update is repeated because the server is not available."""
        self._last_failure = failure
        if not self.is_away:
            self.is_away = True
            self._away_since = now
            self._plan(now)

    def served(self, now: float) -> None:
        """Note that the server served a request; call it while `is_away`."""
        if self._away_logged:
            seconds = now - self._away_since
            self._log(AWAY, "the server serves requests again after %.1f s", seconds)
        self.is_away = self._away_logged = False
        self._plan(now)

    def check(self, now: float, *, busy: bool) -> None:
        """Log the pauses that have ended, and a server that is away while there is work."""
        for reason, pause in list(self._pauses.items()):
            if now >= pause.until + SETTLING_TIME:
                del self._pauses[reason]
                seconds = pause.until - pause.began
                self._log(reason, "updates continue after %.1f s: %s", seconds, REASONS[reason])
        if self.is_away and not self._away_logged and now >= self._away_since + LONG_PAUSE:
            if busy:
                self._away_logged = True
                message = "updates wait for the server: it served no request for %.1f s (%s)"
                self._log(AWAY, message, now - self._away_since, self._last_failure)
            else:
                self.is_away = False
        self._plan(now)

    def _plan(self, now: float) -> None:
        """Compute when `check` has work."""
        ends = [pause.until for pause in self._pauses.values()]
        # The end of a pause may be an estimate, which a shorter wait corrects.
        self.threshold = 0.0 if ends else LONG_PAUSE
        checks = [until + SETTLING_TIME for until in ends if until <= now]
        if self.is_away and not self._away_logged:
            checks.append(self._away_since + LONG_PAUSE)
        self.check_at = min(checks, default=math.inf)
        self.ends_at = min([self.check_at, *(until for until in ends if until > now)])
        self._waker.wake_at(self.check_at)

    @staticmethod
    def _log(reason: str, message: str, seconds: float, *arguments: str) -> None:
        log(WARNING, message, seconds, *arguments, pause=reason, seconds=seconds)
