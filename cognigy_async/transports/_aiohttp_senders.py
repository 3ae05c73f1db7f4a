"""The two ways of sending a request with aiohttp: directly on its connections, or by a session."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import select
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from ..models.http import Response
from ._response_body import (
    ACCEPTED_ENCODINGS,
    CUT_OFF,
    NOT_IN_TIME,
    BodyError,
    decoded,
    has_unclear_end,
    headers_of,
    too_large,
    validate_length,
)

if TYPE_CHECKING:
    import ssl

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from ..models.http import Request

KEEPALIVE = 30.0  # seconds for which an idle connection is kept
MIN_TIMEOUT = 0.001  # seconds; aiohttp takes 0 for no timeout
CONNECT_MARGIN = 0.05  # seconds between the connect timeout and the total, to tell them apart
MAX_HEADER_LINE = 64 * 1024  # bytes; about the limit of httpx
LARGE_REQUEST = 64 * 1024  # bytes that a transport may buffer before it asks for a pause
MAX_STALE = 3  # connections that are tried for one request
MAX_CACHED = 256  # validated origins, and validated sets of header names

PLAIN_URL = re.compile(r"(https?://[a-zA-Z0-9.:\[\]-]+)(/[!\"$-~]*)")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A method or a header name (RFC 9110, sections 9.1 and 5.6.2)."""

INVALID_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters (RFC 9110, section 5.5), and surrogates, which UTF-8 cannot encode."""

FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that only the transport may set."""

