"""Configuration from the environment, or from a file `.env` in the working directory.

::

    settings = Settings()
    async with AsyncStateClient(**settings.client_arguments()) as client:
        ...

====================== =====================================================================
variable               meaning
====================== =====================================================================
COGNIGY_BASE_URL       where the API is, without its path
COGNIGY_API            which API of it: `runtime`, the default, or `sessions`
COGNIGY_API_KEY        either this,
COGNIGY_CLIENT_ID      or these two: OAuth client credentials
COGNIGY_CLIENT_SECRET
COGNIGY_TOKEN_URL      where tokens are asked for; by default `{COGNIGY_BASE_URL}/oauth/token`,
                       for `sessions` `{COGNIGY_BASE_URL}/auth/oauth2/token`
COGNIGY_SCOPES         separated by spaces; by default `runtime:write session:manage dialog:read`,
                       for `sessions` what the server gives
COGNIGY_RATE_LIMIT     requests in seconds, as in `1000/300`; several after spaces; or `auto`
COGNIGY_ALLOW_INSECURE `true` takes a base URL with http:// that leads to another machine
COGNIGY_AUDIT_KEY      the key of audit files, for `cognigy-async audit verify`
====================== =====================================================================

For `sessions` alone:

====================== =====================================================================
COGNIGY_USER_ID        whose sessions these are, where an update does not say so
COGNIGY_INJECT         whether the server's inject does `merge`, the default, or `replace`
COGNIGY_READS_STATE    `true` where the installation can read the state of a session
====================== =====================================================================

The environment goes before the file. An empty variable counts as not set. Needs the extra ``cli``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    OAuthConfig,
    OAuthTokenProvider,
    RateLimit,
    RuntimeApi,
    SessionsApi,
    StateApi,
    TokenProvider,
    Transport,
)

logger = logging.getLogger("cognigy_async")

PREFIX = "COGNIGY_"
SCOPES = ("runtime:write", "session:manage", "dialog:read")
REMEDY = "Set them in the environment, or in a file .env in the working directory."
ARGUMENT = re.compile(r"(^|; )(client_id|client_secret|scopes|token_url)[.\d]*: ")
"""Where a message of `OAuthConfig` names what it is about."""

AS_VARIABLES = {
    "base_url": f"{PREFIX}BASE_URL",
    "allow_insecure=True": f"{PREFIX}ALLOW_INSECURE=true",
    "SessionsApi: user_id": f"{PREFIX}USER_ID",
}
"""Arguments of the client, as its messages name them."""

KNOWN: set[str] = set()
"""Every variable that is a setting."""


def _variable(name: str) -> Any:
    """The variable that a field is read from; never from its bare name, which a .env may have."""
    KNOWN.add(f"{PREFIX}{name}")
    return Field(validation_alias=f"{PREFIX}{name}")


def _words(text: object) -> object:
    return tuple(text.split()) if isinstance(text, str) else text


def _rate_limits(text: object) -> object:
    """One limit, several, or "auto"; what is wrong is told without the text itself."""
    if not isinstance(text, str) or text == "auto":
        return text
    limits = []
    for part in text.split():
        n, _, per = part.partition("/")
        try:
            limits.append(RateLimit(int(n), per=float(per)))
        except ValueError:
            raise ValueError(
                "must be requests/seconds, for example 1000/300, both positive, or auto"
            ) from None
    return tuple(limits)


def _as_variable(argument: re.Match[str]) -> str:
    return f"{argument[1]}{PREFIX}{argument[2].upper()}: "


class ClientArguments(TypedDict):
    """What `AsyncStateClient` is made of."""

    base_url: str
    auth: TokenProvider
    api: StateApi
    allow_insecure: bool
    rate_limit: tuple[RateLimit, ...] | Literal["auto"] | None


class Credentials(BaseSettings):
    """The credentials alone; `Settings` is what a client needs.

    Args:
        env_file: where variables are looked for that the environment does not have; None for
            nowhere else. A file that is not there is no error.

    Raises:
        ConfigurationError: with every fault and what to do, and never with what was given.
    """

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8-sig",  # with or without a byte order mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    client_id: Annotated[str | None, _variable("CLIENT_ID")] = None
    client_secret: Annotated[SecretStr | None, _variable("CLIENT_SECRET")] = None
    api_key: Annotated[SecretStr | None, _variable("API_KEY")] = None
    audit_key: Annotated[SecretStr | None, _variable("AUDIT_KEY")] = None

    def __init__(self, *, env_file: str | Path | None = ".env") -> None:
        faults: list[str] = []
        try:
            super().__init__(_env_file=env_file)
        except ValidationError as error:
            faults += (_told(line) for line in error.errors(include_url=False))
        except UnicodeDecodeError:
            faults.append(f"{env_file}: is not UTF-8; save it as UTF-8")
        except OSError as error:
            faults.append(f"{env_file}: cannot be read: {error.strerror}")
        else:
            faults += self._faults()
        # Raised here, when the original error, which knows what was given, has been left behind.
        if faults:
            raise ConfigurationError(" ".join(faults))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file; says which variables of them have no effect."""
        sources = (env_settings, dotenv_settings)
        for source in sources:
            if isinstance(source, EnvSettingsSource):
                _warn_of_unknown(source.env_vars)
        return sources

    def _faults(self) -> Iterator[str]:
        """What is wrong beyond single variables; each one a sentence."""
        yield from ()


