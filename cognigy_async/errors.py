"""Every exception of the library.

::

    CognigyError
    ├── ConfigurationError (ValueError)        an argument or a setting cannot work
    ├── UpdateValidationError (ValueError)     the input is invalid; nothing was sent
    │   ├── VariableTypeError (TypeError)      a value has a type that JSON lacks
    │   └── UnsupportedByApiError              the client's API lacks the feature
    ├── UpdateError                            an update or a read failed
    │   ├── BadRequestError                    400
    │   ├── AuthenticationError                401, or no token could be obtained
    │   ├── PermissionDeniedError              403
    │   ├── DialogNotFoundError                404
    │   ├── StateConflictError                 409, 412
    │   ├── PayloadTooLargeError               413
    │   ├── RateLimitedError                   429
    │   ├── DeadlineExceededError              its `deadline` passed or cannot be met
    │   ├── ServerError                        5xx
    │   ├── UnexpectedAnswerError              a redirect, another 4xx, a body that is not JSON
    │   ├── NotSentError                       nothing reached the server
    │   ├── NoResponseError                    sent, and no complete head of a response came back
    │   └── AmbiguousUpdateError               sent, and possibly applied
    ├── QueueFullError                         `submit_nowait` found no free slot
    ├── SharedQuotaError                       the file of a shared quota cannot be used
    ├── UpdateWithdrawnError                   the update was withdrawn before it was sent
    ├── DialogPausedError                      the dialog waits for `resume` after a failure
    ├── CallbackError                          a callback did not handle its event
    ├── OutboxError                            an outbox cannot be used, or record an update
    ├── AuditError                             an audit cannot be written, continued or read
    └── ClientUsageError (RuntimeError)        the client cannot be used in this place
        └── ClientClosedError                  before `async with`, or after `aclose`

No exception holds a token, a secret or the value of a variable. Each text ends with what to do. The
tutorial defines 400, 401, 403, 409, 429 and 500 for the runtime API, the official JavaScript client
the codes of the sessions API. HTTP defines the other statuses (RFC 9110).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

MAX_FAULTS_IN_MESSAGE = 20
"""Number of faults that a message lists; `UpdateValidationError.faults` has all of them."""


class CognigyError(Exception):
    """Base class of all exceptions that this library raises. All of them can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    cls: type[CognigyError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> CognigyError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


def copy_error(error: CognigyError) -> CognigyError:
    """Return a copy, because one error raised in several tasks would mix the tracebacks."""
    copy = _restore(type(error), error.args, error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


class ConfigurationError(CognigyError, ValueError):
    """An argument of a constructor or a setting cannot work; the text names it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that an input breaks.

    Attributes:
        path: place in the input, for example ``session.cart.items[3]``.
        problem: what is wrong at that place.
        remedy: what to do about the problem.
    """

    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class UpdateValidationError(CognigyError, ValueError):
    """The input breaks a rule of `Limits`; nothing was sent.

    Attributes:
        faults: all faults, at least one.
        path: path of the first fault.
        dialog_id: dialog that the input names; None if the input names no dialog.
        names: names of the variables in the input, such as "session.cart"; empty if unknown.
    """

    def __init__(
        self,
        faults: tuple[Fault, ...],
        *,
        dialog_id: str | None = None,
        names: frozenset[str] = frozenset(),
    ) -> None:
        self.faults = faults
        self.names = names
        self.path = faults[0].path
        self.dialog_id = dialog_id
        text = " | ".join(map(str, faults[:MAX_FAULTS_IN_MESSAGE]))
        if len(faults) > MAX_FAULTS_IN_MESSAGE:
            text += f" | and {len(faults) - MAX_FAULTS_IN_MESSAGE} more"
        super().__init__(f"dialog {dialog_id!r}: {text}" if dialog_id else text)


class VariableTypeError(UpdateValidationError, TypeError):
    """A value is neither a string, an integer, a float, a boolean, a list nor an object."""


class UnsupportedByApiError(UpdateValidationError):
    """The client's API lacks the feature; nothing was sent. The text names an alternative."""


@dataclass(eq=False, repr=False)
class UpdateError(CognigyError):
    """An update or a read failed. Each subclass stands for one reason.

    Example::

        try:
            await client.update("d-1", session={"cart_total": 149.99})
        except UpdateError as error:
            logger.warning("not saved: %s (trace id %s)", error, error.trace_id)

    Attributes:
        status: HTTP status of the last response; None if no response came.
        dialog_id: id of the dialog.
        update_id: id of the update; None for a read.
        attempts: number of requests that the client made for the update or read.
        trace_id: the server's id of the request, which vendor support asks for.
        retry_after: seconds that the server asked the client to wait; None if it named no time in
            the future.
        applied_parts: number of requests of a split update that were applied before the failure.
        detail: the server's explanation, shortened, without values of the update.
        code: error code that the public REST API sends besides the status.
        latency: seconds from the first request to the failure; None if nothing was sent.
        queued: seconds from acceptance to the first request; None if nothing was sent.
        remedy: what to do about the failure; the last sentence of the error's text.
    """

    remedy = "See the cause."

    message: str
    _: KW_ONLY
    status: int | None = None
    dialog_id: str | None = None
    update_id: str | None = None
    attempts: int = 0
    trace_id: str | None = None
    retry_after: float | None = None
    applied_parts: int = 0
    detail: str | None = None
    code: int | None = None
    latency: float | None = field(default=None, init=False)
    queued: float | None = field(default=None, init=False)

    def __str__(self) -> str:
        facts = [
            f"dialog {self.dialog_id!r}" if self.dialog_id is not None else "",
            f"update {self.update_id!r}" if self.update_id is not None else "",
            f"HTTP {self.status}" if self.status is not None else "",
            f"code {self.code}" if self.code not in (None, self.status) else "",
            f"{self.attempts} attempts" if self.attempts > 1 else "",
            f"applied parts: {self.applied_parts}" if self.applied_parts else "",
            f"trace id {self.trace_id}" if self.trace_id else "",
        ]
        context = ", ".join(filter(None, facts))
        detail = f" The server said: {self.detail!r}." if self.detail else ""
        return f"{self.message}{f' ({context})' if context else ''}.{detail} {self.remedy}"


class BadRequestError(UpdateError):
    """400: the server rejected the payload. The client never retries the request."""

    remedy = "Check the names and types of the variables, and that next_step is a node of the flow."


@dataclass(eq=False, repr=False)
class AuthenticationError(UpdateError):
    """401 with a fresh token or an API key, or no token could be obtained.

    Attributes:
        transient: True if trying later may help: a network failure, a 429 or a 5xx of the token
            endpoint.
    """

    remedy = "Check client id, client secret, scopes and token URL, or the API key."

    transient: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.transient:
            self.remedy = "Try again later; check the token URL, the network and the proxy."


class PermissionDeniedError(UpdateError):
    """403: the credentials are valid but do not allow this request."""

    remedy = (
        "Grant the scope (runtime:write to write, dialog:read to read), and check that the "
        "environment is the right one."
    )


class DialogNotFoundError(UpdateError):
    """404: the dialog does not exist, or the host does not serve this API."""

    remedy = (
        "Check the dialog id and the base URL; a host that serves the public REST API instead "
        "needs api=SessionsApi()."
    )


@dataclass(eq=False, repr=False)
class StateConflictError(UpdateError):
    """409 or 412: the state has another version than the update expected.

    Attributes:
        current_etag: etag of the state on the server; None if unknown.
        current_version: version number of the state on the server; None if unknown.
    """

    remedy = "Read the state, decide again, and write with its etag; or use modify()."

    current_etag: str | None = field(default=None, kw_only=True)
    current_version: int | None = field(default=None, kw_only=True)


class PayloadTooLargeError(UpdateError):
    """413: the request is larger than the server, or a proxy before the server, accepts."""

    remedy = "Lower Limits(safe_payload_bytes=...) so that updates are split, or send less."


class RateLimitedError(UpdateError):
    """429: the server asks the client to wait longer than the `RetryPolicy` allows."""

    remedy = "Wait `retry_after` seconds, send less, or raise RetryPolicy(max_retry_after=...)."


class DeadlineExceededError(UpdateError):
    """The `deadline` of a call passed or cannot be met. The client sends no further request for it.

    `__cause__` is the last failure of the call, if a request failed; the text names it. If the call
    failed at once because the client must pause beyond the deadline, `retry_after` is the rest of
    that pause in seconds.
    """

    remedy = "Allow more time, or send less at a time; call again if it is still wanted."


class ServerError(UpdateError):
    """The server still answered 5xx after the retries that the `RetryPolicy` allows."""

    remedy = "Try again later; if it persists, simplify the state and give support the trace id."


class UnexpectedAnswerError(UpdateError):
    """The server sent a redirect, a 4xx that the API does not define, or an unreadable body."""

    remedy = "Check that the base URL is the API itself and not a web page, a login or a proxy."


class NotSentError(UpdateError):
    """Nothing reached the server: name resolution, connecting or TLS failed."""

    remedy = "Check the base URL, DNS, proxy and TLS settings, and that the server is up."


@dataclass(eq=False, repr=False)
class NoResponseError(UpdateError):
    """The client sent the request, at least in part, and got no response with complete headers.

    Attributes:
        timed_out: True if the timeout passed. False if the connection was closed.
    """

    remedy = "It may have been applied: read the state before sending it again."

    timed_out: bool = field(default=False, kw_only=True)


class AmbiguousUpdateError(UpdateError):
    """The update was sent and may have been applied; `__cause__` is the failure."""

    remedy = (
        "Read the state, or look at the conversation where the API cannot read it, before sending "
        "it again."
    )


class QueueFullError(CognigyError):
    """`submit_nowait` failed because `max_pending` updates have no outcome yet.

    Attributes:
        max_pending: the limit of updates without an outcome.
    """

    def __init__(self, max_pending: int) -> None:
        self.max_pending = max_pending
        super().__init__(
            f"{max_pending} updates are waiting already; use submit(), which waits for a free "
            "slot, or raise max_pending."
        )


class SharedQuotaError(CognigyError):
    """A bulk update was not sent, because the file of ``RateLimit(shared=...)`` cannot be used.

    `__cause__` is the last failure of the update, if the client had sent the update before.

    Attributes:
        path: the file of the shared limit.
        problem: why the file cannot be used.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"the shared quota file {path} {problem}; bulk work stops, because it could exceed the "
            f"quota. {remedy}"
        )


class DialogPausedError(CognigyError):
    """An update of the dialog failed and ``on_failure="pause"`` holds back the following ones.

    `__cause__` is the error of the failed update.

    Attributes:
        dialog_id: id of the paused dialog.
        waiting: number of updates that wait behind the failed update.
    """

    def __init__(self, dialog_id: str, waiting: int = 0) -> None:
        self.dialog_id = dialog_id
        self.waiting = waiting
        super().__init__(
            f"dialog {dialog_id!r} is paused after a failed update, {waiting} waiting; "
            "fix the cause and call resume()."
        )


class UpdateWithdrawnError(CognigyError):
    """The update was withdrawn before the client sent it, and will never be sent."""


class CallbackError(CognigyError):
    """A callback raised, timed out or did not get its event. This does not affect the update."""


class OutboxError(CognigyError):
    """The outbox cannot be used, or could not record an update.

    Attributes:
        path: the folder or file.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class AuditError(CognigyError):
    """An audit cannot be written, continued or read.

    While a sink with ``strict=True`` takes no records, calls such as `update` raise this error and
    accept no update.
    """


class ClientUsageError(CognigyError, RuntimeError):
    """The client is used in another event loop, a forked process, or its own callback."""


# Reasons in messages why a client does no more. It stops, for example, if its event loop ends.
CLOSED = "the client was closed"
STOPPED = "the client stopped without being closed"


class ClientClosedError(ClientUsageError):
    """The client is not open: ``async with`` has not begun, or `aclose` was called."""
