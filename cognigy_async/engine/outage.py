"""Bulk work that waits while the server is away, and the probes that ask for it.

Everything takes `now` (seconds of a monotonic clock) as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from ..retry import RetryBudget

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

    def next_slot_at(self) -> float:
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

    def release(self, now: float, budget: RetryBudget) -> Waiting | None:
        """The one that may go now, if any."""
        if now >= self.next_slot_at():
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
