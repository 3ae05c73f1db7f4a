"""The session that `AiohttpTransport` opens: what it refuses, and what it takes over."""

from __future__ import annotations

import aiohttp
import pytest
from yarl import URL

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


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://host",
            "http://host/",
            "https://host:81/a%2fb/%2E%2e/../c;d=e",
            "http://[::1]:8/a//b",
        ),
        *(
            "HTTP://host/a",
            "http://host:80/a",
            "http://host/a?b=/c",
            "http://host?/b",
            "http://h/a#/b",
        ),
    ],
)
def test_a_url_with_a_known_origin_is_the_url_as_a_whole(url: str) -> None:
    for _ in range(2):
        parsed, whole = parse_url(url), URL(url, encoded=True)
        assert parsed == whole
        assert (str(parsed), parsed.host, parsed.port) == (str(whole), whole.host, whole.port)
        assert parsed.raw_path_qs == whole.raw_path_qs


@pytest.mark.parametrize("path", ["/a", "/a?b"])
def test_a_port_that_is_not_a_number_is_refused(path: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="port"):
            parse_url(f"http://host:x{path}")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_connector_stays_with_the_given_session() -> None:
    async with aiohttp.ClientSession(proxy="http://proxy.test") as given:
        async with open_session(given) as opened:
            assert opened.connector is given.connector
            assert opened._default_proxy == given._default_proxy
        assert not given.closed
