"""What the headers of an answer tell of a rate limit."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cognigy_async.ratelimit.adaptive import AdaptiveLimiter
from cognigy_async.ratelimit.headers import RateLimitHeaders, read_headers

WALL = 1_800_000_000.0
NAMES = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-reset")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        (
            {"ratelimit-policy": '"default";q=60;w=2', "ratelimit": '"default";r=50;t=1'},
            RateLimitHeaders(60, 2, 50, 1),
        ),
        (
            {
                "ratelimit-policy": '"burst";q=60;w=2, "day";q=5000;w=86400',
                "ratelimit": '"burst";r=50;t=1, "day";r=3;t=500',
            },
            RateLimitHeaders(5000, 86400, 3, 500),
        ),
        (
            {"ratelimit-policy": '"burst";q=60;w=2, "day";q=5000;w=86400'},
            RateLimitHeaders(5000, 86400),
        ),
        ({"ratelimit-policy": "100;w=60"}, RateLimitHeaders(100, 60)),
        (
            {"ratelimit": "limit=100, remaining=5, reset=7", "ratelimit-policy": "100;w=60"},
            RateLimitHeaders(100, 60, 5, 7),
        ),
        ({"ratelimit": "limit=100, remaining=5, reset=7"}, RateLimitHeaders(100, None, 5, 7)),
        (
            {
                "ratelimit-limit": "100, 100;w=60",
                "ratelimit-remaining": "9",
                "ratelimit-reset": "30",
            },
            RateLimitHeaders(100, 60, 9, 30),
        ),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1.5"},
            RateLimitHeaders(60, None, 0, 1.5),
        ),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-reset": "1800000030"},
            RateLimitHeaders(60, reset=30),
        ),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-reset": "1800000030500"},
            RateLimitHeaders(60, reset=30.5),
        ),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-reset": "1799999000"},
            RateLimitHeaders(60, reset=0),
        ),
        ({"x-ratelimit-limit": "none"}, None),
        ({"x-ratelimit-limit": "0"}, None),
        ({"x-ratelimit-limit": "-5"}, None),
        ({"x-ratelimit-limit": "nan"}, None),
        ({"ratelimit": '"a";r=5', "ratelimit-policy": '"b";w=5'}, None),
    ],
)
def test_each_kind_of_headers(headers: dict[str, str], told: RateLimitHeaders | None) -> None:
    assert read_headers(headers, WALL) == told


TEXTS = st.text(max_size=20) | st.lists(
    st.sampled_from(
        ['"a"', "b", "60", ";q=5", ";w=0", ";r=9", ";t=1e9", ",", "reset=2", "limit=0", "9" * 400]
    )
).map("".join)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
@example({"ratelimit": f"limit={'9' * 400}, remaining=1, reset={'9' * 400}"})
@example({"ratelimit": f"limit=5, remaining=1, reset={'9' * 400}"})
def test_whatever_a_server_says_nothing_breaks(headers: dict[str, str]) -> None:
    learned = AdaptiveLimiter()
    learned.on_headers(headers, 0.0, 0.0, WALL)
    assert learned.next_slot_at(0.0, True) >= 0.0
    learned.start(0.0, bulk=False)
    learned.finish(0.0, 1.0)
    assert learned.next_slot_at(1.0, True) >= 0.0
