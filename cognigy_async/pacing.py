"""When the tenant may be sent the next request: pauses it named, and the budget of repeats.

Everything takes `now` (seconds of a monotonic clock) as an argument and only answers questions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

SPREAD_OF_PAUSE = 0.5
LONGEST_SPREAD = 1.0
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
        self._gap = 0.0
        self._spread_end = 0.0
        self._next = 0.0
        self.strikes = 0
        """Pauses in a row with no success between them."""
        self.active = False
        """Whether `opens` has to be asked at all."""

    def throttle(self, now: float, sent: float, wait: float, offset: float) -> None:
        """The server wants no request for `wait` seconds; it answered so to one sent at `sent`.

        `offset` in [0, 1) shifts the slow start, so that clients of a tenant do not resume as one.
        """
        if sent >= self._until:
            self.strikes += 1
        until = now + wait
        if not self.active or now >= self._until:
            self._began = now
        if until <= self._until:
            return
        spread = min(LONGEST_SPREAD, SPREAD_OF_PAUSE * (until - self._began))
        self.active = True
        self._until = until
        self._gap = spread / self._in_flight
        self._next = until + offset * self._gap
        self._spread_end = until + spread

    def succeeded(self, sent: float) -> None:
        """A request that was sent at `sent` was not throttled."""
        if self.strikes and sent >= self._until:
            self.strikes = 0

    def opens(self, now: float) -> float:
        """When the next request may start; a moment not after `now` means at once."""
        if self.active and now >= self._spread_end:
            self.active = False
        return self._next if self.active else now

    def start(self, now: float) -> None:
        """A request starts now; `opens` allowed it."""
        self._next = max(self._next, now) + self._gap

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


class RepeatBudget:
    """A token bucket for requests that repeat others after a 5xx or no answer.

    Fed by first attempts, full at the start, never deeper than `capacity`: however the server
    fails, repeats number at most `ratio` for each first attempt, plus `capacity`.
    """

    def __init__(self, ratio: float, capacity: float) -> None:
        self._ratio = ratio
        self._capacity = capacity
        self._tokens = capacity

    @property
    def full(self) -> bool:
        """Whether first attempts add nothing."""
        return self._tokens >= self._capacity

    def first_attempt(self) -> None:
        """A request that repeats nothing was sent."""
        if self._tokens < self._capacity:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take the token of one repeat, if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


Waiting = TypeVar("Waiting", bound=Hashable)


class Outage(Generic[Waiting]):
    """Bulk work that found the repeat budget empty: it waits, and one at a time probes the server.

    While the outage lasts no bulk request is sent but the probes, one for each backoff. They take
    turns: one that always fails by its own fault must not make all others wait. The first success
    ends it; those still waiting then go one by one, as the budget fills or the backoff ends.

    Args:
        in_flight: with more than so many waiting, bulk work stops although some of it succeeds.
        backoff: seconds to wait after so many failed probes.
    """

    def __init__(self, in_flight: int, backoff: Callable[[int], float]) -> None:
        self._in_flight = in_flight
        self._backoff = backoff
        self.waiting: deque[Waiting] = deque()
        """Those that failed and found no token, in the order of their turns."""
        self.lasts = False
        """From the first failure without a token to the first success."""
        self.blocks = False
        """Whether bulk work that is not a probe has to wait."""
        self._failures = 0
        self._turns = 0
        self._next_probe = 0.0
        self.probe: Waiting | None = None
        """The one whose answer decides how the outage goes on."""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def _decide(self) -> None:
        self.blocks = self.lasts or len(self.waiting) > self._in_flight

    def add(self, one: Waiting, now: float) -> None:
        """`one` failed and found no token, or it was the probe."""
        if one is self.probe or not self.lasts:
            self._failures += 1
            self._next_probe = now + self._backoff(self._failures)
            self.probe = None
        self.lasts = True
        self.waiting.append(one)
        self._decide()

    def succeeded(self) -> None:
        """The server answered a request as it should: it is back."""
        self.lasts = False
        self._failures = 0
        self.probe = None
        self._decide()

    def discard(self, one: Waiting) -> None:
        """`one` neither waits nor probes any longer."""
        if one is self.probe:
            self.probe = None
        else:
            self.waiting.remove(one)
        if not self.waiting and self.probe is None:
            self.lasts = False
        self._decide()

    def opens(self) -> float:
        """When `release` will have something, should no token come before; inf for never."""
        waits_for_probe = self.lasts and self.probe is not None
        return math.inf if waits_for_probe or not self.waiting else self._next_probe

    @property
    def wants_another(self) -> bool:
        """Whether all that wait had their turn, and one that did not fail itself may probe."""
        return self.lasts and self._turns >= len(self.waiting)

    def probe_with(self, one: Waiting, now: float) -> None:
        """Let `one`, which did not fail itself, be the probe that is due."""
        self._turns = 0
        self._next_probe = now + self._backoff(self._failures + 1)
        self.probe = one

    def release(self, now: float, budget: RepeatBudget) -> Waiting | None:
        """The one that may go now, if any."""
        if now >= self.opens():
            self._next_probe = now + self._backoff(self._failures + 1)
            one = self.waiting.popleft()
            if self.lasts:
                self.probe = one
                self._turns += 1
        elif self.waiting and not self.lasts and budget.take():
            one = self.waiting.popleft()
        else:
            return None
        self._decide()
        return one
