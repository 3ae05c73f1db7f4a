"""Rows that cannot be sent before their sessions end, before the job and in a dry run."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import Endpoint, RateLimit, RuntimeApi, SessionsApi
from cognigy_async.bulk import JobOptions, LateRows, dry_run

from ._rows import dry, rows_of, written


def at(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


def lines(count: int, **fields: Any) -> list[bytes]:
    return [
        json.dumps({"dialog_id": f"d{n}", "session": {"n": n}} | fields).encode()
        for n in range(count)
    ]


def late_in(path: Path, api: Any = None, rate_limit: Any = None, **options: Any) -> LateRows | None:
    api = api or RuntimeApi()
    given = JobOptions(**options)
    return dry_run(path, given, api=api, rate_limit=rate_limit, on_fault=print).late


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-30T14:00:00Z", 1_796_047_200.0),
        ("2026-11-30T15:00:00.5+01:00", 1_796_047_200.5),
        ("20261130T140000Z", 1_796_047_200.0),
        (" 2026-11-30 09:00-05:00 ", 1_796_047_200.0),
        (None, None),
    ],
)
def test_the_end_of_a_session(tmp_path: Path, text: str | None, expected: float | None) -> None:
    (row,) = rows_of(written(tmp_path / "rows.jsonl", *lines(1, expires_at=text)))
    assert row.update is not None
    assert row.expires_at == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2026-11-30T14:00:00", "has no offset from UTC"),
        ("2026-11-30", "has no offset from UTC"),
        ("30.11.2026 14:00", "is not a text with a time of ISO 8601"),
        ("soon", "is not a text with a time of ISO 8601"),
        (1_796_047_200, "is not a text with a time of ISO 8601"),
        (True, "is not a text with a time of ISO 8601"),
        ({"a": 1}, "is not a text with a time of ISO 8601"),
    ],
)
def test_an_end_that_is_not_valid(tmp_path: Path, value: Any, problem: str) -> None:
    line = lines(1, expires_at=value, next_step="")[0]
    found, faults = dry(written(tmp_path / "rows.jsonl", line))
    assert (found.faulty, found.late) == (1, None)
    assert {(fault.path, fault.problem) for fault in faults} >= {("expires_at", problem)}
    # The other fault of the row is named as well.
    assert [fault.path for fault in faults] == ["next_step", "expires_at"]
    assert faults[1].column == line.index(b'"expires_at"') + 1
    assert "2030-12-31T18:00:00Z" in faults[1].remedy


def test_the_end_is_a_column_of_a_table(tmp_path: Path) -> None:
    table = written(
        tmp_path / "rows.csv",
        b"dialog_id,session.n,expires_at",
        b"a,1,2026-11-30T14:00:00Z",
        b"b,2,",
        b"c,3,7",
    )
    first, second, third = rows_of(table)
    assert (first.expires_at, second.expires_at) == (1_796_047_200.0, None)
    assert json.loads(first.source)["expires_at"] == "2026-11-30T14:00:00Z"
    assert third.error is not None
    assert third.error.path == "expires_at"


def test_a_dry_run_counts_what_the_quota_does_not_send_in_time(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", *lines(30, expires_at=at(150)))
    quota = RateLimit(10, per=100)
    assert late_in(path, rate_limit=quota) == LateRows(11, 0, 20, assumed=False)
    assert late_in(path, rate_limit=[quota, RateLimit(5, per=100)]) == LateRows(
        20, 0, 11, assumed=False
    )
    # At 1,000 requests in 5 minutes, all are sent in time.
    assert late_in(path) is None
    path = written(tmp_path / "rows.jsonl", *lines(30))
    assert late_in(path, rate_limit=quota) is None
    assert late_in(path, rate_limit=quota, session_ttl=150) == LateRows(11, 0, 20, assumed=False)
    assert late_in(path, session_ttl=150) is None


def test_a_late_row_takes_no_request_from_the_rows_behind_it(tmp_path: Path) -> None:
    past, later = lines(30, expires_at=at(-5)), lines(9, expires_at=at(50))
    path = written(tmp_path / "rows.jsonl", *past, *later)
    assert late_in(path, rate_limit=RateLimit(10, per=100)) == LateRows(30, 30, 1, assumed=False)


def test_a_row_takes_as_many_requests_as_it_has_parts(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", *lines(9, expires_at=at(50), next_step="pay"))
    api = SessionsApi(user_id="u-1")
    quota = RateLimit(10, per=100)
    assert late_in(path, rate_limit=quota) is None
    assert late_in(path, api, quota) == LateRows(5, 0, 5, assumed=False)


def test_a_message_takes_a_request_of_its_own(tmp_path: Path) -> None:
    api = SessionsApi(user_id="u-1")
    quota = RateLimit(10, per=100)
    endpoint = Endpoint("https://endpoint.example", "t")
    given = lines(9, expires_at=at(50), inject={"text": "go"})
    path = written(tmp_path / "rows.jsonl", *given)
    found = dry_run(
        path, JobOptions(), api=api, rate_limit=quota, endpoint=endpoint, on_fault=print
    )
    assert found.requests == 18
    assert found.late == LateRows(5, 0, 5, assumed=False)


def test_rows_of_one_dialog_may_share_a_request(tmp_path: Path) -> None:
    given = [
        json.dumps({"dialog_id": f"d{n % 5}", "session": {f"v{n}": n}}).encode() for n in range(50)
    ]
    path = written(tmp_path / "rows.jsonl", *given)
    quota = RateLimit(10, per=100)
    assert late_in(path, rate_limit=quota, session_ttl=50) == LateRows(41, 0, 10, assumed=False)
    assert late_in(path, rate_limit=quota, session_ttl=50, coalesce=True) is None


def test_faulty_and_repeated_rows_are_not_late(tmp_path: Path) -> None:
    again = lines(1, update_id="u", expires_at=at(-5))
    path = written(tmp_path / "rows.jsonl", b"x", *again, *again)
    assert late_in(path) == LateRows(1, 1, 2, assumed=True)


def test_late_rows_are_told_in_words() -> None:
    assert str(LateRows(1200, 12, 4001, assumed=True)) == (
        "1,200 rows cannot be sent before their sessions end, at 1,000 requests in 5 minutes; the "
        "first is on line 4,001. The time of 12 has passed already. A row becomes a dead letter "
        "when its time has passed. Put rows of sessions that end soon first, or send fewer rows."
    )
    assert str(LateRows(1, 0, 7, assumed=False)).startswith(
        "1 row cannot be sent before its session ends, under the rate limit; the first is on line 7"
    )


def test_a_compressed_file_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines(3, expires_at=at(-5))) + b"\n"))
    assert late_in(path) == LateRows(3, 3, 1, assumed=True)
