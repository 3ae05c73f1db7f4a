"""Problem details: status, headers and members by error, and what never reaches the caller."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import cognigy_async
from cognigy_async import (
    AmbiguousUpdateError,
    AuditError,
    AuthenticationError,
    BadRequestError,
    CallbackError,
    ClientClosedError,
    ClientUsageError,
    CognigyError,
    ConfigurationError,
    DeadlineExceededError,
    DialogNotFoundError,
    DialogPausedError,
    Fault,
    NoResponseError,
    NotSentError,
    OutboxError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitedError,
    ServerError,
    SharedQuotaError,
    StateConflictError,
    StateUpdate,
    UnexpectedAnswerError,
    UnsupportedByApiError,
    UpdateError,
    UpdateValidationError,
    UpdateWithdrawnError,
    VariableTypeError,
)
from cognigy_async.integrations import problems
from cognigy_async.integrations.problems import problem_of

MISTAKES = {CognigyError, CallbackError, ClientUsageError, ConfigurationError}
"""Mistakes in the service itself, which have no problem details."""
FAULTS = (Fault("session.a-b", "is no name", "use letters"), Fault("user", "is empty", "fill it"))

CASES: list[tuple[CognigyError, int, str | None]] = [
    (UpdateValidationError(FAULTS), 400, None),
    (VariableTypeError(FAULTS), 400, None),
    (UnsupportedByApiError(FAULTS), 400, None),
    (BadRequestError("m", status=400), 400, None),
    (DialogNotFoundError("m", status=404), 404, None),
    (StateConflictError("m", status=412), 409, None),
    (PayloadTooLargeError("m", status=413), 413, None),
    (RateLimitedError("m", status=429, retry_after=30.0), 429, "30"),
    (RateLimitedError("m", status=429, retry_after=30.001), 429, "31"),
    (RateLimitedError("m", status=429, retry_after=0.2), 429, "1"),
    (RateLimitedError("m", status=429), 429, "1"),
    (RateLimitedError("m", status=429, retry_after=math.inf), 429, "1"),
    (RateLimitedError("m", status=429, retry_after=0.0), 429, "1"),
    (ServerError("m", status=500), 502, None),
    (ServerError("m", status=502, retry_after=7.0), 502, None),
    (ServerError("m", status=503, retry_after=7.0), 503, "7"),
    (ServerError("m", status=503), 503, "1"),
    (ServerError("m", status=504), 504, None),
    (AuthenticationError("m", status=401), 502, None),
    (AuthenticationError("m", transient=True, retry_after=5.0), 503, "5"),
    (PermissionDeniedError("m", status=403), 502, None),
    (UnexpectedAnswerError("m", status=302), 502, None),
    (UpdateError("m"), 502, None),
    (NotSentError("m"), 503, "1"),
    (DeadlineExceededError("m"), 503, "1"),
    (DeadlineExceededError("m", retry_after=12.5), 503, "13"),
    (QueueFullError(10), 503, "1"),
    (SharedQuotaError("/run/quota", "is full", "Make room."), 503, "1"),
    (DialogPausedError("d-1"), 503, "1"),
    (UpdateWithdrawnError("m"), 503, "1"),
    (ClientClosedError("m"), 503, "1"),
    (AuditError("m"), 503, "1"),
    (OutboxError("m"), 503, "1"),
    (NoResponseError("m", timed_out=True), 504, None),
    (AmbiguousUpdateError("m", status=500), 504, None),
]


def title(case: Any) -> str | None:
    return type(case).__name__ if isinstance(case, CognigyError) else None


@pytest.mark.parametrize(("error", "status", "retry_after"), CASES, ids=title)
def test_status_and_retry_after(error: CognigyError, status: int, retry_after: str | None) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.status == problem.content["status"] == status
    assert problem.headers.get("Retry-After") == retry_after
    assert problem.content["error"] == type(error).__name__
    assert problem.content["type"] == "about:blank"
    assert problem.content["detail"].endswith(".")
    json.dumps(problem.content, allow_nan=False)


def exported_errors() -> set[type[CognigyError]]:
    exported = (getattr(cognigy_async, name) for name in cognigy_async.__all__)
    return {kind for kind in exported if isinstance(kind, type) and issubclass(kind, CognigyError)}


def test_every_error_has_a_case_or_is_a_mistake_in_the_service() -> None:
    assert {type(error) for error, _, _ in CASES} | MISTAKES == exported_errors()


@pytest.mark.parametrize("kind", sorted(MISTAKES, key=lambda kind: kind.__name__))
def test_a_mistake_in_the_service_has_no_problem_details(kind: type[CognigyError]) -> None:
    assert problem_of(kind("m")) is None


def test_the_documented_table_has_the_status_of_every_error() -> None:
    page = (Path(__file__).parents[3] / "docs" / "fastapi.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d{3})\b[^|]*\|(.*)\|$", page, re.MULTILINE)
    documented: dict[int, set[str]] = {}
    for status, text in rows:
        documented.setdefault(int(status), set()).update(re.findall(r"\w+Error\b", text))
    errors = {kind.__name__: status for kind, (status, _) in problems.TABLE.items()}
    assert set.union(*documented.values()) == errors.keys()
    assert [name for name, status in errors.items() if name not in documented[status]] == []


def test_a_subclass_is_answered_as_its_base() -> None:
    class OwnError(StateConflictError):
        pass

    problem = problem_of(OwnError("m"))
    assert problem is not None
    assert (problem.status, problem.content["error"]) == (409, "OwnError")


def test_a_validation_error_lists_its_faults() -> None:
    problem = problem_of(UpdateValidationError(FAULTS, dialog_id="d-1"))
    assert problem is not None
    assert problem.content == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "The update is not valid; nothing was sent.",
        "error": "UpdateValidationError",
        "dialog_id": "d-1",
        "faults": [
            {"path": "session.a-b", "problem": "is no name", "remedy": "use letters"},
            {"path": "user", "problem": "is empty", "remedy": "fill it"},
        ],
    }


def test_ids_and_applied_parts_are_members() -> None:
    error = AmbiguousUpdateError(
        "m", dialog_id="d-1", update_id="u-1", trace_id="api--1", applied_parts=2
    )
    problem = problem_of(error)
    assert problem is not None
    content = problem.content
    ids = (content["dialog_id"], content["update_id"], content["trace_id"])
    assert ids == ("d-1", "u-1", "api--1")
    assert (content["applied"], content["applied_parts"]) == ("unknown", 2)


def test_a_conflict_has_the_current_version() -> None:
    problem = problem_of(StateConflictError("m", current_etag='"7"', current_version=7))
    assert problem is not None
    assert (problem.content["current_etag"], problem.content["current_version"]) == ('"7"', 7)


@pytest.mark.parametrize("kind", sorted(exported_errors(), key=str), ids=lambda kind: kind.__name__)
def test_server_messages_and_remedies_do_not_reach_the_caller(
    kind: type[CognigyError],
) -> None:
    if not issubclass(kind, UpdateError):
        return
    canary = "canary-4711"
    error = kind(canary, detail=canary, dialog_id="d-1")
    error.__cause__ = ValueError(canary)
    problem = problem_of(error)
    assert problem is not None
    response = json.dumps([problem.content, problem.headers])
    assert canary not in response
    assert error.remedy not in response


def test_values_of_variables_do_not_reach_the_caller() -> None:
    canary = "canary-4711"
    deep: Any = {"a": {"b": {"c": {"d": canary}}}}
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate("d-1", session={"_cognigy_x": canary, "deep": deep, "f": {canary}})
    problem = problem_of(caught.value)
    assert problem is not None
    assert len(problem.content["faults"]) == 3
    assert canary not in json.dumps(problem.content)
