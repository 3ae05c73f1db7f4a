"""What is done to lanes over and over in their tests."""

from __future__ import annotations

import itertools

from cognigy_async import ServerError
from cognigy_async.engine.dialog_queue import DialogQueue, QueueState
from cognigy_async.engine.ready_queues import ReadyQueues
from cognigy_async.engine.work_item import WorkItem
from tests.unit._builders import item

IDLE, READY, IN_FLIGHT = QueueState.IDLE, QueueState.READY, QueueState.IN_FLIGHT
WAITING, PAUSED = QueueState.WAITING, QueueState.PAUSED
RECORDING = QueueState.RECORDING

serials = itertools.count(1)


def accept(
    queues: ReadyQueues, dialog_id: str, *, live: bool = False, from_callback: bool = False
) -> WorkItem:
    made = item(dialog_id=dialog_id, serial=next(serials), live=live, from_callback=from_callback)
    queues.accept(made)
    return made


def take(queues: ReadyQueues, **which: bool) -> DialogQueue:
    queue = queues.take(**which)
    assert queue is not None
    return queue


def complete(queues: ReadyQueues, queue: DialogQueue) -> WorkItem:
    """The head has its outcome."""
    head = queue.first
    queue.remove(head)
    queues.next_or_drop(queue)
    return head


def lane_of(queues: ReadyQueues, dialog_id: str) -> DialogQueue:
    queue = queues.get(dialog_id)
    assert queue is not None
    return queue


def free_slots(queues: ReadyQueues) -> int:
    """Everything that the lanes remember, in whichever container."""
    return sum(len(part) for part in vars(queues).values() if hasattr(part, "__len__"))


def settle_and_pause(queues: ReadyQueues, queue: DialogQueue) -> None:
    """The head failed, and what follows is held."""
    queue.remove(queue.first)
    queues.pause(queue, ServerError("failed"))
