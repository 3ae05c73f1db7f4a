"""The queue of one dialog: order, states, groups."""

from __future__ import annotations

import inspect
import itertools

import pytest

from cognigy_async.engine.dialog_queue import DialogQueue, QueueState
from cognigy_async.engine.work_item import Kind
from tests.unit._builders import item

from ._queues import (
    IDLE,
    IN_FLIGHT,
    PAUSED,
    READY,
    RECORDING,
    WAITING,
)

MOVES = {
    IDLE: {READY},
    READY: {IN_FLIGHT, IDLE, PAUSED, RECORDING},
    IN_FLIGHT: {READY, WAITING, PAUSED, IDLE, RECORDING},
    WAITING: {READY, PAUSED, IDLE, RECORDING},
    PAUSED: {READY, IDLE},
    RECORDING: {READY, IDLE, PAUSED},
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(QueueState, QueueState)))
def test_a_queue_changes_only_to_legal_states(before: QueueState, after: QueueState) -> None:
    queue = DialogQueue("d")
    queue.state = before
    if after in MOVES[before]:
        queue.move(after)
        assert queue.state is after
    else:
        with pytest.raises(AssertionError, match=f"cannot go from {before.name} to {after.name}"):
            queue.move(after)
        assert queue.state is before


def test_the_docstring_has_the_legal_changes() -> None:
    # Python 3.13 takes the indentation out of docstrings by itself.
    text = inspect.getdoc(QueueState) or ""
    table = text.split("=========\n")[2].split("=========")[0] if "=========\n" in text else text
    told: dict[str, set[str]] = {}
    state = ""
    for line in table.splitlines():
        words = line.split()
        if line[:5].strip() and words and words[0] in QueueState.__members__:
            state = words[0]
        goes_to = line[46:]
        told.setdefault(state, set()).update(
            name for name in QueueState.__members__ if f"{name}:" in goes_to
        )
    assert {before.name: {after.name for after in MOVES[before]} for before in MOVES} == {
        name: told[name] for name in QueueState.__members__
    }


def test_items_keep_their_order_and_leave_from_anywhere() -> None:
    queue = DialogQueue("d")
    made = [
        item(serial=number, live=number % 2 == 0, from_callback=number == 3) for number in range(5)
    ]
    for one in made:
        queue.append(one)
    assert queue.work_items == made
    assert list(queue.newest()) == made[::-1]
    assert queue.size == 5
    assert queue.first is made[0]
    assert (queue.live, queue.from_callback) == (3, 1)
    for gone in (made[2], made[0], made[4]):
        queue.remove(gone)
        assert gone.queue is None
    assert queue.work_items == [made[1], made[3]]
    assert all(one.queue is queue for one in queue.work_items)
    assert (queue.live, queue.from_callback) == (0, 1)
    queue.remove(made[1])
    queue.remove(made[3])
    assert queue.head is None
    assert queue.size == 0
    assert list(queue.newest()) == []
    with pytest.raises(AssertionError, match="has no head"):
        _ = queue.first
    queue.append(made[1])
    assert queue.work_items == [made[1]]
    assert "READY" not in repr(queue)
    assert "1 items" in repr(queue)


def test_updates_of_dead_processes_come_first_but_not_before_a_head_under_way() -> None:
    def inserted(state: QueueState, **changes: object) -> list[int]:
        queue = DialogQueue("d")
        queue.state = state
        for serial in (1, 2):
            queue.append(item(serial=serial))
        for name, value in changes.items():
            setattr(queue.first, name, value)
        for serials in ((8, 9), (10,)):
            queue.insert([item(Kind.RESOLVE, serial=serial) for serial in serials])
        assert [each.queue for each in queue.work_items] == [queue] * 5
        return [int(each.update_id[2:]) for each in queue.work_items]

    assert inserted(READY) == inserted(WAITING) == inserted(PAUSED) == [8, 9, 10, 1, 2]
    assert inserted(IN_FLIGHT) == inserted(RECORDING) == [1, 8, 9, 10, 2]
    assert inserted(WAITING, sent_at=1.0) == [1, 8, 9, 10, 2]
    assert inserted(READY, record=object()) == [1, 8, 9, 10, 2]


def test_inserted_updates_have_the_serial_of_the_next_one() -> None:
    queue = DialogQueue("d")
    queue.state = IN_FLIGHT
    queue.append(item(serial=1))
    queue.insert([item(Kind.RESOLVE, serial=5)])
    queue.append(item(serial=6))
    queue.insert([item(Kind.RESOLVE, serial=7)])
    assert [each.serial for each in queue.work_items] == [1, 5, 6, 6]
