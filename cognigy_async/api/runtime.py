"""The runtime API v2: one PATCH for an update, ETags, conditional writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import errors
from ..limits import DEFAULT_LIMITS, ENVELOPE, encode
from ..messages import Request
from ..models import DialogState, StateUpdate, parse, version_in
from ..retry import Verdict, retry_after

if TYPE_CHECKING:
    from ..messages import Response

__all__ = ["RuntimeApi"]

LONGEST_DETAIL = 200
UNRESERVED = re.compile(r"[A-Za-z0-9_~-]+").fullmatch
HEADER_TEXT = re.compile(r"[\x21-\x7e]{1,512}").fullmatch

VERDICTS = {
    401: Verdict.UNAUTHORIZED,
    409: Verdict.CONFLICT,
    412: Verdict.CONFLICT,
    429: Verdict.THROTTLED,
    500: Verdict.FAULT,
    503: Verdict.UNAVAILABLE,
}

ERRORS: Mapping[int, tuple[type[errors.UpdateError], str]] = {
    400: (errors.BadRequestError, "The server refuses the payload"),
    401: (errors.AuthenticationError, "The server does not accept the credentials"),
    403: (errors.PermissionDeniedError, "The credentials do not allow this"),
    404: (errors.DialogNotFoundError, "There is no such dialog, or no such API on this host"),
    409: (errors.StateConflictError, "The state has another version"),
    412: (errors.StateConflictError, "The state has another version"),
    413: (errors.PayloadTooLargeError, "The payload is too large for the server"),
    429: (errors.RateLimitedError, "The server throttles"),
}


def throttled_by_scope(headers: Mapping[str, str]) -> bool:
    """Whether `X-RateLimit-Scope` says that the limit is the dialog's own."""
    return headers.get("x-ratelimit-scope", "").strip().lower() == "dialog"


class RuntimeApi:
    """`PATCH {base_url}/runtime/v2/dialogs/{dialog_id}/state`.

    Args:
        honours_idempotency_keys: the server applies one `Idempotency-Key` once. Then a lost answer
            is always followed by a repeat, transitions included. Only say so of a server of which
            it is known.
        is_dialog_throttle: tells from the headers (lower-case names) of a 429 whether it is the
            dialog's own; otherwise it pauses the whole tenant.
    """

    limits = DEFAULT_LIMITS

    def __init__(
        self,
        *,
        honours_idempotency_keys: bool = False,
        is_dialog_throttle: Callable[[Mapping[str, str]], bool] = throttled_by_scope,
    ) -> None:
        self.honours_idempotency_keys = honours_idempotency_keys
        self._is_dialog_throttle = is_dialog_throttle

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """One PATCH, or several where the payload is over the safe threshold."""
        url = _url(base_url, update._dialog_id)
        body = update._body
        if len(body) <= update._limits.safe_payload_bytes:
            return [Request("PATCH", url, _write_headers(update_id), body)]
        return [
            Request("PATCH", url, _write_headers(f"{update_id}/{part}"), body)
            for part, body in enumerate(_split(update))
        ]

    def read(self, base_url: str, dialog_id: str) -> Request:
        """GET on the same path."""
        return Request("GET", _url(base_url, dialog_id), {"accept": "application/json"})

    def verdict(self, response: Response) -> Verdict:
        """By status."""
        status = response.status
        if 200 <= status < 300:
            return Verdict.APPLIED
        if status >= 500 and status not in VERDICTS:
            return Verdict.GATEWAY
        return VERDICTS.get(status, Verdict.REFUSED)

    def throttles_dialog(self, response: Response) -> bool:
        """What the predicate that the API was given says."""
        return self._is_dialog_throttle(response.headers)

    def error(self, request: Request, response: Response, wall_clock: float) -> errors.UpdateError:
        """The exception of the status; what the server said is shortened and scrubbed."""
        status, headers = response.status, response.headers
        body = parse(response.content[:65_536])
        told = body if isinstance(body, dict) else {}
        private = _private(request)
        context: dict[str, Any] = {
            "status": status,
            "trace_id": _trace_id(told, response, private),
            "detail": _detail(told, private),
        }
        if status in (429, 503):
            context["retry_after"] = retry_after(headers, wall_clock)
        if status in (409, 412):
            context["current_etag"] = self.etag(response)
            context["current_version"] = version_in(body)
        if status >= 500:
            return errors.ServerError("The server failed", **context)
        if status in ERRORS:
            kind, message = ERRORS[status]
            return kind(message, **context)
        if 300 <= status < 400:
            message = "The server answers with a redirect, which is not followed"
        elif 200 <= status < 300:
            message = "The answer to the read is not a state"
        else:
            message = "The server gives an answer that this API does not have"
        return errors.UnexpectedAnswerError(message, **context)

    def etag(self, response: Response) -> str | None:
        """The `ETag` header, if it can be sent back."""
        etag = response.headers.get("etag")
        if not etag or len(etag) > 512 or not (etag.isascii() and etag.isprintable()):
            return None
        return None if " " in etag else etag

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """From the body, with the version of the header."""
        body = parse(response.content)
        if not isinstance(body, dict):
            return None
        session, user = body.get("session") or {}, body.get("user") or {}
        transition = body.get("transition") or {}
        if not all(isinstance(part, dict) for part in (session, user, transition)):
            return None
        step = transition.get("nextStep")
        return DialogState(
            dialog_id=dialog_id,
            session=session,
            user=user,
            next_step=step if isinstance(step, str) else None,
            etag=self.etag(response),
            version=version_in(body),
        )


