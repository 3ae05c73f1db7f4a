"""What a token endpoint is asked, and what its answers mean (OAuth 2.0, RFC 6749). No IO."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast
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
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json

from .._utils.arguments import url_problem
from ..errors import AuthenticationError, ConfigurationError
from ..models.http import Request, Response
from ..retry import retry_after

LONGEST_LIFETIME = 10 * 365 * 86_400.0
"""Seconds; a token that says it lives longer is taken for a mistake."""

VISIBLE = re.compile(r"[\x21-\x7e]+")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def _absolute_url(url: str) -> str:
    if problem := url_problem(url, "https://api.cognigy.ai/oauth/token"):
        raise ValueError(problem)
    return url


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has line ends or other control characters")
    return text


def _printable_secret(secret: SecretStr) -> SecretStr:
    _printable(secret.get_secret_value())
    return secret


def _listed(scopes: object) -> object:
    return scopes.split() if isinstance(scopes, str) else scopes


def _scope(scope: str) -> str:
    if not SCOPE.fullmatch(scope):
        raise ValueError("a scope is visible ASCII without spaces, quotes and backslashes")
    return scope


Seconds = Annotated[float, Field(ge=0, le=LONGEST_LIFETIME)]


class OAuthConfig(BaseModel):
    """Client credentials (RFC 6749, section 4.4).

    Args:
        token_url: absolute, http or https, without credentials and fragment.
        client_id, client_secret: as the server issued them.
        scopes: a sequence, or one text separated by spaces; none leaves the choice to the server.
        client_auth: ``"basic"`` sends id and secret in the Authorization header, ``"post"`` as form
            fields.
        default_lifetime: seconds that a token lives whose answer does not say.
        refresh_margin: seconds before expiry at which a new token is asked for, but never more than
            half of the token's lifetime.

    Raises:
        ConfigurationError: with every fault, and never with what was given. Where pydantic makes
            the object, as part of another model, its ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token_url: Annotated[str, AfterValidator(_absolute_url)]
    client_id: Annotated[str, Field(min_length=1), AfterValidator(_printable)]
    client_secret: Annotated[SecretStr, Field(min_length=1), AfterValidator(_printable_secret)]
    scopes: Annotated[
        tuple[Annotated[str, AfterValidator(_scope)], ...], BeforeValidator(_listed)
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
            # hide_input_in_errors hides them in the text; errors() and json() would still tell.
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


@dataclass(frozen=True, slots=True, repr=False)
class Grant:
    """What an endpoint gave. Its repr does not have the token.

    Attributes:
        asked_at: when it was asked for; a token is never younger than it seems.
        lifetime: seconds from then.
        margin: seconds before the end of its life at which to ask for the next one.
    """

    token: str
    asked_at: float
    lifetime: float
    margin: float


class TokenEndpoint:
    """The endpoint of a configuration.

    Attributes:
        place: its URL without the query, fit to be shown.
        request: what is sent to it, each time.
    """

    def __init__(self, config: OAuthConfig) -> None:
        client_id, secret = config.client_id, config.client_secret.get_secret_value()
        parts = urlsplit(config.token_url)
        self.place = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._default_lifetime = config.default_lifetime
        self._margin = config.refresh_margin
        form = {"grant_type": "client_credentials"}
        if config.scopes:
            form["scope"] = " ".join(config.scopes)
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        # Form-urlencoded within Basic: section 2.3.1.
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

    def grant(self, response: Response, asked_at: float, wall_clock: float) -> Grant:
        """The token of an answer; `asked_at` monotonic, `wall_clock` since the epoch, in seconds.

        Raises:
            AuthenticationError: the answer has none.
        """
        body = _parsed(response.content)
        if response.status != 200:
            raise self._refused(response, body, wall_clock)
        fault = None
        lifetime = self._default_lifetime
        token, kind, expires_in = map(body.get, ("access_token", "token_type", "expires_in"))
        if not (isinstance(token, str) and VISIBLE.fullmatch(token)):
            fault = "has no usable access_token" if body else "is not a JSON object"
        elif not (kind is None or (isinstance(kind, str) and kind.lower() == "bearer")):
            fault = "has a token_type other than bearer"
        elif expires_in is not None:
            lifetime = _seconds(expires_in)
            if not 0 < lifetime <= LONGEST_LIFETIME:
                fault = "has an expires_in that is no sensible number of seconds"
        if fault:
            # Some say with 200 what is wrong.
            told = None if token else self._told(body)
            raise self.failure(f"gave an answer that {fault}", status=200, detail=told)
        return Grant(cast(str, token), asked_at, lifetime, min(self._margin, lifetime / 2))

    def _refused(
        self, response: Response, body: Mapping[str, Any], wall_clock: float
    ) -> AuthenticationError:
        status = response.status
        transient, wait = status == 429 or 500 <= status <= 599, None
        if transient:
            said = "cannot serve now"
            wait = retry_after(response.headers, wall_clock)
            if wait is not None:
                said += f" and asks to wait {wait:.0f} s"
        elif 300 <= status <= 399:
            said = "answered with a redirect, which is never followed"
        elif 400 <= status <= 499:
            said = "refused the request"
        else:
            said = "gave no token"
        return self.failure(
            said, transient=transient, status=status, detail=self._told(body), retry_after=wait
        )

    def failure(
        self, said: str, *, cause: BaseException | None = None, **facts: Any
    ) -> AuthenticationError:
        """An error about this endpoint. A cause that shows a secret is only named."""
        message = f"the token endpoint {self.place} {said}"
        if cause is not None and any(self._secrets.search(f"{e} {e!r}") for e in _chain(cause)):
            message, cause = f"{message} ({type(cause).__name__})", None
        error = AuthenticationError(message, **facts)
        error.__cause__ = cause
        return error

    def _told(self, body: Mapping[str, Any]) -> str | None:
        """What an error answer says, fit to be shown."""
        said = map(body.get, ("error", "error_description"))
        text = ": ".join(part for part in said if isinstance(part, str) and part)
        # Cleaned first, so that no control character hides a secret; cut last, so that no part of
        # one is left over.
        shown = "".join(c if c.isprintable() else " " for c in text)
        return self._credentials.sub("***", shown)[:200] or None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it came from."""
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


def _parsed(content: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        body = from_json(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(value: object) -> float:
    """A number, or a text that is one; NaN for anything else."""
    try:
        if isinstance(value, str) and NUMBER.fullmatch(value):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    return math.nan
