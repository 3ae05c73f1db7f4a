"""What signs a request, and who gives it: the `TokenProvider` protocol, and API keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from ..errors import ConfigurationError
from .token_endpoint import VISIBLE

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class AccessToken:
    """One header of a request. Two tokens are equal only if they are the same object."""

    header: str
    value: str

    def __repr__(self) -> str:
        return f"<AccessToken for {self.header}>"


class TokenProvider(Protocol):
    """Gives each request its credentials. Several clients may share one."""

    async def get_token(self) -> AccessToken:
        """A token that is valid as far as is known.

        Raises:
            AuthenticationError: there is none to be had.
            ClientClosedError: the provider is closed.
        """
        ...

    def invalidate(self, token: AccessToken) -> None:
        """The server refused this token: do not give it again."""
        ...

    async def aclose(self) -> None:
        """Give no more tokens."""
        ...


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """What an `OAuthTokenProvider` has done and is doing.

    Attributes:
        refreshes: tokens received.
        failures: refreshes that ended without one, repeats counted as one.
        refreshing: whether one is under way.
        waiting: callers that wait for it.
        expires_in: seconds that the token still lives; None without a valid one.
    """

    refreshes: int
    failures: int
    refreshing: bool
    waiting: int
    expires_in: float | None


class ApiKey:
    """A key that is sent as it is with every request.

    It gives the same `AccessToken` at each call: there is no fresher one after a 401.

    Raises:
        ConfigurationError: the key or the header's name cannot be sent.
    """

    __slots__ = ("_token",)

    def __init__(self, key: str | SecretStr, header: str = "X-API-Key") -> None:
        secret = key.get_secret_value() if isinstance(key, SecretStr) else key
        if not VISIBLE.fullmatch(secret):
            raise ConfigurationError(
                "ApiKey: the key must be visible ASCII without spaces or line ends"
            )
        if not HEADER_NAME.fullmatch(header):
            raise ConfigurationError("ApiKey: this is not the name of a header")
        self._token = AccessToken(header, secret)

    async def get_token(self) -> AccessToken:
        """The key, always as the same object."""
        return self._token

    def invalidate(self, token: AccessToken) -> None:
        """Nothing: a key has no successor."""

    async def aclose(self) -> None:
        """Nothing: there is nothing open."""

    def __repr__(self) -> str:
        return f"<ApiKey for {self._token.header}>"