RETRIED_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that a session of aiohttp retries by itself unless a middleware prevents it."""

NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)
"""Errors that aiohttp raises before it has sent anything."""

CAUSES: tuple[type[Exception], ...] = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientError,
    TimeoutError,
)
"""Errors that may become a `__cause__`, created from a text. Subclasses come first."""


class ConnectionLostError(Exception):
    """The connection of a read was lost; the cause says how."""


class InvalidResponseError(Exception):
    """The head of the response is not valid in HTTP."""


class ConnectorClosedError(aiohttp.ClientConnectionError):
    """The connector was closed while a request waited for a connection."""


class StaleConnectionError(aiohttp.ClientConnectionError):
    """The server has ended the idle connection, and the request was not sent on it."""


class Progress:
    """Progress of a request.

    Attributes:
        begun: whether a part of it may have been sent; None if that is unknown.
    """

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun: bool | None = False


class DirectSender:
    """Sends requests on connections of aiohttp's connector, without its session.

    A session takes more than half of the CPU time of a small request, for redirects, cookies,
    traces, proxies and retries. So the request is written here; aiohttp parses the response.

    Args:
        session: provides the connector and default headers; without traces and proxy.
        limit: most bytes of a response.
    """

    def __init__(self, session: aiohttp.ClientSession, limit: int) -> None:
        connector = session.connector
        assert connector is not None
        self._session = session
        self._connector = connector
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        # For each origin: a request that describes it to the connector, and the Host header.
        self._origins: dict[str, tuple[aiohttp.ClientRequest, str]] = {}
        self._default_headers: dict[tuple[str, ...], str] = {}

    async def send(self, request: Request, timeout: float, progress: Progress) -> Response:
        """Send a request on an idle or new connection and return the response.

        Raises:
            Exception: any error of aiohttp or this package; the caller translates it.
        """
        (template, host), target = self._resolve(request.url)
        data = self._serialize(request, host, target)
        deadline = self._loop.time() + timeout
        for _ in range(MAX_STALE):
            try:
                connection = await self._connector.connect(
                    template, traces=[], timeout=_connect_timeout(timeout)
                )
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
            if not _is_stale(connection):
                break
            _abort(connection)
        else:
            raise StaleConnectionError
        status, headers = 0, None
        try:
            protocol = connection.protocol
            assert protocol is not None
            transport = protocol.transport
            assert transport is not None
            async with asyncio.timeout_at(deadline):
                protocol.set_response_params(
                    skip_payload=request.method == "HEAD",
                    read_until_eof=True,
                    auto_decompress=False,
                    max_line_size=MAX_HEADER_LINE,
                    max_field_size=MAX_HEADER_LINE,
                )
                progress.begun = True
                _write(transport, data)
                message, content = await protocol.read()
                while 100 <= message.code < 200 and message.code != 101:
                    message, content = await protocol.read()
                status, headers = message.code, headers_of(message.raw_headers)
                body = await _read_body(headers, content, content.read, self._limit)
        except Exception as error:
            _abort(connection)
            if headers is not None:
                return Response(status, headers, body_error=_body_error(error))
            if isinstance(error, HttpProcessingError):
                raise InvalidResponseError from error
            raise
        except BaseException:
            _abort(connection)
            raise
        # The response may have come before the whole request was sent.
        if transport.get_write_buffer_size() or has_unclear_end(status, headers):
            _abort(connection)
        else:
            connection.release()
        return Response(status, headers, body)

    def _resolve(self, url: str) -> tuple[tuple[aiohttp.ClientRequest, str], str]:
        """Return the origin of a URL and the request target.

        Raises:
            ValueError: it is not an HTTP URL.
        """
        plain = PLAIN_URL.fullmatch(url)
        if plain is not None:
            base, target = plain.groups()
        else:
            parsed = _parse_url(url)
            base, target = str(parsed.origin()), parsed.raw_path_qs
        origin = self._origins.get(base)
        if origin is None:
            origin = self._add_origin(base)
        return origin, target

    def _add_origin(self, base: str) -> tuple[aiohttp.ClientRequest, str]:
        url = URL(base, encoded=True)
        host = url.host_port_subcomponent
        if url.scheme not in ("http", "https") or not host:
            raise ValueError
        template = aiohttp.ClientRequest("GET", url, loop=self._loop, session=self._session)
        if len(self._origins) >= MAX_CACHED:
            self._origins.clear()
        origin = self._origins[base] = template, host
        return origin

    def _serialize(self, request: Request, host: str, target: str) -> bytes:
        """Return the request as bytes (RFC 9112, section 3).

        Raises:
            ValueError: the method or a header is not valid.
        """
        headers, content = request.headers, request.content
        key = (host, request.method, *headers)
        defaults = self._default_headers.get(key)
        if defaults is None:
            defaults = self._add_default_headers(key)
        _validate_values(headers.values())
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if content or request.method not in ("GET", "HEAD"):
            fields += f"Content-Length: {len(content)}\r\n"
        head = f"{request.method} {target} HTTP/1.1\r\n{defaults}{fields}\r\n"
        return head.encode() + content

    def _add_default_headers(self, key: tuple[str, ...]) -> str:
        """Return the default headers for a request with this host, method and header names."""
        host, method, *given = key
        if TOKEN.fullmatch(method) is None:
            raise ValueError
        _validate_names(given)
        names = {name.lower() for name in given}
        of_session = self._session.headers
        defaults = [*of_session.items()]
        if "Host" not in of_session:
            defaults.insert(0, ("Host", host))
        if self._connector.force_close and "Connection" not in of_session:
            defaults.append(("Connection", "close"))
        text = "".join(
            [f"{name}: {value}\r\n" for name, value in defaults if name.lower() not in names]
        )
        if len(self._default_headers) >= MAX_CACHED:
            self._default_headers.clear()
        self._default_headers[key] = text
        return text


class SessionSender:
    """Sends requests by a session. It is used if the given session has traces or a proxy.

    Args:
        limit: most bytes of a response.
        environment_proxy: whether requests go through the proxy that the environment names.
    """

    def __init__(
        self, session: aiohttp.ClientSession, limit: int, *, environment_proxy: bool = False
    ) -> None:
        self._session = session
        self._limit = limit
        self._environment_proxy = environment_proxy

    async def send(self, request: Request, timeout: float, progress: Progress) -> Response:
        """Send a request once and return the response.

        Raises:
            Exception: any error of aiohttp or this package; the caller translates it.
        """
        headers = request.headers
        _validate_names(headers)
        _validate_values(headers.values())
        # Sending can be observed only for a request with content.
        progress.begun = False if request.content else None
        url = _parse_url(request.url)
        response = await self._session.request(
            request.method,
            url,
            proxy=_environment_proxy(url) if self._environment_proxy else None,
            headers=headers,
            data=_Body(request.content, progress) if request.content else None,
            allow_redirects=False,
            timeout=_total_timeout(timeout),
            middlewares=(_without_retry,) if request.method in RETRIED_METHODS else None,
        )
        status, fields = response.status, headers_of(response.raw_headers)
        try:
            content = await _read_body(fields, response.content, response.read, self._limit)
            await response.wait_for_close()
        except Exception as error:
            response.close()
            return Response(status, fields, body_error=_body_error(error))
        except BaseException:
            response.close()
            raise
        return Response(status, fields, content)


class _Body(aiohttp.Payload):
    """The content of a request. It records in `Progress` when aiohttp starts to send it.

    aiohttp writes the head together with the beginning of the content.
    """

    _value: bytes

    def __init__(self, content: bytes, progress: Progress) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self._progress = progress

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = getattr(writer, "transport", None)
        # On a closed transport aiohttp raises and writes nothing.
        self._progress.begun = transport is None or not transport.is_closing()
        await writer.write(self._value)


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
        if has_unclear_end(self.status, headers_of(self.raw_headers)) and protocol is not None:
            protocol.close()
        return self


async def _without_retry(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from retrying a read: raise another error for a lost connection."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionLostError from error


def sender_of(
    given: aiohttp.ClientSession | None, session: aiohttp.ClientSession, limit: int
) -> DirectSender | SessionSender:
    """Return the sender for a session that `open_session` opened."""
    # The proxy of a session has no public attribute.
    if given is not None and (given.trace_configs or given.trust_env or given._default_proxy):
        by_environment = given.trust_env and given._default_proxy is None
        return SessionSender(session, limit, environment_proxy=by_environment)
    return DirectSender(session, limit)


def open_session(given: aiohttp.ClientSession | None, tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """Open a session with its own connections, or with those of the given session.

    The given session itself is not used, because its cookies, credentials and middlewares cannot be
    left out of a single request.

    Raises:
        ValueError: a default header of the given session is not valid.
    """
    if given is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": ACCEPTED_ENCODINGS, "User-Agent": "cognigy-async"},
        )
    headers = given.headers.copy()
    _validate_names(headers)
    _validate_values(headers.values())
    headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
    return aiohttp.ClientSession(
        connector=given.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        skip_auto_headers=given.skip_auto_headers,
        proxy=given._default_proxy,
        proxy_auth=given._default_proxy_auth,
        # Not `trust_env`, which would also add credentials of a netrc file to requests.
        trace_configs=given.trace_configs,
        request_class=_CheckedRequest,
        response_class=_CheckedResponse,
        auto_decompress=False,
        max_line_size=MAX_HEADER_LINE,
        max_field_size=MAX_HEADER_LINE,
    )


@functools.lru_cache(maxsize=64)
def _connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Return a timeout that limits only the time to get a connection."""
    return aiohttp.ClientTimeout(connect=max(seconds, MIN_TIMEOUT), ceil_threshold=math.inf)


