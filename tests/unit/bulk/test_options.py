"""Options of a job."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.bulk import JobOptions


@pytest.mark.parametrize(
    ("canary", "rows", "share", "recorded"),
    [
        ("1%", None, 0.01, "0.01"),
        (0.01, None, 0.01, "0.01"),
        ("100%", None, 1.0, "1"),
        (500, 500, None, "500"),
        ("1000000", 1_000_000, None, "1000000"),
        (1, 1, None, "1"),
        (None, None, None, None),
    ],
)
def test_a_canary_is_a_share_or_a_number_of_rows(
    canary: Any, rows: int | None, share: float | None, recorded: str | None
) -> None:
    options = JobOptions(canary=canary)
    assert (options.canary_rows, options.canary_share) == (rows, share)
    assert options.record()["canary"] == recorded


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"canary": "x"}, "canary='x': must be a share like 1% or 0.01, or a number of rows"),
        ({"canary": "0%"}, "canary='0%'"),
        ({"canary": 1.5}, "canary=1.5"),
        ({"max_failure_rate": "101%"}, "max_failure_rate='101%': must be a share like 5% or 0.05"),
        ({"max_failure_rate": "nan"}, "max_failure_rate='nan'"),
        ({"max_failures": -1}, "max_failures=-1: must be an integer of at least 0"),
        ({"limit": True}, "limit=True: must be an integer of at least 1"),
        ({"on_failure": "explode"}, "must be continue, pause-dialog or stop"),
        ({"format": "xml"}, "must be jsonl, csv, parquet or excel"),
        ({"session_ttl": "30m"}, "session_ttl='30m': must be a finite number"),
        ({"session_ttl": 0}, "session_ttl=0: must be a positive number of seconds; leave it out"),
        ({"only_dialogs": "d-1"}, "only_dialogs: must be a sequence of strings, not a string"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        JobOptions(**wrong)


def test_the_record_is_what_journals_hold() -> None:
    options = JobOptions(only_dialogs=("b", "a", "b"), max_failure_rate="5%")
    assert options.record() == {
        "on_failure": "continue",
        "max_failures": None,
        "canary": None,
        "max_failure_rate": 0.05,
        "coalesce": False,
        "limit": None,
        "only_dialogs": ["a", "b"],
        "session_ttl": None,
        "format": None,
        "text_columns": [],
    }
