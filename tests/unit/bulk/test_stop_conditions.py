"""When a job stops by itself."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async.bulk import JobOptions
from cognigy_async.bulk.stop_conditions import FIRST_FAILURE, StopConditions


def counted(conditions: StopConditions, applied: int, failed: int) -> StopConditions:
    for number in range(applied + failed):
        conditions.complete(number + 1, ok=number >= failed)
    return conditions


@pytest.mark.parametrize(
    ("options", "canary", "applied", "failed", "reason"),
    [
        ({}, 0, 1, 500, None),
        ({"on_failure": "stop"}, 0, 9, 0, None),
        ({"on_failure": "stop"}, 0, 9, 1, FIRST_FAILURE),
        ({"max_failures": 2}, 0, 9, 2, None),
        ({"max_failures": 2}, 0, 9, 3, "3 rows were not applied, more than max_failures=2"),
        ({"max_failures": 0}, 0, 9, 1, "1 row was not applied, more than max_failures=0"),
        ({"max_failure_rate": 0.5}, 0, 1, 98, None),
        ({"max_failure_rate": 0.5}, 0, 40, 60, "60 of 100 rows failed, more than max_failure_ra"),
        ({"canary": 10}, 10, 8, 1, None),
        ({"canary": 10}, 10, 9, 1, "1 of the first 10 rows, the canary, failed, more than"),
        ({"canary": 10, "max_failure_rate": "10%"}, 10, 9, 1, None),
        ({"canary": 10}, 10, 500, 0, None),
    ],
)
def test_reasons_to_stop(
    options: dict[str, Any], canary: int, applied: int, failed: int, reason: str | None
) -> None:
    conditions = counted(StopConditions(JobOptions(**options), canary, 0, 0), applied, failed)
    found = conditions.reason_to_stop()
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


def test_limits_hold_for_all_runs_but_an_earlier_failure_stops_no_run() -> None:
    assert StopConditions(JobOptions(max_failures=2), 0, 10, 3).reason_to_stop()
    assert StopConditions(JobOptions(on_failure="stop"), 0, 10, 3).reason_to_stop() is None


def test_the_canary_counts_skipped_rows_and_does_not_wait_for_held_ones() -> None:
    conditions = StopConditions(JobOptions(canary=4), 4, 2, 1)
    conditions.skip([1, 2, 9], [2])
    conditions.hold(3)
    assert not conditions.canary_is_done
    conditions.hold(4)
    assert conditions.canary_is_done
    assert "1 of the first 4 rows" in str(conditions.reason_to_stop())
