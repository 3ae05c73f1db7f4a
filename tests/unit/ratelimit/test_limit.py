"""The arguments of `RateLimit`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.ratelimit.limit import RateLimit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "from 1 to"),
        ({"n": 0, "per": 300}, "from 1 to"),
        ({"n": 10**400, "per": 300}, "from 1 to"),
        ({"n": -5, "per": 300}, "from 1 to"),
        ({"n": math.nan, "per": 300}, "must be an integer"),
        ({"n": 1.5, "per": 300}, "must be an integer"),
        ({"n": True, "per": 300}, "must be an integer"),
        ({"n": 10}, "positive number of seconds"),
        ({"n": 10, "per": 0}, "positive number of seconds"),
        ({"n": 10, "per": -1.0}, "positive number of seconds"),
        ({"n": 10, "per": math.nan}, "positive number of seconds"),
        ({"n": 10, "per": math.inf}, "positive number of seconds"),
        ({"n": 10, "per": "300"}, "positive number of seconds"),
        ({"n": 10, "per": 1, "reserve": 1.0}, "below 1"),
        ({"n": 10, "per": 1, "reserve": -0.1}, "below 1"),
        ({"n": 10, "per": 1, "reserve": math.nan}, "below 1"),
        ({"n": 10, "per": 1, "reserve": 0.95}, "reserve less"),
        ({"n": 10, "per": 1, "guard": -0.1}, "below 1"),
        ({"n": 10, "per": 1, "guard": math.nan}, "below 1"),
        ({"n": 10, "per": 1, "burst": 0}, "burst=0"),
        ({"n": 10, "per": 1, "burst": 2.5}, "or None"),
        ({"n": 10, "per": 1, "shared": 5}, "must be a path"),
    ],
)
def test_an_argument_out_of_range_is_rejected_with_a_remedy(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        RateLimit(**arguments)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("reserve", "capacity"), [(0.0, 10), (0.25, 7), (0.9, 1), (0.899, 1)])
def test_the_capacity_is_what_the_reserve_leaves(reserve: float, capacity: int) -> None:
    assert RateLimit(10, per=1, reserve=reserve).capacity == capacity
