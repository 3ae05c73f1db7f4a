"""Whatever happens in whatever order: no update is lost, taken twice or out of its order."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cognigy_async.engine.dialog_queue import LaneState
from cognigy_async.engine.ready_queues import Lanes
from cognigy_async.engine.work_item import Entry

from ._queues import (
    IDLE,
    IN_FLIGHT,
    PAUSED,
    READY,
    WAITING,
    accept,
    lane_of,
    places,
    settle,
    settle_and_pause,
)


class LanesMachine(RuleBasedStateMachine):
    """Lanes against a list for each dialog and the state that it should be in."""

    DIALOGS = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.now = 0.0
        self.queues: dict[str, list[Entry]] = {name: [] for name in self.DIALOGS}
        self.states = dict.fromkeys(self.DIALOGS, IDLE)
        self.until = dict.fromkeys(self.DIALOGS, 0.0)
        self.urgent: set[str] = set()

    def having(self, *states: LaneState) -> list[str]:
        return [name for name in self.DIALOGS if self.states[name] in states]

    def after_head(self, name: str) -> None:
        """The head is gone, and the lane goes on or away."""
        self.states[name] = READY if self.queues[name] else IDLE
        self.urgent.discard(name)

    @rule(name=st.sampled_from(DIALOGS), live=st.booleans(), exempt=st.booleans())
    def accept(self, name: str, live: bool, exempt: bool) -> None:
        self.queues[name].append(accept(self.lanes, name, live=live, exempt=exempt))
        if self.states[name] is IDLE:
            self.states[name] = READY

    @rule(bulk=st.booleans(), placed=st.booleans())
    def take(self, bulk: bool, placed: bool) -> None:
        lane = self.lanes.take(bulk=bulk, placed=placed)
        if lane is not None:
            name = lane.dialog_id
            head = self.queues[name][0]
            assert self.states[name] is READY
            assert lane.first is head
            assert not placed or head.sent_at is not None or lane.exempt
            head.sent_at = self.now
            self.states[name] = IN_FLIGHT
            return
        for name in self.having(READY):
            queue = self.queues[name]
            if placed and queue[0].sent_at is None and not any(one.exempt for one in queue):
                continue
            # Nothing that may go is left behind.
            assert name not in self.urgent
            assert not bulk
            assert not any(one.live or one.exempt for one in queue)

    @precondition(lambda self: self.having(IN_FLIGHT))
    @rule(data=st.data(), then=st.sampled_from(["settle", "again", "wait", "park", "pause"]))
    def an_answer_comes(self, data: st.DataObject, then: str) -> None:
        name = data.draw(st.sampled_from(self.having(IN_FLIGHT)))
        lane = lane_of(self.lanes, name)
        if then == "settle":
            assert settle(self.lanes, lane) is self.queues[name].pop(0)
            self.after_head(name)
        elif then == "again":
            self.lanes.ready(lane, first=True)
            self.states[name] = READY
            self.urgent.discard(name)
        elif then == "pause":
            settle_and_pause(self.lanes, lane)
            self.queues[name].pop(0)
            self.states[name] = PAUSED
        else:
            seconds = data.draw(st.floats(0, 3)) if then == "wait" else math.inf
            self.until[name] = self.now + seconds
            self.lanes.wait(lane, self.until[name])
            self.states[name] = WAITING

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = [name for name in self.having(WAITING) if self.until[name] <= self.now]
        assert self.lanes.due(self.now) == len(due)
        for name in due:
            self.states[name] = READY
            self.urgent.discard(name)

    @precondition(lambda self: self.having(WAITING))
    @rule(data=st.data())
    def somebody_wakes_a_lane(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.having(WAITING)))
        self.lanes.ready(lane_of(self.lanes, name), urgent=True)
        self.states[name] = READY
        self.urgent.add(name)

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def one_is_withdrawn(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in self.DIALOGS if self.queues[name]]))
        # The one whose request is under way cannot be.
        first = int(self.states[name] is IN_FLIGHT)
        if len(self.queues[name]) <= first:
            return
        at = data.draw(st.integers(first, len(self.queues[name]) - 1))
        self.lanes.remove(self.queues[name].pop(at))
        if self.states[name] is not PAUSED and not self.queues[name]:
            self.states[name] = IDLE
            self.urgent.discard(name)
        elif self.states[name] is WAITING and at == 0:
            self.after_head(name)

    @precondition(lambda self: self.having(PAUSED))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.having(PAUSED)))
        self.lanes.resume(lane_of(self.lanes, name))
        self.after_head(name)

    @invariant()
    def every_lane_is_as_it_should_be(self) -> None:
        for name in self.DIALOGS:
            lane = self.lanes.get(name)
            if self.states[name] is IDLE:
                assert lane is None
                assert self.queues[name] == []
                continue
            assert lane is not None
            assert lane.state is self.states[name]
            assert lane.entries == self.queues[name]
            assert lane.live == sum(one.live for one in lane.entries)
            assert lane.exempt == sum(one.exempt for one in lane.entries)
        assert len(self.lanes) == len(self.having(READY, IN_FLIGHT, WAITING, PAUSED))

    @invariant()
    def the_next_moment_is_known(self) -> None:
        moments = [self.until[name] for name in self.having(WAITING)]
        assert self.lanes.next_due() == min(moments, default=math.inf)

    def teardown(self) -> None:
        """Everything that is left comes, once and in its order."""
        for name in self.having(IN_FLIGHT):
            self.lanes.ready(lane_of(self.lanes, name))
        for name in self.having(WAITING):
            self.lanes.ready(lane_of(self.lanes, name))
        for name in self.having(PAUSED):
            self.lanes.resume(lane_of(self.lanes, name))
        came: dict[str, list[Entry]] = {name: [] for name in self.DIALOGS}
        while (lane := self.lanes.take()) is not None:
            came[lane.dialog_id].append(settle(self.lanes, lane))
        assert came == self.queues
        self.lanes.next_due()
        assert places(self.lanes) == 0


TestLanesMachine: Any = LanesMachine.TestCase
TestLanesMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=60)
