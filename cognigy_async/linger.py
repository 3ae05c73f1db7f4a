"""Lanes that wait a moment, so that more updates can go into their next request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .groups import joins
from .lane import Lane, LaneState
from .lanes import Lanes

if TYPE_CHECKING:
    from .entries import Entry


class Linger:
    """Says how long a lane waits, counted from the acceptance of its head.

    It does not wait for what cannot come: once something stands behind that may not share the
    request, or where its deadline would pass, it goes at its turn.
    """

    def __init__(self, lanes: Lanes, seconds: float) -> None:
        self._lanes = lanes
        self._seconds = seconds
        self._ended = -1

    def until(self, lane: Lane) -> float:
        """The moment until which a lane waits; one in the past for not at all."""
        head = lane.first
        if not head.coalesces or head.sent_at is not None or head.serial <= self._ended:
            return 0.0
        if lane.behind and not all(joins(head, entry) for entry in lane.behind):
            return 0.0
        until = head.accepted_at + self._seconds
        deadline = head.terms.deadline
        return until if deadline is None or until < deadline else 0.0

    def accepted(self, entry: Entry) -> None:
        """An entry came to the end of its lane: it may be what ends the waiting."""
        lane = entry.lane
        assert lane is not None
        if entry is not lane.head and not joins(lane.first, entry):
            self._wake(lane)

    def end(self, serial: int) -> None:
        """Nothing that was accepted up to this serial number waits any more."""
        self._ended = serial
        for lane in self._lanes:
            self._wake(lane)

    def _wake(self, lane: Lane) -> None:
        """Whoever takes the lane looks again whether it has to wait for something else."""
        unsent = lane.state is LaneState.WAITING and lane.first.sent_at is None
        if unsent and lane.until != math.inf:
            self._lanes.ready(lane)
