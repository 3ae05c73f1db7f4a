"""Bulk work that waits for the server, and its probes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cognigy_async.engine.outage import Outage
from cognigy_async.retry import RetryBudget

# The outage.


class Empty(RetryBudget):
    """A budget that is used up."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)


def outage(in_flight: int = 2) -> Outage[str]:
    return Outage(in_flight, lambda failures: float(2**failures))


def test_while_it_lasts_one_probe_goes_for_each_backoff() -> None:
    away, budget = outage(), RetryBudget(0.0, 100)
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    assert away.lasts
    assert away.blocks
    assert away.next_probe_at() == 2.0
    assert away.release(1.9, budget) is None
    assert away.release(2.0, budget) == "a"
    assert away.probe == "a"
    # Tokens or not: until the probe is answered nothing else goes.
    assert away.next_probe_at() == math.inf
    assert away.release(1000.0, budget) is None


def test_the_probes_take_turns_and_come_less_often() -> None:
    away = outage()
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    went = []
    for _ in range(6):
        now = away.next_probe_at()
        probe = away.release(now, Empty())
        assert probe is not None
        went.append((probe, now))
        away.add(probe, now + 1.0)
    assert went == [("a", 2.0), ("b", 7.0), ("c", 16.0), ("a", 33.0), ("b", 66.0), ("c", 131.0)]


def test_the_failures_of_others_do_not_put_the_probe_off() -> None:
    away = outage()
    away.add("a", 0.0)
    away.add("b", 1.9)
    assert away.next_probe_at() == 2.0


def test_a_success_ends_it_and_those_who_wait_follow_by_token_or_backoff() -> None:
    away, budget = outage(in_flight=5), RetryBudget(0.0, 1)
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    assert away.release(2.0, budget) == "a"
    away.succeeded()
    assert not away.lasts
    assert not away.blocks
    assert away.probe is None
    assert away.release(2.0, budget) == "b"
    assert away.release(2.0, budget) is None
    assert away.release(away.next_probe_at(), budget) == "c"
    assert away.probe is None
    assert not away.waiting
    assert away.next_probe_at() == math.inf


def test_many_who_wait_hold_others_back_although_it_is_over() -> None:
    away = outage(in_flight=2)
    for name in ("a", "b", "c", "d"):
        away.add(name, 0.0)
    away.succeeded()
    assert away.blocks
    assert [away.release(0.0, RetryBudget(0.0, 1)) for _ in range(2)] == ["a", "b"]
    assert not away.blocks


def test_after_a_success_the_backoff_begins_anew() -> None:
    away = outage()
    away.add("a", 0.0)
    for now in (2.0, 10.0):
        assert away.release(now, Empty()) == "a"
        away.add("a", now)
    assert away.release(18.0, Empty()) == "a"
    away.succeeded()
    away.add("a", 100.0)
    assert away.next_probe_at() == 102.0


def test_one_who_is_given_up_waits_no_longer() -> None:
    away = outage()
    for name in ("a", "b"):
        away.add(name, 0.0)
    away.discard("a")
    assert away.release(2.0, Empty()) == "b"
    away.add("b", 2.0)
    away.discard("b")
    assert not away.waiting
    assert not away.lasts
    assert not away.blocks
    with pytest.raises(KeyError):
        away.discard("a")


def test_who_is_given_up_is_not_searched_among_all_that_wait() -> None:
    class Dialog:
        compared = 0

        def __eq__(self, other: object) -> bool:
            Dialog.compared += 1
            return self is other

        def __hash__(self) -> int:
            return id(self)

    away: Outage[Dialog] = Outage(2, lambda failures: float(failures))
    dialogs = [Dialog() for _ in range(100)]
    for each in dialogs:
        away.add(each, 0.0)
    for each in reversed(dialogs):
        away.discard(each)
    assert not away.waiting
    assert Dialog.compared < 100


