"""Results, outcomes, states and the report of a close."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cognigy_async import ServerError, UpdateEvent
from cognigy_async.models.results import (
    CloseReport,
    DialogState,
    UpdateOutcome,
    UpdateResult,
    parse_json,
    version_of,
)
from tests.unit._builders import CANARY, update


def result(content: bytes = b"", **changes: Any) -> UpdateResult:
    given_facts: dict[str, Any] = {
        "dialog_id": "d",
        "update_id": "u",
        "status": 200,
        "etag": '"8"',
        "attempts": 2,
        "latency": 1.5,
        "queued": 0.25,
    }
    return UpdateResult(**(given_facts | changes), content=content)


@pytest.mark.parametrize(
    ("content", "body", "version"),
    [
        (b'{"version": 8, "session": {}}', {"version": 8, "session": {}}, 8),
        (b'{"version": "8"}', {"version": "8"}, None),
        (b'{"version": true}', {"version": True}, None),
        (b"{}", {}, None),
        (b"[8]", [8], None),
        (b"null", None, None),
        (b"", None, None),
        (b"<html>", None, None),
        (b'{"version": 8', None, None),
        (b"\xff\xfe", None, None),
        (b"[" * 100_000, None, None),
    ],
)
def test_a_result_parses_its_body_on_access(
    content: bytes, body: object, version: int | None
) -> None:
    made = result(content)
    assert made.version == version
    assert made.body == body
    assert made.body is made.body


def test_the_reprs_show_no_variable() -> None:
    made = update(session={"a": CANARY}, next_step="s", update_id="u-1")
    state = DialogState("d", {"a": CANARY}, {"b": CANARY}, "s", '"8"', 8)
    error = ServerError("The server failed", status=500)
    done = result(b'{"session": {"a": "%s"}}' % CANARY.encode())
    for shown in (
        done,
        state,
        UpdateOutcome(0, made, "u-1", done, None),
        UpdateOutcome(0, made, "u-1", None, error),
        UpdateEvent("d", "u-1", made, done, None),
        CloseReport(1, 2, 3, (made,), 4),
    ):
        assert CANARY not in repr(shown)
        assert type(shown).__name__ in repr(shown)
    assert "1 session and 1 user variables" in repr(state)
    assert "ServerError" in repr(UpdateOutcome(0, made, "u-1", None, error))
    assert "1 unsent" in repr(CloseReport(1, 2, 3, (made,), 4))


def test_an_outcome_is_good_without_an_error() -> None:
    assert UpdateOutcome(0, update(), "u", result(), None).ok
    assert not UpdateOutcome(0, None, None, None, ServerError("failed")).ok


def test_events_reports_and_states_are_frozen() -> None:
    event = UpdateEvent("d", "u", update(session={"a": [1]}), None, None)
    state = DialogState("d", {}, {}, None, None, None)
    report = CloseReport(0, 0, 0, (), 0)
    for frozen, name in ((event, "dialog_id"), (state, "etag"), (report, "applied")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, "x")
    event.payload["session"]["a"].append(2)
    assert event.payload == {"session": {"a": [1]}}
    assert UpdateEvent("d", "u", None, None, ServerError("failed")).payload == {}


def test_a_shared_result_names_each_update_and_keeps_the_rest() -> None:
    whole = result(b'{"version": 8}')
    own = whole.share("u-2", 0.5, 3)
    assert (own.update_id, own.queued, own.merged, own.carried_by) == ("u-2", 0.5, 3, "u")
    assert (own.dialog_id, own.status, own.etag, own.attempts, own.latency, own.version) == (
        whole.dialog_id,
        whole.status,
        whole.etag,
        whole.attempts,
        whole.latency,
        8,
    )


def test_without_versions_a_variable_of_that_name_is_no_version() -> None:
    assert result(b'{"version": 8}', versioned=False).version is None


def test_what_is_not_json_parses_as_none() -> None:
    assert parse_json(b'{"a": 1}') == {"a": 1}
    assert parse_json(b"") is parse_json(b"{") is parse_json(b"\xff") is None
    assert version_of([8]) is version_of({"version": 8.0}) is version_of(None) is None
