"""A learned limit: the rate without headers, a window with them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cognigy_async.ratelimit.adaptive import INITIAL_RATE, MAX_STARTS, AdaptiveLimiter

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


# Bounds.


def full(limiter: AdaptiveLimiter, server: dict[str, str]) -> None:
    """Send a request at 0 whose headers exclude a further one."""
    limiter.start(0.0, bulk=False)
    limiter.finish(0.0, 0.0)
    limiter.on_headers(server, 0.0, 0.0, WALL)
    limiter.on_accepted(0.0)


FAR = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "60000"}


@pytest.mark.parametrize(
    "server",
    [
        FAR,
        {"ratelimit": "limit=100, remaining=0, reset=99999999999999"},
        {"ratelimit-policy": '"a";q=1;w=1000000000', "ratelimit": '"a";r=0;t=1000000000'},
        {"ratelimit-policy": "1;w=1000000000"},
        {**FAR, "x-ratelimit-reset": str(int(WALL) + 10**9)},
        {**FAR, "x-ratelimit-reset": str((int(WALL) + 10**9) * 1000)},
        {**FAR, "x-ratelimit-reset": "Thu, 01 Jan 2099 00:00:00 GMT"},
    ],
)
def test_no_header_holds_work_longer_than_its_bound(server: dict[str, str]) -> None:
    limiter = AdaptiveLimiter(600.0)
    full(limiter, server)
    assert limiter.next_slot_at(0.0, True) == 600.0
    assert limiter.next_slot_at(0.0, False) == 3600.0
    # One request asks, and the next one waits as long.
    limiter.start(600.0, bulk=False)
    limiter.finish(600.0, 601.0)
    assert limiter.next_slot_at(601.0, True) == 1200.0


def test_no_header_keeps_slots_from_bulk_work_for_longer_than_an_hour() -> None:
    limiter = AdaptiveLimiter(600.0)
    limiter.start(0.0, bulk=True)
    limiter.on_headers({"ratelimit-policy": "100;w=1000000000"}, 0.0, 0.0, WALL)
    now = 0.0
    for _ in range(95):
        now = max(now, limiter.next_bulk_slot_at(now))
        limiter.start(now, bulk=True)
        limiter.finish(now, now)
    assert 0.0 < limiter.next_slot_at(now, False) <= now
    # The last tenth is for live work, bit by bit over decades.
    assert limiter.next_bulk_slot_at(now) == now + 3600.0
    limiter.start(now + 100.0, bulk=False)
    assert limiter.next_bulk_slot_at(now + 100.0) == now + 3600.0


def test_headers_that_are_wrong_are_ignored_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    limiter = AdaptiveLimiter(600.0)
    full(limiter, FAR)
    limiter.start(600.0, bulk=False)
    limiter.on_headers(FAR, 600.0, 601.0, WALL)
    limiter.on_accepted(600.0)
    assert limiter.next_slot_at(601.0, True) == 601.0
    assert "rate-limit headers" in caplog.text
    full(limiter, FAR)
    assert limiter.usage(601.0) == ()
    assert len(caplog.records) == 1


def test_headers_are_believed_if_the_server_refuses_the_request_that_asks() -> None:
    limiter = AdaptiveLimiter(600.0)
    full(limiter, FAR)
    limiter.start(600.0, bulk=False)
    limiter.on_headers({**FAR, "x-ratelimit-reset": "5"}, 600.0, 600.5, WALL)
    limiter.on_throttled(600.5, 600.0, 5.0)
    assert limiter.next_slot_at(601.0, True) == 605.5


def test_headers_are_wrong_whatever_later_headers_say() -> None:
    limiter = AdaptiveLimiter(600.0)
    full(limiter, {"x-ratelimit-limit": "100", "x-ratelimit-reset": "1000000000"})
    limiter.on_headers({"x-ratelimit-limit": "1", "x-ratelimit-reset": "1"}, 0.0, 0.0, WALL)
    assert limiter.next_slot_at(0.0, True) == 600.0
    limiter.start(600.0, bulk=False)
    limiter.on_accepted(600.0)
    assert limiter.next_slot_at(601.0, True) == 601.0


def test_a_request_after_the_reset_does_not_show_that_headers_are_wrong() -> None:
    limiter = AdaptiveLimiter(1.0)
    for _ in range(10):
        limiter.start(0.0, bulk=False)
        limiter.finish(0.0, 0.0)
    limiter.on_headers(headers(0), 0.0, 0.0, WALL)
    # The window here is a little longer than that of the server.
    assert limiter._window.next_slot_at(10.0) > 10.0  # type: ignore[union-attr]
    limiter.start(10.0, bulk=False)
    limiter.on_headers(headers(9), 10.0, 10.0, WALL)
    limiter.on_accepted(10.0)
    assert limiter.usage(10.0)[0].n == 10


def test_a_learned_rate_has_the_same_bounds() -> None:
    limiter = AdaptiveLimiter(600.0)
    limiter.start(0.0, bulk=False)
    limiter.on_accepted(0.0)
    limiter.on_throttled(0.0, 0.0, 3600.0)
    limiter.start(3600.0, bulk=False)
    assert limiter.next_slot_at(3600.0, False) == 4600.0
    assert limiter.next_slot_at(3600.0, True) == 4200.0
    limiter.start(4200.0, bulk=False)
    limiter.on_accepted(4200.0)
    assert limiter.next_slot_at(4200.0, True) == 4200.0
    assert limiter.usage(4200.0) == ()


def test_memory_does_not_grow_with_the_length_of_a_window() -> None:
    limiter = AdaptiveLimiter()
    limiter.start(0.0, bulk=True)
    limiter.on_headers({"ratelimit-policy": "1000000000;w=1000000000"}, 0.0, 0.0, WALL)
    for number in range(50_000):
        limiter.start(float(number), bulk=True)
        limiter.finish(float(number), float(number))
    assert len(limiter._recent_starts) <= MAX_STARTS


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
    assert 1.0 <= limiter.next_slot_at(1.0, True) <= 3600.0
