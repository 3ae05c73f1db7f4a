"""The queues of the dialogs: order, turns, waiting, and that nothing is lost or sent twice."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest

from cognigy_async import ServerError
from cognigy_async.engine.dialog_queue import Lane, LaneState
from cognigy_async.engine.ready_queues import Lanes
from cognigy_async.engine.work_item import Entry, Kind
from tests.unit._builders import entry

from ._queues import (
    IDLE,
    IN_FLIGHT,
    PAUSED,
    READY,
    WAITING,
    accept,
    lane_of,
    places,
    serials,
    settle,
    settle_and_pause,
    take,
)


def group_of(*members: Entry) -> Entry:
    group = entry(live=members[0].live, exempt=any(member.exempt for member in members))
    group.members = members
    return group


MOVES = {
    IDLE: {READY},
    READY: {IN_FLIGHT, IDLE, PAUSED},
    IN_FLIGHT: {READY, WAITING, PAUSED, IDLE},
    WAITING: {READY, PAUSED, IDLE},
    PAUSED: {READY, IDLE},
}

# One lane.


@pytest.mark.parametrize(("before", "after"), list(itertools.product(LaneState, LaneState)))
def test_a_lane_goes_only_where_it_may(before: LaneState, after: LaneState) -> None:
    lane = Lane("d")
    lane.state = before
    if after in MOVES[before]:
        lane.move(after)
        assert lane.state is after
    else:
        with pytest.raises(AssertionError, match=f"cannot go from {before.name} to {after.name}"):
            lane.move(after)
        assert lane.state is before


def test_the_docstring_tells_the_legal_moves() -> None:
    # Python 3.13 takes the indentation out of docstrings by itself.
    text = inspect.getdoc(LaneState) or ""
    table = text.split("=========\n")[2].split("=========")[0] if "=========\n" in text else text
    told: dict[str, set[str]] = {}
    state = ""
    for line in table.splitlines():
        words = line.split()
        if line[:5].strip() and words and words[0] in LaneState.__members__:
            state = words[0]
        goes_to = line[46:]
        told.setdefault(state, set()).update(
            name for name in LaneState.__members__ if f"{name}:" in goes_to
        )
    assert {before.name: {after.name for after in MOVES[before]} for before in MOVES} == {
        name: told[name] for name in LaneState.__members__
    }


def test_entries_keep_their_order_and_go_from_anywhere() -> None:
    lane = Lane("d")
    made = [entry(serial=number, live=number % 2 == 0, exempt=number == 3) for number in range(5)]
    for one in made:
        lane.append(one)
    assert lane.entries == made
    assert lane.first is made[0]
    assert (lane.live, lane.exempt) == (3, 1)
    for gone in (made[2], made[0], made[4]):
        lane.remove(gone)
        assert gone.lane is None
    assert lane.entries == [made[1], made[3]]
    assert all(one.lane is lane for one in lane.entries)
    assert (lane.live, lane.exempt) == (0, 1)
    lane.remove(made[1])
    lane.remove(made[3])
    assert lane.head is None
    with pytest.raises(AssertionError, match="has no head"):
        _ = lane.first
    lane.append(made[1])
    assert lane.entries == [made[1]]
    assert "READY" not in repr(lane)
    assert "1 entries" in repr(lane)


# Turns.


def test_the_updates_of_a_dialog_come_in_their_order_and_one_at_a_time() -> None:
    lanes = Lanes()
    made = [accept(lanes, "d", live=number % 2 == 1) for number in range(4)]
    seen = []
    for _ in made:
        lane = take(lanes)
        assert lane.state is IN_FLIGHT
        assert lanes.take() is None
        seen.append(settle(lanes, lane))
    assert seen == made
    assert lanes.take() is None


@pytest.mark.parametrize("live", [True, False])
def test_dialogs_take_turns_and_a_hot_one_starves_nobody(live: bool) -> None:
    lanes = Lanes()
    for _ in range(5):
        accept(lanes, "hot", live=live)
    for name in ("a", "b"):
        accept(lanes, name, live=live)
        accept(lanes, name, live=live)
    order = [settle(lanes, take(lanes)).dialog_id for _ in range(9)]
    assert order == ["hot", "a", "b", "hot", "a", "b", "hot", "hot", "hot"]


def test_live_work_goes_first_and_bulk_has_every_tenth_turn() -> None:
    lanes = Lanes()
    for number in range(40):
        accept(lanes, f"bulk-{number}")
        accept(lanes, f"live-{number}", live=True)
    order = [settle(lanes, take(lanes)).dialog_id for _ in range(80)]
    kinds = [name.split("-")[0] for name in order]
    assert kinds[:40] == (["live"] * 9 + ["bulk"]) * 4
    assert kinds.count("bulk") == 40
    for kind in ("live", "bulk"):
        assert [name for name in order if kind in name] == [f"{kind}-{n}" for n in range(40)]


def test_the_turn_of_bulk_work_is_not_lost_on_others_when_there_is_none() -> None:
    lanes = Lanes()
    for number in range(20):
        accept(lanes, f"live-{number}", live=True)
    assert [settle(lanes, take(lanes)).dialog_id for _ in range(20)] == [
        f"live-{number}" for number in range(20)
    ]


def test_without_bulk_none_is_taken_at_any_turn() -> None:
    lanes = Lanes()
    accept(lanes, "bulk")
    for _ in range(25):
        accept(lanes, "live", live=True)
        assert settle(lanes, take(lanes, bulk=False)).dialog_id == "live"
    assert lanes.take(bulk=False) is None
    assert take(lanes).dialog_id == "bulk"


def test_what_a_callback_waits_for_goes_before_all() -> None:
    lanes = Lanes()
    accept(lanes, "live", live=True)
    accept(lanes, "bulk")
    accept(lanes, "inside", live=True, exempt=True)
    assert take(lanes).dialog_id == "inside"
    assert take(lanes).dialog_id == "live"


@pytest.mark.parametrize("bulk", [True, False])
def test_with_the_callbacks_queues_full_only_what_has_its_place_goes_on(bulk: bool) -> None:
    lanes = Lanes()
    for name in ("new", "begun"):
        for live in (True, False):
            accept(lanes, f"{name} {live}", live=live)
    for live in (True, False):
        lane_of(lanes, f"begun {live}").first.sent_at = 1.0
    accept(lanes, "inside", exempt=True)
    lanes.accept(read := entry(Kind.READ, "read", serial=next(serials)), Lane("read"))
    expected = ["inside", "begun True", "read"] + (["begun False"] if bulk else [])
    took = [take(lanes, placed=True, bulk=bulk) for _ in expected]
    assert [lane.dialog_id for lane in took] == expected
    assert all(lane.state is IN_FLIGHT for lane in took)
    assert read in [lane.first for lane in took]
    assert lanes.take(placed=True, bulk=bulk) is None
    assert [take(lanes).dialog_id, take(lanes).dialog_id] == ["new True", "new False"]


def test_what_stands_before_a_live_update_is_lifted_with_it() -> None:
    lanes = Lanes()
    accept(lanes, "other")
    behind = [accept(lanes, "d"), accept(lanes, "d"), accept(lanes, "d", live=True)]
    seen = [settle(lanes, take(lanes)) for _ in range(3)]
    assert seen == behind
    # The place that it left behind in the other queue is nobody's.
    assert take(lanes).dialog_id == "other"
    assert lanes.take() is None


def test_what_stands_before_a_callbacks_update_is_lifted_with_it() -> None:
    lanes = Lanes()
    accept(lanes, "other", live=True)
    behind = [accept(lanes, "d"), accept(lanes, "d", live=True), accept(lanes, "d", exempt=True)]
    assert [settle(lanes, take(lanes)) for _ in range(3)] == behind


@pytest.mark.parametrize("state", ["in flight", "waiting", "paused"])
def test_a_lane_that_is_not_ready_is_not_made_so_by_an_update(state: str) -> None:
    lanes = Lanes()
    accept(lanes, "d")
    lane = take(lanes)
    if state == "waiting":
        lanes.wait(lane, 5.0)
    elif state == "paused":
        settle_and_pause(lanes, lane)
    accept(lanes, "d", live=True)
    accept(lanes, "d", exempt=True)
    assert lanes.take() is None
    # It is lifted when it is ready again.
    accept(lanes, "other", live=True)
    if state == "in flight":
        settle(lanes, lane)
    elif state == "waiting":
        assert lanes.due(5.0) == 1
    else:
        lanes.resume(lane)
    assert take(lanes) is lane


def test_a_lane_may_be_put_first_in_its_class_or_before_all() -> None:
    lanes = Lanes()
    for name in ("a", "b", "c"):
        accept(lanes, name)
    lanes.ready(take(lanes), first=True)
    assert take(lanes).dialog_id == "a"
    lane = take(lanes)
    lanes.wait(lane, math.inf)
    lanes.ready(lane, urgent=True)
    accept(lanes, "live", live=True)
    assert take(lanes, bulk=False) is lane


def test_the_next_bulk_lane_can_be_put_before_all() -> None:
    lanes = Lanes()
    assert lanes.promote_bulk() is None
    accept(lanes, "gone")
    accept(lanes, "lifted")
    accept(lanes, "lifted", live=True)
    accept(lanes, "bulk")
    lanes.remove(lane_of(lanes, "gone").first)
    lane = lanes.promote_bulk()
    assert lane is lane_of(lanes, "bulk")
    assert lane.state is READY
    assert lanes.promote_bulk() is None
    assert take(lanes, bulk=False) is lane
    assert take(lanes).dialog_id == "lifted"


def test_the_next_live_lane_can_be_taken_out_of_turn() -> None:
    lanes = Lanes()
    assert lanes.take_live() is None
    accept(lanes, "bulk")
    accept(lanes, "live", live=True)
    lane = lanes.take_live()
    assert lane is not None
    assert lane.dialog_id == "live"
    assert lane.state is IN_FLIGHT
    assert lanes.take_live() is None


# Waiting.


def test_a_lane_waits_until_its_moment_and_not_less() -> None:
    lanes = Lanes()
    for name, until in (("a", 7.0), ("b", 5.0), ("c", 6.0)):
        accept(lanes, name)
        lanes.wait(take(lanes), until)
    assert lanes.next_due() == 5.0
    assert lanes.due(4.999) == 0
    assert lanes.take() is None
    assert lanes.due(6.0) == 2
    assert [take(lanes).dialog_id, take(lanes).dialog_id] == ["b", "c"]
    assert (lanes.take(), lanes.next_due()) == (None, 7.0)
    assert lanes.due(100.0) == 1
    assert lanes.next_due() == math.inf


def test_who_waits_without_end_is_woken_by_someone_else() -> None:
    lanes = Lanes()
    accept(lanes, "d")
    lane = take(lanes)
    lanes.wait(lane, math.inf)
    assert lanes.next_due() == math.inf
    assert lanes.due(1e300) == 0
    lanes.ready(lane)
    assert take(lanes) is lane


def test_a_moment_that_no_longer_counts_wakes_nobody() -> None:
    lanes = Lanes()
    accept(lanes, "d")
    lane = take(lanes)
    lanes.wait(lane, 5.0)
    lanes.ready(lane)
    lanes.wait(take(lanes), 9.0)
    assert lanes.next_due() == 9.0
    assert lanes.due(5.0) == 0
    # Twice the same moment is one.
    lanes.ready(lane)
    lanes.wait(take(lanes), 9.0)
    assert lanes.due(9.0) == 1


def test_waiting_counts_the_lanes_that_are_ready() -> None:
    lanes = Lanes()
    assert lanes.waiting() == 0
    for number in range(5):
        accept(lanes, f"d-{number}", live=number % 2 == 0)
        accept(lanes, f"d-{number}")
    assert lanes.waiting() == 5
    take(lanes)
    assert lanes.waiting() == 4
    accept(lanes, "inside", exempt=True)
    assert lanes.waiting() == 5


# Taking out.


def test_an_entry_is_taken_out_wherever_it_stands() -> None:
    lanes = Lanes()
    first, second, third = (accept(lanes, "d") for _ in range(3))
    lanes.remove(second)
    lanes.remove(first)
    assert take(lanes).first is third
    with pytest.raises(AssertionError, match="in no lane"):
        lanes.remove(second)


def test_without_its_last_entry_a_lane_is_gone() -> None:
    lanes = Lanes()
    lanes.remove(accept(lanes, "d"))
    assert lanes.get("d") is None
    assert lanes.take() is None
    again = accept(lanes, "d")
    assert take(lanes).first is again


def test_when_the_head_of_a_ready_lane_is_settled_the_next_has_its_turn() -> None:
    lanes = Lanes()
    for name in ("d", "d", "other"):
        accept(lanes, name)
    settle(lanes, lane_of(lanes, "d"))
    assert [take(lanes).dialog_id, take(lanes).dialog_id] == ["d", "other"]
    assert lanes.take() is None


def test_behind_a_request_in_flight_entries_may_go() -> None:
    lanes = Lanes()
    accept(lanes, "d")
    behind = accept(lanes, "d")
    lane = take(lanes)
    lanes.remove(behind)
    assert lane.state is IN_FLIGHT
    settle(lanes, lane)
    assert lanes.get("d") is None


def test_when_the_head_of_a_waiting_lane_goes_the_next_does_not_wait() -> None:
    lanes = Lanes()
    head, second, third = (accept(lanes, "d") for _ in range(3))
    lane = take(lanes)
    lanes.wait(lane, 50.0)
    lanes.remove(third)
    assert lanes.take() is None
    lanes.remove(head)
    assert lanes.next_due() == math.inf
    assert take(lanes).first is second


def test_a_paused_lane_holds_what_follows_until_it_is_resumed() -> None:
    lanes = Lanes()
    accept(lanes, "d")
    held = accept(lanes, "d")
    lane = take(lanes)
    settle_and_pause(lanes, lane)
    assert (lane.state, lanes.take(), lanes.next_due()) == (PAUSED, None, math.inf)
    assert isinstance(lane.paused_by, ServerError)
    later = accept(lanes, "d", live=True)
    lanes.remove(held)
    assert lane.state is PAUSED
    lanes.resume(lane)
    assert lane.paused_by is None
    assert take(lanes).first is later


def test_a_paused_lane_is_remembered_although_it_holds_nothing() -> None:
    lanes = Lanes()
    accept(lanes, "d")
    settle_and_pause(lanes, take(lanes))
    held = accept(lanes, "d")
    lanes.remove(held)
    assert lane_of(lanes, "d").state is PAUSED
    lanes.resume(lane_of(lanes, "d"))
    assert lanes.get("d") is None


def test_a_read_has_a_lane_that_stands_alone() -> None:
    lanes = Lanes()
    write = accept(lanes, "d")
    read = entry(Kind.READ, "d", serial=next(serials), live=True)
    alone = Lane("d")
    lanes.accept(read, alone)
    assert (take(lanes).first, take(lanes).first) == (read, write)
    settle(lanes, alone)
    assert lane_of(lanes, "d").first is write


# Memory.


def test_nothing_is_remembered_of_dialogs_without_work() -> None:
    lanes = Lanes()
    for number in range(3000):
        for live in (False, True):
            accept(lanes, f"d-{number}", live=live)
        lane = take(lanes)
        lanes.wait(lane, float(number))
        lanes.due(float(number))
        for _ in range(2):
            settle(lanes, take(lanes))
    assert len(lanes) == 0
    assert list(lanes) == []
    assert lanes.next_due() == math.inf
    assert lanes.take() is None
    assert places(lanes) == 0
    assert "empty" in repr(lanes)


@pytest.mark.parametrize("live", [True, False])
def test_nothing_is_remembered_of_what_was_taken_out(live: bool) -> None:
    # Callers come and give up for as long as a pause of the tenant lasts, and nobody takes.
    lanes = Lanes()
    for number in range(3000):
        lanes.remove(accept(lanes, f"d-{number}", live=live))
    assert lanes.waiting() < 1000
    assert places(lanes) < 1000


def test_nothing_is_remembered_of_moments_that_no_longer_count() -> None:
    lanes = Lanes()
    for number in range(3000):
        waiting = accept(lanes, f"d-{number}")
        lanes.wait(take(lanes), 1e6)
        lanes.remove(waiting)
    assert places(lanes) < 1000


def test_among_moments_that_no_longer_count_the_others_keep_their_order() -> None:
    lanes = Lanes()
    count = 5000
    for number in range(count):
        accept(lanes, f"d-{number}")
        # Far apart, in no order.
        lanes.wait(take(lanes), float(number * 3701 % count))
    kept = [number for number in range(count) if number % 10 == 0]
    for number in set(range(count)) - set(kept):
        lanes.remove(lane_of(lanes, f"d-{number}").first)
    accept(lanes, "d-new")
    lanes.wait(take(lanes), float(count))
    moments = []
    while lanes.next_due() < count:
        moments.append(lanes.next_due())
        assert lanes.due(moments[-1]) == 1
    assert moments == sorted(float(number * 3701 % count) for number in kept)


def test_the_repr_counts_by_state() -> None:
    lanes = Lanes()
    for name in ("a", "b", "c"):
        accept(lanes, name)
    lanes.wait(take(lanes), 1.0)
    assert "2 READY" in repr(lanes)
    assert "1 WAITING" in repr(lanes)


@pytest.mark.parametrize("behind", [0, 2])
def test_a_group_stands_for_its_members(behind: int) -> None:
    lanes = Lanes()
    members = [accept(lanes, "d", live=True, exempt=serial == 1) for serial in range(3)]
    rest = [accept(lanes, "d") for _ in range(behind)]
    lane = take(lanes)
    group = group_of(*members)
    lane.join(group)
    assert lane.first is group
    assert lane.entries == [*members, *rest]
    assert {one.lane for one in (*lane.entries, group)} == {lane}
    # One head, whatever it carries.
    assert (lane.live, lane.exempt) == (1, 1)
    lane.remove(group)
    assert (lane.live, lane.exempt) == (0, 0)
    assert lane.entries == rest
