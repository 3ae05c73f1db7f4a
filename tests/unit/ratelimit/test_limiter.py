"""Several limits at once, what is saved of them, and the client argument `rate_limit`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cognigy_async import ConfigurationError, RateLimit
from cognigy_async.ratelimit.adaptive import AdaptiveLimiter
from cognigy_async.ratelimit.limiter import CompositeLimiter, create_limiter
from cognigy_async.ratelimit.sliding_window import SlidingWindow

from ._busy import busy, limiter_of, most


def test_each_of_several_limits_holds() -> None:
    quota = limiter_of(RateLimit(10, per=1), RateLimit(60, per=20), RateLimit(100, per=7, burst=2))
    starts = busy(quota, 200)
    assert most(starts, 1.0) <= 10
    assert most(starts, 20.0) == 60
    assert "60 per 20 s" in repr(quota)


def test_bulk_work_waits_for_the_headroom_of_each_limit() -> None:
    quota = limiter_of(RateLimit(1000, per=300), RateLimit(20, per=10))
    for _ in range(18):
        assert quota.next_slot_at(0.0, True) == 0.0
        quota.start(0.0, bulk=False)
        quota.finish(0.0, 0.0)
    window = quota.limiters[1]
    quota.start(0.0, bulk=True)
    assert quota.next_bulk_slot_at(0.0) == window.next_bulk_slot_at(0.0) > 0.0


def test_the_usage_needs_a_clock_and_has_each_limit() -> None:
    quota = limiter_of(RateLimit(10, per=1), RateLimit(60, per=20))
    assert quota.current_usage() == ()
    quota.bind_clock(lambda: 5.0)
    assert quota.next_slot_at(5.0, True) == 5.0
    quota.start(5.0, bulk=False)
    assert [(use.n, use.per, use.used) for use in quota.current_usage()] == [
        (10, 1, 1),
        (60, 20, 1),
    ]


@pytest.mark.parametrize(
    ("rate_limit", "kinds"),
    [
        (RateLimit(10, per=1), [SlidingWindow]),
        ([RateLimit(10, per=1), RateLimit(60, per=20)], [SlidingWindow, SlidingWindow]),
        ("auto", [AdaptiveLimiter]),
    ],
)
def test_the_argument_of_a_client_becomes_limiters(rate_limit: Any, kinds: list[type]) -> None:
    quota = create_limiter(rate_limit)
    assert quota is not None
    assert [type(limiter) for limiter in quota.limiters] == kinds
    # A single limit is asked without a detour.
    assert quota.hot_path is (quota.limiters[0] if len(kinds) == 1 else quota)
    assert (quota.adaptive is not None) == (rate_limit == "auto")


def test_no_limit_needs_no_limiter() -> None:
    assert create_limiter(None) is None


@pytest.mark.parametrize("rate_limit", [[], [RateLimit(1, per=1), None], "often", 1000, b"auto"])
def test_another_argument_is_rejected(rate_limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^rate_limit=.*RateLimit\(1000, per=300\)"):
        create_limiter(rate_limit)


# Across a restart.


def test_what_is_saved_counts_after_a_restart() -> None:
    before = limiter_of(RateLimit(10, per=10), RateLimit(4, per=1))
    for now in (100.0, 101.0, 109.5):
        assert before.next_slot_at(now, True) == now
        before.start(now, bulk=False)
        if now < 109:
            before.finish(now, now)
    state = json.loads(json.dumps(before.save(110.0, 5000.0)))
    after = limiter_of(RateLimit(3, per=10), RateLimit(4, per=1))
    after.restore(state, 7.0, 5000.5)
    # Those of 10.5, 9.5 and, as it was under way, 0.5 seconds ago.
    assert [use.used for use in after.usage(7.0)] == [2, 1]
    assert after.next_slot_at(7.0, True) == 7.0
    after.start(7.0, bulk=False)
    assert after.next_slot_at(7.0, True) == pytest.approx(7.0 - 9.5 + 10.05)


def test_a_clock_that_was_set_back_makes_nothing_younger() -> None:
    quota = limiter_of(RateLimit(1, per=10, guard=0.0))
    quota.restore({"at": 5000.0, "starts": [[2.0, 1]]}, 0.0, 1000.0)
    assert quota.next_slot_at(0.0, True) == 8.0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"at": 1.0},
        {"at": 1.0, "starts": [[1.0]]},
        {"at": 1.0, "starts": [[1.0, -1]]},
        {"at": math.nan, "starts": [[math.inf, 1]]},
        {"at": "x", "starts": []},
        [],
    ],
)
def test_a_state_that_was_not_saved_is_rejected(state: Any) -> None:
    quota = limiter_of(RateLimit(1, per=10))
    with pytest.raises(ConfigurationError, match=r"quota_state\(\)"):
        quota.restore(state, 0.0, 5.0)


def test_of_several_windows_the_longest_is_saved() -> None:
    quota = limiter_of(RateLimit(10, per=1), RateLimit(60, per=20))
    assert quota.next_slot_at(0.0, True) == 0.0
    quota.start(0.0, bulk=False)
    quota.finish(0.0, 0.0)
    assert quota.next_slot_at(5.0, True) == 5.0
    assert quota.save(5.0, 100.0) == {"at": 100.0, "starts": [(5.0, 1)]}
    assert CompositeLimiter([AdaptiveLimiter()]).save(5.0, 100.0)["starts"] == []
