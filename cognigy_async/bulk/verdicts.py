"""What a failure says of a row: whether it was sent, was surely not applied, or is better left."""

from __future__ import annotations

from cognigy_async import (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    CognigyError,
    DialogNotFoundError,
    DialogPausedError,
    NotSentError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateWithdrawnError,
)

from .errors import JournalError

FINAL = (
    BadRequestError,
    DialogNotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    UnexpectedAnswerError,
)
"""Failures that trying again does not mend. While a run is being stopped no other is final."""

NOT_SENT = (UpdateWithdrawnError, ClientClosedError, DialogPausedError, JournalError)
"""The row was not sent: it is there for the next run."""

REJECTED = frozenset({"conflict", "not_sent", "throttled", "unauthorized", "unavailable"})
"""Reasons to repeat a request that was surely not applied."""

_TURNED_AWAY = (AuthenticationError, NotSentError, RateLimitedError, StateConflictError)


def was_turned_away(error: CognigyError) -> bool:
    """Whether the server surely did not apply the row."""
    return isinstance(error, _TURNED_AWAY) or getattr(error, "status", None) == 503
