"""Pauses that the server named, the budget of repeats, and what bulk work does in an outage."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cognigy_async.pacing import DialogPauses, Outage, RepeatBudget, TenantPause

from ._builders import unhurried

# The pause of the tenant.


def starts(pause: TenantPause, since: float, count: int) -> list[float]:
    """When so many requests go that are eager to from `since` on."""
    now = since
    found: list[float] = []
    while len(found) < count:
        opens = pause.opens(now)
        if opens > now:
            now = opens
            continue
        pause.start(now)
        found.append(now)
    return found


def test_without_a_pause_requests_go_at_once() -> None:
    pause = TenantPause(4)
    assert not pause.active
    assert pause.opens(5.0) <= 5.0
    assert (pause.remaining(5.0), pause.strikes) == (0.0, 0)


def test_nothing_goes_before_the_end_and_then_one_after_another() -> None:
    pause = TenantPause(4)
    pause.throttle(now=10.0, sent=9.5, wait=2.0, offset=0.0)
    assert pause.active
    assert starts(pause, 10.0, 6) == [12.0, 12.25, 12.5, 12.75, 13.0, 13.0]
    assert not pause.active


def test_the_spread_is_half_the_pause_and_a_second_at_most() -> None:
    short, long = TenantPause(10), TenantPause(10)
    short.throttle(0.0, 0.0, wait=0.4, offset=0.0)
    long.throttle(0.0, 0.0, wait=600.0, offset=0.0)
    assert starts(short, 0.0, 11)[-1] == pytest.approx(0.4 + 0.2)
    assert starts(long, 0.0, 11)[-1] == pytest.approx(600.0 + 1.0)


def test_clients_of_one_tenant_do_not_resume_as_one() -> None:
    firsts = []
    for offset in (0.0, 0.25, 0.999):
        pause = TenantPause(4)
        pause.throttle(0.0, 0.0, wait=2.0, offset=offset)
        firsts.append(pause.opens(0.0))
    assert firsts == pytest.approx([2.0, 2.0625, 2.24975])


def test_a_longer_pause_extends_and_a_shorter_one_changes_nothing() -> None:
    pause = TenantPause(4)
    pause.throttle(0.0, 0.0, wait=10.0, offset=0.0)
    pause.throttle(1.0, 0.5, wait=2.0, offset=0.5)
    pause.throttle(1.0, 0.5, wait=9.0, offset=0.5)
    assert pause.opens(1.0) == 10.0
    pause.throttle(2.0, 0.5, wait=20.0, offset=0.0)
    assert pause.opens(2.0) == 22.0
    assert pause.remaining(2.0) == 20.0


def test_the_spread_after_an_extended_pause_is_half_of_all_of_it() -> None:
    pause = TenantPause(4)
    pause.throttle(0.0, 0.0, wait=0.4, offset=0.0)
    pause.throttle(0.2, 0.0, wait=0.4, offset=0.0)
    assert starts(pause, 0.2, 5) == pytest.approx([0.6, 0.675, 0.75, 0.825, 0.9])


def test_a_throttled_answer_during_the_slow_start_begins_a_new_pause() -> None:
    pause = TenantPause(4)
    pause.throttle(0.0, 0.0, wait=0.4, offset=0.0)
    assert starts(pause, 0.0, 1) == [0.4]
    pause.throttle(0.45, 0.4, wait=0.4, offset=0.0)
    # Half of the new pause, not of both together.
    assert starts(pause, 0.45, 5) == pytest.approx([0.85, 0.90, 0.95, 1.0, 1.05])


def test_a_pause_of_no_length_is_none() -> None:
    pause = TenantPause(4)
    pause.throttle(5.0, 4.0, wait=0.0, offset=0.9)
    assert starts(pause, 5.0, 3) == [5.0, 5.0, 5.0]


def test_the_time_that_remains() -> None:
    pause = TenantPause(4)
    pause.throttle(10.0, 9.0, wait=2.0, offset=0.5)
    assert [pause.remaining(now) for now in (10.0, 11.5, 12.0, 13.0)] == [2.0, 0.5, 0.0, 0.0]


def test_answers_to_requests_that_went_together_are_one_strike() -> None:
    pause = TenantPause(4)
    for now in (1.0, 1.125, 1.25):
        pause.throttle(now, sent=0.5, wait=2.0, offset=0.0)
    assert pause.strikes == 1
    pause.throttle(4.0, sent=3.25, wait=2.0, offset=0.0)
    assert pause.strikes == 2


def test_only_a_success_after_the_pause_ends_the_strikes() -> None:
    pause = TenantPause(4)
    pause.throttle(1.0, sent=0.5, wait=2.0, offset=0.0)
    pause.succeeded(sent=0.9)
    assert pause.strikes == 1
    pause.succeeded(sent=3.0)
    assert pause.strikes == 0


@given(
    st.integers(1, 50),
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 20), st.floats(0, 1, exclude_max=True)), max_size=8
    ),
    st.integers(1, 60),
)
@unhurried
def test_no_request_is_early_however_the_server_pauses(
    in_flight: int, throttles: list[tuple[float, float, float]], requests: int
) -> None:
    pause, now, until = TenantPause(in_flight), 0.0, 0.0
    for after, wait, offset in throttles:
        now += after
        pause.throttle(now, now, wait, offset)
        until = max(until, now + wait)
        assert pause.opens(now) >= until or until <= now
        assert pause.remaining(now) == pytest.approx(max(0.0, until - now), abs=1e-9)
    went = starts(pause, now, requests)
    assert min(went) >= until
    # Everyone gets his turn within the spread, and perhaps one gap.
    assert max(went) <= max(now, until + 1.0 + 1.0 / in_flight + 1e-9)


# The pauses of dialogs.


def test_a_dialog_has_a_pause_of_its_own() -> None:
    pauses = DialogPauses()
    assert not pauses.any
    pauses.throttle("a", 0.0, until=5.0)
    assert pauses.any
    assert (pauses.until("a"), pauses.until("b")) == (5.0, 0.0)
    pauses.throttle("a", 1.0, until=3.0)
    assert pauses.until("a") == 5.0
    pauses.throttle("a", 1.0, until=9.0)
    assert pauses.until("a") == 9.0


def test_pauses_that_are_over_are_forgotten() -> None:
    pauses = DialogPauses()
    for number in range(10_000):
        pauses.throttle(f"d-{number}", float(number), until=number + 10.0)
    (remembered,) = [part for part in vars(pauses).values() if isinstance(part, dict)]
    assert len(remembered) < 200
    assert all(pauses.until(f"d-{number}") == number + 10.0 for number in range(9990, 10_000))


def test_pauses_that_last_are_kept_however_many() -> None:
    pauses = DialogPauses()
    for number in range(1000):
        pauses.throttle(f"d-{number}", 0.0, until=100.0)
    assert all(pauses.until(f"d-{number}") == 100.0 for number in range(1000))


# The budget.


def test_the_budget_is_full_at_the_start_and_never_deeper() -> None:
    budget = RepeatBudget(0.5, 3)
    for _ in range(100):
        budget.first_attempt()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_first_attempts_feed_the_budget() -> None:
    budget = RepeatBudget(0.2, 1)
    assert budget.take()
    for _ in range(4):
        budget.first_attempt()
        assert not budget.take()
    budget.first_attempt()
    assert [budget.take(), budget.take()] == [True, False]


def test_without_a_ratio_there_is_the_start_and_nothing_more() -> None:
    budget = RepeatBudget(0.0, 2)
    for _ in range(100):
        budget.first_attempt()
    assert [budget.take() for _ in range(3)] == [True, True, False]


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 2), st.integers(1, 20))
@unhurried
def test_repeats_stay_within_the_bound(sequence: list[bool], ratio: float, capacity: int) -> None:
    budget = RepeatBudget(ratio, capacity)
    firsts = repeats = 0
    for is_first in sequence:
        if is_first:
            budget.first_attempt()
            firsts += 1
        else:
            repeats += budget.take()
        assert repeats <= ratio * firsts + capacity + 1e-9


@given(st.integers(1, 300), st.sampled_from([0.1, 0.2, 0.25, 1.0]))
@unhurried
def test_what_was_fed_can_be_taken(firsts: int, ratio: float) -> None:
    budget = RepeatBudget(ratio, 1000)
    while budget.take():
        pass
    for _ in range(firsts):
        budget.first_attempt()
    taken = 0
    while budget.take():
        taken += 1
    # Adding up rounds; nobody misses the fraction of a token.
    assert taken >= math.floor(ratio * firsts) - 1


# The outage.


class Empty(RepeatBudget):
    """A budget that is used up."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)