@functools.lru_cache(maxsize=64)
def _total_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Return a timeout for the whole request and response, not rounded up."""
    total = max(seconds, MIN_TIMEOUT)
    connect = total - min(CONNECT_MARGIN, total / 20)
    return aiohttp.ClientTimeout(total=total, connect=connect, ceil_threshold=math.inf)


def _validate_names(names: Iterable[str]) -> None:
    """Raise ValueError if a header name is not valid, or is a framing header."""
    for name in names:
        if TOKEN.fullmatch(name) is None or name.lower() in FRAMING:
            raise ValueError


def _validate_values(values: Iterable[str]) -> None:
    """Raise ValueError if a header value is not valid and could be read as another header."""
    if INVALID_IN_VALUE.search("".join(values)) is not None:
        raise ValueError


def _parse_url(url: str) -> URL:
    """Parse a URL without changing its percent-encoding. Raise ValueError if it is not valid."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError
    parsed = URL(url, encoded=True)
    return parsed.with_user(None) if parsed.raw_user else parsed


def _environment_proxy(url: URL) -> URL | None:
    """Return the proxy that the environment or the system names for a URL.

    Raises:
        ValueError: the URL of the proxy is not valid.
    """
    proxy = getproxies().get(url.scheme)
    if not proxy or url.host is None or proxy_bypass(url.host):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


async def _read_body(
    headers: Mapping[str, str],
    stream: aiohttp.StreamReader,
    read: Callable[[], Awaitable[bytes]],
    limit: int,
) -> bytes:
    """Return the decoded body of a response. Call `read` if its length is known.

    Raises:
        BodyError: the body is larger than `limit` bytes, or not encoded as its headers say.
        Exception: an error of aiohttp: the body is cut off.
    """
    length = headers.get("content-length")
    validate_length(length, limit)
    if length is not None and "transfer-encoding" not in headers:
        content = stream.read_nowait() if stream.is_eof() else await read()
    else:
        chunks: list[bytes] = []
        size = 0
        while chunk := await stream.readany():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
        content = b"".join(chunks)
    return decoded(content, headers, limit) if "content-encoding" in headers else content


def _write(transport: asyncio.Transport, data: bytes) -> None:
    """Write a request so that `get_write_buffer_size` shows whether a part is not sent yet.

    A TLS transport does not count bytes that it has passed on. It passes on all bytes until the
    socket transport asks for a pause. So the last byte of a large request is written after that.
    """
    if len(data) > LARGE_REQUEST and transport.get_extra_info("ssl_object") is not None:
        transport.write(data[:-1])
        data = data[-1:]
    transport.write(data)


def _is_stale(connection: Connection) -> bool:
    """Return whether a connection has unread data, or is closing.

    A server may send an unsolicited response before it closes an idle connection. aiohttp would
    take it for the response to the next request. On a closing connection it would discard the
    request.
    """
    protocol = connection.protocol
    if protocol is None or protocol.should_close:
        return True
    transport = protocol.transport
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


def _body_error(error: Exception) -> str:
    """Return the text about a body that could not be read."""
    if isinstance(error, BodyError):
        return str(error)
    return NOT_IN_TIME if isinstance(error, TimeoutError) else CUT_OFF


def _abort(connection: Connection) -> None:
    """Close a connection at once, so that what is not sent yet never reaches the server."""
    if connection.protocol is not None:
        connection.protocol.abort()
    connection.close()
