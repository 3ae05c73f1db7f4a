"""`Endpoint`: the service by which messages reach the flow and the user of a session.

The vendor documents it as "Inject and Notify". An answer of it is no state, and has no version.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from .. import errors
from .._utils.arguments import UNENCRYPTED, leaves_unencrypted, validate_base_url
from ..errors import ConfigurationError, Fault, UnsupportedByApiError, UpdateValidationError
from ..models.http import REDACTED, Request
from ..models.results import parse_json
from ..models.variables import encode
from ..retry import ResponseKind, retry_after
from .responses import error_details, error_of_status, kind_of_status

if TYPE_CHECKING:
    from ..models.http import Response
    from ..models.update import StateUpdate
    from .base import StateApi

URL_TOKEN = re.compile(r"[A-Za-z0-9_~-]+")
"""The characters that a URL keeps as they are, but for the dot."""

DOCUMENTED_TOKEN = re.compile(r"[0-9a-f]{64}")
"""A URL token as in the vendor's examples (docs.cognigy.com, "Inject and Notify")."""

EXAMPLE = "https://endpoint-trial.cognigy.ai"
"""An Endpoint URL without its token, from the same page."""

NO_VARIABLES = b"{}"
"""Body of an update that only carries a message."""

NOT_HERE = frozenset({401, 409, 412})
"""Statuses that ask for another token or version, which this service does not have."""

TOKEN_REMEDY = (
    "Check the URL token, the last part of the Endpoint URL in Cognigy.AI, and that the endpoint "
    "is of a type that supports inject and notify."
)


