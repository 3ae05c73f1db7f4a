"""The budget of repeated requests."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cognigy_async.retry import RetryBudget

from ._builders import unhurried

# The budget.


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
def test_repeats_stay_within_the_bound(sequence: list[bool], ratio: float, capacity: int) -> None:
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
def test_what_was_fed_can_be_taken(firsts: int, ratio: float) -> None:
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