def test_a_probe_that_is_given_up_leaves_its_turn_to_the_next() -> None:
    away = outage()
    for name in ("a", "b"):
        away.add(name, 0.0)
    assert away.release(2.0, Empty()) == "a"
    away.discard("a")
    assert away.lasts
    assert away.next_probe_at() == 2.0 + 4.0
    assert away.release(6.0, Empty()) == "b"
    away.discard("b")
    assert not away.lasts
    assert not away.blocks


def test_when_all_had_their_turn_one_that_did_not_fail_may_probe() -> None:
    # One whose own fault it is that it always fails must not hold up all the others.
    away = outage()
    away.add("a", 0.0)
    assert not away.wants_another
    assert away.release(2.0, Empty()) == "a"
    away.add("a", 2.0)
    assert away.wants_another
    away.probe_with("fresh", away.next_probe_at())
    assert away.probe == "fresh"
    assert away.next_probe_at() == math.inf
    assert not away.wants_another
    away.add("fresh", 7.0)
    assert away.probe is None
    assert list(away.waiting) == ["a", "fresh"]
    assert away.next_probe_at() == 7.0 + 8.0
    away.succeeded()
    assert not away.wants_another


class OutageMachine(RuleBasedStateMachine):
    """Bulk work against a server that comes and goes, by the rules that the recovery keeps."""

    @initialize(in_flight=st.integers(0, 3), tokens=st.integers(0, 3))
    def begin(self, in_flight: int, tokens: int) -> None:
        self.away: Outage[int] = Outage(in_flight, lambda failures: float(failures))
        self.budget = RetryBudget(0.5, tokens)
        self.now = 0.0
        self.number = 0
        self.waiting: list[int] = []
        self.out: set[int] = set()
        self.probes_at: list[float] = []

    @rule()
    def somebody_new_fails(self) -> None:
        self.number += 1
        self.fail(self.number)

    def fail(self, one: int) -> None:
        self.out.discard(one)
        self.waiting.append(one)
        self.away.add(one, self.now)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_that_was_released_fails(self, data: st.DataObject) -> None:
        self.fail(data.draw(st.sampled_from(sorted(self.out))))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_that_was_released_succeeds(self, data: st.DataObject) -> None:
        self.out.discard(data.draw(st.sampled_from(sorted(self.out))))
        self.away.succeeded()

    @precondition(lambda self: self.away.wants_another and self.now >= self.away.next_probe_at())
    @rule()
    def one_that_did_not_fail_probes(self) -> None:
        self.number += 1
        self.out.add(self.number)
        self.away.probe_with(self.number, self.now)

    @precondition(lambda self: self.away.probe in self.out)
    @rule()
    def the_probe_ends_and_tells_nothing(self) -> None:
        # Its caller gave up, or its answer was in doubt: there will be no other.
        assert self.away.probe is not None
        self.out.discard(self.away.probe)
        self.away.discard(self.away.probe)

    @rule()
    def live_work_succeeds(self) -> None:
        self.away.succeeded()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_that_waits_is_given_up(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(one)
        self.away.discard(one)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def somebody_is_sent_for_the_first_time(self) -> None:
        self.budget.first_attempt()

    @rule()
    def release(self) -> None:
        lasted, next_slot_at = self.away.lasts, self.away.next_probe_at()
        one = self.away.release(self.now, self.budget)
        if one is None:
            assert self.now < next_slot_at
            return
        # They take turns: the one that waits longest goes.
        assert one == self.waiting.pop(0)
        self.out.add(one)
        if lasted:
            assert self.now >= next_slot_at
            assert self.away.probe == one
            self.probes_at.append(self.now)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert list(self.away.waiting) == self.waiting

    @invariant()
    def those_who_wait_go_some_time(self) -> None:
        # Either a moment is known, or the answer of a probe under way decides.
        if self.waiting:
            assert math.isfinite(self.away.next_probe_at()) or self.away.probe in self.out
        else:
            assert self.away.next_probe_at() == math.inf

    @invariant()
    def nothing_is_blocked_for_nobody(self) -> None:
        if not self.waiting and self.away.probe is None:
            assert not self.away.blocks


TestOutageMachine: Any = OutageMachine.TestCase
TestOutageMachine.settings = settings(deadline=None, max_examples=200)
