"""The token endpoint of OAuth 2.0 (RFC 6749): its configuration, request and responses. No IO."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json

from .._utils.arguments import UNENCRYPTED, leaves_unencrypted, url_problem
from ..errors import AuthenticationError, ConfigurationError
from ..models.http import Request, Response
from ..ratelimit.headers import reset_after
from ..retry import retry_after
from .provider import VISIBLE_ASCII, AccessToken

MAX_LIFETIME = 10 * 365 * 86_400.0
"""Maximum lifetime in seconds. A longer `expires_in` is rejected as a mistake."""

MAX_DETAIL = 200
"""Maximum number of characters shown of an error response."""

SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""A scope token (RFC 6749, section 3.3)."""

NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")

TOKEN_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,15}")
"""A `token_type` that a message may name. A longer one could be a token in the wrong place."""

NO_ENDPOINT = {
    404: "was not found",
    405: "does not accept POST requests",
    407: "was not reached, because the proxy requires user and password",
    410: "was removed",
    501: "does not accept POST requests",
    505: "does not accept HTTP/1.1 requests",
}
"""Problems by HTTP status, where the URL leads to no token endpoint."""

CHECK_TOKEN_URL = (
    "Check OAuthConfig(token_url=...): host and path must be those of the token endpoint, after "
    "all redirects, and no proxy or login page may answer in its place."
)


def _validate_url(url: str, others: ValidationInfo) -> str:
    if problem := url_problem(url, "https://api.cognigy.ai/oauth/token"):
        raise ValueError(problem)
    if not others.data.get("allow_insecure") and leaves_unencrypted(url):
        raise ValueError(UNENCRYPTED.format("credentials and tokens"))
    return url


def _validate_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has line ends or other control characters; remove them")
    return text


def _validate_secret(secret: SecretStr) -> SecretStr:
    _validate_printable(secret.get_secret_value())
    return secret


def _split_scopes(scopes: object) -> object:
    return scopes.split() if isinstance(scopes, str) else scopes


def _validate_scope(scope: str) -> str:
    if not SCOPE.fullmatch(scope):
        raise ValueError("a scope is visible ASCII without spaces, quotes and backslashes")
    return scope


Seconds = Annotated[float, Field(ge=0, le=MAX_LIFETIME)]


class OAuthConfig(BaseModel):
    """Client credentials and the endpoint that issues tokens for them (RFC 6749, section 4.4).

    Example: `OAuthConfig(token_url="https://api.cognigy.ai/oauth/token", client_id="my-client",
    client_secret="...", scopes="runtime:write dialog:read")`

    Args:
        token_url: absolute URL without credentials and fragment; https, or http on this machine.
        client_id, client_secret: id and secret that the server issued.
        scopes: a sequence, or one string separated by spaces. Without scopes the server chooses
            the scopes.
        client_auth: `"basic"` sends id and secret in the Authorization header (section 2.3.1),
            `"post"` sends them as form fields.
        default_lifetime: lifetime of a token in seconds if the response has no `expires_in`.
        refresh_margin: seconds before expiry at which the provider requests the next token, at most
            half of the token's lifetime.
        allow_insecure: allow http:// to another machine, on a network that you trust.

    Raises:
        ConfigurationError: lists every fault without the given values. A pydantic model that
            contains an `OAuthConfig` raises its ValidationError instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # First, because the URL is validated with it.
    allow_insecure: bool = False
    token_url: Annotated[str, AfterValidator(_validate_url)]
    client_id: Annotated[str, Field(min_length=1), AfterValidator(_validate_printable)]
    client_secret: Annotated[SecretStr, Field(min_length=1), AfterValidator(_validate_secret)]
    scopes: Annotated[
        tuple[Annotated[str, AfterValidator(_validate_scope)], ...], BeforeValidator(_split_scopes)
    ] = ()
    client_auth: Literal["basic", "post"] = "basic"
    default_lifetime: Annotated[Seconds, Field(gt=0)] = 3600.0
    refresh_margin: Seconds = 300.0

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            token_url: str,
            client_id: str,
            client_secret: str | SecretStr,
            scopes: str | Sequence[str] = (),
            client_auth: Literal["basic", "post"] = "basic",
            default_lifetime: float = 3600.0,
            refresh_margin: float = 300.0,
            allow_insecure: bool = False,
        ) -> None: ...

    else:

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                faults = [
                    f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in error.errors()
                ]
            else:
                return
            raise ConfigurationError(f"OAuthConfig: {'; '.join(faults)}")

    @model_validator(mode="wrap")
    @classmethod
    def _without_inputs(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            # hide_input_in_errors covers the text only; errors() and json() would show inputs.
            lines = [
                InitErrorDetails(
                    type=PydanticCustomError(
                        line["type"],  # pyright: ignore[reportArgumentType]
                        "{problem}",
                        {"problem": line["msg"].removeprefix("Value error, ")},
                    ),
                    loc=line["loc"],
                    input="hidden",
                )
                for line in error.errors(include_url=False, include_context=False)
            ]
        raise ValidationError.from_exception_data(cls.__name__, lines, hide_input=True)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and its times on the provider's monotonic clock, in seconds.

    Attributes:
        access: the token as a request header.
        lifetime: seconds.
        expires_at: end of its life, counted from the moment before its request.
        refresh_at: when the next token is requested; set by the provider.
    """

    access: AccessToken
    lifetime: float
    expires_at: float
    refresh_at: float = -math.inf


