"""Pauses of the tenant and of single dialogs."""

from __future__ import annotations

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
    pause.succeeded(sent=0.9)
    assert pause.consecutive_429s == 1
    pause.succeeded(sent=3.0)
    assert pause.consecutive_429s == 0


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
