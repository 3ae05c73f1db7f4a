"""Hold back bulk work while the server does not answer, and probe the server.

Everything takes `now` (seconds of a monotonic clock) as an argument.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from ..retry import RetryBudget

Waiting = TypeVar("Waiting", bound=Hashable)


class Outage(Generic[Waiting]):
    """The dialogs whose bulk work waits because the retry budget was empty.

    While the outage lasts, the only bulk requests are probes, one for each backoff. The waiting
    dialogs take turns to probe, since one of them may cause its failure itself. A success ends
    the outage; the dialogs still waiting are then released one by one, by budget or backoff.

    Args:
        in_flight: number of waiting dialogs above which bulk work stops even after a success.
        backoff: returns the seconds to wait after a number of failed probes.
    """

    def __init__(self, in_flight: int, backoff: Callable[[int], float]) -> None:
        self._in_flight = in_flight
        self._backoff = backoff
        # OrderedDict, because dialogs that are given up are removed from the middle in O(1).
        self.waiting: OrderedDict[Waiting, None] = OrderedDict()
        """Dialogs that wait, in the order of their turns."""
        self.lasts = False
        """True from the first failure with an empty budget until the next success."""
        self.blocks = False
        """True if bulk work other than probes has to wait."""
        self._failures = 0
        self._turns = 0
        self._next_probe = 0.0
        self.probe: Waiting | None = None
        """The dialog whose response decides whether the outage ends."""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def _decide(self) -> None:
        self.blocks = self.lasts or len(self.waiting) > self._in_flight

    def add(self, one: Waiting, now: float) -> None:
        """Add a waiting dialog: its retry found the budget empty, or its probe failed."""
        if one is self.probe or not self.lasts:
            self._failures += 1
            self._next_probe = now + self._backoff(self._failures)
            self.probe = None
        self.lasts = True
        self.waiting[one] = None
        self._decide()

    def succeeded(self) -> None:
        """End the outage: the server answered a request."""
        self.lasts = False
        self._failures = 0
        self.probe = None
        self._decide()

    def discard(self, one: Waiting) -> None:
        """Remove a dialog that waits or is the probe."""
        if one is self.probe:
            self.probe = None
        else:
            del self.waiting[one]
        if not self.waiting and self.probe is None:
            self.lasts = False
        self._decide()

    def next_probe_at(self) -> float:
        """Return the time from which `release` returns a probe; infinity for never."""
        waits_for_probe = self.lasts and self.probe is not None
        return math.inf if waits_for_probe or not self.waiting else self._next_probe

    @property
    def wants_another(self) -> bool:
        """Return whether all waiting dialogs had a turn, so that a new dialog may probe."""
        return self.lasts and self._turns >= len(self.waiting)

    def probe_with(self, one: Waiting, now: float) -> None:
        """Use a dialog that has not failed as the next probe."""
        self._turns = 0
        self._next_probe = now + self._backoff(self._failures + 1)
        self.probe = one

    def release(self, now: float, budget: RetryBudget) -> Waiting | None:
        """Return a dialog that may send its request now, or None."""
        if now >= self.next_probe_at():
            self._next_probe = now + self._backoff(self._failures + 1)
            one, _ = self.waiting.popitem(last=False)
            if self.lasts:
                self.probe = one
                self._turns += 1
        elif self.waiting and not self.lasts and budget.take():
            one, _ = self.waiting.popitem(last=False)
        else:
            return None
        self._decide()
        return one
