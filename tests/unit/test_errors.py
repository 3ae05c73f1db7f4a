"""The exception tree, and that each exception says what to do and survives its way."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest

import cognigy_async
from cognigy_async import errors
from cognigy_async.errors import (
    AmbiguousUpdateError,
    AuthenticationError,
    CognigyError,
    ConfigurationError,
    DialogPausedError,
    Fault,
    NoResponseError,
    QueueFullError,
    RateLimitedError,
    SharedQuotaError,
    StateConflictError,
    UpdateError,
    UpdateValidationError,
    VariableTypeError,
)

EXCEPTIONS = [
    thing
    for thing in vars(errors).values()
    if isinstance(thing, type) and issubclass(thing, Exception)
]
UPDATE_ERRORS = [kind for kind in EXCEPTIONS if issubclass(kind, UpdateError)]


def drawn() -> dict[str, tuple[str, set[str]]]:
    """The tree in the docstring: name of the class to its parent and its other bases."""
    found: dict[str, tuple[str, set[str]]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([\s│├└─]*)(\w+Error)(?: \((\w+)\))?", line)
        if match is None or not line.startswith("    "):
            continue
        indent, name, other = len(match[1]), match[2], match[3]
        while above and above[-1][0] >= indent:
            above.pop()
        found[name] = (above[-1][1] if above else "Exception", {other} if other else set())
        above.append((indent, name))
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_the_code() -> None:
    coded = {}
    for kind in EXCEPTIONS:
        parent, *others = kind.__bases__
        coded[kind.__name__] = (parent.__name__, {other.__name__ for other in others})
    assert drawn() == coded


def test_every_exception_is_exported_and_has_one_root() -> None:
    assert all(issubclass(kind, CognigyError) for kind in EXCEPTIONS)
    assert {kind.__name__ for kind in EXCEPTIONS} <= set(cognigy_async.__all__)
    defined = {
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, Exception)
    }
    assert defined == set(EXCEPTIONS)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (UpdateValidationError, ValueError),
        (VariableTypeError, ValueError),
        (VariableTypeError, TypeError),
        (ConfigurationError, ValueError),
        (errors.ClientUsageError, RuntimeError),
        (errors.ClientClosedError, RuntimeError),
    ],
)
def test_what_else_an_exception_is(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def sample(kind: type[Exception]) -> Exception:
    if issubclass(kind, UpdateValidationError):
        faults = (Fault("session.a", "is wrong", "mend it"), Fault("user", "too", "also"))
        return kind(faults, dialog_id="d-1")
    if kind is QueueFullError:
        return QueueFullError(17)
    if kind is DialogPausedError:
        return DialogPausedError("d-1", 3)
    if kind is SharedQuotaError:
        return SharedQuotaError("/run/quota", "is full", "Make room.")
    if issubclass(kind, UpdateError):
        more: dict[str, Any] = {}
        if kind is AuthenticationError:
            more = {"transient": True}
        elif kind is StateConflictError:
            more = {"current_etag": '"8"', "current_version": 8}
        elif kind is NoResponseError:
            more = {"timed_out": True}
        return kind(
            "It failed",
            status=418,
            dialog_id="d-1",
            update_id="u-1",
            attempts=3,
            trace_id="t-1",
            retry_after=2.5,
            applied_parts=1,
            detail="teapot",
            **more,
        )
    return kind("It failed")


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_survives_pickling_and_copying(kind: type[Exception]) -> None:
    # Process pools and task queues send exceptions about.
    error = sample(kind)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", UPDATE_ERRORS)
def test_the_text_of_an_update_error_has_its_facts_and_ends_with_the_remedy(
    kind: type[UpdateError],
) -> None:
    error = sample(kind)
    assert isinstance(error, UpdateError)
    text = str(error)
    assert text.startswith("It failed (dialog 'd-1', update 'u-1', HTTP 418, 3 attempts, ")
    assert "applied parts: 1, trace id t-1). The server said: 'teapot'. " in text
    assert text.endswith(f" {error.remedy}")
    assert (error.status, error.dialog_id, error.update_id) == (418, "d-1", "u-1")
    assert (error.attempts, error.trace_id, error.retry_after) == (3, "t-1", 2.5)
    assert (error.applied_parts, error.detail) == (1, "teapot")


@pytest.mark.parametrize("kind", UPDATE_ERRORS)
def test_unknown_facts_are_left_out_of_the_text(kind: type[UpdateError]) -> None:
    error = kind("It failed")
    assert str(error) == f"It failed. {kind.remedy}"
    assert error.attempts == error.applied_parts == 0
    assert (error.status, error.trace_id, error.retry_after, error.detail) == (None,) * 4


@pytest.mark.parametrize("kind", [kind for kind in UPDATE_ERRORS if kind is not UpdateError])
def test_each_update_error_has_a_remedy_of_its_own(kind: type[UpdateError]) -> None:
    assert kind.remedy.endswith(".")
    assert kind.remedy not in {other.remedy for other in UPDATE_ERRORS if other is not kind}


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (errors.BadRequestError, "next_step is a node of the flow"),
        (errors.PermissionDeniedError, "runtime:write"),
        (errors.DialogNotFoundError, "SessionsApi()"),
        (StateConflictError, "modify()"),
        (errors.PayloadTooLargeError, "safe_payload_bytes"),
        (RateLimitedError, "max_retry_after"),
        (AmbiguousUpdateError, "Read the state"),
    ],
)
def test_the_remedies_name_what_helps(kind: type[UpdateError], remedy: str) -> None:
    assert remedy in str(kind("It failed"))


def test_what_only_some_errors_know() -> None:
    conflict = StateConflictError("It failed", current_etag='"8"', current_version=8)
    assert (conflict.current_etag, conflict.current_version) == ('"8"', 8)
    assert StateConflictError("It failed").current_etag is None
    assert NoResponseError("It failed", timed_out=True).timed_out
    assert not NoResponseError("It failed").timed_out
    assert AuthenticationError("It failed", transient=True).transient
    assert not AuthenticationError("It failed").transient


def test_the_text_of_a_validation_error_lists_every_fault() -> None:
    error = sample(VariableTypeError)
    assert isinstance(error, UpdateValidationError)
    assert str(error) == "dialog 'd-1': session.a: is wrong; mend it | user: too; also"
    assert error.path == "session.a"
    unnamed = UpdateValidationError(error.faults[:1])
    assert str(unnamed) == "session.a: is wrong; mend it"
    assert unnamed.dialog_id is None


def test_full_and_paused_say_what_to_do() -> None:
    full, paused = QueueFullError(17), DialogPausedError("d-1", 3)
    assert full.max_pending == 17
    assert "17 updates are waiting" in str(full)
    assert "submit()" in str(full)
    assert (paused.dialog_id, paused.waiting) == ("d-1", 3)
    assert "'d-1' is paused" in str(paused)
    assert "3 waiting" in str(paused)
    assert "resume()" in str(paused)
