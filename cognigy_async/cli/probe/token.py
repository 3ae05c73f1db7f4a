"""The measurement of the token endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Literal, cast
from urllib.parse import urlsplit

from cognigy_async import AuthenticationError, TokenProvider
from cognigy_async.integrations.settings import API_OF_TOKEN_PATH, Settings
from cognigy_async.spi import MeasuredToken

from .tally import TallyTransport

NO_ENDPOINT = frozenset({404, 405, 410, 501})
"""Statuses that say that a URL leads to no token endpoint."""


async def measure_token(
    settings: Settings, transport: TallyTransport, announce: Callable[[str], None]
) -> tuple[TokenProvider, MeasuredToken | None]:
    """Return a provider with a token, and what is known of its endpoint; None for an API key.

    Without `COGNIGY_TOKEN_URL`, the known paths below the base URL are tried.

    Raises:
        AuthenticationError: no endpoint issued a token.
    """
    if settings.api_key is not None:
        return settings.token_provider(), None
    paths = list(_paths(settings))
    for path in paths:
        url = settings.token_endpoint if path is None else settings.base_url.rstrip("/") + path
        parts = urlsplit(url or "")
        shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        announce(f"Request a token from {shown}: 1 request.")
        provider = settings.token_provider(transport=transport, path=path)
        try:
            await provider.get_token()
        except AuthenticationError as error:
            await provider.aclose()
            if error.status not in NO_ENDPOINT or path is paths[-1]:
                raise
            announce(f"  HTTP {error.status}: there is no token endpoint.")
            continue
        api = settings.api if path is None else API_OF_TOKEN_PATH[path]
        return provider, MeasuredToken(
            url=shown,
            path=cast("Literal['/oauth/token', '/auth/oauth2/token'] | None", path),
            client_auth="basic" if api == "runtime" else "post",
            lifetime_seconds=_lifetime(transport),
        )
    raise AssertionError("the last path either issues a token or raises")


def _paths(settings: Settings) -> Iterator[str | None]:
    """Yield the paths to try; None stands for `COGNIGY_TOKEN_URL`."""
    if settings.token_url is not None:
        yield None
        return
    yield from sorted(API_OF_TOKEN_PATH, key=lambda path: API_OF_TOKEN_PATH[path] != settings.api)


def _lifetime(transport: TallyTransport) -> float | None:
    """Return the lifetime in the last answer; None if it has none."""
    assert transport.response is not None
    lifetime = json.loads(transport.response.content).get("expires_in")
    return None if lifetime is None else float(lifetime)
