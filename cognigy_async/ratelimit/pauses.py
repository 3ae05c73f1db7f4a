"""Pauses that the server named, of the tenant and of single dialogs.

Everything takes `now` (seconds of a monotonic clock) as an argument.
"""

from __future__ import annotations

SLOW_START_SHARE = 0.5
MAX_SLOW_START = 1.0
"""After a pause the first requests are spread over half its length, at most over a second."""


class TenantPause:
    """One pause for all dialogs, and the slow start after it.

    Args:
        in_flight: how many requests may be in flight; as many are spread out after a pause.
    """

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight
        self._began = 0.0
        self._until = 0.0
        self._interval = 0.0
        self._slow_start_end = 0.0
        self._next_start_at = 0.0
        self.consecutive_429s = 0
        """Pauses in a row with no success between them."""
        self.active = False
        """Whether `opens` has to be asked at all."""

    def throttle(self, now: float, sent: float, wait: float, offset: float) -> None:
        """The server wants no request for `wait` seconds; it answered so to one sent at `sent`.

        `offset` in [0, 1) shifts the slow start, so that clients of a tenant do not resume as one.
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
        self._interval = slow_start / self._in_flight
        self._next_start_at = until + offset * self._interval
        self._slow_start_end = until + slow_start

    def succeeded(self, sent: float) -> None:
        """A request that was sent at `sent` was not throttled."""
        if self.consecutive_429s and sent >= self._until:
            self.consecutive_429s = 0

    def next_slot_at(self, now: float) -> float:
        """When the next request may start; a moment not after `now` means at once."""
        if self.active and now >= self._slow_start_end:
            self.active = False
        return self._next_start_at if self.active else now

    def start(self, now: float) -> None:
        """A request starts now; `opens` allowed it."""
        self._next_start_at = max(self._next_start_at, now) + self._interval

    def remaining(self, now: float) -> float:
        """Seconds until the end of the pause, 0 when there is none."""
        return max(0.0, self._until - now)


class DialogPauses:
    """Dialogs that the server throttles by themselves, until when. Forgets those that are over."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._sweep_at = 64
        self.any = False
        """Whether `until` has to be asked at all."""

    def throttle(self, dialog_id: str, now: float, until: float) -> None:
        """The server wants no request for this dialog before `until`."""
        self.any = True
        self._until[dialog_id] = max(until, self._until.get(dialog_id, until))
        if len(self._until) >= self._sweep_at:
            self._until = {name: end for name, end in self._until.items() if end > now}
            self._sweep_at = max(64, 2 * len(self._until))

    def until(self, dialog_id: str) -> float:
        """When the dialog may be sent something; 0.0 where it is not throttled."""
        return self._until.get(dialog_id, 0.0)
