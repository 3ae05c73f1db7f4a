"""A learned limit: the rate without headers, a window with them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cognigy_async.ratelimit.adaptive import INITIAL_RATE, AdaptiveLimiter

WALL = 1_800_000_000.0
NAMES = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-reset")


def headers(remaining: int, *, reset: int = 10) -> dict[str, str]:
    return {
        "ratelimit-policy": '"default";q=10;w=10',
        "ratelimit": f'"default";r={remaining};t={reset}',
    }


def send(limiter: AdaptiveLimiter, count: int, since: float) -> list[float]:
    """Return the starts of accepted requests, each as early as it may be."""
    now, starts = since, []
    for _ in range(count):
        now = max(now, limiter.next_slot_at(now, True))
        limiter.start(now, bulk=False)
        limiter.on_accepted(now)
        starts.append(now)
    return starts


# Without headers.


def test_requests_are_spread_evenly_and_the_rate_grows_with_each() -> None:
    starts = send(AdaptiveLimiter(), 3, 0.0)
    assert starts == pytest.approx(
        [0.0, 1 / INITIAL_RATE, 1 / INITIAL_RATE + 1 / (INITIAL_RATE + 1)]
    )


def test_nothing_is_known_before_the_first_429() -> None:
    limiter = AdaptiveLimiter()
    send(limiter, 10, 0.0)
    assert limiter.usage(1.0) == ()


def test_the_first_429_shows_limit_and_window() -> None:
    limiter = AdaptiveLimiter()
    *_, last = send(limiter, 100, 0.0)
    limiter.on_throttled(last, last, 10.0 - last)
    [use] = limiter.usage(last)
    assert (use.n, use.per, use.learned) == (100, 10.0, True)


def test_a_pause_lowers_the_rate_once() -> None:
    limiter = AdaptiveLimiter()
    *_, last = send(limiter, 100, 0.0)
    for _ in range(5):
        limiter.on_throttled(last, last, 10.0 - last)
    assert limiter.usage(last)[0].n == 100


def test_the_rate_comes_back_and_falls_again_a_little() -> None:
    limiter = AdaptiveLimiter()
    *_, last = send(limiter, 100, 0.0)
    limiter.on_throttled(last, last, 10.0 - last)
    before = limiter.usage(10.0)[0].n
    *_, last = send(limiter, 500, 10.0)
    grown = limiter.usage(last)[0].n
    limiter.on_throttled(last, last, 1.0)
    assert before < grown
    assert 0.9 * grown <= limiter.usage(last)[0].n < grown


# With headers.


def test_headers_are_kept_like_a_configured_limit() -> None:
    limiter = AdaptiveLimiter()
    send(limiter, 1, 0.0)
    limiter.on_headers(headers(9), 0.0, 0.0, WALL)
    limiter.finish(0.0, 0.0)
    for _ in range(9):
        assert limiter.next_slot_at(1.0, True) == 1.0
        limiter.start(1.0, bulk=False)
        limiter.finish(1.0, 1.0)
    assert limiter.next_slot_at(2.0, True) == pytest.approx(10.05)


def test_a_window_that_the_server_names_longer_keeps_what_counts() -> None:
    limiter = AdaptiveLimiter()
    for number in range(5):
        limiter.start(0.0, bulk=False)
        limiter.finish(0.0, 0.0)
        reset = str(10 + number)
        named = {"ratelimit-limit": "5", "ratelimit-remaining": "9", "ratelimit-reset": reset}
        limiter.on_headers(named, 0.0, 0.0, WALL)
    (usage,) = limiter.usage(1.0)
    assert (usage.n, usage.per, usage.used) == (5, 14.0, 5)
    assert limiter.next_slot_at(1.0, True) == pytest.approx(14.0 * 1.005)


def test_requests_of_other_clients_count_until_the_reset() -> None:
    limiter = AdaptiveLimiter()
    send(limiter, 1, 0.0)
    limiter.on_headers(headers(0, reset=4), 0.0, 0.0, WALL)
    assert limiter.usage(1.0)[0].used == 10
    assert limiter.next_slot_at(1.0, True) == 4.0


def test_of_responses_out_of_order_the_highest_count_is_right() -> None:
    limiter = AdaptiveLimiter()
    send(limiter, 2, 0.0)
    limiter.on_headers(headers(2), 0.02, 0.5, WALL)
    limiter.on_headers(headers(8), 0.0, 0.6, WALL)
    assert limiter.usage(0.6)[0].used == 8


def test_an_unusable_window_is_ignored() -> None:
    limiter = AdaptiveLimiter()
    limiter.on_headers({"x-ratelimit-limit": "60"}, 0.0, 0.0, WALL)
    assert limiter.usage(0.0) == ()
    assert limiter.next_slot_at(0.0, True) < math.inf


TEXTS = st.text(max_size=20) | st.lists(
    st.sampled_from(
        ['"a"', "b", "60", ";q=5", ";w=0", ";r=9", ";t=1e9", ",", "reset=2", "limit=0", "9" * 400]
    )
).map("".join)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
@example({"ratelimit": f"limit={'9' * 400}, remaining=1, reset={'9' * 400}"})
@example({"ratelimit": f"limit=5, remaining=1, reset={'9' * 400}"})
def test_no_header_breaks_anything(headers: dict[str, str]) -> None:
    limiter = AdaptiveLimiter()
    limiter.on_headers(headers, 0.0, 0.0, WALL)
    assert limiter.next_slot_at(0.0, True) >= 0.0
    limiter.start(0.0, bulk=False)
    limiter.finish(0.0, 1.0)
    assert limiter.next_slot_at(1.0, True) >= 0.0