class Settings(Credentials):
    """What a client needs, from the environment or a file; see the module for the variables."""

    base_url: Annotated[str, _variable("BASE_URL")] = ""
    api: Annotated[Literal["runtime", "sessions"], _variable("API")] = "runtime"
    token_url: Annotated[str | None, _variable("TOKEN_URL")] = None
    scopes: Annotated[tuple[str, ...], _variable("SCOPES"), NoDecode, BeforeValidator(_words)] = (
        SCOPES
    )
    allow_insecure: Annotated[bool, _variable("ALLOW_INSECURE")] = False
    user_id: Annotated[str | None, _variable("USER_ID")] = None
    inject: Annotated[Literal["merge", "replace"] | None, _variable("INJECT")] = None
    reads_state: Annotated[bool | None, _variable("READS_STATE")] = None
    rate_limit: Annotated[
        tuple[RateLimit, ...] | Literal["auto"] | None,
        _variable("RATE_LIMIT"),
        NoDecode,
        BeforeValidator(_rate_limits),
    ] = None

    if TYPE_CHECKING:
        # Type checkers make one from the fields unless the class has its own.
        def __init__(self, *, env_file: str | Path | None = ".env") -> None: ...

    def token_provider(self, *, transport: Transport | None = None) -> TokenProvider:
        """What gives the client its credentials; a new one at each call.

        Args:
            transport: what token requests are sent with, as for `OAuthTokenProvider`.
        """
        if self.api_key is not None:
            return ApiKey(self.api_key)
        return OAuthTokenProvider(OAuthConfig(**self._oauth()), transport=transport)

    def client_arguments(self) -> ClientArguments:
        """The arguments of `AsyncStateClient`, with a token provider of its own."""
        return {
            "base_url": self.base_url,
            "auth": self.token_provider(),
            "api": self.state_api(),
            "allow_insecure": self.allow_insecure,
            "rate_limit": self.rate_limit,
        }

    def state_api(self) -> StateApi:
        """The API that the client is to speak."""
        if self.api == "runtime":
            return RuntimeApi()
        return SessionsApi(
            user_id=self.user_id,
            inject=self.inject or "merge",
            reads_state=bool(self.reads_state),
        )

    @property
    def asked_scopes(self) -> tuple[str, ...]:
        """The scopes that a token is asked for; none leaves the choice to the server."""
        chosen = self.api == "runtime" or "scopes" in self.model_fields_set
        return self.scopes if chosen else ()

    def _oauth(self) -> dict[str, Any]:
        runtime = self.api == "runtime"
        path = "/oauth/token" if runtime else "/auth/oauth2/token"
        return {
            "token_url": self.token_url or self.base_url.rstrip("/") + path,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "scopes": self.asked_scopes,
            "client_auth": "basic" if runtime else "post",
        }

    def _faults(self) -> Iterator[str]:
        missing = list(self._missing())
        if missing:
            yield f"Settings are missing: {', '.join(missing)}. {REMEDY}"
        if told := list(self._faults_of_client()):
            yield from told
            return
        oauth = [
            f"{PREFIX}{name.upper()}"
            for name in ("client_id", "client_secret")
            if getattr(self, name) is not None
        ]
        if self.api_key is not None and oauth:
            yield (
                f"COGNIGY_API_KEY and {' and '.join(oauth)} are set, and only one kind of "
                "credentials can be used; remove the other."
            )
        elif self.api_key is not None:
            yield from self._faults_of_key(self.api_key)
        elif not missing:
            yield from self._faults_of_oauth()

    def _faults_of_client(self) -> Iterator[str]:
        """What the client itself has against the URL or the API."""
        if not self.base_url:
            return
        try:
            AsyncStateClient(
                self.base_url,
                auth=ApiKey("none"),
                api=self.state_api(),
                allow_insecure=self.allow_insecure,
            )
        except ConfigurationError as error:
            told = str(error)
            for argument, variable in AS_VARIABLES.items():
                told = told.replace(argument, variable)
            yield f"{told}."
        if self.api == "runtime":
            for name in ("user_id", "inject", "reads_state"):
                if getattr(self, name) is not None:
                    variable = f"{PREFIX}{name.upper()}"
                    logger.warning(
                        "%s has no effect without COGNIGY_API=sessions",
                        variable,
                        extra={"variable": variable},
                    )

    def _missing(self) -> Iterator[str]:
        if not self.base_url:
            yield "COGNIGY_BASE_URL"
        if self.api_key is None and self.client_id is None and self.client_secret is None:
            yield "COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET (or COGNIGY_API_KEY instead of both)"
        elif self.api_key is None and self.client_id is None:
            yield "COGNIGY_CLIENT_ID"
        elif self.api_key is None and self.client_secret is None:
            yield "COGNIGY_CLIENT_SECRET"

    def _faults_of_key(self, key: SecretStr) -> Iterator[str]:
        try:
            ApiKey(key)
        except ConfigurationError as error:
            yield f"COGNIGY_API_KEY: {str(error).removeprefix('ApiKey: ')}."

    def _faults_of_oauth(self) -> Iterator[str]:
        try:
            OAuthConfig(**self._oauth())
        except ConfigurationError as error:
            told = str(error).removeprefix("OAuthConfig: ")
            yield f"{ARGUMENT.sub(_as_variable, told)}."


def _told(line: Mapping[str, Any]) -> str:
    """One error of pydantic, which knows a field by its variable."""
    problem = line["msg"].removeprefix("Value error, ")
    if line["type"] == "literal_error":
        problem = f"must be {line['ctx']['expected']}, or left out"
    return f"{line['loc'][0]}: {problem[:1].lower()}{problem[1:]}."


def _warn_of_unknown(variables: Mapping[str, str | None]) -> None:
    names = {name.upper() for name in variables if name.upper().startswith(PREFIX)}
    for name in sorted(names - KNOWN):
        logger.warning("%s is not a setting and has no effect", name, extra={"variable": name})
