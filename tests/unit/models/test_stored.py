"""Updates and outcomes that a later process reads."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    CognigyError,
    NoResponseError,
    RateLimitedError,
    StateUpdate,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async.models.stored import dump_outcome, dump_update, load_outcome, load_update
from tests.unit._builders import CANARY

UPDATES: list[dict[str, Any]] = [
    {"session": {"a": [1, 2.5, "ä\u2028\n", None, {"b": True}], "n": 2**53 - 1}},
    {"user": {"a": 1e22}, "next_step": "node", "if_match": '"7"', "update_id": "u-1"},
    {"session": {"a": 1}, "user_id": "owner", "profile_id": "p", "metadata": {"x": "y"}},
    {"inject": {"text": "hello\nyou", "data": {"a": 1}}},
    {"notify": {"text": "hello"}, "session": {"a": {}}},
]


@pytest.mark.parametrize("fields", UPDATES)
def test_an_update_is_the_same_afterwards(fields: dict[str, Any]) -> None:
    update = StateUpdate("d-1", **fields)
    loaded, metadata, facts = load_update("d-1", dump_update(update, {"m": "n"}, "key", None, 3))
    assert loaded == update
    assert loaded.fields() == update.fields()
    assert loaded._body == update._body
    assert loaded.repeatable == update.repeatable
    assert metadata == {"m": "n"}
    assert facts == ("key", None, 3)
    loaded, metadata, facts = load_update("d-1", dump_update(update, update.metadata))
    assert loaded == update
    assert metadata == update.metadata
    assert facts == ()


def event(result: UpdateResult | None, error: CognigyError | None) -> UpdateEvent:
    return UpdateEvent("d-1", "u-1", StateUpdate("d-1", session={"a": 1}), result, error)


@pytest.mark.parametrize("content", [b"", b'{"version": 3}', b"<html>"])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_result_is_the_same_afterwards(content: bytes, is_read: bool) -> None:
    result = UpdateResult("d-1", "u-1", 200, '"3"', 2, 0.5, 0.25, content, 3, "key", False)
    if is_read:
        assert result.body in (None, {"version": 3})
    loaded = load_outcome("d-1", "u-1", *dump_outcome(event(result, None)))
    assert isinstance(loaded, UpdateResult)
    for name in ("dialog_id", "update_id", "status", "etag", "attempts", "latency", "queued"):
        assert getattr(loaded, name) == getattr(result, name)
    assert (loaded.merged, loaded.carried_by, loaded.version) == (3, "key", None)
    assert loaded.body == result.body


def test_an_error_is_the_same_afterwards() -> None:
    error = AmbiguousUpdateError("it is unknown", status=503, dialog_id="d-1", attempts=2)
    error.__cause__ = NoResponseError("no answer", timed_out=True)
    loaded = load_outcome("d-1", "u-1", *dump_outcome(event(None, error)))
    assert type(loaded) is AmbiguousUpdateError
    assert str(loaded) == str(error)
    assert (loaded.status, loaded.attempts, loaded.trace_id) == (503, 2, None)
    assert isinstance(loaded.__cause__, NoResponseError)
    assert loaded.__cause__.timed_out
    limited = RateLimitedError("too many", retry_after=9.5)
    loaded = load_outcome("d-1", "u-1", *dump_outcome(event(None, limited)))
    assert isinstance(loaded, RateLimitedError)
    assert loaded.retry_after == 9.5
    withdrawn = load_outcome("d-1", "u-1", *dump_outcome(event(None, UpdateWithdrawnError("x"))))
    assert type(withdrawn) is UpdateWithdrawnError
    assert str(withdrawn) == "x"


def test_errors_of_other_programs_leave_only_their_class() -> None:
    class OwnError(CognigyError):
        pass

    error = OwnError("of a subclass")
    error.__cause__ = ValueError(CANARY)
    outcome, answer = dump_outcome(event(None, error))
    assert CANARY.encode() not in outcome
    loaded = load_outcome("d-1", "u-1", outcome, answer)
    assert type(loaded) is CognigyError
    assert str(loaded) == "of a subclass"
    assert str(loaded.__cause__) == "ValueError"
