"""What `AiohttpTransport` needs of aiohttp itself: a session that sends each request once.

The module of the transport does without it where aiohttp, which is an extra, is not installed.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ._content import ACCEPTED_ENCODINGS

if TYPE_CHECKING:
    import ssl

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

__all__ = [
    "CAUSES",
    "NOT_SENT",
    "Content",
    "Lost",
    "Unusable",
    "checked_session",
    "once",
    "open_session",
    "parsed_url",
    "within",
]

KEEPALIVE = 30.0
"""Seconds for which a connection of the transport's own is kept idle."""

LONGEST_FIELD = 64 * 1024
"""Bytes of one line of an answer's head; those of httpx are about as long."""

CONNECT_MARGIN = 0.05
"""Seconds at most by which connecting ends before the whole, so that it is known what was late."""

NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)
"""Raised before anything of the request is written."""

CAUSES: tuple[type[Exception], ...] = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientError,
    TimeoutError,
)
"""What may be told as the cause of a failure: kinds that are made of a text, narrow ones first."""


class Lost(Exception):  # noqa: N818
    """The connection of a read was lost; the cause says how."""


class Unusable(aiohttp.ClientConnectionError):
    """The connection is not fit for a request, and nothing was sent on it."""


class Content(aiohttp.Payload):
    """The content of a request, which knows whether it was begun to be sent.

    aiohttp writes the head together with the beginning of the content.
    """

    _value: bytes

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self.begun = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = getattr(writer, "transport", None)
        # On one that is closed already, aiohttp raises and writes nothing.
        self.begun = transport is None or not transport.is_closing()
        await writer.write(self._value)


class OnceRequest(aiohttp.ClientRequest):
    """A request that is not sent on a connection on which something has come unasked.

    A server that gives up an idle connection may say so first, with an answer to no request.
    aiohttp takes that for the answer to the next one.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if protocol is None or protocol.should_close:
            raise Unusable
        return await super().send(conn)


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """For reads, which aiohttp would repeat by itself when a connection is lost.

    It repeats them on errors of its own, and this turns them into another one.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Lost from error


def checked_session(session: aiohttp.ClientSession | None) -> None:
    """Look at the argument of the transport.

    Raises:
        TypeError: it is no session.
    """
    if session is not None and not isinstance(session, aiohttp.ClientSession):
        raise TypeError(
            f"AiohttpTransport(session={type(session).__name__}): "
            "pass an aiohttp.ClientSession or nothing"
        )


def open_session(
    theirs: aiohttp.ClientSession | None, tls: ssl.SSLContext
) -> aiohttp.ClientSession:
    """A session for the running event loop, on connections of its own or on those of the user's.

    Also for a user's session it is another one: cookies, credentials and middlewares belong to a
    session, and cannot be left out of a single request.
    """
    own = {"Accept-Encoding": ACCEPTED_ENCODINGS, "User-Agent": "cognigy-async"}
    if theirs is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=own,
            request_class=OnceRequest,
            auto_decompress=False,
            max_line_size=LONGEST_FIELD,
            max_field_size=LONGEST_FIELD,
        )
    headers = theirs.headers.copy()
    headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
    return aiohttp.ClientSession(
        connector=theirs.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        skip_auto_headers=theirs.skip_auto_headers,
        # aiohttp shows everything else of a session, but not its proxy.
        proxy=theirs._default_proxy,
        proxy_auth=theirs._default_proxy_auth,
        trust_env=theirs.trust_env,
        trace_configs=theirs.trace_configs,
        request_class=OnceRequest,
        auto_decompress=False,
        max_line_size=LONGEST_FIELD,
        max_field_size=LONGEST_FIELD,
    )


def parsed_url(url: str) -> URL:
    """The URL as it is: no percent-encoding is added, taken away or put in another way.

    Raises:
        ValueError: it is none.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError
    parsed = URL(url, encoded=True)
    return parsed.with_user(None) if parsed.raw_user else parsed


@functools.lru_cache(maxsize=64)
def within(seconds: float) -> aiohttp.ClientTimeout:
    """The whole, body included, ends after so many seconds; none is rounded up."""
    # aiohttp takes 0 for no limit.
    whole = max(seconds, 0.001)
    connect = whole - min(CONNECT_MARGIN, whole / 20)
    return aiohttp.ClientTimeout(total=whole, connect=connect, ceil_threshold=math.inf)
