"""Pauses after 429 and 503 responses, of the whole tenant and of single dialogs.

All times are seconds of one monotonic clock, given as arguments.
"""

from __future__ import annotations

import math

from .._utils.purging import ExpiringDict
from ..retry import MAX_BULK_WAIT

SLOW_START_SHARE = 0.5
"""Share of a pause over which the first requests after it are spread."""
MAX_SLOW_START = 1.0
"""Maximum seconds over which the first requests after a pause are spread."""
UNANSWERED_AFTER = 30.0
"""Seconds without an answer to a request that asks, after which another one may ask."""

MAX_DIALOG_PAUSE = 86_400.0
"""Seconds after which the pause of a dialog is forgotten, so that not every dialog is kept."""
NO_PAUSE = (0.0, 0.0, 0.0)


class TenantPause:
    """One pause for all dialogs, and the slow start after it.

    If the server names a moment too far away, one request asks it again earlier: live work after
    `longest_live` seconds, bulk work after `MAX_BULK_WAIT`. Its answer ends or renews the pause.

    Args:
        max_in_flight: maximum number of requests in flight; so many are spread after a pause.
        longest_live: seconds after which live work asks again.

    Attributes:
        active: True during a pause and its slow start; otherwise `next_slot_at` need not be called.
        consecutive_429s: pauses in a row without a success between them.
    """

    def __init__(self, max_in_flight: int, longest_live: float = MAX_BULK_WAIT) -> None:
        self._max_in_flight = max_in_flight
        self._longest_live = longest_live
        self._first_429_at = 0.0
        """Start of the first of the pauses that `consecutive_429s` counts."""
        self._began = 0.0
        self._until = 0.0
        self._asked_at = math.inf
        """Start of the first request that asks before `_until`; infinity if none did."""
        self._answered_by = 0.0
        """Time until which the answer to the last request that asks is awaited."""
        self._live_asks_at = 0.0
        self._bulk_asks_at = 0.0
        self._interval = 0.0
        self._slow_start_end = 0.0
        self._next_start_at = 0.0
        self.consecutive_429s = 0
        self.active = False

    def throttle(self, now: float, sent: float, wait: float, offset: float) -> None:
        """Begin or extend a pause. Only the answer to a request that asked shortens one.

        Args:
            sent: time at which the throttled request was sent.
            wait: length of the pause in seconds.
            offset: shift of the slow start in [0, 1), so that clients do not resume together.
        """
        asked = self._asked(sent)
        if asked or sent >= self._until or not self.consecutive_429s:
            if not self.consecutive_429s:
                self._first_429_at = now
            self.consecutive_429s += 1
        until = now + wait
        if asked or not self.active or now >= self._until:
            self._began = now
        elif until <= self._until:
            return
        self.active = True
        self._live_asks_at = min(until, now + self._longest_live)
        self._bulk_asks_at = min(until, now + MAX_BULK_WAIT)
        slow_start = min(MAX_SLOW_START, SLOW_START_SHARE * (until - self._began))
        self._resume_from(until, slow_start, offset)

    def _resume_from(self, until: float, slow_start: float, offset: float) -> None:
        self._until = until
        self._asked_at = math.inf
        self._interval = slow_start / self._max_in_flight
        self._next_start_at = until + offset * self._interval
        self._slow_start_end = until + slow_start

    def _asked(self, sent: float) -> bool:
        """Return whether a request was sent before the named moment to ask the server again."""
        return self._asked_at <= sent < self._until

    def repeats(self, sent: float) -> int:
        """Return the number of pauses in a row before a 429 to a request that was sent at `sent`.

        0 if it was in flight when the present pause began.
        """
        return self.consecutive_429s if sent >= self._until or self._asked(sent) else 0

    def succeeded(self, sent: float, now: float) -> bool:
        """Record a request that was not throttled. Return True if it asked and ends the pause."""
        if sent >= self._until:
            self.consecutive_429s = 0
        elif self._asked(sent):
            self.consecutive_429s = 0
            if now < self._until:
                self._resume_from(now, MAX_SLOW_START, 0.0)
                return True
        return False

    def next_slot_at(self, now: float, live: bool = True) -> float:
        """Return when the next live or bulk request may start: `now` or earlier means at once."""
        if self.active and now >= self._slow_start_end:
            self.active = False
        if not self.active:
            return now
        if now < self._until:
            asks_at = self._live_asks_at if live else self._bulk_asks_at
            if asks_at < self._until:
                return asks_at
        return self._next_start_at

    def earliest(self, now: float, longest: float) -> float:
        """Return when new live work may start, if it waits for no moment beyond `longest` seconds.

        The answer to a request that asks may come at any time.
        """
        if now < self._until and self._asked_at < math.inf:
            return now
        at = self.next_slot_at(now)
        return self._until if now < at and self.remaining(now) > longest else at

    def next_event_at(self, now: float) -> float:
        """Return when `next_slot_at` next allows a request that it does not allow now, or inf."""
        slots = (self.next_slot_at(now, True), self.next_slot_at(now, False))
        return min((at for at in slots if at > now), default=math.inf)

    def start(self, now: float) -> None:
        """Record a request that starts now, as `next_slot_at` allowed."""
        if now >= self._until:
            self._next_start_at = max(self._next_start_at, now) + self._interval
            return
        # One request asks, and the others wait for its answer.
        self._asked_at = min(self._asked_at, now)
        self._answered_by = now + min(self._longest_live, UNANSWERED_AFTER)
        self._live_asks_at = min(self._until, max(self._live_asks_at, self._answered_by))
        self._bulk_asks_at = min(self._until, max(self._bulk_asks_at, self._answered_by))

    def remaining(self, now: float) -> float:
        """Return the seconds until the end of the pause, 0 without one."""
        return max(0.0, self._until - now)

    def held(self, accepted_at: float, now: float) -> float:
        """Return for how long pauses in a row hold work that was accepted at a time; 0 without."""
        if now >= self._until:
            return 0.0
        until = self._until if self._asked_at == math.inf else min(self._until, self._answered_by)
        return until - max(accepted_at, self._first_429_at)


