"""Pauses after 429 and 503 responses, of the whole tenant and of single dialogs.

All times are seconds of one monotonic clock, given as arguments.
"""

from __future__ import annotations

from .._utils.purging import ExpiringDict

SLOW_START_SHARE = 0.5
"""Share of a pause over which the first requests after it are spread."""
MAX_SLOW_START = 1.0
"""Maximum seconds over which the first requests after a pause are spread."""


class TenantPause:
    """One pause for all dialogs, and the slow start after it.

    Args:
        max_in_flight: maximum number of requests in flight; so many are spread after a pause.

    Attributes:
        active: True during a pause and its slow start; otherwise `next_slot_at` need not be called.
        consecutive_429s: pauses in a row without a success between them.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._began = 0.0
        self._until = 0.0
        self._interval = 0.0
        self._slow_start_end = 0.0
        self._next_start_at = 0.0
        self.consecutive_429s = 0
        self.active = False

    def throttle(self, now: float, sent: float, wait: float, offset: float) -> None:
        """Begin or extend a pause. It never shortens one.

        Args:
            sent: time at which the throttled request was sent.
            wait: length of the pause in seconds.
            offset: shift of the slow start in [0, 1), so that clients do not resume together.
        """
        if sent >= self._until:
            self.consecutive_429s += 1
        until = now + wait
        if not self.active or now >= self._until:
            self._began = now
        if until <= self._until:
            return
        slow_start = min(MAX_SLOW_START, SLOW_START_SHARE * (until - self._began))
        self.active = True
        self._until = until
        self._interval = slow_start / self._max_in_flight
        self._next_start_at = until + offset * self._interval
        self._slow_start_end = until + slow_start

    def succeeded(self, sent: float) -> None:
        """Record a request that was sent at `sent` and not throttled."""
        if self.consecutive_429s and sent >= self._until:
            self.consecutive_429s = 0

    def next_slot_at(self, now: float) -> float:
        """Return when the next request may start: `now` or earlier means at once."""
        if self.active and now >= self._slow_start_end:
            self.active = False
        return self._next_start_at if self.active else now

    def start(self, now: float) -> None:
        """Record a request that starts now, as `next_slot_at` allowed."""
        self._next_start_at = max(self._next_start_at, now) + self._interval

    def remaining(self, now: float) -> float:
        """Return the seconds until the end of the pause, 0 without one."""
        return max(0.0, self._until - now)


class DialogPauses:
    """Pauses of single dialogs.

    Attributes:
        any: False until the first pause; `until` need not be called before.
    """

    def __init__(self) -> None:
        self._until: ExpiringDict[str, float] = ExpiringDict(_is_over, minimum=64)
        self.any = False

    def throttle(self, dialog_id: str, now: float, until: float) -> None:
        """Begin or extend the pause of a dialog. It never shortens one."""
        self.any = True
        self._until.put(dialog_id, max(until, self.until(dialog_id)), now)

    def until(self, dialog_id: str) -> float:
        """Return the end of the last pause of a dialog, 0.0 if none is known."""
        return self._until.get(dialog_id, 0.0)


def _is_over(until: float, now: float) -> bool:
    return until <= now
