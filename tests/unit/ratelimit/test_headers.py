"""Rate-limit headers of each family."""

from __future__ import annotations

import pytest

from cognigy_async.ratelimit.headers import RateLimitHeaders, read_headers

WALL = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
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
            {"x-rate-limit-limit": "60", "x-rate-limit-remaining": "5"},
            RateLimitHeaders(60, None, 5),
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
def test_each_family_of_headers(headers: dict[str, str], expected: RateLimitHeaders | None) -> None:
    assert read_headers(headers, WALL) == expected