class DialogPauses:
    """Pauses of single dialogs.

    Attributes:
        any: False while there is none; the methods but `throttle` need not be called then.
    """

    def __init__(self) -> None:
        self._pauses: ExpiringDict[str, tuple[float, float, float]]
        self._pauses = ExpiringDict(_is_over, minimum=64)
        """Times of the first 429 of pauses in a row, of the last one, and the end of the pause."""
        self.any = False

    def throttle(self, dialog_id: str, now: float, sent: float, wait: float) -> None:
        """Begin or extend the pause of a dialog.

        Args:
            sent: time at which the throttled request was sent. If that was before the last pause
                began, the pause is never shortened.
            wait: length of the pause in seconds.
        """
        self.any = True
        first, last, before = self._pauses.get(dialog_id, (now, -math.inf, 0.0))
        until = now + min(wait, MAX_DIALOG_PAUSE)
        if sent <= last:
            until = max(until, before)
        self._pauses.put(dialog_id, (first, now, until), now)

    def served(self, dialog_id: str, sent: float) -> None:
        """Forget the pause of a dialog after a request that was not throttled."""
        pause = self._pauses.get(dialog_id)
        if pause is not None and sent > pause[1]:
            del self._pauses[dialog_id]
            self.any = bool(self._pauses)

    def until(self, dialog_id: str, longest: float = math.inf) -> float:
        """Return the end of the pause of a dialog, 0.0 if none is known.

        `longest` is the number of seconds after which a request asks again.
        """
        _, last, until = self._pauses.get(dialog_id, NO_PAUSE)
        return min(until, last + longest)

    def held(self, dialog_id: str, accepted_at: float) -> float:
        """Return for how long pauses in a row hold work that was accepted at a time."""
        first, _, until = self._pauses.get(dialog_id, NO_PAUSE)
        return until - max(accepted_at, first)


def _is_over(pause: tuple[float, float, float], now: float) -> bool:
    return pause[2] <= now
