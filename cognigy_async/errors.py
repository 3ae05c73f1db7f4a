"""Every exception of the library, and what each one says.

::

    CognigyError
    ├── ConfigurationError (ValueError)        an argument or a setting that cannot work
    ├── UpdateValidationError (ValueError)     bad input; nothing was sent
    │   ├── VariableTypeError (TypeError)      a value of a type that JSON does not have
    │   └── UnsupportedByApiError              the API of the client has no such thing
    ├── UpdateError                            an update or a read that was not carried out
    │   ├── BadRequestError                    400
    │   ├── AuthenticationError                401, or no token to be had
    │   ├── PermissionDeniedError              403
    │   ├── DialogNotFoundError                404
    │   ├── StateConflictError                 409, 412
    │   ├── PayloadTooLargeError               413
    │   ├── RateLimitedError                   429
    │   ├── DeadlineExceededError              its `deadline` passed, or cannot be met
    │   ├── ServerError                        5xx
    │   ├── UnexpectedAnswerError              a redirect, another 4xx, an answer that is no JSON
    │   ├── NotSentError                       nothing reached the server
    │   ├── NoResponseError                    sent, but no whole answer came back
    │   └── AmbiguousUpdateError               nobody can tell whether it was applied
    ├── QueueFullError                         `submit_nowait` found no room
    ├── UpdateWithdrawnError                   it was taken back before it was sent
    ├── DialogPausedError                      the dialog waits for `resume` after a failure
    ├── CallbackError                          a callback could not be given its event
    ├── AuditError                             an audit cannot be written, continued or read
    └── ClientUsageError (RuntimeError)        the client is used where it cannot work
        └── ClientClosedError                  before `async with`, or after `aclose`

No exception holds a token, a secret or a variable's value, and each ends with what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_FAULTS_IN_MESSAGE = 20
"""How many faults of one input a message tells; `faults` has the others."""


class CognigyError(Exception):
    """Base of every exception that this library raises."""


class ConfigurationError(CognigyError, ValueError):
    """An argument of a constructor, or a setting, that cannot work."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input: where, what, and what to do about it."""

    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class UpdateValidationError(CognigyError, ValueError):
    """The input breaks a rule of `Limits`; nothing was sent.

    Attributes:
        faults: everything that is wrong, at least one.
        path: where the first fault is, for example ``session.cart.items[3]``.
        dialog_id: the dialog that the input names, if it names one.
    """

    def __init__(self, faults: tuple[Fault, ...], *, dialog_id: str | None = None) -> None:
        self.faults = faults
        self.path = faults[0].path
        self.dialog_id = dialog_id
        text = " | ".join(map(str, faults[:MAX_FAULTS_IN_MESSAGE]))
        if len(faults) > MAX_FAULTS_IN_MESSAGE:
            text += f" | and {len(faults) - MAX_FAULTS_IN_MESSAGE} more"
        super().__init__(f"dialog {dialog_id!r}: {text}" if dialog_id else text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class VariableTypeError(UpdateValidationError, TypeError):
    """A value has a type that is neither string, integer, float, boolean, list nor object."""


class UnsupportedByApiError(UpdateValidationError):
    """The API that the client was given has no such thing; nothing was sent.

    The text names the alternative.
    """


class UpdateError(CognigyError):
    """An update or a read that was not carried out.

    Attributes:
        status: HTTP status of the last answer, None when there was none.
        dialog_id, update_id: which update (a read has no `update_id`).
        attempts: requests made for it.
        trace_id: the server's name for the request, which vendor support asks for.
        retry_after: seconds that the server asked to wait.
        applied_parts: how many requests of an update that takes several were applied before this
            failure, in their order.
        detail: what the server said, shortened, without values of the update.
        code: the number that the public REST API gives its errors, besides the status.
        latency, queued: seconds from its first request to this failure, and from its acceptance to
            its first request, as of an `UpdateResult`; None where it was not sent.
    """

    remedy: str = "See the cause."
    """What to do; the last sentence of the text."""
    latency: float | None = None
    queued: float | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        dialog_id: str | None = None,
        update_id: str | None = None,
        attempts: int = 0,
        trace_id: str | None = None,
        retry_after: float | None = None,
        applied_parts: int = 0,
        detail: str | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.dialog_id = dialog_id
        self.update_id = update_id
        self.attempts = attempts
        self.trace_id = trace_id
        self.retry_after = retry_after
        self.applied_parts = applied_parts
        self.detail = detail
        self.code = code

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
        told = ", ".join(filter(None, facts))
        said = f" The server said: {self.detail!r}." if self.detail else ""
        return f"{self.message}{f' ({told})' if told else ''}.{said} {self.remedy}"

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
    """Another error that says the same; who raises one object in several tasks mixes them up."""
    copy = _restore(type(error), error.args, error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


class BadRequestError(UpdateError):
    """400: the server refuses the payload; never retried."""

    remedy = "Check the names and types of the variables, and that next_step is a node of the flow."


class AuthenticationError(UpdateError):
    """401 after a fresh token, or no token could be had.

    Attributes:
        transient: asking again later may help (network, 429 or 5xx of the token endpoint).
    """

    remedy = "Check client id, client secret, scopes and token URL, or the API key."

    def __init__(self, message: str, *, transient: bool = False, **context: Any) -> None:
        super().__init__(message, **context)
        self.transient = transient
        if transient:
            self.remedy = "Try again later; check the token URL, the network and the proxy."


class PermissionDeniedError(UpdateError):
    """403: the credentials are good but do not allow this."""

    remedy = (
        "Grant the scope (runtime:write to write, dialog:read to read), and check that the "
        "environment is the right one."
    )


class DialogNotFoundError(UpdateError):
    """404: there is no such dialog, or this host does not serve this API."""

    remedy = (
        "Check the dialog id and the base URL; a host that serves the public REST API instead "
        "needs api=SessionsApi()."
    )


class StateConflictError(UpdateError):
    """409 or 412: the state has another version than the write expected.

    Attributes:
        current_etag, current_version: of the state on the server, None where it did not say.
    """

    remedy = "Read the state, decide again, and write with its etag; or use modify()."

    def __init__(
        self,
        message: str,
        *,
        current_etag: str | None = None,
        current_version: int | None = None,
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.current_etag = current_etag
        self.current_version = current_version


class PayloadTooLargeError(UpdateError):
    """413: the server takes less in one request."""

    remedy = "Lower Limits(safe_payload_bytes=...) so that updates are split, or send less."


class RateLimitedError(UpdateError):
    """429: throttled for longer than the policy waits."""

    remedy = "Wait `retry_after` seconds, send less, or raise RetryPolicy(max_retry_after=...)."


class DeadlineExceededError(UpdateError):
    """The `deadline` of a call passed, or cannot be met; nothing of the update is sent any more.

    `__cause__` is the last failure where there was one. `retry_after` is how long what is known to
    be in the way still lasts, where the call was refused at once for that.
    """

    remedy = "Allow more time, or send less at a time; call again if it is still wanted."


class ServerError(UpdateError):
    """5xx after the retries that the policy allows."""

    remedy = "Try again later; if it stays, simplify the state and give support the trace id."


class UnexpectedAnswerError(UpdateError):
    """A redirect, a 4xx that this API does not have, or an answer that does not parse."""

    remedy = "Check that the base URL is the API itself and not a web page, a login or a proxy."


class NotSentError(UpdateError):
    """Nothing reached the server: no name, no connection, no TLS."""

    remedy = "Check the base URL, DNS, proxy and TLS settings, and that the server is up."


class NoResponseError(UpdateError):
    """The request was sent, or begun, and no whole answer came back.

    Attributes:
        timed_out: the time ran out; otherwise the connection was closed.
    """

    remedy = "It may have been applied: read the state before sending it again."

    def __init__(self, message: str, *, timed_out: bool = False, **context: Any) -> None:
        super().__init__(message, **context)
        self.timed_out = timed_out


class AmbiguousUpdateError(UpdateError):
    """The update was sent and nobody can tell whether it was applied; see `__cause__`."""

    remedy = (
        "Read the state, or look at the conversation where the API cannot read it, before sending "
        "it again."
    )


class QueueFullError(CognigyError):
    """`max_pending` updates are accepted and unsettled.

    Attributes:
        max_pending: that number.
    """

    def __init__(self, max_pending: int) -> None:
        self.max_pending = max_pending
        super().__init__(
            f"{max_pending} updates are waiting already; use submit(), which waits for room, "
            "or raise max_pending."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_pending,)


class DialogPausedError(CognigyError):
    """An update of this dialog failed and ``on_failure="pause"`` holds back what follows.

    Attributes:
        dialog_id: the dialog.
        waiting: updates that wait behind the failed one.

    `__cause__` is the failure.
    """

    def __init__(self, dialog_id: str, waiting: int = 0) -> None:
        self.dialog_id = dialog_id
        self.waiting = waiting
        super().__init__(
            f"dialog {dialog_id!r} is paused after a failed update, {waiting} waiting; "
            "mend the cause and call resume()."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.dialog_id, self.waiting)


class UpdateWithdrawnError(CognigyError):
    """The update was taken back before it was sent, and never will be."""


class CallbackError(CognigyError):
    """A callback was not given its event, or failed with it; the update itself is not affected."""


class AuditError(CognigyError):
    """An audit cannot be written, continued or read.

    A client raises it instead of accepting an update while a sink with `strict=True` takes no
    records. Updates are accepted again as soon as the sink does.
    """


class ClientUsageError(CognigyError, RuntimeError):
    """The client is used where it cannot work: another event loop, a forked process, a callback."""


class ClientClosedError(ClientUsageError):
    """The client is not open: before ``async with``, or after `aclose`."""
