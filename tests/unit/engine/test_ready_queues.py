"""The queues of the dialogs: order, turns, waiting, and that nothing is lost or sent twice."""

from __future__ import annotations

import math

import pytest

from cognigy_async import ServerError
from cognigy_async.engine.dialog_queue import DialogQueue
from cognigy_async.engine.ready_queues import ReadyQueues
from cognigy_async.engine.work_item import Group, Kind, WorkItem
from tests.steps import Steps
from tests.unit._builders import item

from ._queues import (
    IN_FLIGHT,
    PAUSED,
    READY,
    accept,
    complete,
    free_slots,
    lane_of,
    serials,
    settle_and_pause,
    take,
)


def group_of(*members: WorkItem) -> WorkItem:
    group = item(
        live=members[0].live, from_callback=any(member.from_callback for member in members)
    )
    group.group = Group(members)
    return group


# One lane.


# Turns.


def test_the_updates_of_a_dialog_come_in_their_order_and_one_at_a_time() -> None:
    queues = ReadyQueues()
    made = [accept(queues, "d", live=number % 2 == 1) for number in range(4)]
    seen = []
    for _ in made:
        queue = take(queues)
        assert queue.state is IN_FLIGHT
        assert queues.take() is None
        seen.append(complete(queues, queue))
    assert seen == made
    assert queues.take() is None


@pytest.mark.parametrize("live", [True, False])
def test_dialogs_take_turns_and_a_hot_one_starves_nobody(live: bool) -> None:
    queues = ReadyQueues()
    for _ in range(5):
        accept(queues, "hot", live=live)
    for name in ("a", "b"):
        accept(queues, name, live=live)
        accept(queues, name, live=live)
    order = [complete(queues, take(queues)).dialog_id for _ in range(9)]
    assert order == ["hot", "a", "b", "hot", "a", "b", "hot", "hot", "hot"]


def test_live_work_goes_first_and_bulk_has_every_tenth_turn() -> None:
    queues = ReadyQueues()
    for number in range(40):
        accept(queues, f"bulk-{number}")
        accept(queues, f"live-{number}", live=True)
    order = [complete(queues, take(queues)).dialog_id for _ in range(80)]
    kinds = [name.split("-")[0] for name in order]
    assert kinds[:40] == (["live"] * 9 + ["bulk"]) * 4
    assert kinds.count("bulk") == 40
    for kind in ("live", "bulk"):
        assert [name for name in order if kind in name] == [f"{kind}-{n}" for n in range(40)]


def test_the_turn_of_bulk_work_is_not_lost_on_others_when_there_is_none() -> None:
    queues = ReadyQueues()
    for number in range(20):
        accept(queues, f"live-{number}", live=True)
    assert [complete(queues, take(queues)).dialog_id for _ in range(20)] == [
        f"live-{number}" for number in range(20)
    ]


def test_without_bulk_none_is_taken_at_any_turn() -> None:
    queues = ReadyQueues()
    accept(queues, "bulk")
    for _ in range(25):
        accept(queues, "live", live=True)
        assert complete(queues, take(queues, bulk=False)).dialog_id == "live"
    assert queues.take(bulk=False) is None
    assert take(queues).dialog_id == "bulk"


def test_what_a_callback_waits_for_goes_before_all() -> None:
    queues = ReadyQueues()
    accept(queues, "live", live=True)
    accept(queues, "bulk")
    accept(queues, "inside", live=True, from_callback=True)
    assert take(queues).dialog_id == "inside"
    assert take(queues).dialog_id == "live"


@pytest.mark.parametrize("bulk", [True, False])
def test_with_the_callbacks_queues_full_only_what_has_its_place_goes_on(bulk: bool) -> None:
    queues = ReadyQueues()
    for live in (True, False):
        accept(queues, f"begun {live}", live=live).sent_at = 1.0
    begun = [take(queues), take(queues)]
    for live in (True, False):
        accept(queues, f"new {live}", live=live)
    for queue in begun:
        queues.ready(queue)
    accept(queues, "inside", from_callback=True)
    queues.accept(read := item(Kind.READ, "read", serial=next(serials)), DialogQueue("read"))
    expected = ["inside", "begun True", "read"] + (["begun False"] if bulk else [])
    took = [take(queues, reserved_only=True, bulk=bulk) for _ in expected]
    assert [queue.dialog_id for queue in took] == expected
    assert all(queue.state is IN_FLIGHT for queue in took)
    assert read in [queue.first for queue in took]
    assert queues.take(reserved_only=True, bulk=bulk) is None
    assert [take(queues).dialog_id, take(queues).dialog_id] == ["new True", "new False"]


