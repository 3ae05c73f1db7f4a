"""Pauses of the tenant and of single dialogs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async.ratelimit.pauses import DialogPauses, TenantPause
from tests.unit._builders import unhurried

# The pause of the tenant.


def starts(pause: TenantPause, since: float, count: int) -> list[float]:
    """When so many requests go that are eager to from `since` on."""
    now = since
    found: list[float] = []
    while len(found) < count:
        next_slot_at = pause.next_slot_at(now)
        if next_slot_at > now:
            now = next_slot_at
            continue
        pause.start(now)
        found.append(now)
    return found


def test_without_a_pause_requests_go_at_once() -> None:
    pause = TenantPause(4)
    assert not pause.active
    assert pause.next_slot_at(5.0) <= 5.0
    assert (pause.remaining(5.0), pause.consecutive_429s) == (0.0, 0)


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
        firsts.append(pause.next_slot_at(0.0))
    assert firsts == pytest.approx([2.0, 2.0625, 2.24975])


def test_a_longer_pause_extends_and_a_shorter_one_changes_nothing() -> None:
    pause = TenantPause(4)
    pause.throttle(0.0, 0.0, wait=10.0, offset=0.0)
    pause.throttle(1.0, 0.5, wait=2.0, offset=0.5)
    pause.throttle(1.0, 0.5, wait=9.0, offset=0.5)
    assert pause.next_slot_at(1.0) == 10.0
    pause.throttle(2.0, 0.5, wait=20.0, offset=0.0)
    assert pause.next_slot_at(2.0) == 22.0
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


def test_429s_of_requests_sent_together_count_once() -> None:
    pause = TenantPause(4)
    for now in (1.0, 1.125, 1.25):
        pause.throttle(now, sent=0.5, wait=2.0, offset=0.0)
    assert pause.consecutive_429s == 1
    pause.throttle(4.0, sent=3.25, wait=2.0, offset=0.0)
    assert pause.consecutive_429s == 2


def test_only_a_success_after_the_pause_resets_the_count() -> None:
    pause = TenantPause(4)
    pause.throttle(1.0, sent=0.5, wait=2.0, offset=0.0)
    assert not pause.succeeded(sent=0.9, now=3.0)
    assert pause.consecutive_429s == 1
    assert not pause.succeeded(sent=3.0, now=3.5)
    assert pause.consecutive_429s == 0


def test_a_429_to_a_request_after_the_pause_repeats_it() -> None:
    pause = TenantPause(4)
    assert pause.repeats(sent=0.5) == 0
    pause.throttle(1.0, sent=0.5, wait=2.0, offset=0.0)
    assert (pause.repeats(sent=0.75), pause.repeats(sent=3.0)) == (0, 1)
    pause.throttle(4.0, sent=3.0, wait=2.0, offset=0.0)
    assert (pause.repeats(sent=3.5), pause.repeats(sent=6.0)) == (0, 2)


def test_a_late_429_to_a_request_from_before_the_last_pause_counts_as_well() -> None:
    pause = TenantPause(4)
    pause.throttle(1.0, sent=0.5, wait=2.0, offset=0.0)
    assert not pause.succeeded(sent=3.0, now=3.5)
    pause.throttle(4.0, sent=0.75, wait=2.0, offset=0.0)
    assert pause.consecutive_429s == 1
    assert pause.held(0.0, 4.0) == 2.0


# A moment that is too far away.


def long_pause(wait: float = 1e9, *, longest_live: float = 600.0) -> TenantPause:
    pause = TenantPause(4, longest_live)
    pause.throttle(now=10.0, sent=9.5, wait=wait, offset=0.5)
    return pause


def test_live_work_asks_again_after_its_bound_and_bulk_work_after_an_hour() -> None:
    pause = long_pause()
    assert (pause.next_slot_at(10.0, True), pause.next_slot_at(10.0, False)) == (610.0, 3610.0)
    assert [pause.next_event_at(now) for now in (10.0, 610.0)] == [610.0, 3610.0]
    assert pause.remaining(610.0) == pytest.approx(1e9 - 600.0)


def test_the_named_moment_counts_if_it_is_nearer() -> None:
    pause = long_pause(300.0)
    assert (pause.next_slot_at(10.0, True), pause.next_slot_at(10.0, False)) == (310.125, 310.125)
    assert pause.next_event_at(310.5) == math.inf


def test_new_live_work_starts_at_the_moment_unless_it_asks_or_an_answer_may_come() -> None:
    pause = long_pause()
    # It does not wait so long, but is refused.
    assert pause.earliest(20.0, 600.0) == 1e9 + 10.0
    assert pause.earliest(20.0, math.inf) == 610.0
    assert pause.earliest(610.0, 600.0) == 610.0
    pause.start(610.0)
    assert pause.earliest(611.0, 600.0) == 611.0
    assert long_pause(300.0).earliest(20.0, 600.0) == 310.125


def test_one_request_asks_and_the_others_wait_for_its_answer() -> None:
    pause = long_pause()
    assert pause.next_slot_at(610.0) <= 610.0
    pause.start(610.0)
    # If no answer comes, another one asks.
    assert (pause.next_slot_at(610.5, True), pause.next_slot_at(610.5, False)) == (640.0, 3610.0)
    impatient = long_pause(longest_live=5.0)
    impatient.start(15.0)
    assert impatient.next_slot_at(15.5) == 20.0
    bulk = long_pause()
    bulk.start(3610.0)
    assert bulk.next_slot_at(3610.5, False) == 3640.0


def test_work_waits_for_the_answer_to_the_one_that_asks_and_not_for_the_moment() -> None:
    pause = long_pause()
    assert pause.held(600.0, 600.0) > 1e8
    pause.start(610.0)
    assert pause.held(605.0, 611.0) == 35.0
    pause.throttle(now=612.0, sent=610.0, wait=1e9, offset=0.0)
    assert pause.held(605.0, 612.0) > 1e8


def test_a_request_that_asked_and_was_served_ends_the_pause() -> None:
    pause = long_pause()
    pause.start(610.0)
    assert pause.succeeded(sent=610.0, now=611.0)
    assert pause.remaining(611.0) == 0.0
    # Also then requests resume spread out.
    assert starts(pause, 611.0, 6) == [611.0, 611.25, 611.5, 611.75, 612.0, 612.0]
    assert pause.consecutive_429s == 0


def test_a_request_from_before_the_pause_does_not_end_it() -> None:
    pause = long_pause()
    assert not pause.succeeded(sent=9.75, now=11.0)
    assert pause.remaining(11.0) > 0


def test_the_answer_to_a_request_that_asked_replaces_the_moment() -> None:
    for wait in (5.0, 1e9):
        pause = long_pause()
        pause.start(610.0)
        pause.throttle(now=611.0, sent=610.0, wait=wait, offset=0.0)
        assert pause.remaining(611.0) == wait
        assert pause.next_slot_at(611.0) == min(611.0 + wait, 1211.0)
        assert pause.consecutive_429s == 2


def test_pauses_in_a_row_hold_work_from_the_first_or_from_its_acceptance() -> None:
    pause = TenantPause(4)
    pause.throttle(10.0, sent=9.5, wait=400.0, offset=0.0)
    assert [pause.held(at, 20.0) for at in (0.0, 20.0)] == [400.0, 390.0]
    pause.throttle(411.0, sent=410.0, wait=400.0, offset=0.0)
    assert [pause.held(at, 420.0) for at in (0.0, 420.0)] == [801.0, 391.0]
    assert pause.held(0.0, 811.0) == 0.0
    pause.succeeded(sent=811.0, now=811.5)
    pause.throttle(820.0, sent=819.0, wait=400.0, offset=0.0)
    assert pause.held(0.0, 820.0) == 400.0


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
        assert pause.next_slot_at(now) >= until or until <= now
        assert pause.remaining(now) == pytest.approx(max(0.0, until - now), abs=1e-9)
    went = starts(pause, now, requests)
    assert min(went) >= until
    # Everyone gets his turn within the spread, and perhaps one gap.
    assert max(went) <= max(now, until + 1.0 + 1.0 / in_flight + 1e-9)


# The pauses of dialogs.


def test_a_dialog_has_a_pause_of_its_own() -> None:
    pauses = DialogPauses()
    assert not pauses.any
    pauses.throttle("a", 1.0, sent=0.5, wait=5.0)
    assert pauses.any
    assert (pauses.until("a"), pauses.until("b")) == (6.0, 0.0)
    # In flight at the same time as the first one.
    pauses.throttle("a", 2.0, sent=1.0, wait=3.0)
    assert pauses.until("a") == 6.0
    pauses.throttle("a", 2.0, sent=1.0, wait=8.0)
    assert pauses.until("a") == 10.0


def test_a_dialog_asks_again_and_the_answer_replaces_the_moment() -> None:
    pauses = DialogPauses()
    pauses.throttle("a", 1.0, sent=0.5, wait=3000.0)
    assert [pauses.until("a", longest) for longest in (600.0, 3600.0, math.inf)] == [
        601.0,
        3001.0,
        3001.0,
    ]
    assert pauses.until("b", math.inf) == 0.0
    pauses.throttle("a", 602.0, sent=601.0, wait=5.0)
    assert pauses.until("a") == 607.0
    # From the first of the pauses in a row on, or from the acceptance.
    assert [pauses.held("a", at) for at in (0.0, 600.0)] == [606.0, 7.0]


def test_a_request_that_is_served_ends_the_pause_of_its_dialog() -> None:
    pauses = DialogPauses()
    pauses.throttle("a", 1.0, sent=0.5, wait=3000.0)
    pauses.served("a", sent=0.75)
    pauses.served("b", sent=601.0)
    assert pauses.until("a") == 3001.0
    pauses.served("a", sent=601.0)
    assert pauses.until("a") == 0.0
    assert not pauses.any
    pauses.throttle("a", 700.0, sent=699.0, wait=5.0)
    assert pauses.held("a", 0.0) == 5.0


def test_pauses_that_are_over_are_forgotten() -> None:
    pauses = DialogPauses()
    for number in range(10_000):
        pauses.throttle(f"d-{number}", float(number), float(number), 10.0)
    (remembered,) = [part for part in vars(pauses).values() if isinstance(part, dict)]
    assert len(remembered) < 200
    assert all(pauses.until(f"d-{number}") == number + 10.0 for number in range(9990, 10_000))


def test_pauses_that_last_are_kept_however_many() -> None:
    pauses = DialogPauses()
    for number in range(1000):
        pauses.throttle(f"d-{number}", 0.0, 0.0, 100.0)
    assert all(pauses.until(f"d-{number}") == 100.0 for number in range(1000))


def test_a_pause_of_years_is_forgotten_after_a_day() -> None:
    pauses = DialogPauses()
    for number in range(1000):
        pauses.throttle(f"d-{number}", number * 1000.0, number * 1000.0, 1e9)
    (remembered,) = [part for part in vars(pauses).values() if isinstance(part, dict)]
    assert len(remembered) < 300
