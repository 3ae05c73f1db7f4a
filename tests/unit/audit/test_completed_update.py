"""The engine copies a completed item for the audit, and no more of it than a record needs."""

from __future__ import annotations

import pytest

from cognigy_async.audit.completed_update import CompletedUpdate
from cognigy_async.engine.completion import _completed_update
from cognigy_async.engine.work_item import Kind
from cognigy_async.errors import StateConflictError
from cognigy_async.models.results import UpdateResult
from tests.unit._builders import item, request


def result(etag: str | None) -> UpdateResult:
    return UpdateResult("d-1", "u-0", 201, etag, 2, 0.5, 2.0, b"{}")


def test_an_applied_update() -> None:
    done = item()
    done.accepted_at, done.sent_at, done.attempts = 10.0, 12.0, 2
    done.result = result('"7"')
    done.headers = {"x-request-id": "r-1"}
    done.requests = [request(), request()]
    update = _completed_update(done, 1e9, 12.5)
    assert isinstance(update, CompletedUpdate)
    assert update[:5] == (1e9, 12.5, 10.0, 12.0, "u-0")
    assert (update.dialog_id, update.metadata) == ("d-1", done.metadata)
    assert (update.payload, update.attempts) == (b'{"session":{"a":1}}', 2)
    assert (update.status, update.latency, update.etag) == (201, 0.5, '"7"')
    assert (update.trace_id, update.request) == ("r-1", done.requests[-1])
    assert update.result is None, "only needed without an etag"


def test_a_response_without_trace_id_and_etag() -> None:
    done = item()
    done.result = result(None)
    done.requests = [request()]
    without: tuple[dict[str, str] | None, ...] = (None, {})
    for headers in without:
        done.headers = headers
        update = _completed_update(done, 1e9, 12.5)
        assert (update.trace_id, update.request) == (None, None)
        assert update.result is done.result


@pytest.mark.parametrize("kind", [Kind.MODIFY, Kind.ASSIGN])
def test_a_failed_update(kind: Kind) -> None:
    done = item(kind)
    done.error = StateConflictError("changed")
    update = _completed_update(done, 1e9, 12.5)
    assert update.error is done.error
    assert (update.payload is None) == (kind is Kind.MODIFY)
    assert (update.status, update.etag, update.result) == (None, None, None)
