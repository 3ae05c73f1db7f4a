"""Whatever happens in whatever order: no update is lost, taken twice or out of its order."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cognigy_async.engine.dialog_queue import QueueState
from cognigy_async.engine.ready_queues import ReadyQueues
from cognigy_async.engine.work_item import WorkItem

from ._queues import (
    IDLE,
    IN_FLIGHT,
    PAUSED,
    READY,
    WAITING,
    accept,
    complete,
    free_slots,
    lane_of,
    settle_and_pause,
)


class ReadyQueuesMachine(RuleBasedStateMachine):
    """ReadyQueues against a list for each dialog and the state that it should be in."""

    DIALOGS = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.queues = ReadyQueues()
        self.now = 0.0
        self.expected: dict[str, list[WorkItem]] = {name: [] for name in self.DIALOGS}
        self.states = dict.fromkeys(self.DIALOGS, IDLE)
        self.until = dict.fromkeys(self.DIALOGS, 0.0)
        self.urgent: set[str] = set()

    def having(self, *states: QueueState) -> list[str]:
        return [name for name in self.DIALOGS if self.states[name] in states]

    def after_head(self, name: str) -> None:
        """The head is gone, and the queue goes on or away."""
        self.states[name] = READY if self.expected[name] else IDLE
        self.urgent.discard(name)

    @rule(name=st.sampled_from(DIALOGS), live=st.booleans(), from_callback=st.booleans())
    def accept(self, name: str, live: bool, from_callback: bool) -> None:
        self.expected[name].append(
            accept(self.queues, name, live=live, from_callback=from_callback)
        )
        if self.states[name] is IDLE:
            self.states[name] = READY

    @rule(bulk=st.booleans(), reserved_only=st.booleans())
    def take(self, bulk: bool, reserved_only: bool) -> None:
        queue = self.queues.take(bulk=bulk, reserved_only=reserved_only)
        if queue is not None:
            name = queue.dialog_id
            head = self.expected[name][0]
            assert self.states[name] is READY
            assert queue.first is head
            assert not reserved_only or head.sent_at is not None or queue.from_callback
            head.sent_at = self.now
            self.states[name] = IN_FLIGHT
            return
        for name in self.having(READY):
            waiting = self.expected[name]
            if (
                reserved_only
                and waiting[0].sent_at is None
                and not any(one.from_callback for one in waiting)
            ):
                continue
            # Nothing that may go is left behind.
            assert name not in self.urgent
            assert not bulk
            assert not any(one.live or one.from_callback for one in waiting)

    @precondition(lambda self: self.having(IN_FLIGHT))
    @rule(data=st.data(), then=st.sampled_from(["settle", "again", "wait", "park", "pause"]))
    def an_answer_comes(self, data: st.DataObject, then: str) -> None:
        name = data.draw(st.sampled_from(self.having(IN_FLIGHT)))
        queue = lane_of(self.queues, name)
        if then == "settle":
            assert complete(self.queues, queue) is self.expected[name].pop(0)
            self.after_head(name)
        elif then == "again":
            self.queues.ready(queue, first=True)
            self.states[name] = READY
            self.urgent.discard(name)
        elif then == "pause":
            settle_and_pause(self.queues, queue)
            self.expected[name].pop(0)
            self.states[name] = PAUSED
        else:
            seconds = data.draw(st.floats(0, 3)) if then == "wait" else math.inf
            self.until[name] = self.now + seconds
            self.queues.wait(queue, self.until[name])
            self.states[name] = WAITING

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = [name for name in self.having(WAITING) if self.until[name] <= self.now]
        assert self.queues.due(self.now) == len(due)
        for name in due:
            self.states[name] = READY
            self.urgent.discard(name)

    @precondition(lambda self: self.having(WAITING))
    @rule(data=st.data())
    def somebody_wakes_a_lane(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.having(WAITING)))
        self.queues.ready(lane_of(self.queues, name), urgent=True)
        self.states[name] = READY
        self.urgent.add(name)

    @precondition(lambda self: any(self.expected.values()))
    @rule(data=st.data())
    def one_is_withdrawn(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in self.DIALOGS if self.expected[name]]))
        # The one whose request is under way cannot be.
        first = int(self.states[name] is IN_FLIGHT)
        if len(self.expected[name]) <= first:
            return
        at = data.draw(st.integers(first, len(self.expected[name]) - 1))
        self.queues.remove(self.expected[name].pop(at))
        if self.states[name] is not PAUSED and not self.expected[name]:
            self.states[name] = IDLE
            self.urgent.discard(name)
        elif self.states[name] is WAITING and at == 0:
            self.after_head(name)

    @precondition(lambda self: self.having(PAUSED))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.having(PAUSED)))
        self.queues.resume(lane_of(self.queues, name))
        self.after_head(name)

    @invariant()
    def every_lane_is_as_it_should_be(self) -> None:
        for name in self.DIALOGS:
            queue = self.queues.get(name)
            if self.states[name] is IDLE:
                assert queue is None
                assert self.expected[name] == []
                continue
            assert queue is not None
            assert queue.state is self.states[name]
            assert queue.work_items == self.expected[name]
            assert queue.live == sum(one.live for one in queue.work_items)
            assert queue.from_callback == sum(one.from_callback for one in queue.work_items)
        assert len(self.queues) == len(self.having(READY, IN_FLIGHT, WAITING, PAUSED))

    @invariant()
    def the_next_moment_is_known(self) -> None:
        moments = [self.until[name] for name in self.having(WAITING)]
        assert self.queues.next_due() == min(moments, default=math.inf)

    def teardown(self) -> None:
        """Everything that is left comes, once and in its order."""
        for name in self.having(IN_FLIGHT):
            self.queues.ready(lane_of(self.queues, name))
        for name in self.having(WAITING):
            self.queues.ready(lane_of(self.queues, name))
        for name in self.having(PAUSED):
            self.queues.resume(lane_of(self.queues, name))
        came: dict[str, list[WorkItem]] = {name: [] for name in self.DIALOGS}
        while (queue := self.queues.take()) is not None:
            came[queue.dialog_id].append(complete(self.queues, queue))
        assert came == self.expected
        self.queues.next_due()
        assert free_slots(self.queues) == 0


TestReadyQueuesMachine: Any = ReadyQueuesMachine.TestCase
TestReadyQueuesMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=60)
