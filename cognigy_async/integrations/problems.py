"""What the caller of a service is told of a `CognigyError`: problem details, as in RFC 9457.

=========================== ====== ==================================================
error                       status
=========================== ====== ==================================================
UpdateValidationError       400    with `faults`: path, problem and remedy of each
BadRequestError             400
DialogNotFoundError         404
StateConflictError          409    with `current_etag` and `current_version`
PayloadTooLargeError        413
RateLimitedError            429    `Retry-After`
ServerError                 502    503 with `Retry-After`, or 504, where it was that
AuthenticationError         502    503 with `Retry-After` where it will pass
PermissionDeniedError       502    of the service's credentials, and not the caller's
UnexpectedAnswerError       502
other UpdateErrors          502
NotSentError                503    `Retry-After`
DeadlineExceededError       503    `Retry-After`
QueueFullError              503    `Retry-After`
DialogPausedError           503    `Retry-After`
UpdateWithdrawnError        503    `Retry-After`
ClientClosedError           503    `Retry-After`
AuditError                  503    `Retry-After`
NoResponseError             504    with `"applied": "unknown"`
AmbiguousUpdateError        504    with `"applied": "unknown"`
=========================== ====== ==================================================

The others (`ConfigurationError`, `ClientUsageError`, `CallbackError`) are mistakes in the service
and have no problem details. Texts are fixed here: neither what the server said, nor what an
operator should do about it, nor a value or a secret reaches the caller. The log has the rest, by
`update_id`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from cognigy_async import (
    AmbiguousUpdateError,
    AuditError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    CognigyError,
    DeadlineExceededError,
    DialogNotFoundError,
    DialogPausedError,
    NoResponseError,
    NotSentError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitedError,
    ServerError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateError,
    UpdateValidationError,
    UpdateWithdrawnError,
)

MEDIA_TYPE = "application/problem+json"

SOON = 1.0
"""Seconds to wait where nobody named a time."""

TABLE: dict[type[CognigyError], tuple[int, str]] = {
    UpdateValidationError: (400, "The update is not valid; nothing was sent."),
    BadRequestError: (400, "Cognigy.AI refused the update: a variable or the next step."),
    DialogNotFoundError: (404, "There is no such dialog."),
    StateConflictError: (409, "The state has another version by now; read it and decide again."),
    PayloadTooLargeError: (413, "The update is larger than Cognigy.AI takes."),
    RateLimitedError: (429, "Cognigy.AI is throttling; try again later."),
    ServerError: (502, "Cognigy.AI failed to carry this out."),
    AuthenticationError: (502, "Cognigy.AI does not accept the credentials of this service."),
    PermissionDeniedError: (502, "Cognigy.AI does not permit this to this service."),
    UnexpectedAnswerError: (502, "Cognigy.AI gave an answer that is not understood."),
    UpdateError: (502, "It was not carried out."),
    NotSentError: (503, "Cognigy.AI cannot be reached; nothing was sent."),
    DeadlineExceededError: (503, "There was not the time to carry this out."),
    QueueFullError: (503, "Too many updates are waiting; nothing was sent."),
    DialogPausedError: (503, "The dialog is paused after an earlier failure; nothing was sent."),
    UpdateWithdrawnError: (503, "The update was taken back before it was sent."),
    ClientClosedError: (503, "The service is shutting down; nothing was sent."),
    AuditError: (503, "The service cannot keep its records; nothing was sent."),
    NoResponseError: (504, "Cognigy.AI did not answer; it may have been applied."),
    AmbiguousUpdateError: (504, "It may have been applied; read the state before trying again."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer for the caller of a service.

    Attributes:
        status: of HTTP.
        content: the object to send as `MEDIA_TYPE`.
        headers: to send with it: `Retry-After`, or nothing.
    """

    status: int
    content: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def problem_of(error: CognigyError) -> Problem | None:
    """The answer for an error; None for one that is a mistake in the service itself."""
    row = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if row is None:
        return None
    status, detail = _status(error, row[0]), row[1]
    content: dict[str, Any] = {
        # No URL stands for the type: `error` says which it is, and the status what that means.
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": type(error).__name__,
    }
    content |= {name: value for name, value in _facts(error).items() if value is not None}
    if status not in (429, 503):
        return Problem(status, content)
    return Problem(status, content, {"Retry-After": str(_whole_seconds(error))})


def _status(error: CognigyError, usual: int) -> int:
    if isinstance(error, ServerError) and error.status in (503, 504):
        return error.status
    if isinstance(error, AuthenticationError) and error.transient:
        return 503
    return usual


def _facts(error: CognigyError) -> dict[str, Any]:
    """What helps the caller, or whoever it asks, and is no secret; None for what is not known."""
    facts: dict[str, Any] = {"dialog_id": getattr(error, "dialog_id", None)}
    if isinstance(error, UpdateError):
        facts |= {
            "update_id": error.update_id,
            "trace_id": error.trace_id,
            "applied_parts": error.applied_parts or None,
        }
    if isinstance(error, UpdateValidationError):
        facts["faults"] = [
            {"path": fault.path, "problem": fault.problem, "remedy": fault.remedy}
            for fault in error.faults
        ]
    elif isinstance(error, StateConflictError):
        facts["current_etag"] = error.current_etag
        facts["current_version"] = error.current_version
    elif isinstance(error, AmbiguousUpdateError | NoResponseError):
        facts["applied"] = "unknown"
    return facts


def _whole_seconds(error: CognigyError) -> int:
    """`Retry-After` has whole seconds: rounded up, so that nobody comes early."""
    named = error.retry_after if isinstance(error, UpdateError) else None
    return math.ceil(named) if named is not None and 0 < named < math.inf else math.ceil(SOON)