@pytest.mark.parametrize("others", [10, 1000])
def test_with_the_callbacks_queues_full_the_others_are_not_searched(others: int) -> None:
    queues = ReadyQueues()
    begun = [accept(queues, f"begun {number}") for number in range(3)]
    for queue in [take(queues) for _ in begun]:
        queue.first.sent_at = 1.0
        queues.wait(queue, 1.0)
    for number in range(others):
        accept(queues, f"new {number}")
    queues.due(1.0)
    with Steps() as steps:
        took = [take(queues, reserved_only=True).first for _ in begun]
        assert queues.take(reserved_only=True) is None
    assert took == begun
    assert steps.count < 150
    assert [take(queues).dialog_id for _ in range(others)] == [f"new {n}" for n in range(others)]


def test_a_queue_that_has_its_place_keeps_its_turn_when_the_callbacks_have_room() -> None:
    queues = ReadyQueues()
    first = accept(queues, "first")
    queue = take(queues)
    first.sent_at = 1.0
    for name in ("second", "third"):
        accept(queues, name)
    queues.ready(queue, first=True)
    assert take(queues).first is first
    queues.ready(queue)
    assert [take(queues).dialog_id for _ in range(3)] == ["second", "third", "first"]


def test_what_stands_before_a_live_update_is_lifted_with_it() -> None:
    queues = ReadyQueues()
    accept(queues, "other")
    behind = [accept(queues, "d"), accept(queues, "d"), accept(queues, "d", live=True)]
    seen = [complete(queues, take(queues)) for _ in range(3)]
    assert seen == behind
    # The place that it left behind in the other queue is nobody's.
    assert take(queues).dialog_id == "other"
    assert queues.take() is None


def test_what_stands_before_a_callbacks_update_is_lifted_with_it() -> None:
    queues = ReadyQueues()
    accept(queues, "other", live=True)
    behind = [
        accept(queues, "d"),
        accept(queues, "d", live=True),
        accept(queues, "d", from_callback=True),
    ]
    assert [complete(queues, take(queues)) for _ in range(3)] == behind


@pytest.mark.parametrize("state", ["in flight", "waiting", "paused"])
def test_a_lane_that_is_not_ready_is_not_made_so_by_an_update(state: str) -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    queue = take(queues)
    if state == "waiting":
        queues.wait(queue, 5.0)
    elif state == "paused":
        settle_and_pause(queues, queue)
    accept(queues, "d", live=True)
    accept(queues, "d", from_callback=True)
    assert queues.take() is None
    # It is lifted when it is ready again.
    accept(queues, "other", live=True)
    if state == "in flight":
        complete(queues, queue)
    elif state == "waiting":
        assert queues.due(5.0) == 1
    else:
        queues.resume(queue)
    assert take(queues) is queue


def test_a_lane_may_be_put_first_in_its_class_or_before_all() -> None:
    queues = ReadyQueues()
    for name in ("a", "b", "c"):
        accept(queues, name)
    queues.ready(take(queues), first=True)
    assert take(queues).dialog_id == "a"
    queue = take(queues)
    queues.wait(queue, math.inf)
    queues.ready(queue, urgent=True)
    accept(queues, "live", live=True)
    assert take(queues, bulk=False) is queue


def test_the_next_bulk_lane_can_be_put_before_all() -> None:
    queues = ReadyQueues()
    assert queues.promote_bulk() is None
    accept(queues, "gone")
    accept(queues, "lifted")
    accept(queues, "lifted", live=True)
    accept(queues, "bulk")
    queues.remove(lane_of(queues, "gone").first)
    queue = queues.promote_bulk()
    assert queue is lane_of(queues, "bulk")
    assert queue.state is READY
    assert queues.promote_bulk() is None
    assert take(queues, bulk=False) is queue
    assert take(queues).dialog_id == "lifted"


def test_the_first_live_queue_can_be_taken_out_of_turn() -> None:
    queues = ReadyQueues()
    assert list(queues.first_live()) == []
    accept(queues, "bulk")
    accept(queues, "live", live=True)
    [queue] = queues.first_live()
    assert queue.dialog_id == "live"
    assert queue.state is READY
    queues.take_first(queue)
    assert queue.state is IN_FLIGHT
    assert list(queues.first_live()) == []


