"""A session of aiohttp that sends each request at most once, and checks its connections."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import select
from collections.abc import Callable, Mapping
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from yarl import URL

from .._utils.tls import default_context
from ._response_body import ACCEPTED_ENCODINGS, has_unclear_end

KEEPALIVE = 30.0  # seconds for which an idle connection is kept
MIN_TIMEOUT = 0.001  # seconds; aiohttp takes 0 for no timeout
CONNECT_MARGIN = 0.05  # seconds between the connect timeout and the total, to tell them apart
MAX_HEADER_LINE = 64 * 1024  # bytes; about the limit of httpx
MAX_STALE = 3  # connections that are tried for one request

HEADER_NAME = re.compile(
    r"(?!(?:content-length|transfer-encoding)$)[!#$%&'*+.^_`|~0-9a-z-]+", re.IGNORECASE
)
"""A name (RFC 9110, section 5.6.2), but of a header that sets the framing."""

PLAIN_URL = re.compile(r"(https?://[^/?#@]+)(/[^?#]*)")
"""A URL without user, query and fragment: the origin, and the path."""

INVALID_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters (RFC 9110, section 5.5), and surrogates, which UTF-8 cannot encode."""

NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)
"""Errors that aiohttp raises before it has sent anything."""


class StaleConnectionError(aiohttp.ClientConnectionError):
    """The server has ended the idle connection, and the request was not sent on it."""


class Body(aiohttp.Payload):
    """The content of a request, with the progress of sending it.

    Attributes:
        begun: whether sending has begun. aiohttp writes the head together with the beginning.
        written: whether the socket took all but the last bytes.
    """

    _value: bytes

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self._transport: asyncio.WriteTransport | None = None
        self.begun = False
        self.written = not content

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._transport = transport = getattr(writer, "transport", None)
        # On a closed transport aiohttp raises and writes nothing.
        self.begun = transport is None or not transport.is_closing()
        await writer.write(self._value)
        self.written = True

    def abort(self) -> None:
        """Close the connection at once, so that what is not sent yet never reaches the server."""
        if self._transport is not None:
            self._transport.abort()


class _CheckedRequest(aiohttp.ClientRequest):
    """A request that is not sent on a stale connection."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if _is_stale(conn):
            raise StaleConnectionError
        return await super().send(conn)


class _CheckedResponse(aiohttp.ClientResponse):
    """A response whose connection is not used again if its end is unclear."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        # Afterwards the connection may be released already.
        protocol = connection.protocol
        await super().start(connection)
        if protocol is not None and has_unclear_end(self.status, self.headers):
            protocol.close()
        return self


def open_session(given: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    """Open a session with its own connections, or with those of the given session.

    The given one itself is not used: its cookies, credentials and middlewares cannot be left out of
    a single request. Raise ValueError if one of its default headers is not valid.
    """
    settings: dict[str, Any] = {"headers": {"User-Agent": "cognigy-async"}}
    if given is None:
        settings["connector"] = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEPALIVE, ssl=default_context()
        )
    else:
        validate_headers(given.headers)
        settings = {
            "connector": given.connector,
            "connector_owner": False,
            "headers": given.headers.copy(),
            "skip_auto_headers": given.skip_auto_headers,
            # The proxy of a session has no public attribute.
            "proxy": given._default_proxy,
            "proxy_auth": given._default_proxy_auth,
            # Not `trust_env`, which would also add credentials of a netrc file to requests.
            "trace_configs": given.trace_configs,
        }
    settings["headers"]["Accept-Encoding"] = ACCEPTED_ENCODINGS
    session = aiohttp.ClientSession(
        **settings,
        cookie_jar=aiohttp.DummyCookieJar(),
        request_class=_CheckedRequest,
        response_class=_CheckedResponse,
        auto_decompress=False,
        max_line_size=MAX_HEADER_LINE,
        max_field_size=MAX_HEADER_LINE,
    )
    # No public argument keeps aiohttp from sending a request again after a lost connection.
    session._retry_connection = False
    return session


def validate_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError if a header is not valid, or sets the framing."""
    if not _are_valid(tuple(headers)) or INVALID_IN_VALUE.search("".join(headers.values())):
        raise ValueError


@functools.lru_cache(maxsize=64)
def _are_valid(names: tuple[str, ...]) -> bool:
    return all(map(HEADER_NAME.fullmatch, names))


def parse_url(url: str) -> URL:
    """Parse a URL without changing its percent-encoding. Raise ValueError if it is not valid."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError
    plain = PLAIN_URL.fullmatch(url)
    # Parsing a whole URL takes three times as long.
    return _parse_origin(plain[1]).with_path(plain[2], encoded=True) if plain else _parse(url)


def _parse(url: str) -> URL:
    parsed = URL(url, encoded=True)
    return parsed.with_user(None) if parsed.raw_user else parsed


_parse_origin = functools.lru_cache(maxsize=64)(_parse)


def environment_proxy(url: URL) -> URL | None:
    """Return the proxy of the environment for a URL. Raise ValueError if its URL is not valid."""
    proxy = getproxies().get(url.scheme)
    if not proxy or url.host is None or proxy_bypass(url.host):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


@functools.lru_cache(maxsize=64)
def timeout_of(seconds: float, *, connecting: bool) -> aiohttp.ClientTimeout:
    """Return a timeout for all, not rounded up; `connecting` tells a late connection apart."""
    total = max(seconds, MIN_TIMEOUT)
    connect = total - min(CONNECT_MARGIN, total / 20) if connecting else None
    return aiohttp.ClientTimeout(total=total, connect=connect, ceil_threshold=math.inf)


def _is_stale(connection: Connection) -> bool:
    """Return whether a connection has unread data, or is closing.

    A server may send an unsolicited response before it closes an idle connection. aiohttp would
    take it for the response to the next request. On a closing connection it would discard the
    request.
    """
    protocol = connection.protocol
    transport = None if protocol is None or protocol.should_close else protocol.transport
    if transport is None or transport.is_closing():
        return True
    # Over TLS the socket may hold a session ticket. The event loop reads it in its next iteration.
    if transport.get_extra_info("ssl_object") is not None:
        return False
    connected = transport.get_extra_info("socket")
    return connected is not None and bool(_poll_of(connected.fileno())(0))


@functools.lru_cache(maxsize=1024)
def _poll_of(descriptor: int) -> Callable[[float], list[Any]]:
    """Return a function that takes a timeout and returns an empty list if nothing can be read."""
    if not hasattr(select, "poll"):
        return lambda seconds: select.select([descriptor], [], [], seconds)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