def outage(in_flight: int = 2) -> Outage[str]:
    return Outage(in_flight, lambda failures: float(2**failures))


def test_while_it_lasts_one_probe_goes_for_each_backoff() -> None:
    away, budget = outage(), RepeatBudget(0.0, 100)
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    assert away.lasts
    assert away.blocks
    assert away.opens() == 2.0
    assert away.release(1.9, budget) is None
    assert away.release(2.0, budget) == "a"
    assert away.probe == "a"
    # Tokens or not: until the probe is answered nothing else goes.
    assert away.opens() == math.inf
    assert away.release(1000.0, budget) is None


def test_the_probes_take_turns_and_come_less_often() -> None:
    away = outage()
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    went = []
    for _ in range(6):
        now = away.opens()
        probe = away.release(now, Empty())
        assert probe is not None
        went.append((probe, now))
        away.add(probe, now + 1.0)
    assert went == [("a", 2.0), ("b", 7.0), ("c", 16.0), ("a", 33.0), ("b", 66.0), ("c", 131.0)]


def test_the_failures_of_others_do_not_put_the_probe_off() -> None:
    away = outage()
    away.add("a", 0.0)
    away.add("b", 1.9)
    assert away.opens() == 2.0


def test_a_success_ends_it_and_those_who_wait_follow_by_token_or_backoff() -> None:
    away, budget = outage(in_flight=5), RepeatBudget(0.0, 1)
    for name in ("a", "b", "c"):
        away.add(name, 0.0)
    assert away.release(2.0, budget) == "a"
    away.succeeded()
    assert not away.lasts
    assert not away.blocks
    assert away.probe is None
    assert away.release(2.0, budget) == "b"
    assert away.release(2.0, budget) is None
    assert away.release(away.opens(), budget) == "c"
    assert away.probe is None
    assert not away.waiting
    assert away.opens() == math.inf


