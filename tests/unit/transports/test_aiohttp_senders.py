"""The request as `DirectSender` writes it, and the two ways of sending."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from cognigy_async.models.http import Request
from cognigy_async.transports._aiohttp_senders import (
    LARGE_REQUEST,
    DirectSender,
    SessionSender,
    _write,
    open_session,
    sender_of,
)
from cognigy_async.transports.httpx import ssl_context


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(None, ssl_context()) as opened:
        yield opened


def written(sender: DirectSender, request: Request) -> bytes:
    (_, host), target = sender._resolve(request.url)
    return sender._serialize(request, host, target)


def is_refused(sender: DirectSender, request: Request) -> bool:
    try:
        written(sender, request)
    except ValueError:
        return True
    return False


async def test_a_request_is_written_with_the_default_headers(
    session: aiohttp.ClientSession,
) -> None:
    sender = DirectSender(session, 100)
    request = Request("PATCH", "http://host:8080/a%2Fb?q=%2B", {"User-Agent": "me"}, b"{}")
    for _ in range(2):
        assert written(sender, request) == (
            b"PATCH /a%2Fb?q=%2B HTTP/1.1\r\nHost: host:8080\r\n"
            b"Accept-Encoding: gzip, deflate\r\nUser-Agent: me\r\nContent-Length: 2\r\n\r\n{}"
        )
    read = Request("GET", "https://host/", {"Host": "other"})
    assert written(sender, read).startswith(b"GET / HTTP/1.1\r\nAccept-Encoding")
    assert b"Content-Length" not in written(sender, read)


@pytest.mark.parametrize(
    ("url", "method", "headers"),
    [
        ("ftp://host/", "GET", {}),
        ("http://host/a b", "GET", {}),
        ("http://hôst/", "GET", {}),
        ("/state", "GET", {}),
        ("http://host/", "GET /x", {}),
        ("http://host/", "GET", {"X Note": "a"}),
        ("http://host/", "GET", {"X-Note": "a\r\nX-More: b"}),
        ("http://host/", "GET", {"X-Note": "\ud800"}),
        ("http://host/", "GET", {"content-length": "5"}),
    ],
    ids=ascii,
)
async def test_an_invalid_request_is_not_written(
    url: str, method: str, headers: dict[str, str], session: aiohttp.ClientSession
) -> None:
    sender = DirectSender(session, 100)
    for _ in range(2):
        assert is_refused(sender, Request(method, url, headers))


async def test_only_a_session_with_traces_or_a_proxy_sends_by_itself() -> None:
    plain: dict[str, Any] = {}
    for options, kind in (
        (plain, DirectSender),
        ({"trace_configs": [aiohttp.TraceConfig()]}, SessionSender),
        ({"trust_env": True}, SessionSender),
        ({"proxy": "http://proxy.test"}, SessionSender),
    ):
        async with aiohttp.ClientSession(**options) as given:
            async with open_session(given, ssl_context()) as opened:
                assert type(sender_of(given, opened, 100)) is kind
                assert opened.connector is given.connector
            assert not given.closed


class Connected:
    """Stands for a transport, with or without TLS."""

    def __init__(self, tls: object) -> None:
        self.tls = tls
        self.writes: list[int] = []

    def get_extra_info(self, name: str) -> object:
        assert name == "ssl_object"
        return self.tls

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))


@pytest.mark.parametrize(
    ("tls", "size", "writes"),
    [
        (None, 2 * LARGE_REQUEST, [2 * LARGE_REQUEST]),
        (object(), 100, [100]),
        (object(), 2 * LARGE_REQUEST, [2 * LARGE_REQUEST - 1, 1]),
    ],
)
def test_the_last_byte_of_a_large_request_over_tls_is_written_apart(
    tls: object, size: int, writes: list[int]
) -> None:
    transport: Any = Connected(tls)
    _write(transport, bytes(size))
    assert transport.writes == writes
