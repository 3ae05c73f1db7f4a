"""Retry policies, Retry-After and the retry budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
import tenacity
from hypothesis import example, given
from hypothesis import strategies as st

from cognigy_async import (
    ConfigurationError,
    RateLimitedError,
    ResponseKind,
    RetryPolicy,
    ServerError,
)
from cognigy_async.retry import OUTAGE_KINDS, RETRYABLE_KINDS, RetryBudget, RetryState, retry_after

from ._builders import unhurried

NOW = 1_700_000_000.0
"""14 November 2023, 22:13:20 UTC, a Tuesday."""


# Retry-After.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("007", 7.0),
        (" 30\t", 30.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue Nov 14 22:14:20 2023", 60.0),
        ("Tue, 14 Nov 2023 23:14:20 +0100", 60.0),
        ("  Tue, 14 Nov 2023 22:14:20 GMT  ", 60.0),
        ("2023-11-14T22:14:20Z", 60.0),
        ("1000000000", 1e9),
        # Larger numbers are times since 1970, in seconds and in milliseconds.
        ("1700000060", 60.0),
        ("1700000060500", 60.5),
    ],
)
def test_seconds_and_dates_are_understood(text: str, seconds: float) -> None:
    assert retry_after({"retry-after": text}, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "   ", "soon", "-5", "-0", "+5", "1e3", "0x10", "1_000", "5s", "1.2.3", "."),
        *("nan", "inf", "-inf", "Infinity", "\u0665", "²", "9" * 400, "5\x00", "\ud800"),
        *("9" * 20, ", ,"),
        *("Tue", ",", "::", "()", "14 Nov 2023", "Tue, 14 Nov 99999 22:14:20 GMT", "x" * 100_000),
        "Tue, 99 Nov 2023 22:14:20 GMT",
        "Tue, 14 Nov 2023 99:99:99 GMT",
        "Tue, 14 Nov 2023 22:14:20 +9999",
    ],
)
def test_garbage_asks_for_nothing(text: str) -> None:
    assert retry_after({"retry-after": text}, NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        *("0", "000", "0.0", "0, 0", "1600000000", "1600000000000"),
        *("Tue, 14 Nov 2023 22:13:20 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"),
        "Tue, 14 Nov 2023 22:13:19 GMT, 0",
    ],
)
def test_zero_and_the_past_ask_for_nothing(text: str) -> None:
    assert retry_after({"retry-after": text}, NOW) is None


MINUTE = "Tue, 14 Nov 2023 22:14:20 GMT"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1, 1", 1.0),
        ("1,1,1", 1.0),
        (f"{MINUTE}, {MINUTE}", 60.0),
        (f"{MINUTE},{MINUTE}", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT, Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue Nov 14 22:14:20 2023, Tue Nov 14 22:14:20 2023", 60.0),
    ],
)
def test_equal_headers_are_one(text: str, seconds: float) -> None:
    assert retry_after({"retry-after": text}, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5, 7", 7.0),
        ("7, 5, 0", 7.0),
        ("soon, 5", 5.0),
        ("-5, 5", 5.0),
        (f"120, {MINUTE}", 120.0),
        (f"{MINUTE}, 30", 60.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT, 9", 9.0),
        # No more than so many are read.
        ("1, " * 16 + "2", 1.0),
    ],
)
def test_of_several_headers_the_latest_moment_counts(text: str, seconds: float) -> None:
    assert retry_after({"retry-after": text}, NOW) == seconds


def test_without_the_header_nothing_is_asked() -> None:
    assert retry_after({}, NOW) is None
    assert retry_after({"date": formatdate(NOW)}, NOW) is None


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 86_400.0])
@pytest.mark.parametrize("text", ["Tue, 14 Nov 2023 22:13:50 GMT", "1700000030", "1700000030000"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_moment_is_measured_against_the_clock_of_the_server(
    text: str, ahead: float, times: int
) -> None:
    # The clock here may be wrong by any amount when the server tells its own.
    date = ", ".join(["Tue, 14 Nov 2023 22:13:20 GMT"] * times)
    assert retry_after({"date": date, "retry-after": text}, NOW + ahead) == 30.0


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_a_date_without_a_zone_is_utc_wherever_this_runs(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after({"retry-after": "Tue Nov 14 22:14:20 2023"}, NOW) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Nov 2023 22:13:20 GMT", "1700000000"])
def test_without_a_good_date_the_local_clock_is_used(date: str) -> None:
    headers = {"date": date, "retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}
    assert retry_after(headers, NOW + 10) == 20.0


def test_the_date_of_the_answer_does_not_matter_to_seconds() -> None:
    headers = {"date": "Thu, 01 Jan 1970 00:00:00 GMT", "retry-after": "30"}
    assert retry_after(headers, NOW) == 30.0


ODD_TEXT = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from("0123456789 .,:;-+()TueNovGMT\t\x00\u0665"), max_size=40
)


@given(text=ODD_TEXT, date=st.none() | ODD_TEXT, now=st.floats(-1e12, 1e12))
@example(text="Tue, 14 Nov 2023 22:14:20 GMT", date="Mon, 31 Dec 0000 00:00:00 GMT", now=0.0)
@example(text="Mon, 01 Jan 0001 00:00:00 +2359", date=None, now=0.0)
@example(text="Fri, 31 Dec 9999 23:59:59 -2359", date=None, now=0.0)
@unhurried
def test_no_header_raises(text: str, date: str | None, now: float) -> None:
    headers = {"retry-after": text} | ({"date": date} if date is not None else {})
    seconds = retry_after(headers, now)
    assert seconds is None or (seconds > 0.0 and math.isfinite(seconds))


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2099, 1, 1)),
    st.integers(1, 10**7),
    st.sampled_from([0, 90, -480]),
)
@unhurried
def test_any_date_comes_out_right(sent: datetime, seconds: int, zone: int) -> None:
    sent = sent.replace(microsecond=0, tzinfo=UTC)
    until = (sent + timedelta(seconds=seconds)).astimezone(timezone(timedelta(minutes=zone)))
    headers = {"date": format_datetime(sent, usegmt=True), "retry-after": format_datetime(until)}
    assert retry_after(headers, 0.0) == seconds


# The policy.


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 2.0},
        {"max_attempts": True},
        {"max_attempts": "5"},
        {"max_attempts": None},
        {"max_elapsed": -0.1},
        {"max_elapsed": math.nan},
        {"max_elapsed": "300"},
        {"max_elapsed": None},
        {"max_retry_after": -1},
        {"max_retry_after": math.nan},
        {"max_retry_after": None},
        {"budget": -0.1},
        {"budget": math.nan},
        {"budget": math.inf},
        {"budget": "0.2"},
        {"ambiguous": "ignore"},
        {"ambiguous": None},
        {"wait": 5},
        {"wait": None},
        {"stop": 5},
        {"stop": "never"},
    ],
    ids=lambda arguments: "-".join(arguments) or "none",
)
def test_a_policy_out_of_range_is_rejected(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ConfigurationError, match=f"^{name}="):
        RetryPolicy(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_attempts": 1},
        {"max_elapsed": 0},
        {"max_elapsed": math.inf, "max_retry_after": math.inf},
        {"budget": 0, "max_retry_after": 0.0},
        {"ambiguous": "raise"},
        {"stop": tenacity.stop_after_delay(5) | tenacity.stop_after_attempt(3)},
        {"wait": tenacity.wait_fixed(1) + tenacity.wait_random(0, 2)},
    ],
    ids=lambda arguments: "-".join(arguments) or "none",
)
def test_a_policy_within_range_is_accepted(arguments: dict[str, Any]) -> None:
    policy = RetryPolicy(**arguments)
    for name, value in arguments.items():
        assert getattr(policy, name) == value


def test_the_defaults() -> None:
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.max_elapsed, policy.max_retry_after) == (5, 300.0, 600.0)
    assert (policy.budget, policy.stop, policy.ambiguous) == (0.2, None, "retry")
    waits = [policy.backoff(failures, None, 0.0) for failures in (1, 3, 5, 50) for _ in range(200)]
    for number, longest in enumerate((0.25, 1.0, 4.0, 20.0)):
        some = waits[200 * number : 200 * (number + 1)]
        assert min(some) >= 0.0
        assert longest / 2 < max(some) <= longest


def policy(**arguments: Any) -> RetryPolicy:
    return RetryPolicy(**({"wait": tenacity.wait_fixed(1.0)} | arguments))


def failed(retry_after: float | None = None) -> ServerError:
    return ServerError("The server failed", status=503, retry_after=retry_after)


def waits(
    of: RetryPolicy, *failures: tuple[ResponseKind, float | None], live: bool = True
) -> list[float | None]:
    """What the policy says to one failure after another of the same update."""
    retry_state = RetryState()
    return [
        of.next_wait(retry_state, response_kind, failed(named), live=live, now=100.0)
        for response_kind, named in failures
    ]


def test_the_wait_is_that_of_the_strategy_or_of_retry_after() -> None:
    for response_kind in set(ResponseKind) - {ResponseKind.APPLIED, ResponseKind.REFUSED}:
        for live in (True, False):
            assert waits(policy(), (response_kind, None), live=live) == [1.0]
            assert waits(policy(), (response_kind, 0.0), live=live) == [1.0]
            assert waits(policy(), (response_kind, 0.5), live=live) == [1.0]
            assert waits(policy(), (response_kind, 7.5), live=live) == [7.5]


@given(
    named=st.lists(st.none() | st.floats(0, 1000), max_size=8),
    own=st.floats(0, 100),
    live=st.booleans(),
    response_kind=st.sampled_from(
        [*sorted(RETRYABLE_KINDS, key=str), ResponseKind.THROTTLED, ResponseKind.CONFLICT]
    ),
)
@unhurried
def test_the_wait_is_never_less_than_asked(
    named: list[float | None], own: float, live: bool, response_kind: ResponseKind
) -> None:
    told = waits(
        policy(wait=tenacity.wait_fixed(own), max_attempts=100),
        *((response_kind, seconds) for seconds in named),
        live=live,
    )
    for wait, seconds in zip(told, named, strict=True):
        assert wait is None or wait == max(own, seconds or 0.0)


@pytest.mark.parametrize("response_kind", sorted(RETRYABLE_KINDS, key=str))
def test_a_live_update_gives_up_after_so_many_attempts(response_kind: ResponseKind) -> None:
    told = waits(policy(max_attempts=3), *[(response_kind, None)] * 3)
    assert told == [1.0, 1.0, None]
    assert waits(policy(max_attempts=1), (response_kind, None)) == [None]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("response_kind", [ResponseKind.CONFLICT, ResponseKind.THROTTLED])
def test_conflicts_and_throttling_count_against_time_only(
    response_kind: ResponseKind, live: bool
) -> None:
    told = waits(policy(max_attempts=1, max_elapsed=20.5), *[(response_kind, None)] * 21, live=live)
    assert told == [1.0] * 20 + [None]


def test_a_token_that_is_refused_again_and_again_spends_attempts() -> None:
    told = waits(policy(max_attempts=3), *[(ResponseKind.UNAUTHORIZED, None)] * 3, live=False)
    assert told == [1.0, 1.0, None]


def test_they_do_not_spend_the_attempts_of_what_counts() -> None:
    mixed = [
        (ResponseKind.CONFLICT, None),
        (ResponseKind.THROTTLED, None),
        (ResponseKind.FAULT, None),
    ] * 2
    assert waits(policy(max_attempts=2), *mixed) == [1.0] * 5 + [None]


def test_retry_after_waits_do_not_count_as_elapsed() -> None:
    told = waits(policy(max_elapsed=0.5), *[(ResponseKind.THROTTLED, 60.0)] * 9)
    assert told == [60.0] * 9
    # Of a wait that is longer than asked, the rest is our own.
    longer = policy(max_elapsed=10.0, wait=tenacity.wait_fixed(5.0))
    assert waits(longer, *[(ResponseKind.THROTTLED, 2.0)] * 5) == [5.0, 5.0, 5.0, None, None]


def test_time_spent_on_requests_counts() -> None:
    retry_state = RetryState(elapsed=9.5)
    patient = policy(max_elapsed=10.0)
    assert patient.next_wait(retry_state, ResponseKind.FAULT, failed(), live=True, now=0.0) is None
    retry_state = RetryState(elapsed=9.0)
    assert patient.next_wait(retry_state, ResponseKind.FAULT, failed(), live=True, now=0.0) == 1.0


def test_a_live_update_waits_no_longer_than_max_retry_after() -> None:
    impatient = policy(max_retry_after=10.0)
    throttled = ResponseKind.THROTTLED
    assert waits(impatient, (throttled, 10.0)) == [10.0]
    assert waits(impatient, (throttled, 10.1)) == [None]
    assert waits(impatient, (ResponseKind.UNAVAILABLE, 10.1)) == [None]
    assert waits(impatient, *[(throttled, 4.0)] * 3) == [4.0, 4.0, None]


def test_bulk_work_waits_as_long_as_the_server_asks_and_asks_again_after_an_hour() -> None:
    impatient = policy(max_retry_after=10.0, max_elapsed=5.0)
    for response_kind in (ResponseKind.THROTTLED, ResponseKind.UNAVAILABLE):
        assert waits(impatient, *[(response_kind, 3600.0)] * 20, live=False) == [3600.0] * 20
        assert waits(impatient, *[(response_kind, 86_400.0)] * 20, live=False) == [3600.0] * 20


def test_the_longest_pause_is_that_of_the_policy_or_an_hour() -> None:
    assert policy(max_retry_after=10.0).longest_pause(live=True) == 10.0
    assert policy(max_retry_after=math.inf).longest_pause(live=True) == math.inf
    assert policy(max_retry_after=10.0).longest_pause(live=False) == 3600.0
    # Without a pause each update would ask.
    assert policy(max_retry_after=0.0).longest_pause(live=True) == 1.0


@pytest.mark.parametrize("response_kind", sorted(OUTAGE_KINDS, key=str))
def test_an_outage_costs_bulk_work_neither_attempts_nor_time(response_kind: ResponseKind) -> None:
    strict = policy(max_attempts=1, max_elapsed=0.5, stop=tenacity.stop_after_attempt(1))
    retry_state = RetryState()
    for _ in range(100):
        assert strict.next_wait(retry_state, response_kind, failed(), live=False, now=0.0) == 1.0
    assert (retry_state.counted_failures, retry_state.elapsed, retry_state.failures) == (
        0,
        0.0,
        100,
    )
    assert waits(strict, (response_kind, None), live=True) == [None]


def test_a_500_costs_bulk_work_attempts_and_time() -> None:
    assert ResponseKind.FAULT not in OUTAGE_KINDS
    fault = (ResponseKind.FAULT, None)
    assert waits(policy(max_attempts=2), fault, fault, live=False) == [1.0, None]
    assert waits(policy(max_elapsed=1.5), fault, fault, live=False) == [1.0, None]


# What tenacity is shown.


class Watching:
    """A strategy that keeps what it saw."""

    def __init__(self, answer: Callable[[tenacity.RetryCallState], Any]) -> None:
        self.answer = answer
        self.seen: list[dict[str, Any]] = []

    def __call__(self, state: tenacity.RetryCallState) -> Any:
        assert state.outcome is not None
        self.seen.append(
            {
                "number": state.attempt_number,
                "since_start": state.seconds_since_start,
                "idle": state.idle_for,
                "upcoming": state.upcoming_sleep,
                "failed": state.outcome.failed,
                "error": state.outcome.exception(),
            }
        )
        return self.answer(state)


def test_wait_sees_all_failures_and_stop_those_that_count() -> None:
    wait = Watching(lambda state: float(state.attempt_number))
    stop = Watching(lambda state: False)
    watched = RetryPolicy(wait=wait, stop=stop)
    verdicts = [
        ResponseKind.CONFLICT,
        ResponseKind.FAULT,
        ResponseKind.THROTTLED,
        ResponseKind.GATEWAY,
    ]
    assert waits(watched, *((response_kind, None) for response_kind in verdicts)) == [
        1.0,
        2.0,
        3.0,
        4.0,
    ]
    assert [seen["number"] for seen in wait.seen] == [1, 2, 3, 4]
    assert [seen["number"] for seen in stop.seen] == [0, 1, 1, 2]
    assert [seen["upcoming"] for seen in wait.seen] == [0.0, 0.0, 0.0, 0.0]
    assert [seen["upcoming"] for seen in stop.seen] == [1.0, 2.0, 3.0, 4.0]
    # Time since the start is what was spent, and the wait at hand is still to come.
    assert [seen["since_start"] for seen in wait.seen] == [0.0, 1.0, 3.0, 6.0]
    assert [seen["since_start"] for seen in stop.seen] == [0.0, 1.0, 3.0, 6.0]
    assert [seen["idle"] for seen in wait.seen] == [0.0, 1.0, 3.0, 6.0]


def test_the_outcome_is_the_failure() -> None:
    wait = Watching(lambda state: 1.0)
    error = RateLimitedError("The server throttles", retry_after=3.0)
    RetryPolicy(wait=wait).next_wait(
        RetryState(), ResponseKind.THROTTLED, error, live=True, now=0.0
    )
    assert wait.seen[0]["failed"]
    assert wait.seen[0]["error"] is error


def test_a_strategy_may_read_the_failure() -> None:
    wait = tenacity.wait_exception(lambda error: 9.0 if isinstance(error, ServerError) else 1.0)
    assert waits(RetryPolicy(wait=wait), (ResponseKind.FAULT, None)) == [9.0]


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (tenacity.stop_after_attempt(2), [1.0, None, None]),
        # Time is looked at before the wait: 0, 1 and 2 seconds are spent.
        (tenacity.stop_after_delay(1.5), [1.0, 1.0, None]),
        (tenacity.stop_after_delay(1.0), [1.0, None, None]),
        (tenacity.stop_before_delay(1.5), [1.0, None, None]),
        (tenacity.stop_never, [1.0, 1.0, 1.0]),
        (tenacity.stop_any(tenacity.stop_after_attempt(3)), [1.0, 1.0, None]),
    ],
)
def test_the_stops_of_tenacity_work(stop: Any, told: list[float | None]) -> None:
    assert waits(policy(stop=stop), *[(ResponseKind.FAULT, None)] * 3) == told


def test_a_backoff_counts_failures_in_a_row() -> None:
    doubling = RetryPolicy(wait=tenacity.wait_exponential(multiplier=1, max=10))
    told = [doubling.backoff(failures, None, 50.0) for failures in range(1, 6)]
    assert told == [1.0, 2.0, 4.0, 8.0, 10.0]


def test_a_backoff_without_an_update_has_no_history() -> None:
    wait = Watching(lambda state: 1.0)
    error = ServerError("failed")
    RetryPolicy(wait=wait).backoff(3, error, 50.0)
    assert wait.seen == [
        {
            "number": 3,
            "since_start": 0.0,
            "idle": 0.0,
            "upcoming": 0.0,
            "failed": True,
            "error": error,
        }
    ]
    without: list[object] = []

    def alone(state: tenacity.RetryCallState) -> float:
        without.append(state.outcome)
        return 1.0

    RetryPolicy(wait=alone).backoff(1, None, 50.0)
    assert without == [None]


@pytest.mark.parametrize("answer", [-1.0, -1e-9, math.nan, math.inf])
def test_a_wait_that_is_no_number_of_seconds_is_an_error(answer: float) -> None:
    # With one of these an update would wait for a moment that never comes.
    broken = RetryPolicy(wait=lambda state: answer)
    with pytest.raises(ValueError, match="the wait strategy returned"):
        broken.next_wait(RetryState(), ResponseKind.FAULT, failed(), live=False, now=0.0)
    with pytest.raises(ValueError, match="the wait strategy returned"):
        broken.backoff(1, None, 0.0)


# The retry budget.


def test_the_budget_is_full_at_the_start_and_never_deeper() -> None:
    budget = RetryBudget(0.5, 3)
    for _ in range(100):
        budget.first_attempt()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_first_attempts_feed_the_budget() -> None:
    budget = RetryBudget(0.2, 1)
    assert budget.take()
    for _ in range(4):
        budget.first_attempt()
        assert not budget.take()
    budget.first_attempt()
    assert [budget.take(), budget.take()] == [True, False]


def test_without_a_ratio_there_is_the_start_and_nothing_more() -> None:
    budget = RetryBudget(0.0, 2)
    for _ in range(100):
        budget.first_attempt()
    assert [budget.take() for _ in range(3)] == [True, True, False]


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 2), st.integers(1, 20))
@unhurried
def test_retries_stay_within_the_bound(sequence: list[bool], ratio: float, capacity: int) -> None:
    budget = RetryBudget(ratio, capacity)
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
def test_all_tokens_that_were_added_can_be_taken(firsts: int, ratio: float) -> None:
    budget = RetryBudget(ratio, 1000)
    while budget.take():
        pass
    for _ in range(firsts):
        budget.first_attempt()
    taken = 0
    while budget.take():
        taken += 1
    # Adding up rounds; nobody misses the fraction of a token.
    assert taken >= math.floor(ratio * firsts) - 1