class OAuthEndpoint:
    """Builds the token request of a configuration and reads the responses.

    Attributes:
        url: the token URL without its query, safe to show.
        request: the request for a token.
    """

    # `vars` of it would show the secrets.
    __slots__ = ("_credentials", "_default_lifetime", "_secrets", "request", "url")

    def __init__(self, config: OAuthConfig) -> None:
        client_id, secret = config.client_id, config.client_secret.get_secret_value()
        parts = urlsplit(config.token_url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._default_lifetime = config.default_lifetime
        form = {"grant_type": "client_credentials"}
        if config.scopes:
            form["scope"] = " ".join(config.scopes)
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        # RFC 6749, section 2.3.1: both are form-urlencoded before they are joined.
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        basic = base64.b64encode(pair.encode("ascii")).decode("ascii")
        if config.client_auth == "basic":
            headers["Authorization"] = f"Basic {basic}"
        else:
            form |= {"client_id": client_id, "client_secret": secret}
        content = urlencode(form).encode("ascii")
        self.request = Request("POST", config.token_url, headers, content)
        secrets = {basic, secret, quote(secret), quote_plus(secret)}
        self._secrets = _any_of(secrets)
        self._credentials = _any_of(secrets | {client_id, quote(client_id), quote_plus(client_id)})

    def parse(self, response: Response, requested_at: float, wall_clock: float) -> IssuedToken:
        """Return the token of a response (RFC 6749, section 5.1).

        Args:
            requested_at: monotonic seconds before the request was sent.
            wall_clock: seconds since the epoch.

        Raises:
            AuthenticationError: the response has no usable token.
        """
        status, body = response.status, _json_object(response.content)
        if not 200 <= status <= 299:
            raise self._rejection(response, body, wall_clock)
        if response.body_error is not None:
            problem = f"sent a response without a token: {response.body_error}"
            raise self.error(problem, transient=True, status=status)
        fault = remedy = None
        lifetime = self._default_lifetime
        token, kind, expires_in = map(body.get, ("access_token", "token_type", "expires_in"))
        if not body:
            fault, remedy = "is not a JSON object", CHECK_TOKEN_URL
        elif not (isinstance(token, str) and VISIBLE_ASCII.fullmatch(token)):
            fault = "has no usable access_token"
        elif other := _other_type(kind):
            fault = f"has {other} instead of bearer"
            remedy = "Let the server issue bearer tokens to this client; no others are supported."
        elif expires_in is not None:
            lifetime = _seconds(expires_in)
            if not 0 < lifetime <= MAX_LIFETIME:
                fault = "has an expires_in that is not a sensible number of seconds"
        if fault:
            # Some servers send an error with status 200.
            detail = None if token else self._detail(body)
            problem = f"sent a response that {fault}"
            raise self.error(problem, remedy=remedy, status=status, detail=detail)
        expires_at = requested_at + lifetime
        access = AccessToken("Authorization", f"Bearer {token}")
        return IssuedToken(access, lifetime, expires_at)

    def error(
        self,
        problem: str,
        *,
        cause: BaseException | None = None,
        remedy: str | None = None,
        **fields: Any,
    ) -> AuthenticationError:
        """Return an error about this endpoint. Only name a cause that shows a secret."""
        message = f"the token endpoint {self.url} {problem}"
        if cause is not None and any(self._secrets.search(f"{e} {e!r}") for e in _chain(cause)):
            message, cause = f"{message} ({type(cause).__name__})", None
        error = AuthenticationError(message, **fields)
        error.__cause__ = cause
        if remedy is not None:
            error.remedy = remedy
        return error

    def _rejection(
        self, response: Response, body: Mapping[str, Any], wall_clock: float
    ) -> AuthenticationError:
        """Return the error for a status other than 2xx (RFC 6749, section 5.2)."""
        status = response.status
        transient = status in (408, 429) or (500 <= status <= 599 and status not in NO_ENDPOINT)
        wait = remedy = None
        if transient:
            problem = "is temporarily unavailable"
            wait = retry_after(response.headers, wall_clock)
            if wait is None and status in (429, 503):
                wait = reset_after(response.headers, wall_clock)
            if wait is not None:
                problem += f" and asks to retry after {wait:.0f} s"
        elif status in NO_ENDPOINT:
            problem, remedy = NO_ENDPOINT[status], CHECK_TOKEN_URL
        elif 300 <= status <= 399:
            problem, remedy = "responded with a redirect, which is never followed", CHECK_TOKEN_URL
        elif status != 401 and _is_page(response):
            problem, remedy = "responded with a web page", CHECK_TOKEN_URL
        elif 400 <= status <= 499:
            problem = "rejected the request"
        else:
            problem = "responded without a token"
        if response.body_error is not None:
            problem += f"; {response.body_error}"
        return self.error(
            problem,
            remedy=remedy,
            transient=transient,
            status=status,
            detail=self._detail(body),
            retry_after=wait,
        )

    def _detail(self, body: Mapping[str, Any]) -> str | None:
        """Return the error text of a response without credentials, or None."""
        fields = map(body.get, ("error", "error_description"))
        text = ": ".join(part for part in fields if isinstance(part, str) and part)
        # Clean the text first, so that no control character hides a secret. Cut it last, so
        # that no part of a secret is left at the end.
        printable = "".join(c if c.isprintable() else " " for c in text)
        return self._credentials.sub("***", printable)[:MAX_DETAIL] or None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes, contexts and group members."""
    found, seen = [error], set[int]()
    while found:
        one = found.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            found += getattr(one, "exceptions", ())
            found += (e for e in (one.__cause__, one.__context__) if e is not None)


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


def _json_object(content: bytes) -> dict[str, Any]:
    """Return the parsed JSON object, or an empty one if the content is anything else.

    JSON is UTF-8 (RFC 8259, section 8.1). Other encodings of Unicode are read as well, with or
    without a byte order mark.
    """
    try:
        body = from_json(content.decode(json.detect_encoding(content), errors="replace"))
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_page(response: Response) -> bool:
    return response.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"


def _other_type(kind: object) -> str | None:
    """Return a description of a `token_type` that is not bearer (RFC 6750), or None if it is.

    The type is not case-sensitive (RFC 6749, section 7.1). Some servers write it in another form,
    as Apigee does ("BearerToken"), or leave it out.
    """
    if kind is None:
        return None
    if not isinstance(kind, str):
        return "a token_type"
    name = kind.rpartition(":")[2].strip()  # of a URI the last part
    if not name or name.lower().startswith("bearer"):
        return None
    return f"the token_type {name!r}" if TOKEN_TYPE.fullmatch(name) else "a token_type"


def _seconds(value: object) -> float:
    """Return a number, even if it is written as a string; NaN for anything else."""
    try:
        if isinstance(value, str) and NUMBER.fullmatch(value):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    return math.nan