def test_many_who_wait_hold_others_back_although_it_is_over() -> None:
    away = outage(in_flight=2)
    for name in ("a", "b", "c", "d"):
        away.add(name, 0.0)
    away.succeeded()
    assert away.blocks
    assert [away.release(0.0, RepeatBudget(0.0, 1)) for _ in range(2)] == ["a", "b"]
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
    assert away.opens() == 102.0


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
    with pytest.raises(ValueError, match="deque"):
        away.discard("a")


def test_a_probe_that_is_given_up_leaves_its_turn_to_the_next() -> None:
    away = outage()
    for name in ("a", "b"):
        away.add(name, 0.0)
    assert away.release(2.0, Empty()) == "a"
    away.discard("a")
    assert away.lasts
    assert away.opens() == 2.0 + 4.0
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
    away.probe_with("fresh", away.opens())
    assert away.probe == "fresh"
    assert away.opens() == math.inf
    assert not away.wants_another
    away.add("fresh", 7.0)
    assert away.probe is None
    assert list(away.waiting) == ["a", "fresh"]
    assert away.opens() == 7.0 + 8.0
    away.succeeded()
    assert not away.wants_another


class OutageMachine(RuleBasedStateMachine):
    """Bulk work against a server that comes and goes, by the rules that the recovery keeps."""

    @initialize(in_flight=st.integers(0, 3), tokens=st.integers(0, 3))
    def begin(self, in_flight: int, tokens: int) -> None:
        self.away: Outage[int] = Outage(in_flight, lambda failures: float(failures))
        self.budget = RepeatBudget(0.5, tokens)
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

    @precondition(lambda self: self.away.wants_another and self.now >= self.away.opens())
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
        lasted, opens = self.away.lasts, self.away.opens()
        one = self.away.release(self.now, self.budget)
        if one is None:
            assert self.now < opens
            return
        # They take turns: the one that waits longest goes.
        assert one == self.waiting.pop(0)
        self.out.add(one)
        if lasted:
            assert self.now >= opens
            assert self.away.probe == one
            self.probes_at.append(self.now)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert list(self.away.waiting) == self.waiting

    @invariant()
    def those_who_wait_go_some_time(self) -> None:
        # Either a moment is known, or the answer of a probe under way decides.
        if self.waiting:
            assert math.isfinite(self.away.opens()) or self.away.probe in self.out
        else:
            assert self.away.opens() == math.inf

    @invariant()
    def nothing_is_blocked_for_nobody(self) -> None:
        if not self.waiting and self.away.probe is None:
            assert not self.away.blocks


TestOutageMachine: Any = OutageMachine.TestCase
TestOutageMachine.settings = settings(deadline=None, max_examples=200)
