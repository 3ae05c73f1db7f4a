"""A record is made from a completed update, without any value."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from cognigy_async.audit.records import MAX_SUMMARY, AuditRecord, record_of
from cognigy_async.errors import (
    AmbiguousUpdateError,
    BadRequestError,
    ClientClosedError,
    UpdateWithdrawnError,
)
from cognigy_async.models.results import UpdateResult
from tests.unit._builders import CANARY, audit_record, request
from tests.unit.audit._updates import completed


def test_a_record_of_an_applied_update() -> None:
    record = record_of(completed())
    sorted_json = b'{"session":{"a":{"x":2,"y":1},"b":1},"user":{"c":true}}'
    assert record == AuditRecord(
        timestamp=datetime.fromtimestamp(1_767_323_045.5, UTC),
        update_id="u-0",
        dialog_id="d-1",
        outcome="applied",
        payload_sha256=hashlib.sha256(sorted_json).hexdigest(),
        payload_bytes=55,
        variables=("session.b", "session.a", "user.c"),
        status=200,
        attempts=1,
        latency_ms=500.0,
        queue_ms=2000.0,
        etag='"7"',
        summary="applied: HTTP 200, attempts: 1",
        metadata={"actor": "agent-7"},
    )


FAILED: dict[str, Any] = {"status": None, "etag": None, "latency": 0.0}


@pytest.mark.parametrize(
    ("changes", "outcome", "summary"),
    [
        ({"payload": None}, "applied", "reset: HTTP 200, attempts: 1"),
        (FAILED, "unchanged", "nothing to write"),
        (FAILED | {"error": BadRequestError("no")}, "failed", "no"),
        (FAILED | {"error": AmbiguousUpdateError("lost")}, "ambiguous", "lost"),
        (FAILED | {"error": UpdateWithdrawnError("back")}, "withdrawn", "back"),
        (FAILED | {"error": ClientClosedError("closed")}, "not_sent", "closed"),
        (
            FAILED | {"error": ValueError(CANARY)},
            "failed",
            "the function given to modify raised ValueError",
        ),
        (
            FAILED | {"error": BadRequestError("no"), "parts_applied": 2},
            "failed",
            "2 parts applied: no",
        ),
    ],
)
def test_outcome_and_summary(changes: dict[str, Any], outcome: str, summary: str) -> None:
    record = record_of(completed(**changes))
    assert (record.outcome, record.summary) == (outcome, summary)
    error = changes.get("error")
    assert record.error == (type(error).__name__ if error is not None else None)
    assert CANARY not in repr(record)


def test_a_long_summary_is_cut() -> None:
    record = record_of(completed(**FAILED | {"error": BadRequestError("x" * 500)}))
    assert len(record.summary) == MAX_SUMMARY
    assert record.summary.endswith("x...")


def test_the_times_of_updates_that_were_not_applied() -> None:
    sent = record_of(completed(**FAILED | {"error": BadRequestError("no")}))
    assert (sent.queue_ms, sent.latency_ms) == (2000.0, 750.0)
    unsent = record_of(
        completed(**FAILED | {"error": ClientClosedError("closed"), "sent_at": None})
    )
    assert (unsent.queue_ms, unsent.latency_ms) == (2750.0, None)


@pytest.mark.parametrize(
    ("trace_id", "expected"),
    [("api--1", "api--1"), ("two words", None), ("x" * 129, None), (f"r-{CANARY}", None)],
)
def test_a_trace_id_repeats_nothing_of_the_request(trace_id: str, expected: str | None) -> None:
    sent = request(b'{"session":{"a":"%b"}}' % CANARY.encode())
    record = record_of(completed(trace_id=trace_id, request=sent))
    assert record.trace_id == expected


@pytest.mark.parametrize(("versioned", "version"), [(True, 9), (False, None)])
def test_the_version_comes_from_the_body_if_there_is_no_etag(
    versioned: bool, version: int | None
) -> None:
    result = UpdateResult(
        "d-1", "u-0", 200, None, 1, 0.5, 2.0, b'{"version": 9}', versioned=versioned
    )
    for _ in range(2):
        assert record_of(completed(etag=None, result=result)).version == version
        # The owner of the result may have parsed the body.
        assert result.body == {"version": 9}


def test_fields_are_plain_values() -> None:
    fields = audit_record().fields()
    assert list(fields)[:3] == ["timestamp", "update_id", "dialog_id"]
    assert fields["metadata"] == {"who": "me"}
    assert isinstance(fields["metadata"], dict)
