"""Rate-limit headers of each family."""

from __future__ import annotations

import pytest

from cognigy_async.ratelimit.headers import RateLimitHeaders, read_headers, reset_after

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
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-reset": "Fri, 15 Jan 2027 08:00:30 GMT"},
            RateLimitHeaders(60, reset=30),
        ),
        (
            # The clock here is an hour behind that of the server.
            {
                "date": "Fri, 15 Jan 2027 09:00:00 GMT",
                "x-ratelimit-limit": "60",
                "x-ratelimit-reset": "1800003630",
            },
            RateLimitHeaders(60, reset=30),
        ),
        ({"ratelimit": "limit=9, remaining=5, reset=1800000030"}, RateLimitHeaders(9, None, 5, 30)),
        (
            {"ratelimit-policy": '"a";q=60;w=90', "ratelimit": '"a";r=5;t=1800000030000'},
            RateLimitHeaders(60, 90, 5, 30),
        ),
        (
            # Each header was sent twice.
            {
                "x-ratelimit-limit": "60, 60",
                "x-ratelimit-remaining": "5, 5",
                "x-ratelimit-reset": "30, 30",
            },
            RateLimitHeaders(60, None, 5, 30),
        ),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "30"},
            RateLimitHeaders(60, None, None, 30),
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


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"ratelimit-reset": "30"}, 30),
        ({"x-ratelimit-reset": "30.5"}, 30.5),
        ({"x-rate-limit-reset": "30"}, 30),
        ({"x-ratelimit-reset": "1800000030"}, 30),
        ({"x-ratelimit-reset": "1800000030500"}, 30.5),
        ({"x-ratelimit-reset": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
        ({"x-ratelimit-reset": "2027-01-15T08:00:30Z"}, 30),
        ({"x-ratelimit-reset": "30, 30"}, 30),
        ({"x-ratelimit-reset": "1800003630", "date": "Fri, 15 Jan 2027 09:00:00 GMT"}, 30),
        ({"ratelimit": "limit=10, remaining=0, reset=30"}, 30),
        ({"ratelimit": "limit=10;remaining=0;reset=30"}, 30),
        ({"ratelimit": '"default";r=0;t=30'}, 30),
        ({"ratelimit": '"default";t=30'}, 30),
        ({"ratelimit": '"default";r=0;t=1800000030'}, 30),
        # The limit says that it is used up, in whatever words.
        ({"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, 30),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "30"}, 30),
        ({"x-ratelimit-remaining": "none", "x-ratelimit-reset": "30"}, 30),
        # A limit that is not used up did not refuse the request.
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "30"}, None),
        ({"ratelimit": "limit=10, remaining=3, reset=30"}, None),
        ({"ratelimit": '"burst";r=0;t=2, "day";r=50;t=40000'}, 2),
        ({"ratelimit": '"burst";r=0;t=2, "day";r=0;t=40000'}, 40000),
        ({"x-ratelimit-remaining": "0, 50", "x-ratelimit-reset": "2, 3000"}, 2),
        ({"x-ratelimit-remaining": "50", "x-ratelimit-reset": "2, 3000"}, None),
        ({"ratelimit-remaining": "9", "ratelimit-reset": "99", "x-ratelimit-reset": "2"}, 2),
        # Nothing lies ahead.
        ({"x-ratelimit-reset": "0"}, None),
        ({"x-ratelimit-reset": "1799999999"}, None),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "-5"}, None),
        ({"x-ratelimit-reset": "9" * 400}, None),
    ],
)
def test_the_reset_of_the_limit_that_refused_a_request(
    headers: dict[str, str], expected: float | None
) -> None:
    assert reset_after(headers, WALL) == expected
