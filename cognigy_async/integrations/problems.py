"""Problem details (RFC 9457) that answer a `CognigyError` to the callers of a service.

`ConfigurationError`, `ClientUsageError` and `CallbackError` are mistakes in the service and have no
problem details. An invalid value is also a mistake in the service unless it came from the caller;
see `callers`. Texts are fixed: no server message, no remedy for operators, no value and no secret
reaches the caller. The log has these details, by `update_id`.
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
    OutboxError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitedError,
    ServerError,
    SharedQuotaError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateError,
    UpdateValidationError,
    UpdateWithdrawnError,
)

MEDIA_TYPE = "application/problem+json"

SOON = 1.0
"""Seconds in `Retry-After` if the error names no time."""

TABLE: dict[type[CognigyError], tuple[int, str]] = {
    UpdateValidationError: (400, "The update is not valid; nothing was sent."),
    BadRequestError: (400, "Cognigy.AI refused a variable or the next step of the update."),
    DialogNotFoundError: (404, "The dialog does not exist."),
    StateConflictError: (409, "The state has changed; read it and decide again."),
    PayloadTooLargeError: (413, "The update is too large for Cognigy.AI."),
    RateLimitedError: (429, "Cognigy.AI is throttling; try again later."),
    ServerError: (502, "Cognigy.AI failed to process the request."),
    AuthenticationError: (502, "Cognigy.AI does not accept the credentials of this service."),
    PermissionDeniedError: (502, "Cognigy.AI does not permit this to this service."),
    UnexpectedAnswerError: (502, "Cognigy.AI sent an unexpected response."),
    UpdateError: (502, "The request was not carried out."),
    NotSentError: (503, "Cognigy.AI cannot be reached; nothing was sent."),
    DeadlineExceededError: (503, "The deadline passed or cannot be met; nothing more is sent."),
    QueueFullError: (503, "Too many updates are waiting; nothing was sent."),
    DialogPausedError: (503, "The dialog is paused after an earlier failure; nothing was sent."),
    SharedQuotaError: (503, "The service cannot keep its quota; nothing was sent."),
    UpdateWithdrawnError: (503, "The update was withdrawn before it was sent."),
    ClientClosedError: (503, "The service is shutting down; nothing was sent."),
    AuditError: (503, "The service cannot write its audit log; nothing was sent."),
    OutboxError: (503, "The service cannot record the update; nothing was sent."),
    NoResponseError: (504, "Cognigy.AI did not respond; the update may have been applied."),
    AmbiguousUpdateError: (504, "The update may have been applied; read the state before a retry."),
}
"""Status and text by class of error; a subclass uses the entry of its nearest base."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A response to the caller of a service.

    Attributes:
        status: HTTP status.
        content: JSON object to send as `MEDIA_TYPE`.
        headers: HTTP headers: `Retry-After`, or none.
    """

    status: int
    content: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def problem_of(error: CognigyError, status: int | None = None) -> Problem | None:
    """Return the response to an error, or None if it is a mistake in the service itself.

    Args:
        status: HTTP status in place of the one in `TABLE`; None for the latter.
    """
    row = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if row is None:
        return None
    status, detail = status or _status(error, row[0]), row[1]
    content: dict[str, Any] = {
        # No URL identifies the type: `error` names it, and the status says what it means.
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": type(error).__name__,
    }
    content |= {name: value for name, value in _details(error).items() if value is not None}
    if status not in (429, 503):
        return Problem(status, content)
    return Problem(status, content, {"Retry-After": str(_whole_seconds(error))})


def _status(error: CognigyError, usual: int) -> int:
    """Return the status of an error; `usual` unless the error has a more specific one."""
    if isinstance(error, ServerError) and error.status in (503, 504):
        return error.status
    if isinstance(error, AuthenticationError) and error.transient:
        return 503
    return usual


def _details(error: CognigyError) -> dict[str, Any]:
    """Return members that help the caller and hold no secret; None for unknown values."""
    details: dict[str, Any] = {"dialog_id": getattr(error, "dialog_id", None)}
    if isinstance(error, UpdateError):
        details |= {
            "update_id": error.update_id,
            "trace_id": error.trace_id,
            "applied_parts": error.applied_parts or None,
        }
    if isinstance(error, UpdateValidationError):
        details["faults"] = [
            {"path": fault.path, "problem": fault.problem, "remedy": fault.remedy}
            for fault in error.faults
        ]
    elif isinstance(error, StateConflictError):
        details["current_etag"] = error.current_etag
        details["current_version"] = error.current_version
    elif isinstance(error, AmbiguousUpdateError | NoResponseError):
        details["applied"] = "unknown"
    return details


def _whole_seconds(error: CognigyError) -> int:
    """Return `Retry-After` in whole seconds, rounded up to prevent early retries."""
    named = error.retry_after if isinstance(error, UpdateError) else None
    return math.ceil(named) if named is not None and 0 < named < math.inf else math.ceil(SOON)
