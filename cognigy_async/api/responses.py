"""Shared by all APIs: kinds of response by status, and errors without private values."""

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
    from .base import MergedValues

MAX_DETAIL_LENGTH = 200
MAX_ERROR_BODY = 65_536
"""Bytes of an error's body that are parsed."""
UNRESERVED = re.compile(r"[A-Za-z0-9_~-]+").fullmatch

KIND_OF_STATUS = {
    401: ResponseKind.UNAUTHORIZED,
    408: ResponseKind.GATEWAY,
    409: ResponseKind.CONFLICT,
    412: ResponseKind.CONFLICT,
    429: ResponseKind.THROTTLED,
    500: ResponseKind.FAULT,
    501: ResponseKind.REFUSED,
    503: ResponseKind.UNAVAILABLE,
    505: ResponseKind.REFUSED,
    510: ResponseKind.REFUSED,
}

ERROR_OF_STATUS: Mapping[int, tuple[type[errors.UpdateError], str]] = {
    400: (errors.BadRequestError, "The server rejected the payload"),
    404: (errors.DialogNotFoundError, "The dialog does not exist, or this host lacks this API"),
    409: (errors.StateConflictError, "The state has another version"),
    412: (errors.StateConflictError, "The state has another version"),
    413: (errors.PayloadTooLargeError, "The payload is too large for the server"),
    429: (errors.RateLimitedError, "The server throttled the request"),
}

_NOT_THE_API = "Check that the base URL is the API itself, and which methods a proxy passes on."
REFUSALS: Mapping[int, tuple[str, str]] = {
    421: (
        "The request reached a server that does not serve this host name",
        "Check the host of the base URL, and that the proxy passes each host on to its own server.",
    ),
    425: (
        "The server does not process a request that may be a replay of TLS early data",
        "Turn off early data (0-RTT) in the proxy that connects to the API.",
    ),
    501: ("The server does not implement this kind of request", _NOT_THE_API),
    505: ("The server does not accept this version of HTTP", _NOT_THE_API),
    510: ("The server requires an HTTP extension", _NOT_THE_API),
}
"""Refusals with a meaning that HTTP defines (RFC 9110; 425: RFC 8470, 5.2; 510: RFC 2774, 7)."""

TOKEN_REMEDY = "Check client id, client secret, scopes and token URL."
KEY_REMEDY = (
    "Check that the API key is complete, neither revoked nor expired, and made in the environment "
    "of the base URL."
)
KEY_ACCESS_REMEDY = (
    "Give the user of the API key access to the project, and check that the environment is the "
    "right one."
)


def path_segment(text: str) -> str:
    """Return a text percent-encoded as one segment of a URL path."""
    if UNRESERVED(text):
        return text
    # Encode dots as well, because clients and proxies resolve "." and "..".
    return quote(text, safe="").replace(".", "%2E")


def validate_merged_values(merged_values: MergedValues) -> MergedValues:
    """Return the argument; raise `ConfigurationError` if it is none of the choices."""
    if merged_values not in ("none", "objects", "objects and lists"):
        raise errors.ConfigurationError(
            f'merged_values={merged_values!r}: must be "none", "objects" or "objects and lists"'
        )
    return merged_values


def has_dialog_scope(headers: Mapping[str, str]) -> bool:
    """Return whether `X-RateLimit-Scope` says that a limit concerns one dialog."""
    return headers.get("x-ratelimit-scope", "").strip().lower() == "dialog"


def kind_of_status(status: int) -> ResponseKind:
    """Return the response kind of a status."""
    if 200 <= status < 300:
        return APPLIED
    if status >= 500 and status not in KIND_OF_STATUS:
        return ResponseKind.GATEWAY
    return KIND_OF_STATUS.get(status, ResponseKind.REFUSED)


class ErrorDetails(NamedTuple):
    """The JSON object of an error response, and its parts that are safe to show."""

    body: dict[str, Any]
    trace_id: str | None
    detail: str | None


def error_details(request: Request, response: Response) -> ErrorDetails:
    """Return the content of an error response, without private values of the request."""
    parsed = parse_json(response.content[:MAX_ERROR_BODY])
    body = parsed if isinstance(parsed, dict) else {}
    private = PrivateValues(request)
    # After a read the server may quote the state, whose values are unknown here.
    detail = None if request.method == "GET" else _detail(body, private)
    return ErrorDetails(body, _trace_id(body, response, private), detail)


def error_of_status(request: Request, status: int, context: dict[str, Any]) -> errors.UpdateError:
    """Return the exception for a status; `context` has its keyword arguments."""
    if status in REFUSALS:
        message, remedy = REFUSALS[status]
        refusal = errors.ServerError if status >= 500 else errors.UnexpectedAnswerError
        error = refusal(message, **context)
        error.remedy = remedy
        return error
    if status == 408:
        return errors.ServerError("The server gave up waiting for the request", **context)
    if status >= 500:
        return errors.ServerError("The server failed", **context)
    if status in (401, 403):
        return _credentials_error(request, status, context)
    if status in ERROR_OF_STATUS:
        kind, message = ERROR_OF_STATUS[status]
        return kind(message, **context)
    if 300 <= status < 400:
        message = "The server sent a redirect, which is never followed"
    elif 200 <= status < 300:
        message = "The response to the read is not a state"
    else:
        message = "The server sent a status that this API does not define"
    return errors.UnexpectedAnswerError(message, **context)


def _credentials_error(
    request: Request, status: int, context: dict[str, Any]
) -> errors.UpdateError:
    error: errors.UpdateError
    has_token = any(name.lower() == "authorization" for name in request.headers)
    if status == 401:
        what = "token, not even a fresh one" if has_token else "API key"
        error = errors.AuthenticationError(f"The server does not accept the {what}", **context)
        error.remedy = TOKEN_REMEDY if has_token else KEY_REMEDY
    else:
        what = "token" if has_token else "API key"
        error = errors.PermissionDeniedError(f"The {what} does not allow this", **context)
        if not has_token:
            error.remedy = KEY_ACCESS_REMEDY
    return error


def _trace_id(body: Mapping[str, Any], response: Response, private: PrivateValues) -> str | None:
    headers = response.headers
    trace_id = body.get("traceId") or headers.get("x-trace-id") or headers.get("x-request-id")
    if not isinstance(trace_id, str) or len(trace_id) > 128 or not HEADER_TEXT(trace_id):
        return None
    return None if private.occur_in(trace_id, is_id=True) else trace_id


def _detail(body: Mapping[str, Any], private: PrivateValues) -> str | None:
    text = body.get("message") or body.get("detail") or body.get("error_description")
    if not isinstance(text, str):
        return None
    plain = _plain(text[: 2 * MAX_DETAIL_LENGTH])
    if private.occur_in(plain):
        return "[withheld, because it repeats values of the request]"
    return plain if len(plain) <= MAX_DETAIL_LENGTH else plain[: MAX_DETAIL_LENGTH - 3] + "..."


def _plain(text: str) -> str:
    """Return a text with each run of spaces and unprintable characters as one space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
