"""The session that `AiohttpTransport` opens: what it refuses, and what it takes over."""

from __future__ import annotations

import aiohttp
import pytest

from cognigy_async.transports._aiohttp_session import open_session, parse_url, validate_headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X Note": "a"},
        {"": "a"},
        {"X-Note": "a\r\nX-More: b"},
        {"X-Note": "\x01"},
        {"X-Note": "\ud800"},
        {"content-length": "5"},
        {"Transfer-Encoding": "chunked"},
    ],
    ids=ascii,
)
def test_a_header_that_is_not_valid_is_refused(headers: dict[str, str]) -> None:
    validate_headers({"X-Note": "gr\xfcn\t1"})
    with pytest.raises(ValueError, match=r"^$"):
        validate_headers(headers)


@pytest.mark.parametrize("url", ["http://host/a b", "http://h\xf4st/", "http://host/\n"])
def test_a_url_that_is_not_valid_is_refused(url: str) -> None:
    assert str(parse_url("http://me:secret@host:1/%2E%2E?q=%2B")) == "http://host:1/%2E%2E?q=%2B"
    with pytest.raises(ValueError, match=r"^$"):
        parse_url(url)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_connector_stays_with_the_given_session() -> None:
    async with aiohttp.ClientSession(proxy="http://proxy.test") as given:
        async with open_session(given) as opened:
            assert opened.connector is given.connector
            assert opened._default_proxy == given._default_proxy
        assert not given.closed
