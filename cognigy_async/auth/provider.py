"""Credentials of requests: the `TokenProvider` protocol and API keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import SecretStr

from ..errors import ConfigurationError

VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
"""The characters that are allowed in a key or token."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A field name (RFC 9110, section 5.1)."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class AccessToken:
    """One request header with credentials. Two tokens are equal only if they are the same object.

    Attributes:
        header: name of the header.
        value: its value, a secret that the repr leaves out.
    """

    header: str
    value: str

    def __repr__(self) -> str:
        return f"<AccessToken for {self.header}>"


class TokenProvider(Protocol):
    """A source of credentials, asked before each request. Several clients may share a source."""

    async def get_token(self) -> AccessToken:
        """Return a token that is valid as far as the provider knows.

        Raises:
            AuthenticationError: the provider got no token. `transient` says whether retrying may
                help.
            ClientClosedError: the provider is closed.
        """
        ...

    def invalidate(self, token: AccessToken) -> None:
        """Discard a token that the server refused, unless a newer token has replaced it."""
        ...

    async def aclose(self) -> None:
        """Close the provider. It returns no more tokens."""
        ...


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """State and totals of an `OAuthTokenProvider`.

    Attributes:
        refreshes: number of tokens received.
        failures: number of refreshes that failed. A refresh with several attempts counts once.
        refreshing: whether a refresh is running.
        waiting: number of callers that wait for the refresh.
        expires_in: seconds until the token expires; None without a valid token.
    """

    refreshes: int
    failures: int
    refreshing: bool
    waiting: int
    expires_in: float | None


class ApiKey:
    """A fixed key that the client sends with every request.

    `ApiKey` always returns the same `AccessToken`, so the client does not retry a 401.

    Example: `AsyncStateClient(base_url, auth=ApiKey("..."), api=SessionsApi())`

    Args:
        key: visible ASCII without spaces.
        header: name of the request header.

    Raises:
        ConfigurationError: the key or the header name is not valid in HTTP (RFC 9110, section 5).
    """

    __slots__ = ("_token",)

    def __init__(self, key: str | SecretStr, header: str = "X-API-Key") -> None:
        secret: Any = key.get_secret_value() if isinstance(key, SecretStr) else key
        if not isinstance(secret, str) or not secret:
            problem = "is empty" if secret == "" else f"is of type {type(secret).__name__}"
            raise ConfigurationError(
                f"ApiKey: the key {problem}; pass the API key, a string of visible ASCII. If you "
                "read it from an environment variable, set this variable"
            )
        if not VISIBLE_ASCII.fullmatch(secret):
            raise ConfigurationError(
                "ApiKey: the key must be visible ASCII without spaces or line ends"
            )
        if not HEADER_NAME.fullmatch(header):
            raise ConfigurationError("ApiKey: header must be a valid name of an HTTP header")
        self._token = AccessToken(header, secret)

    async def get_token(self) -> AccessToken:
        """Return the key, always as the same object."""
        return self._token

    def invalidate(self, token: AccessToken) -> None:
        """Do nothing. A key cannot be refreshed."""

    async def aclose(self) -> None:
        """Do nothing. A key holds no resources."""

    def __repr__(self) -> str:
        return f"<ApiKey for {self._token.header}>"