def _url(base_url: str, dialog_id: str) -> str:
    if UNRESERVED(dialog_id):
        segment = dialog_id
    else:
        # A dot alone would be resolved as a path, so dots are encoded as well.
        segment = quote(dialog_id, safe="").replace(".", "%2E")
    return f"{base_url}/runtime/v2/dialogs/{segment}/state"


def _write_headers(key: str) -> dict[str, str]:
    return {
        "accept": "application/json",
        "content-type": "application/json",
        "idempotency-key": key,
    }


def _split(update: StateUpdate) -> Iterator[bytes]:
    """Bodies under the threshold, variables in their order, the transition in the last."""
    transition = encode({"nextStep": update.next_step}) if update.next_step else b""
    room = update._limits.safe_payload_bytes - ENVELOPE
    contexts: dict[str, dict[str, object]] = {}
    size = 0
    for context, variables in (("session", update.session), ("user", update.user)):
        for name, value in variables.items():
            needed = len(encode(name)) + len(encode(value)) + 2
            if contexts and size + needed > room:
                yield encode(contexts)
                contexts, size = {}, 0
            contexts.setdefault(context, {})[name] = value
            size += needed
    if not transition:
        yield encode(contexts)
        return
    step = {"transition": {"nextStep": update.next_step}}
    if size + len(transition) > room:
        yield encode(contexts)
        yield encode(step)
    else:
        yield encode({**contexts, **step})


def _trace_id(told: Mapping[str, Any], response: Response, private: set[str]) -> str | None:
    headers = response.headers
    trace_id = told.get("traceId") or headers.get("x-trace-id") or headers.get("x-request-id")
    if not isinstance(trace_id, str) or len(trace_id) > 128 or not HEADER_TEXT(trace_id):
        return None
    return None if any(text in trace_id for text in private) else trace_id


def _detail(told: Mapping[str, Any], private: set[str]) -> str | None:
    said = told.get("message") or told.get("detail") or told.get("error_description")
    if not isinstance(said, str):
        return None
    plain = _plain(said)
    if any(text in plain for text in private):
        return "[withheld, because it repeats values of the request]"
    return plain if len(plain) <= LONGEST_DETAIL else plain[: LONGEST_DETAIL - 3] + "..."


def _plain(text: str) -> str:
    """Printable, with single spaces."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _private(request: Request) -> set[str]:
    """Beginnings of the texts of a request that must not come back in a message."""
    open_headers = ("accept", "content-type", "idempotency-key", "if-match")
    # Of credentials with a scheme, as in "Bearer ...", the scheme is no secret.
    found = {
        value.split(" ", 1)[-1]
        for name, value in request.headers.items()
        if name.lower() not in open_headers
    }
    sent = parse(request.content)
    for context in ("session", "user"):
        variables = sent.get(context) if isinstance(sent, dict) else None
        for value in variables.values() if isinstance(variables, dict) else ():
            found.update(_leaves(value))
    return {plain[:24] for text in found if len(plain := _plain(text)) >= 4}


def _leaves(value: object) -> Iterator[str]:
    """The texts in a variable's value, the keys of its objects included."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
