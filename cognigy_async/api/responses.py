"""What the APIs have in common: path segments, and what an answer tells, with nothing private."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from .. import errors
from ..models.identifiers import HEADER_TEXT
from ..models.results import parse_json
from ..retry import APPLIED, ResponseKind
from .redaction import PrivateValues

if TYPE_CHECKING:
    from ..models.http import Request, Response

LONGEST_DETAIL = 200
UNRESERVED = re.compile(r"[A-Za-z0-9_~-]+").fullmatch

RESPONSE_KINDS = {
    401: ResponseKind.UNAUTHORIZED,
    409: ResponseKind.CONFLICT,
    412: ResponseKind.CONFLICT,
    429: ResponseKind.THROTTLED,
    500: ResponseKind.FAULT,
    503: ResponseKind.UNAVAILABLE,
}

ERRORS: Mapping[int, tuple[type[errors.UpdateError], str]] = {
    400: (errors.BadRequestError, "The server refuses the payload"),
    404: (errors.DialogNotFoundError, "There is no such dialog, or no such API on this host"),
    409: (errors.StateConflictError, "The state has another version"),
    412: (errors.StateConflictError, "The state has another version"),
    413: (errors.PayloadTooLargeError, "The payload is too large for the server"),
    429: (errors.RateLimitedError, "The server throttles"),
}


def path_segment(text: str) -> str:
    """A text as one segment of a path."""
    if UNRESERVED(text):
        return text
    # A dot alone would be resolved as a path, so dots are encoded as well.
    return quote(text, safe="").replace(".", "%2E")


def has_dialog_scope(headers: Mapping[str, str]) -> bool:
    """Whether `X-RateLimit-Scope` says that the limit is the dialog's own."""
    return headers.get("x-ratelimit-scope", "").strip().lower() == "dialog"


def kind_of_status(status: int) -> ResponseKind:
    """What a status means for the next step."""
    if 200 <= status < 300:
        return APPLIED
    if status >= 500 and status not in RESPONSE_KINDS:
        return ResponseKind.GATEWAY
    return RESPONSE_KINDS.get(status, ResponseKind.REFUSED)


class ErrorDetails(NamedTuple):
    """What an error answer says: its JSON object, and what of it may be shown."""

    body: dict[str, Any]
    trace_id: str | None
    detail: str | None


def error_details(request: Request, response: Response) -> ErrorDetails:
    """What an answer says, shortened, and without what the request keeps private."""
    body = parse_json(response.content[:65_536])
    told = body if isinstance(body, dict) else {}
    private = PrivateValues(request)
    # What a read could repeat is the state, which is not known here.
    detail = None if request.method == "GET" else _detail(told, private)
    return ErrorDetails(told, _trace_id(told, response, private), detail)


def error_of_status(request: Request, status: int, context: dict[str, Any]) -> errors.UpdateError:
    """The exception of a status that is no success; `context` are its facts."""
    if status >= 500:
        return errors.ServerError("The server failed", **context)
    if status in (401, 403):
        return _credentials_error(request, status, context)
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


def _credentials_error(
    request: Request, status: int, context: dict[str, Any]
) -> errors.UpdateError:
    """Says whether it is a key or a token that is at fault."""
    error: errors.UpdateError
    has_token = any(name.lower() == "authorization" for name in request.headers)
    if status == 401:
        what = "token, not even a fresh one" if has_token else "API key"
        error = errors.AuthenticationError(f"The server does not accept the {what}", **context)
        if has_token:
            error.remedy = "Check client id, client secret, scopes and token URL."
        else:
            error.remedy = (
                "Check that the API key is whole, neither revoked nor expired, and made in the "
                "environment that the base URL leads to."
            )
    else:
        what = "token does" if has_token else "API key does"
        error = errors.PermissionDeniedError(f"The {what} not allow this", **context)
        if not has_token:
            error.remedy = (
                "Give the user of the API key access to the project, and check that the "
                "environment is the right one."
            )
    return error


def _trace_id(told: Mapping[str, Any], response: Response, private: PrivateValues) -> str | None:
    headers = response.headers
    trace_id = told.get("traceId") or headers.get("x-trace-id") or headers.get("x-request-id")
    if not isinstance(trace_id, str) or len(trace_id) > 128 or not HEADER_TEXT(trace_id):
        return None
    return None if private.occur_in(trace_id, is_id=True) else trace_id


def _detail(told: Mapping[str, Any], private: PrivateValues) -> str | None:
    text = told.get("message") or told.get("detail") or told.get("error_description")
    if not isinstance(text, str):
        return None
    plain = _plain(text[: 2 * LONGEST_DETAIL])
    if private.occur_in(plain):
        return "[withheld, because it repeats values of the request]"
    return plain if len(plain) <= LONGEST_DETAIL else plain[: LONGEST_DETAIL - 3] + "..."


def _plain(text: str) -> str:
    """Printable, with single spaces."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