def test_the_first_live_queue_of_a_callback_counts_and_a_promoted_bulk_queue_does_not() -> None:
    queues = ReadyQueues()
    accept(queues, "bulk")
    accept(queues, "live", live=True)
    queues.promote_bulk()
    assert [queue.dialog_id for queue in queues.first_live()] == ["live"]
    queues = ReadyQueues()
    accept(queues, "live", live=True)
    accept(queues, "urgent", live=True, from_callback=True)
    assert [queue.dialog_id for queue in queues.first_live()] == ["urgent", "live"]


# Waiting.


def test_a_lane_waits_until_its_moment_and_not_less() -> None:
    queues = ReadyQueues()
    for name, until in (("a", 7.0), ("b", 5.0), ("c", 6.0)):
        accept(queues, name)
        queues.wait(take(queues), until)
    assert queues.next_due() == 5.0
    assert queues.due(4.999) == 0
    assert queues.take() is None
    assert queues.due(6.0) == 2
    assert [take(queues).dialog_id, take(queues).dialog_id] == ["b", "c"]
    assert (queues.take(), queues.next_due()) == (None, 7.0)
    assert queues.due(100.0) == 1
    assert queues.next_due() == math.inf


def test_who_waits_without_end_is_woken_by_someone_else() -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    queue = take(queues)
    queues.wait(queue, math.inf)
    assert queues.next_due() == math.inf
    assert queues.due(1e300) == 0
    queues.ready(queue)
    assert take(queues) is queue


def test_a_moment_that_no_longer_counts_wakes_nobody() -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    queue = take(queues)
    queues.wait(queue, 5.0)
    queues.ready(queue)
    queues.wait(take(queues), 9.0)
    assert queues.next_due() == 9.0
    assert queues.due(5.0) == 0
    # Twice the same moment is one.
    queues.ready(queue)
    queues.wait(take(queues), 9.0)
    assert queues.due(9.0) == 1


def test_waiting_counts_the_lanes_that_are_ready() -> None:
    queues = ReadyQueues()
    assert queues.waiting() == 0
    for number in range(5):
        accept(queues, f"d-{number}", live=number % 2 == 0)
        accept(queues, f"d-{number}")
    assert queues.waiting() == 5
    take(queues)
    assert queues.waiting() == 4
    accept(queues, "inside", from_callback=True)
    assert queues.waiting() == 5


# Taking out.


def test_an_entry_is_taken_out_wherever_it_stands() -> None:
    queues = ReadyQueues()
    first, second, third = (accept(queues, "d") for _ in range(3))
    queues.remove(second)
    queues.remove(first)
    assert take(queues).first is third
    with pytest.raises(AssertionError, match="in no queue"):
        queues.remove(second)


def test_without_its_last_entry_a_lane_is_gone() -> None:
    queues = ReadyQueues()
    queues.remove(accept(queues, "d"))
    assert queues.get("d") is None
    assert queues.take() is None
    again = accept(queues, "d")
    assert take(queues).first is again


def test_when_the_head_of_a_ready_lane_is_settled_the_next_has_its_turn() -> None:
    queues = ReadyQueues()
    for name in ("d", "d", "other"):
        accept(queues, name)
    complete(queues, lane_of(queues, "d"))
    assert [take(queues).dialog_id, take(queues).dialog_id] == ["d", "other"]
    assert queues.take() is None


def test_behind_a_request_in_flight_entries_may_go() -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    behind = accept(queues, "d")
    queue = take(queues)
    queues.remove(behind)
    assert queue.state is IN_FLIGHT
    complete(queues, queue)
    assert queues.get("d") is None


def test_when_the_head_of_a_waiting_lane_goes_the_next_does_not_wait() -> None:
    queues = ReadyQueues()
    head, second, third = (accept(queues, "d") for _ in range(3))
    queue = take(queues)
    queues.wait(queue, 50.0)
    queues.remove(third)
    assert queues.take() is None
    queues.remove(head)
    assert queues.next_due() == math.inf
    assert take(queues).first is second


def test_a_paused_lane_holds_what_follows_until_it_is_resumed() -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    waits_when_paused = accept(queues, "d")
    queue = take(queues)
    settle_and_pause(queues, queue)
    assert (queue.state, queues.take(), queues.next_due()) == (PAUSED, None, math.inf)
    assert isinstance(queue.remember().paused_by, ServerError)
    assert (queues.paused, queues.active) == ({"d": queue}, 0)
    later = accept(queues, "d", live=True)
    queues.remove(waits_when_paused)
    assert queue.state is PAUSED
    queues.resume(queue)
    assert queue.remember().paused_by is None
    assert (queues.paused, queues.active) == ({}, 1)
    assert take(queues).first is later


