"""Everything that an update can bring back crosses the cluster."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

import cognigy_async
from cognigy_async import (
    CognigyError,
    Fault,
    NoResponseError,
    RetryPolicy,
    StateConflictError,
    StateUpdate,
    UpdateError,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.temporal.wire import (
    dump_error,
    dump_options,
    dump_result,
    dump_update,
    load_options,
    load_outcome,
)


def crossed(outcome: Any) -> Any:
    return load_outcome("d-1", "u-1", json.loads(json.dumps(outcome)))


PUBLIC = (getattr(cognigy_async, name) for name in cognigy_async.__all__)
ERRORS = [each for each in PUBLIC if inspect.isclass(each) and issubclass(each, UpdateError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_keeps_its_type_and_data(kind: type[UpdateError]) -> None:
    error = kind("It failed", status=418, dialog_id="d-1", update_id="u-1", retry_after=2.5)
    error.latency = 0.25
    error.__cause__ = NoResponseError("lost", timed_out=True)
    found = crossed(dump_error(error))
    assert type(found) is kind
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert type(found.__cause__) is NoResponseError
    assert found.__cause__.timed_out


def test_a_validation_error_keeps_its_faults() -> None:
    faults = (Fault("session.a", "is long", "shorten it"), Fault("user", "is odd", "fix it"))
    error = UpdateValidationError(faults, dialog_id="d-1", names=frozenset({"session.a"}))
    found = crossed(dump_error(error))
    assert isinstance(found, UpdateValidationError)
    assert (found.faults, found.names, str(found)) == (faults, error.names, str(error))


def test_an_error_of_another_library_becomes_the_public_one_below_it() -> None:
    class OwnError(StateConflictError):
        pass

    found = crossed(dump_error(OwnError("no", current_etag='"7"')))
    assert type(found) is StateConflictError
    assert found.current_etag == '"7"'
    # An error that this version does not know.
    unknown = {"error": {"type": "LaterError", "args": ["text"], "attributes": {}}}
    assert (type(crossed(unknown)), str(crossed(unknown))) == (CognigyError, "text")
    forged = {"error": {"type": "StateUpdate", "args": [], "attributes": {}}}
    assert type(crossed(forged)) is CognigyError


@pytest.mark.parametrize("versioned", [True, False])
def test_a_result_keeps_its_data(versioned: bool) -> None:
    result = UpdateResult(
        "d-1", "u-1", 200, '"7"', 2, 0.5, 0.25, b'{"version":7}', 3, "merged-1", versioned
    )
    found = crossed(dump_result(result))
    assert isinstance(found, UpdateResult)
    names = ("dialog_id", "update_id", "status", "etag", "attempts", "latency", "queued", "merged")
    names += ("carried_by", "body", "version")
    for name in names:
        assert getattr(found, name) == getattr(result, name), name


def test_a_large_body_is_left_out_of_many_results() -> None:
    body = json.dumps({"text": "x" * 20_000}).encode()
    result = UpdateResult("d-1", "u-1", 200, None, 1, 0.0, 0.0, body)
    assert crossed(dump_result(result, 1)).body == json.loads(body)
    assert crossed(dump_result(result, 100)).body is None


def test_options_cross_by_their_numbers() -> None:
    policy = RetryPolicy(max_attempts=2, max_elapsed=7.0, ambiguous="raise")
    dumped = json.loads(json.dumps(dump_options(policy, 60.0, timeout=3.0, priority="bulk")))
    found = load_options(dumped)
    assert 59.0 < found.pop("deadline") <= 60.0
    retry = found.pop("retry")
    assert (retry.max_attempts, retry.max_elapsed, retry.ambiguous) == (2, 7.0, "raise")
    assert found == {"timeout": 3.0, "priority": "bulk"}
    with pytest.raises(TypeError, match="watch"):
        dump_options(None, None, watch=None)


def test_only_assignments_are_repeatable() -> None:
    def repeatable(**fields: Any) -> bool:
        update = StateUpdate("d-1", session={"a": 1}, **fields)
        return bool(dump_update(update, "u-1", {})["repeatable"])

    assert repeatable()
    assert not repeatable(next_step="pay")
    assert not repeatable(if_match='"1"')
