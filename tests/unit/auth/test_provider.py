"""API keys as a source of credentials."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import ConfigurationError
from cognigy_async.auth.provider import ApiKey, TokenProvider

from .token_server import (
    all_text_of,
)


async def test_an_api_key_is_always_the_same_token() -> None:
    for key in ("k3y", SecretStr("k3y")):
        tokens: TokenProvider = ApiKey(key)
        first = await tokens.get_token()
        assert (first.header, first.value) == ("X-API-Key", "k3y")
        tokens.invalidate(first)
        assert await tokens.get_token() is first
        await tokens.aclose()
        assert await tokens.get_token() is first
        assert "k3y" not in repr(tokens) + str(tokens) + repr(first) + str(first) + f"{first}"
    assert (await ApiKey("k3y", header="X-Other").get_token()).header == "X-Other"


@pytest.mark.parametrize("key", ["", " ", "k3y ", "k3y\n", "k\r\n3y", "k3yé", "k3y\x00"])
def test_an_invalid_api_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        ApiKey(key)
    assert "3y" not in all_text_of(caught.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        ApiKey(SecretStr(key))


@pytest.mark.parametrize(
    ("key", "problem"), [(None, "is of type NoneType"), (7, "is of type int"), ("", "is empty")]
)
def test_a_key_that_is_not_set_says_what_to_do(key: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{problem}; pass the API key.*set this variable"):
        ApiKey(key)


@pytest.mark.parametrize("header", ["", "X Key", "X-Key:", "X-Key\n"])
def test_an_invalid_header_name_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="name of an HTTP header"):
        ApiKey("k3y", header)
