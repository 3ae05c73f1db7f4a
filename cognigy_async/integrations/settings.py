"""Client settings from the environment or from a file `.env` in the working directory.

::

    settings = Settings()
    async with AsyncStateClient(**settings.client_arguments()) as client:
        ...

====================== =====================================================================
variable               meaning
====================== =====================================================================
COGNIGY_BASE_URL       URL of the API, without a path
COGNIGY_API            `runtime` (the default) or `sessions`
COGNIGY_API_KEY        API key
COGNIGY_CLIENT_ID      OAuth client credentials, instead of an API key
COGNIGY_CLIENT_SECRET
COGNIGY_TOKEN_URL      token endpoint; by default `{COGNIGY_BASE_URL}/oauth/token`, for
                       `sessions` `{COGNIGY_BASE_URL}/auth/oauth2/token`
COGNIGY_SCOPES         scopes, separated by spaces; by default `runtime:write session:manage
                       dialog:read`, for `sessions` the choice of the server
COGNIGY_RATE_LIMIT     requests/seconds, such as `1000/300`; several, separated by spaces; or
                       `auto`
COGNIGY_CONTEXT_LIMIT  largest context and profile: `default` (65 kB), `app` (1.5 MB) or a number
                       of bytes; if not set, 65 kB for `sessions`, 1 MiB for `runtime`
COGNIGY_ALLOW_INSECURE `true` allows http:// to another machine
COGNIGY_PROXY          only the command line: URL of a proxy, in place of `HTTPS_PROXY` and others
COGNIGY_CA_FILE        only the command line: file of the certificates to trust (PEM), in place of
                       `SSL_CERT_FILE`
COGNIGY_AUDIT_KEY      key of the audit files, for `cognigy-async audit verify`
COGNIGY_USER_ID        only `sessions`: user that the sessions belong to, unless an update names one
COGNIGY_INJECT         only `sessions`: what the server's inject does, `merge` (the default) or
                       `replace`
COGNIGY_READS_STATE    only `sessions`: `true` if the server can return the state of a session
COGNIGY_TENANT         file with a tenant profile, which `cognigy-async probe` writes. It sets
                       COGNIGY_API, COGNIGY_INJECT, COGNIGY_READS_STATE and COGNIGY_RATE_LIMIT where
                       they are not set, and arguments of the API that have no variable
COGNIGY_ENDPOINT_URL   Endpoint URL of a flow without the URL token, for `inject` and `notify`
COGNIGY_ENDPOINT_TOKEN URL token: the part of the Endpoint URL after the last slash
COGNIGY_TASK_QUEUE     only with Temporal: name that the workers and clients of a tenant share;
                       by default `cognigy`
COGNIGY_QUOTA_SHARE    only workers of Temporal: part of COGNIGY_RATE_LIMIT that this worker may
                       use, such as `1/4`; by default 1
COGNIGY_TEMPORAL_KEY   only with Temporal: keys that encrypt what the cluster keeps, base64 of 32
                       bytes each, separated by spaces; the first one encrypts
====================== =====================================================================

The environment takes precedence over the file. Empty variables count as not set.

Credentials and addresses (`TOGETHER`) come all from the environment, or all from `.env`: otherwise
whoever puts a file into a folder could have the credentials of the environment sent to a server of
theirs. A `.env` that another user owns or can write to is refused. A file that is named by
``Settings(env_file=...)``, or on the command line by ``--env-file``, is trusted, and may be mixed
with the environment. Requires the extra ``cli``.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypedDict, Unpack

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    ValidationError,
    model_validator,
)

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    Endpoint,
    Limits,
    OAuthConfig,
    OAuthTokenProvider,
    RateLimit,
    RuntimeApi,
    SessionsApi,
    StateApi,
    TenantProfile,
    TokenProvider,
    Transport,
)

logger = logging.getLogger("cognigy_async")

PREFIX = "COGNIGY_"
CONTEXT_LIMITS = {
    "default": Limits.cognigy_saas().max_context_bytes,
    "app": Limits.cognigy_app().max_context_bytes,
}
"""Names of the two maximum sizes of a context that the vendor documents."""
SCOPES = ("runtime:write", "session:manage", "dialog:read")
REMEDY = (
    "Set them all in the environment, or all in a file .env in the working directory; or name a "
    "file with Settings(env_file=...)."
)

MAX_PROFILE_BYTES = 1024 * 1024

IMPLICIT_FILE = Path(".env")
"""The file that is read if none is named. Compared by identity: the same path, given, is named."""

TOGETHER = frozenset(
    PREFIX + name
    for name in (
        *("API_KEY", "CLIENT_ID", "CLIENT_SECRET", "ENDPOINT_TOKEN", "ENDPOINT_URL"),
        *("BASE_URL", "TOKEN_URL", "PROXY", "CA_FILE", "ALLOW_INSECURE"),
    )
)
"""Credentials, and addresses: the variables that decide where credentials are sent."""

API_OF_TOKEN_PATH = {"/oauth/token": "runtime", "/auth/oauth2/token": "sessions"}
"""The API whose clients authenticate at a path: by HTTP Basic for `runtime`, else by a form."""

DEFAULT, ENVIRONMENT = "default", "environment"
"""Sources of settings; that of a file is "file" and its path."""

REFERENCE = re.compile(r"\$\{[^}]*\}")

SETTING_OF_ARGUMENT = {
    "or name a file with Settings(env_file=...).": (
        "or name a file with --env-file. To have .env written: cognigy-async init."
    ),
    "Settings(env_file=...)": "--env-file",
    "Limits(max_context_bytes=...)": "COGNIGY_CONTEXT_LIMIT",
    "SessionsApi(reads_state=True)": "COGNIGY_READS_STATE=true",
    "SessionsApi(user_id=...)": "COGNIGY_USER_ID",
    "allow_insecure=True": "COGNIGY_ALLOW_INSECURE=true",
    "api=RuntimeApi()": "COGNIGY_API=runtime",
    "api=SessionsApi()": "COGNIGY_API=sessions",
    "ApiKey: ": "COGNIGY_API_KEY: ",
    "Endpoint: the token": "COGNIGY_ENDPOINT_TOKEN",
    "Endpoint: url": "COGNIGY_ENDPOINT_URL",
    "pass endpoint=Endpoint(url, token) to the client": (
        "set COGNIGY_ENDPOINT_URL and COGNIGY_ENDPOINT_TOKEN"
    ),
    "OAuthConfig(token_url=...)": (
        "COGNIGY_TOKEN_URL (by default a path below COGNIGY_BASE_URL, which depends on COGNIGY_API)"
    ),
}
INVALID_ARGUMENT = re.compile(
    r"(?:^(?:OAuthConfig: |SessionsApi: )?|(?<=; ))"
    r"(base_url|client_id|client_secret|scopes|token_url|user_id)[.\d]*(?=:? )"
)
"""Pattern of a constructor argument in the text of a `ConfigurationError`."""


def name_settings(message: str) -> str:
    """Return a message of the library with settings in place of the arguments it names."""
    for argument, setting in SETTING_OF_ARGUMENT.items():
        message = message.replace(argument, setting)
    return message


def parse_rate_limit(text: str) -> RateLimit:
    """Return the limit written as ``requests/seconds``, for example ``1000/300``.

    Raises:
        ValueError: the text has another form; the message does not quote it.
    """
    n, _, per = text.partition("/")
    try:
        return RateLimit(int(n), per=float(per))
    except ValueError:
        raise ValueError("must be requests/seconds, for example 1000/300, both positive") from None


def read_tenant_profile(path: str | Path, source: str) -> TenantProfile:
    """Return the tenant profile in a file.

    Args:
        source: setting or option that names the file, for the message of an error.

    Raises:
        ConfigurationError: the file cannot be read, or holds no profile that can be used.
    """
    try:
        with open(path, "rb") as file:
            return TenantProfile.from_json(file.read(MAX_PROFILE_BYTES + 1))
    except ConfigurationError as error:
        fault = str(error)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is invalid"
        fault = f"cannot be read: {reason}; name a file that cognigy-async probe wrote"
    # Raise outside of `except`, so that the error's context holds no values.
    raise ConfigurationError(f"{source}: {path} {fault}")


def _measured_variables(tenant: TenantProfile, api: object) -> dict[str, object]:
    """Return the variables that a profile sets, for a client of an API."""
    measured: dict[str, object] = {_variable("api"): tenant.api}
    limit = tenant.rate_limit
    if limit is not None and limit.requests is not None:
        # Without the length of the window, the client learns the limit from the headers.
        limits = (RateLimit(limit.requests, per=limit.seconds),) if limit.seconds else "auto"
        measured[_variable("rate_limit")] = limits
    if tenant.api == "sessions" and api in (None, "sessions"):
        if tenant.writes is not None:
            measured[_variable("inject")] = tenant.writes.inject
        if tenant.reads is not None:
            measured[_variable("reads_state")] = tenant.reads.works
    return measured


def _rate_limits(text: object) -> object:
    if not isinstance(text, str) or text == "auto":
        return text
    try:
        return tuple(map(parse_rate_limit, text.split()))
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def parse_context_limit(text: str) -> int:
    """Return the bytes of a context limit: ``default``, ``app`` or a number of bytes.

    Raises:
        ValueError: the text is something else; the message does not quote it.
    """
    if text in CONTEXT_LIMITS:
        return CONTEXT_LIMITS[text]
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
        raise ValueError("must be default, app or a number of bytes, for example 300000")
    return int(text)


def _context_limit(text: object) -> object:
    return parse_context_limit(text) if isinstance(text, str) else text


def parse_share(text: str) -> float:
    """Return a share of a whole, such as ``1/4`` or ``0.25``.

    Raises:
        ValueError: the text is something else; the message does not quote it.
    """
    part, _, whole = text.partition("/")
    try:
        share = float(part) / (float(whole) if whole else 1.0)
    except (ValueError, ZeroDivisionError):
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError("must be a share above 0 and at most 1, for example 1/4")
    return share


def _share(text: object) -> object:
    return parse_share(text) if isinstance(text, str) else text


def _words(text: object) -> object:
    return tuple(text.split()) if isinstance(text, str) else text


def _variable(field: str) -> str:
    return PREFIX + field.upper()


class ClientArguments(TypedDict):
    """Arguments of `AsyncStateClient` that come from settings."""

    base_url: str
    auth: TokenProvider
    api: StateApi
    allow_insecure: bool
    rate_limit: tuple[RateLimit, ...] | Literal["auto"] | None
    endpoint: Endpoint | None


class ClientOverrides(TypedDict, total=False):
    """Arguments of `AsyncStateClient` that replace those that come from settings."""

    base_url: str
    auth: TokenProvider
    api: StateApi
    allow_insecure: bool
    rate_limit: RateLimit | Sequence[RateLimit] | Literal["auto"] | None
    endpoint: Endpoint | None


class _Variable(NamedTuple):
    """A variable that is set.

    Attributes:
        source: the source as `setting_sources` names it.
    """

    value: str
    source: str


class Credentials(BaseModel):
    """The credentials among the settings, for commands that need no client.

    Args:
        env_file: file with variables that the environment lacks; None for no file. A missing file
            is not an error. Without it, the file is `.env` in the working directory, which only
            the user of the process may own and write to.

    Raises:
        ConfigurationError: settings are invalid, or the file is refused. The message names each of
            them and what to do; it contains no value.
    """

    model_config = ConfigDict(
        # Read only prefixed names: a .env file may have variables named like a field.
        alias_generator=_variable,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    client_id: str | None = None
    client_secret: SecretStr | None = None
    api_key: SecretStr | None = None
    audit_key: SecretStr | None = None
    endpoint_token: SecretStr | None = None

    _together: ClassVar[frozenset[str]] = frozenset()
    """Variables that must not come from the environment and from `.env` both."""

    def __init__(self, *, env_file: str | Path | None = IMPLICIT_FILE) -> None:
        variables = _read_variables(env_file)
        if env_file is IMPLICIT_FILE:
            _check_sources({name: variables[name] for name in variables.keys() & self._together})
        for name in sorted(variables.keys() - set(map(_variable, Settings.model_fields))):
            # A quoted name in a file may have line ends, which would begin a line of the log.
            shown = name if name.isprintable() else ascii(name)
            _warn("%s is not a setting and has no effect", shown)
        faults: list[str] = []
        try:
            super().__init__(**{name: variable.value for name, variable in variables.items()})
        except ValidationError as error:
            faults += map(_fault_of_value, error.errors(include_url=False))
        else:
            faults += self._faults()
        # Raise outside of `except`, so that the error's context holds no values.
        if faults:
            raise ConfigurationError(" ".join(faults))

    def _faults(self) -> Iterator[str]:
        """Yield a sentence for each fault that the checks of single values miss."""
        yield from ()


class TemporalSettings(Credentials):
    """Settings of clients of a Temporal cluster, which need no connection to Cognigy.AI."""

    task_queue: str = "cognigy"
    quota_share: Annotated[float, BeforeValidator(_share)] = 1.0
    temporal_key: SecretStr | None = None

    if TYPE_CHECKING:
        # Without this, type checkers derive the constructor from the fields.
        def __init__(self, *, env_file: str | Path | None = IMPLICIT_FILE) -> None: ...

    @property
    def temporal_keys(self) -> tuple[str, ...]:
        """Keys that encrypt what the cluster keeps."""
        key = self.temporal_key
        return () if key is None else tuple(key.get_secret_value().split())


class Settings(TemporalSettings):
    """Everything that a client needs; the variables are listed in the docstring of the module."""

    _together: ClassVar[frozenset[str]] = TOGETHER

    base_url: str = ""
    api: Literal["runtime", "sessions"] = "runtime"
    token_url: str | None = None
    scopes: Annotated[tuple[str, ...], BeforeValidator(_words)] = SCOPES
    allow_insecure: bool = False
    proxy: SecretStr | None = None
    ca_file: Path | None = None
    user_id: str | None = None
    inject: Literal["merge", "replace"] | None = None
    reads_state: bool | None = None
    context_limit: Annotated[int | None, BeforeValidator(_context_limit)] = None
    tenant: TenantProfile | None = None
    endpoint_url: str | None = None
    rate_limit: Annotated[
        tuple[RateLimit, ...] | Literal["auto"] | None, BeforeValidator(_rate_limits)
    ] = None

    if TYPE_CHECKING:
        # Without this, type checkers derive the constructor from the fields.
        def __init__(self, *, env_file: str | Path | None = IMPLICIT_FILE) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _with_measured(cls, variables: dict[str, Any]) -> dict[str, Any]:
        """Read the tenant profile, and add what it says to the variables that are not set."""
        path = variables.get(name := _variable("tenant"))
        if path is None:
            return variables
        tenant = read_tenant_profile(path, name)
        measured = _measured_variables(tenant, variables.get(_variable("api")))
        return {**measured, **variables, name: tenant}

    def token_provider(
        self, *, transport: Transport | None = None, path: str | None = None
    ) -> TokenProvider:
        """Return a new provider of credentials.

        Args:
            transport: sends the token requests, as for `OAuthTokenProvider`.
            path: path of the token endpoint below the base URL, instead of that of the settings.
        """
        if self.api_key is not None:
            return ApiKey(self.api_key)
        return OAuthTokenProvider(self._oauth_config(path), transport=transport)

    def client_arguments(
        self, *, token_transport: Transport | None = None, **overrides: Unpack[ClientOverrides]
    ) -> ClientArguments:
        """Return the arguments of `AsyncStateClient`, with a new token provider.

        Args:
            token_transport: sends the token requests, as for `OAuthTokenProvider`.
            overrides: arguments of `AsyncStateClient` that take precedence over the settings:
                `base_url`, `auth`, `api`, `allow_insecure`, `rate_limit` or `endpoint`. Pass all
                other arguments to the client itself.

        Raises:
            TypeError: settings do not provide an argument of that name.
        """
        unknown = overrides.keys() - ClientOverrides.__optional_keys__
        if unknown:
            raise TypeError(
                f"settings do not provide {', '.join(sorted(unknown))}; pass it to the client: "
                "AsyncStateClient(**settings.client_arguments(), ...)"
            )
        limits = overrides.get("rate_limit", self.rate_limit)
        if isinstance(limits, RateLimit):
            limits = (limits,)
        elif limits is not None and not isinstance(limits, str):
            limits = tuple(limits)
        auth = overrides.get("auth")
        return {
            "base_url": overrides.get("base_url", self.base_url),
            "auth": self.token_provider(transport=token_transport) if auth is None else auth,
            "api": overrides.get("api") or self.state_api(),
            "allow_insecure": overrides.get("allow_insecure", self.allow_insecure),
            "rate_limit": limits,
            "endpoint": overrides.get("endpoint", self.endpoint()),
        }

    def endpoint(self) -> Endpoint | None:
        """Return the receiver of messages; None if it is not set."""
        if self.endpoint_url is None or self.endpoint_token is None:
            return None
        return Endpoint(self.endpoint_url, self.endpoint_token)

    def state_api(self) -> StateApi:
        """Return the API that the client speaks."""
        if self.tenant is not None:
            return self.tenant.state_api(
                user_id=self.user_id,
                inject=self.inject,
                reads_state=self.reads_state,
                limits=self._limits(self.tenant.limits),
            )
        if self.api == "runtime":
            return RuntimeApi(limits=self._limits(RuntimeApi.limits))
        return SessionsApi(
            user_id=self.user_id,
            inject=self.inject or "merge",
            reads_state=bool(self.reads_state),
            limits=self._limits(SessionsApi.limits),
        )

    def _limits(self, limits: Limits) -> Limits:
        if self.context_limit is None:
            return limits
        return replace(limits, max_context_bytes=self.context_limit)

    @property
    def asked_scopes(self) -> tuple[str, ...]:
        """Scopes to request a token for; if empty, the server chooses."""
        chosen = self.api == "runtime" or "scopes" in self.model_fields_set
        return self.scopes if chosen else ()

    @property
    def token_endpoint(self) -> str | None:
        """URL of the token endpoint; None with an API key."""
        if self.api_key is not None:
            return None
        return self.token_url or self.base_url.rstrip("/") + self._token_path

    @property
    def _token_path(self) -> str:
        token = None if self.tenant is None else self.tenant.token
        if token is not None and token.path is not None:
            return token.path
        return next(path for path, api in API_OF_TOKEN_PATH.items() if api == self.api)

    def _oauth_config(self, path: str | None = None) -> OAuthConfig:
        url = self.token_endpoint if path is None else self.base_url.rstrip("/") + path
        # A token URL that is set has a path of its own; its API says how clients authenticate.
        known = self._token_path if self.token_url is None else None
        api = API_OF_TOKEN_PATH.get(path or known or "", self.api)
        return OAuthConfig(
            token_url=url or "",
            client_id=self.client_id or "",
            client_secret=self.client_secret or "",
            scopes=self.asked_scopes,
            client_auth="basic" if api == "runtime" else "post",
            allow_insecure=self.allow_insecure,
        )

    def _faults(self) -> Iterator[str]:
        pair = {_variable(name): getattr(self, name) for name in ("client_id", "client_secret")}
        given = [variable for variable, value in pair.items() if value is not None]
        missing = [] if self.base_url else ["COGNIGY_BASE_URL"]
        if self.api_key is None and not given:
            missing.append(f"{' and '.join(pair)} (or COGNIGY_API_KEY instead of both)")
        elif self.api_key is None:
            missing += [variable for variable in pair if variable not in given]
        elif given:
            yield (
                f"COGNIGY_API_KEY and {' and '.join(given)} are set, but only one kind of "
                "credentials can be used; remove the other."
            )
        if self.tenant is not None and self.tenant.api != self.api:
            yield (
                f"COGNIGY_TENANT has the profile of the {self.tenant.api} API; remove COGNIGY_API, "
                f"or write a profile of the {self.api} API with: cognigy-async probe --session ID."
            )
        if missing:
            yield f"Settings are missing: {', '.join(missing)}. {REMEDY}"
        if (self.endpoint_url is None) != (self.endpoint_token is None):
            yield (
                "COGNIGY_ENDPOINT_URL and COGNIGY_ENDPOINT_TOKEN go together: the Endpoint URL up "
                "to its last slash, and the rest. Set both, or none."
            )
        try:
            if self.base_url:
                # Check the base URL first: the default token URL is derived from it.
                AsyncStateClient(
                    self.base_url,
                    auth=ApiKey("unused"),
                    api=self.state_api(),
                    allow_insecure=self.allow_insecure,
                    endpoint=self.endpoint(),
                )
            if not missing:
                self.token_provider()
        except ConfigurationError as error:
            message = INVALID_ARGUMENT.sub(lambda found: _variable(found[1]), str(error))
            yield f"{name_settings(message)}."
        self._warn_of_unused()

    def _warn_of_unused(self) -> None:
        for name in ("user_id", "inject", "reads_state"):
            if self.api == "runtime" and getattr(self, name) is not None:
                _warn("%s has no effect without COGNIGY_API=sessions", _variable(name))


def _fault_of_value(line: Mapping[str, Any]) -> str:
    """Return a sentence for an error of pydantic, with the name of the variable."""
    if line["type"] == "literal_error":
        problem = f"must be {line['ctx']['expected']}, or left out"
    elif line["type"] == "bool_parsing":
        problem = "must be true or false, or left out"
    else:
        problem = line["msg"].removeprefix("Value error, ")
    # The fault of a profile names its variable itself.
    return f"{line['loc'][0]}: {problem}." if line["loc"] else f"{problem}."


def setting_sources(env_file: str | Path | None = IMPLICIT_FILE) -> dict[str, str]:
    """Return the source of each setting by the name of its variable.

    A source is `environment`, `file` with its path, or `default`.

    Args:
        env_file: as for `Settings`.

    Raises:
        ConfigurationError: the file cannot be read, or is refused.
    """
    variables = _read_variables(env_file)
    names = map(_variable, Settings.model_fields)
    return {name: variables[name].source if name in variables else DEFAULT for name in names}


def join_by_source(sources: Mapping[str, str]) -> str:
    """Return the names for each source in one line, such as ``environment: A, B; file .env: C``."""
    names: dict[str, list[str]] = {}
    for name, source in sources.items():
        names.setdefault(source, []).append(name)
    return "; ".join(f"{source}: {', '.join(sorted(names[source]))}" for source in sorted(names))


def _read_variables(env_file: str | Path | None) -> dict[str, _Variable]:
    """Return the variables with the prefix by name in capitals: the environment before the file."""
    found: dict[str, _Variable] = {}
    values = {} if env_file is None else _read_file(env_file)
    for source, given in ((f"file {env_file}", values), (ENVIRONMENT, os.environ)):
        for name, value in given.items():
            if value and name.upper().startswith(PREFIX):
                found[name.upper()] = _Variable(value, source)
    return found


def _read_file(path: str | Path) -> Mapping[str, str | None]:
    """Return the variables of a file; none if it is missing, or if `.env` is a folder."""
    named = path is not IMPLICIT_FILE
    try:
        if not named and IMPLICIT_FILE.is_dir():
            # Such as a virtual environment.
            return {}
        with open(
            path,
            encoding="utf-8-sig",  # with or without a byte order mark
            opener=None if named else _open_own,
        ) as file:
            values = dotenv_values(stream=file, interpolate=named)
    except ConfigurationError:
        raise
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        fault = "is not UTF-8; save it as UTF-8."
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is invalid"
        fault = f"cannot be read: {reason}."
    else:
        # A reference could put a secret of the environment into a request.
        settings = set(map(_variable, Settings.model_fields))
        references = [
            name.upper()
            for name, value in values.items()
            if name.upper() in settings and REFERENCE.search(value or "")
        ]
        if named or not references:
            return values
        fault = (
            f"has references to variables, ${{...}}, in {', '.join(references)}. They are replaced "
            "only in a file named with Settings(env_file=...); else write the values themselves."
        )
    # Raise outside of `except`, so that the error's context holds no values.
    raise ConfigurationError(f"{path} {fault}")


def _open_own(path: str, flags: int) -> int:
    """Open a file that only the user of this process can change.

    Raises:
        ConfigurationError: another user owns it, or a link to it, or can write to it.
        OSError: it cannot be opened.
    """
    # If it is a pipe, to open it must not wait for a writer.
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        found, link = os.fstat(file), os.lstat(path)
        if fault := _fault_of_file(found, link):
            raise ConfigurationError(
                f"{path} {fault}. If you trust it, name it with Settings(env_file=...)."
            )
    except BaseException:
        os.close(file)
        raise
    return file


def _fault_of_file(found: os.stat_result, link: os.stat_result) -> str | None:
    """Return what is wrong with a `.env`, or None; Windows does not tell owner and permissions."""
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if sys.platform == "win32":
        return None
    user = os.geteuid()
    # root can change everything anyway, and often owns the files of a container.
    trusted = {user, 0}
    if found.st_uid not in trusted:
        return f"belongs to another user (id {found.st_uid}, this process has {user})"
    if link.st_uid not in trusted:
        return f"is a link of another user (id {link.st_uid}, this process has {user})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be changed by other users; check its lines, then run: chmod go-w .env"
    return None


def _check_sources(variables: Mapping[str, _Variable]) -> None:
    """Raise `ConfigurationError` if variables come from more than one source."""
    sources = {name: variable.source for name, variable in variables.items()}
    if len(set(sources.values())) > 1:
        raise ConfigurationError(
            "Credentials and addresses must come all from the environment or all from "
            f"{IMPLICIT_FILE}, but they are mixed: {join_by_source(sources)}. {REMEDY}"
        )


def _warn(message: str, variable: str) -> None:
    logger.warning(message, variable, extra={"variable": variable})