class Endpoint:
    """The Endpoint URL of a flow, for `inject` and `notify`: messages to the flow and to the user.

    In Cognigy.AI, the settings of an endpoint show its Endpoint URL, or Config URL for Webchat:
    ``https://endpoint-trial.cognigy.ai/7b21...c3d8``. The part after the last slash is the URL
    token (docs.cognigy.com, "Inject and Notify"). It is the credential of these requests, so
    the client treats it as a secret: only the request line has it. Tokens and API keys are never
    sent to this service.

    Example: ``Endpoint("https://endpoint-trial.cognigy.ai", url_token)``

    Args:
        url: Endpoint URL without the URL token.
        token: URL token.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    __slots__ = ("_token", "url")

    def __init__(self, url: str, token: str | SecretStr) -> None:
        secret: Any = token.get_secret_value() if isinstance(token, SecretStr) else token
        if not isinstance(secret, str) or not URL_TOKEN.fullmatch(secret):
            problem = (
                "has other characters than letters, digits, - and _"
                if isinstance(secret, str) and secret
                else "is empty"
                if secret == ""
                else f"is of type {type(secret).__name__}"
            )
            raise ConfigurationError(
                f"Endpoint: the token {problem}; pass the last part of the Endpoint URL, after "
                "the last slash"
            )
        try:
            self.url = validate_base_url(url, allow_insecure=True, example=EXAMPLE)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace("base_url", "Endpoint: url", 1)) from None
        parts = self.url.split("/")
        # A token in the URL would be shown with it, even if it is not the token of the argument.
        if secret in parts or any(map(DOCUMENTED_TOKEN.fullmatch, parts)):
            raise ConfigurationError(
                "Endpoint: url contains the token; pass the Endpoint URL up to its last slash"
            )
        self._token = SecretStr(secret)

    def __repr__(self) -> str:
        return f"<Endpoint {self.url}>"

    def validate_encrypted(self) -> None:
        """Raise `ConfigurationError` if the URL token would be sent unencrypted."""
        if leaves_unencrypted(self.url):
            problem = UNENCRYPTED.format("the URL token and messages")
            raise ConfigurationError(f"Endpoint: url {problem}")

    def request(self, update: StateUpdate, user_id: str | None) -> Request:
        """Return the request for the message of an update, without the URL token."""
        assert update._message is not None
        ((receiver, message),) = parse_json(update._message).items()
        body = {"userId": user_id, "sessionId": update._dialog_id, **message}
        headers = {"accept": "application/json", "content-type": "application/json"}
        url = f"{self.url}/{receiver}/{REDACTED}"
        return Request("POST", url, headers, encode(body), False, self._token)


def with_url_token(request: Request) -> Request:
    """Return a request to an endpoint as a transport sends it."""
    assert request.url_token is not None
    url = request.url.removesuffix(REDACTED) + request.url_token.get_secret_value()
    return Request(request.method, url, request.headers, request.content, False, request.url_token)


def requests_of(
    api: StateApi, endpoint: Endpoint | None, base_url: str, update: StateUpdate, update_id: str
) -> list[Request]:
    """Return the requests of an update with a message: those of the API, and then the message."""
    assert endpoint is not None
    requests = [] if update._body == NO_VARIABLES else api.writes(base_url, update, update_id)
    return [*requests, endpoint.request(update, _user_of(api, update))]


def count_requests(api: StateApi, update: StateUpdate) -> int:
    """Return the number of requests of an update."""
    if update._message is None:
        return len(api.writes("", update, "-"))
    return 1 + (0 if update._body == NO_VARIABLES else len(api.writes("", update, "-")))


def may_repeat(api: StateApi, update: StateUpdate, parts: int | None = None) -> bool:
    """Return whether the first `parts` requests of an update may be sent twice.

    By default, these are all requests but the message.
    """
    if parts == 0 or update._body == NO_VARIABLES:
        return True
    return all(request.idempotent for request in api.writes("", update, "-")[:parts])


def check_message(api: StateApi, endpoint: Endpoint | None, update: StateUpdate) -> None:
    """Raise `UpdateValidationError` if the message of an update cannot be sent."""
    name = "inject" if update.inject else "notify"
    if endpoint is None:
        remedy = "pass endpoint=Endpoint(url, token) to the client"
        fault = Fault(name, "needs the endpoint service, which this client does not know", remedy)
        raise UnsupportedByApiError((fault,), dialog_id=update._dialog_id)
    if _user_of(api, update) is None:
        fault = Fault("user_id", f"is missing; {name} requires it", "pass the user of the session")
        raise UpdateValidationError((fault,), dialog_id=update._dialog_id)


def _user_of(api: StateApi, update: StateUpdate) -> str | None:
    # Only the sessions API has a default.
    default: str | None = getattr(api, "user_id", None)
    return update._user_id if update._user_id is not None else default


def kind_of_answer(response: Response) -> ResponseKind:
    """Return the kind of an answer of the endpoint service."""
    status = response.status
    return ResponseKind.REFUSED if status in NOT_HERE else kind_of_status(status)


def error_of_answer(request: Request, response: Response, wall_clock: float) -> errors.UpdateError:
    """Return the exception for an answer of the endpoint service."""
    status = response.status
    _, trace_id, detail = error_details(request, response)
    context: dict[str, Any] = {"status": status, "trace_id": trace_id, "detail": detail}
    if status in (429, 503):
        context["retry_after"] = retry_after(response.headers, wall_clock)
    error: errors.UpdateError
    if status in (401, 403):
        kind = errors.AuthenticationError if status == 401 else errors.PermissionDeniedError
        error = kind("The endpoint does not accept the URL token", **context)
        error.remedy = TOKEN_REMEDY
    elif status == 404:
        message = "The host has no endpoint with this URL token, or does not know the session"
        error = errors.DialogNotFoundError(message, **context)
        error.remedy = TOKEN_REMEDY
    elif status in NOT_HERE:
        error = errors.UnexpectedAnswerError("The endpoint refused the message", **context)
    else:
        error = error_of_status(request, status, context)
        if status == 400:
            error.remedy = "Check the user id, the session id, the text and the data."
    return error
