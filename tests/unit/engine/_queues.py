"""What is done to lanes over and over in their tests."""

from __future__ import annotations

import itertools

from cognigy_async import ServerError
from cognigy_async.engine.dialog_queue import Lane, LaneState
from cognigy_async.engine.ready_queues import Lanes
from cognigy_async.engine.work_item import Entry
from tests.unit._builders import entry

IDLE, READY, IN_FLIGHT = LaneState.IDLE, LaneState.READY, LaneState.IN_FLIGHT
WAITING, PAUSED = LaneState.WAITING, LaneState.PAUSED

serials = itertools.count(1)


def accept(lanes: Lanes, dialog_id: str, *, live: bool = False, exempt: bool = False) -> Entry:
    made = entry(dialog_id=dialog_id, serial=next(serials), live=live, exempt=exempt)
    lanes.accept(made)
    return made


def take(lanes: Lanes, **which: bool) -> Lane:
    lane = lanes.take(**which)
    assert lane is not None
    return lane


def settle(lanes: Lanes, lane: Lane) -> Entry:
    """The head has its outcome."""
    head = lane.first
    lane.remove(head)
    lanes.next_or_drop(lane)
    return head


def lane_of(lanes: Lanes, dialog_id: str) -> Lane:
    lane = lanes.get(dialog_id)
    assert lane is not None
    return lane


def places(lanes: Lanes) -> int:
    """Everything that the lanes remember, in whichever container."""
    return sum(len(part) for part in vars(lanes).values() if hasattr(part, "__len__"))


def settle_and_pause(lanes: Lanes, lane: Lane) -> None:
    """The head failed, and what follows is held."""
    lane.remove(lane.first)
    lanes.pause(lane, ServerError("failed"))
