"""The scheduler alone: no event loop, no clock; time is a number and the waker takes notes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cognigy_async import RateLimit, RetryPolicy
from cognigy_async.engine.dialog_queue import QueueState
from cognigy_async.engine.scheduler import Scheduler
from cognigy_async.ratelimit.limiter import create_limiter
from cognigy_async.ratelimit.shared_file import FOREIGN
from cognigy_async.retry import ResponseKind, RetryBudget
from tests.unit._builders import item

serials = itertools.count(1)


class Waker:
    def __init__(self) -> None:
        self.woken = 0
        self.alarm_at = math.inf

    def wake(self) -> None:
        self.woken += 1

    def wake_at(self, at: float) -> None:
        self.alarm_at = min(self.alarm_at, at)


def scheduler(*, linger: float = 0.0, limit: RateLimit | None = None, workers: int = 2) -> Any:
    policy = RetryPolicy(wait=lambda _: 1.0, budget=0.0)
    return Scheduler(
        SimpleNamespace(
            config=SimpleNamespace(max_in_flight=workers, retry=policy, linger=linger),
            quota=create_limiter(limit),
            hooks=SimpleNamespace(has_callbacks=False, full=False),
            waker=Waker(),
        )  # type: ignore[arg-type]
    )


def accept(
    plan: Any, dialog_id: str, now: float = 0.0, *, live: bool = True, coalesces: bool = False
) -> Any:
    made = item(dialog_id=dialog_id, serial=next(serials), live=live)
    made.coalesces = coalesces
    plan.accept(made, now)
    return made


def test_without_the_file_of_its_quota_only_bulk_work_is_refused(tmp_path: Path) -> None:
    plan = scheduler(limit=RateLimit(100, per=10, shared=tmp_path / "quota"))
    [shared] = plan._quota.shared_files
    for number in range(20):
        accept(plan, f"live-{number}")
    for number in range(5):
        accept(plan, f"bulk-{number}", live=False)
    assert plan.next_refused() is None
    assert plan.next_queue(0.0) is None
    shared._set_problem(FOREIGN)
    taken = []
    while (queue := plan.next_queue(0.0)) is not None:
        plan._limiter.start(0.0, bulk=False)
        taken.append(queue.dialog_id)
    # Bulk work does not even get every tenth turn.
    assert taken == [f"live-{number}" for number in range(10)]
    assert plan.earliest("live-10", 0.0) == 0.0
    refused = []
    while (found := plan.next_refused()) is not None:
        refused.append((found[0].dialog_id, found[1].path))
    assert refused == [(f"bulk-{number}", str(tmp_path / "quota")) for number in range(5)]
    assert plan.next_queue(0.0) is None


def test_live_goes_before_bulk() -> None:
    plan = scheduler()
    accept(plan, "bulk", live=False)
    accept(plan, "live")
    assert [plan.next_queue(0.0).dialog_id for _ in range(2)] == ["live", "bulk"]
    assert plan.next_queue(0.0) is None


def test_a_pause_sets_the_alarm() -> None:
    plan = scheduler()
    accept(plan, "d")
    plan.throttle_tenant(0.0, 0.0, 5.0, 0.0)
    assert plan.next_queue(1.0) is None
    assert plan._waker.alarm_at == 5.0 == plan.next_event_at(1.0)
    assert plan.next_queue(5.0).dialog_id == "d"


def start(plan: Any, now: float) -> str | None:
    """Take the next queue and begin its request, as the dispatcher does."""
    queue = plan.next_queue(now)
    if queue is not None and plan.tenant.active:
        plan.tenant.start(now)
    return None if queue is None else queue.dialog_id


def test_one_live_request_asks_during_a_long_pause_and_then_one_of_bulk() -> None:
    plan = scheduler()
    accept(plan, "bulk-1", live=False)
    accept(plan, "bulk-2", live=False)
    plan.throttle_tenant(0.0, 0.0, 1e9, 0.0)
    assert start(plan, 599.0) is None
    # There is no live work, so the alarm is that of bulk work.
    assert plan._waker.alarm_at == 3600.0
    for name in ("live-1", "live-2"):
        accept(plan, name, 599.0)
    assert start(plan, 599.0) is None
    assert plan._waker.alarm_at == 600.0
    plan.advance(600.0)
    assert [start(plan, 600.0) for _ in range(3)] == ["live-1", None, None]
    plan.throttle_tenant(601.0, 600.0, 1e9, 0.0)
    # The live one that waits is refused before: it would have to wait for a billion seconds.
    assert plan.next_impatient(601.0).dialog_id == "live-2"
    assert [start(plan, 4201.0) for _ in range(3)] == ["bulk-1", None, None]


def test_live_work_is_refused_that_pauses_in_a_row_would_hold_too_long() -> None:
    plan = scheduler()
    accept(plan, "early", 0.0)
    plan.throttle_tenant(0.0, 0.0, 400.0, 0.0)
    assert plan.next_impatient(0.0) is None
    accept(plan, "late", 399.0)
    plan.throttle_tenant(400.0, 400.0, 400.0, 0.0)
    assert plan.next_impatient(400.0).dialog_id == "early"
    assert plan.next_impatient(400.0) is None


def test_an_answer_that_ends_a_long_pause_wakes_a_worker() -> None:
    plan = scheduler()
    plan.throttle_tenant(0.0, 0.0, 1e9, 0.0)
    accept(plan, "live", 600.0)
    accept(plan, "bulk", 600.0, live=False)
    assert start(plan, 600.0) == "live"
    woken = plan._waker.woken
    # 503 is no sign that the pause is over.
    plan.on_response(ResponseKind.UNAVAILABLE, 600.0, 601.0)
    assert plan._waker.woken == woken
    plan.on_response(ResponseKind.APPLIED, 600.0, 601.0)
    assert plan._waker.woken > woken
    assert start(plan, 601.0) == "bulk"


def test_the_pause_of_a_dialog_is_bounded_for_live_and_for_bulk() -> None:
    for live, asks_at in ((True, 600.0), (False, 3600.0)):
        plan = scheduler()
        plan.throttle_dialog("d", 0.0, 0.0, 1e9)
        accept(plan, "d", 0.0, live=live)
        queue = plan.next_queue(0.0)
        if live:
            # It is taken at once, to be refused.
            assert plan.too_long_a_pause(queue, 0.0) == 86_400.0
            continue
        assert queue is None
        assert plan._waker.alarm_at == asks_at
        plan.advance(asks_at)
        queue = plan.next_queue(asks_at)
        assert queue.dialog_id == "d"
        assert plan.too_long_a_pause(queue, asks_at) is None


def test_the_earliest_moment_of_a_live_update_of_a_throttled_dialog() -> None:
    plan = scheduler()
    assert plan.earliest("d", 0.0) == 0.0
    plan.throttle_dialog("d", 0.0, 0.0, 500.0)
    assert plan.earliest("d", 10.0) == 500.0
    plan.throttle_dialog("d", 500.0, 500.0, 700.0)
    # It is refused until it may wait for the moment that is named, or ask before.
    assert [plan.earliest("d", now) for now in (510.0, 700.0, 1150.0)] == [1200.0, 1100.0, 1150.0]


def test_a_full_window_sets_the_alarm() -> None:
    plan = scheduler(limit=RateLimit(1, per=10))
    accept(plan, "a")
    accept(plan, "b")
    plan.next_queue(0.0)
    plan._limiter.start(0.0, bulk=False)
    plan._limiter.finish(0.0, 0.0)
    assert plan.next_queue(1.0) is None
    assert plan._waker.alarm_at == plan.next_event_at(1.0) >= 10.0


def test_bulk_work_keeps_every_tenth_turn_under_a_rate_limit() -> None:
    plan = scheduler(limit=RateLimit(100, per=10))
    for _ in range(92):
        plan._limiter.start(0.0, bulk=True)
        plan._limiter.finish(0.0, 0.0)
    assert plan._limiter.next_bulk_slot_at(0.0) > 0.0
    accept(plan, "bulk", live=False)
    for number in range(12):
        accept(plan, f"live-{number}")
    assert [plan.next_queue(0.0).dialog_id for _ in range(10)].index("bulk") == 9


def wait_for_server(plan: Any, dialog_id: str, now: float = 0.0, **options: Any) -> Any:
    """Accept a bulk item, send it, and let it wait for the server."""
    made = accept(plan, dialog_id, now, live=False, **options)
    queue = plan.next_queue(now)
    assert queue.first is made
    made.sent_at = now
    plan.wait_for_server(queue, now)
    return queue


def test_the_end_of_an_outage_wakes_a_worker() -> None:
    plan = scheduler()
    accept(plan, "live")
    sent = plan.next_queue(0.0)
    wait_for_server(plan, "bulk")
    woken = plan._waker.woken
    plan.on_response(ResponseKind.APPLIED, 0.0, 0.0)
    plan.finish(sent)
    assert plan._waker.woken > woken


def test_the_scheduler_is_not_quiet_while_queues_wait_for_the_server() -> None:
    plan = scheduler()
    accept(plan, "live")
    plan.next_queue(0.0)
    wait_for_server(plan, "bulk")
    plan.on_response(ResponseKind.APPLIED, 0.0, 0.0)
    assert not plan.outage.lasts
    assert not plan.quiet
    plan.advance(10.0)
    assert plan.next_queue(10.0).dialog_id == "bulk"
    plan.on_response(ResponseKind.APPLIED, 10.0, 10.0)
    assert plan.quiet


def test_the_scheduler_is_not_quiet_before_a_success_after_the_pause() -> None:
    plan = scheduler()
    plan.throttle_tenant(0.0, 0.0, 5.0, 0.0)
    # It was sent before the server throttled.
    plan.on_response(ResponseKind.APPLIED, 0.0, 0.0)
    assert not plan.quiet
    plan.on_response(ResponseKind.APPLIED, 5.0, 5.0)
    assert plan.quiet


def test_a_probe_does_not_linger() -> None:
    plan = scheduler(linger=5.0)
    first = wait_for_server(plan, "first")
    plan.advance(1.0)
    assert plan.next_queue(1.0) is first
    plan.wait_for_server(first, 1.0)
    accept(plan, "fresh", 2.0, live=False, coalesces=True)
    # Each of those that wait has had its turn, so one that did not fail is the next probe.
    plan.advance(2.0)
    assert plan.next_queue(2.0).dialog_id == "fresh"


def test_work_that_is_no_probe_lingers() -> None:
    plan = scheduler(linger=5.0)
    accept(plan, "fresh", 2.0, live=False, coalesces=True)
    assert plan.next_queue(2.0) is None
    assert plan._waker.alarm_at == 7.0


def test_a_dialog_lingers_again_after_an_update_that_shares_no_request() -> None:
    plan = scheduler(linger=5.0)
    alone = accept(plan, "d")
    after, last = (
        item(dialog_id="d", serial=next(serials)),
        item(dialog_id="d", serial=next(serials)),
    )
    for each in (after, last):
        each.coalesces, each.options = True, after.options
        plan.accept(each, 0.0)
    queue = plan.next_queue(0.0)
    assert queue.first is alone
    plan.finish(queue)
    # The first one could not join, but those behind it join each other.
    assert plan.next_queue(0.0) is None
    assert plan.next_queue(4.9) is None
    plan.advance(5.0)
    assert list(plan.next_queue(5.0).newest()) == [last, after]


def test_the_end_of_lingering_wakes_only_dialogs_that_linger() -> None:
    plan = scheduler(linger=5.0)
    accept(plan, "lingers", coalesces=True)
    accept(plan, "withdrawn", coalesces=True)
    accept(plan, "backs off", coalesces=True)
    assert plan.next_queue(0.0) is None
    plan.remove(plan.queues.get("withdrawn").first)
    backs_off = plan.queues.get("backs off")
    backs_off.first.sent_at = 0.0
    plan.end_linger()
    assert [each.state.name for each in plan.queues] == ["READY", "WAITING"]
    assert plan.next_queue(0.0).dialog_id == "lingers"
    assert plan.next_queue(0.0) is None


def test_dialogs_that_no_longer_linger_are_forgotten() -> None:
    plan = scheduler(linger=5.0)
    for number in range(5000):
        made = accept(plan, f"d-{number}", coalesces=True)
        assert plan.next_queue(0.0) is None
        if number:
            plan.remove(made)
    assert len(plan._linger._lingering) < 2100
    plan.end_linger()
    assert plan.next_queue(0.0).dialog_id == "d-0"


class Plan(RuleBasedStateMachine):
    """Whatever happens, the alarm is never later than the next event, and no dialog is lost."""

    @initialize(linger=st.sampled_from([0.0, 2.0]))
    def begin(self, linger: float) -> None:
        self.now = 0.0
        self.plan = scheduler(linger=linger)
        # So small that outages come soon.
        self.plan.budget = RetryBudget(1.0, 1)
        self.flying: list[Any] = []
        self.accepted = self.settled = 0

    @rule(name=st.sampled_from("abcd"), live=st.booleans())
    def accept(self, name: str, live: bool) -> None:
        accept(self.plan, name, self.now, live=live)
        self.accepted += 1

    @rule()
    def take(self) -> None:
        if len(self.flying) < 2 and (queue := self.plan.next_queue(self.now)) is not None:
            assert queue.state is QueueState.IN_FLIGHT
            if queue.first.sent_at is None:
                queue.first.sent_at = self.now
                if not self.plan.quiet:
                    self.plan.first_attempt(self.now)
            self.flying.append(queue)

    @precondition(lambda self: self.flying)
    @rule()
    def succeed(self) -> None:
        if not self.plan.quiet:
            self.plan.on_response(ResponseKind.APPLIED, self.now, self.now)
        self.plan.finish(self.flying.pop(0))
        self.settled += 1

    @precondition(lambda self: self.flying)
    @rule()
    def fail(self) -> None:
        queue = self.flying.pop(0)
        if not self.plan.quiet:
            self.plan.on_response(ResponseKind.FAULT, self.now, self.now)
        if self.plan.may_repeat(queue, ResponseKind.FAULT):
            self.plan.wait(queue, self.now + 1.0)
        elif queue.first.live:
            self.plan.finish(queue)
            self.settled += 1
        else:
            self.plan.wait_for_server(queue, self.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.plan._waker.alarm_at) <= end:
            self.now = max(self.now, at)
            self.plan.advance(self.now)
            self.plan._waker.alarm_at = self.plan.next_event_at(self.now)
            if self.plan._waker.alarm_at <= self.now:
                break
        self.now = end

    @invariant()
    def alarm_is_not_late(self) -> None:
        assert self.plan._waker.alarm_at <= self.plan.next_event_at(self.now)

    @invariant()
    def quiet_means_nothing_to_tell(self) -> None:
        plan = self.plan
        if plan.quiet:
            assert not plan.outage.lasts
            assert not plan.outage.waiting
            assert plan.budget.full

    def teardown(self) -> None:
        for _ in range(400):
            self.take()
            if self.flying:
                self.succeed()
            else:
                self.pass_time(1.0)
        assert self.settled == self.accepted


Plan.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPlan = Plan.TestCase
