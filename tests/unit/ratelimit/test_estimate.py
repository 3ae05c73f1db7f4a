"""The estimated time of a job against the limiter that keeps its limits."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import ConfigurationError, RateLimit
from cognigy_async.ratelimit.estimate import seconds_under
from cognigy_async.ratelimit.sliding_window import SlidingWindow

from ._busy import busy, limiter_of


@pytest.mark.parametrize("requests", [50, 901, 1000, 1500, 5000])
@pytest.mark.parametrize("limit", [RateLimit(1000, per=300), RateLimit(100, per=60, burst=5)])
def test_bulk_work_takes_as_long_as_estimated(limit: RateLimit, requests: int) -> None:
    last = busy(SlidingWindow(limit), requests, bulk=True)[-1]
    # The limiter takes the last tenth of a window 2% slower than the estimate does.
    assert seconds_under(limit, requests) == pytest.approx(last, rel=0.03, abs=3.5)


def test_of_several_limits_the_slowest_counts() -> None:
    limits = [RateLimit(10, per=1), RateLimit(60, per=20)]
    last = busy(limiter_of(*limits), 600)[-1]
    assert seconds_under(limits, 600) == pytest.approx(last, rel=0.15)
    assert seconds_under(limits, 600) == seconds_under(limits[1], 600)


def test_without_a_limit_there_is_no_estimate() -> None:
    assert seconds_under(None, 1000) is None


def test_a_limit_without_numbers_is_rejected() -> None:
    limit: Any = "auto"
    with pytest.raises(ConfigurationError, match="a plan needs numbers"):
        seconds_under(limit, 1000)