def test_a_paused_lane_is_remembered_although_it_holds_nothing() -> None:
    queues = ReadyQueues()
    accept(queues, "d")
    settle_and_pause(queues, take(queues))
    waits_when_paused = accept(queues, "d")
    queues.remove(waits_when_paused)
    assert lane_of(queues, "d").state is PAUSED
    queues.resume(lane_of(queues, "d"))
    assert queues.get("d") is None


def test_a_read_has_a_lane_that_stands_alone() -> None:
    queues = ReadyQueues()
    write = accept(queues, "d")
    read = item(Kind.READ, "d", serial=next(serials), live=True)
    alone = DialogQueue("d")
    queues.accept(read, alone)
    assert (take(queues).first, take(queues).first) == (read, write)
    complete(queues, alone)
    assert lane_of(queues, "d").first is write


# Memory.


def test_nothing_is_remembered_of_dialogs_without_work() -> None:
    queues = ReadyQueues()
    for number in range(3000):
        for live in (False, True):
            accept(queues, f"d-{number}", live=live)
        queue = take(queues)
        queues.wait(queue, float(number))
        queues.due(float(number))
        for _ in range(2):
            complete(queues, take(queues))
    assert len(queues) == 0
    assert list(queues) == []
    assert queues.next_due() == math.inf
    assert queues.take() is None
    assert free_slots(queues) == 0
    assert "empty" in repr(queues)


@pytest.mark.parametrize("live", [True, False])
def test_nothing_is_remembered_of_what_was_taken_out(live: bool) -> None:
    # Callers come and give up for as long as a pause of the tenant lasts, and nobody takes.
    queues = ReadyQueues()
    for number in range(3000):
        queues.remove(accept(queues, f"d-{number}", live=live))
    assert queues.waiting() < 1000
    assert free_slots(queues) < 1000


def test_nothing_is_remembered_of_moments_that_no_longer_count() -> None:
    queues = ReadyQueues()
    for number in range(3000):
        waiting = accept(queues, f"d-{number}")
        queues.wait(take(queues), 1e6)
        queues.remove(waiting)
    assert free_slots(queues) < 1000


def test_among_moments_that_no_longer_count_the_others_keep_their_order() -> None:
    queues = ReadyQueues()
    count = 5000
    for number in range(count):
        accept(queues, f"d-{number}")
        # Far apart, in no order.
        queues.wait(take(queues), float(number * 3701 % count))
    kept = [number for number in range(count) if number % 10 == 0]
    for number in set(range(count)) - set(kept):
        queues.remove(lane_of(queues, f"d-{number}").first)
    accept(queues, "d-new")
    queues.wait(take(queues), float(count))
    moments = []
    while queues.next_due() < count:
        moments.append(queues.next_due())
        assert queues.due(moments[-1]) == 1
    assert moments == sorted(float(number * 3701 % count) for number in kept)


@pytest.mark.parametrize("full", [True, False])
def test_nothing_is_remembered_of_turns_that_were_taken(full: bool) -> None:
    # One dialog goes on and on, and another may not while a callback's queue is full.
    queues = ReadyQueues()
    accept(queues, "on and on").sent_at = 1.0
    queue = take(queues)
    accept(queues, "blocked", live=True)
    accept(queues, "on and on", live=True)
    for _ in range(5000):
        queues.ready(queue, first=not full)
        assert take(queues, reserved_only=full) is queue
    assert free_slots(queues) < 2500


def test_the_repr_counts_by_state() -> None:
    queues = ReadyQueues()
    for name in ("a", "b", "c"):
        accept(queues, name)
    queues.wait(take(queues), 1.0)
    assert "2 READY" in repr(queues)
    assert "1 WAITING" in repr(queues)


@pytest.mark.parametrize("behind", [0, 2])
def test_a_group_stands_for_its_members(behind: int) -> None:
    queues = ReadyQueues()
    members = [accept(queues, "d", live=True, from_callback=serial == 1) for serial in range(3)]
    rest = [accept(queues, "d") for _ in range(behind)]
    queue = take(queues)
    group = group_of(*members)
    queue.join(group)
    assert queue.first is group
    assert queue.work_items == [*members, *rest]
    assert queue.size == 3 + behind
    assert {one.queue for one in (*queue.work_items, group)} == {queue}
    # One head, whatever it carries.
    assert (queue.live, queue.from_callback) == (1, 1)
    queue.remove(group)
    assert (queue.live, queue.from_callback) == (0, 0)
    assert queue.work_items == rest
