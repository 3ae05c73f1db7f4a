"""The default transport: httpx, or its maintained fork httpx2."""

from __future__ import annotations

import functools
import re
import ssl
import sys
import time
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx
import sniffio

from .._utils.concurrency import monotonic_clock
from .._utils.tls import default_context
from ..errors import UpdateError
from ..models.http import Request, Response, redacted
from . import _response_body as bodies
from ._errors import INVALID, reason_of, translate
from .base import LibraryTransport, NotStartedError

if TYPE_CHECKING:
    import httpx2

KEEPALIVE = 30.0  # seconds; httpx checks before use that an idle connection is still open
MAX_WRAPPERS = 6  # streams of httpx and httpcore between a response and its connection

PLAIN_URL = re.compile(
    r"(https?://[^/?#@]+)((?:/(?!\.)(?:[\w~!$&'()*+,;=:@?.-]++|%[0-9A-Fa-f]{2})*+)++)", re.ASCII
)
"""A URL whose path and query httpx would send as they are: the origin, and the rest."""

OWN_HEADERS = [(b"user-agent", b"cognigy-async")]
FIXED_REASONS = {
    "LocalProtocolError": INVALID,
    "UnsupportedProtocol": "the URL must begin with http:// or https://",
}

NOT_SENT = (
    *("ConnectError", "ConnectTimeout", "LocalProtocolError"),
    *("PoolTimeout", "ProxyError", "UnsupportedProtocol"),
)
"""Errors that httpx raises before it has sent anything."""


class HttpxTransport(LibraryTransport["_Body"]):
    """Sends requests with httpx or httpx2, on asyncio and trio.

    Without the argument `client`, the transport opens one connection for each request in flight, so
    at most `max_in_flight` of the `AsyncStateClient`, and belongs to the event loop in which it
    sends first. The transport trusts the certificates that httpx brings, and ignores HTTP(S)_PROXY,
    SSL_CERT_FILE and SSLKEYLOGFILE.

    With the argument `client`, the proxies, certificates, limits, event hooks and default headers
    of the httpx client apply. Headers of a request override the default headers. The `auth`,
    redirects, cookies, query parameters, timeouts and Accept-Encoding of the httpx client do not
    apply. Its `max_connections` should be at least `max_in_flight`. The transport does not close
    the httpx client.

    Example: `HttpxTransport(httpx.AsyncClient(proxy="http://proxy.example:3128"))`

    Args:
        client: an `httpx.AsyncClient` or `httpx2.AsyncClient`.
        max_response_bytes: largest body after decompression; a larger one is a `body_error`.

    Raises:
        TypeError: `client` is something else.
        ConfigurationError: `max_response_bytes` is not an integer of at least 1.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
        *,
        max_response_bytes: int = bodies.MAX_RESPONSE_BYTES,
    ) -> None:
        # Both libraries have the same interface; for the type checker httpx stands for both.
        self._library: Any = httpx if client is None else _library_of(client)
        theirs = None if client is None else f"a client of {self._library.__name__}"
        # The library wants a subclass of its own class.
        body_type = type("_Body", (_Body, self._library.AsyncByteStream), {})
        super().__init__(max_response_bytes, body_type, theirs)
        self._parse_origin = functools.lru_cache(maxsize=64)(self._library.URL)
        self._client = cast("httpx.AsyncClient | None", client)
        self._idle: dict[tuple[str, bytes], list[_Connection]] = {}
        self._used: set[_Connection] = set()

    async def aclose(self) -> None:
        """Close the connections it opened. Requests on them fail. May be called several times."""
        self._closed = True
        connections = [*chain(*self._idle.values()), *self._used]
        self._idle.clear()
        for connection in connections:
            await connection.transport.aclose()

    async def _send(self, request: Request, body: _Body, timeout: float) -> Response:
        if self._closed or (self._client is not None and self._client.is_closed):
            raise NotStartedError("The transport is closed")
        outgoing = self._built(request, body)
        # httpx limits the time of single operations. Each one gets the time that is left. That
        # ends a request without a response and leaves the connections in order. The scope ends a
        # response that trickles in, where no single operation takes long.
        outgoing.extensions["timeout"] = _TimeLeft(timeout - min(0.05, timeout / 20))
        answer: httpx.Response | None = None
        connection: _Connection | None = None
        if self._client is None:
            self._enter_loop(on_trio=True)
            origin = outgoing.url.scheme, outgoing.url.netloc
            idle = self._idle.get(origin)
            connection = idle.pop() if idle else _Connection(origin)
            self._used.add(connection)
            begin = connection.transport.handle_async_request
        else:
            begin = functools.partial(
                self._client.send, auth=self._library.Auth(), follow_redirects=False, stream=True
            )
        try:
            with anyio.move_on_after(timeout):
                answer = await begin(outgoing)
                return await self._read(answer)
        finally:
            if connection is not None:
                self._used.remove(connection)
                await self._release(connection, answered=answer is not None)
        if answer is None:
            raise TimeoutError
        headers = bodies.headers_of(answer.headers.raw)
        return Response(answer.status_code, headers, body_error=bodies.NOT_IN_TIME)

    async def _release(self, connection: _Connection, *, answered: bool) -> None:
        """Keep a connection for the next request, unless it may be in an unknown state."""
        if answered and not self._closed:
            connection.idle_since = now = time.monotonic()
            idle = self._idle.setdefault(connection.origin, [])
            idle.append(connection)
            # The last one is used first, so the first one is idle for the longest time.
            if idle[0].idle_since >= now - KEEPALIVE:
                return
            connection = idle.pop(0)
        with anyio.CancelScope(shield=True):
            await connection.transport.aclose()

    def _built(self, request: Request, body: _Body) -> httpx.Request:
        try:
            # Parsing a whole URL takes longer than all the rest of this method.
            plain = PLAIN_URL.fullmatch(request.url) if self._client is None else None
            url = self._parse_origin(plain[1]) if plain else self._library.URL(request.url)
            given = {name.lower() for name in request.headers} | {"accept-encoding"}
            headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
            defaults = OWN_HEADERS if self._client is None else self._client.headers.raw
            headers += [item for item in defaults if item[0].decode().lower() not in given]
            if "host" not in given:
                headers.insert(0, (b"Host", url.netloc))
            # Accept only encodings that `decoded` can decode; the library may know more.
            headers.append((b"Accept-Encoding", bodies.ACCEPTED_ENCODINGS.encode()))
            if request.content or request.method in ("POST", "PUT", "PATCH"):
                headers.append((b"Content-Length", b"%d" % len(request.content)))
            outgoing: httpx.Request = self._library.Request(
                request.method, url, headers=headers, stream=body
            )
            if plain:
                outgoing.extensions["target"] = plain[2].encode()
        except (ValueError, self._library.InvalidURL):
            raise NotStartedError("The URL or a header is not valid") from None
        if request.url_token is not None and self._client is not None:
            # A client of httpx writes the URLs of its requests into the log.
            outgoing.url = _secret_url_type(self._library)(url)
        return outgoing

    def _translate(
        self, error: Exception, request: Request, body: _Body, timeout: float
    ) -> UpdateError:
        is_timeout = isinstance(error, (self._library.TimeoutException, TimeoutError))
        # Trust an error that means "not sent" only if the content was not begun: some transports
        # raise it for a connection that was lost later. An error without a cause is trusted too:
        # it comes from a mock transport in a test, not from another library.
        claimed = isinstance(error, tuple(getattr(self._library, name) for name in NOT_SENT))
        reason = FIXED_REASONS.get(type(error).__name__, "")
        if not reason and type(error).__module__.partition(".")[0] == self._library.__name__:
            # The text after a colon may quote a header.
            reason = str(error).partition(":")[0].rstrip(".")
        return translate(
            request.url,
            reason_of(error, reason),
            timeout=timeout if is_timeout else None,
            refused=claimed and not (body.begun and error.__cause__),
            # The server cannot act on a request without the content that it announces.
            begun=body.begun or not request.content,
        )

    async def _read(self, response: httpx.Response) -> Response:
        """Return a response whose head is complete, with its body if that can be used."""
        status, headers = response.status_code, bodies.headers_of(response.headers.raw)
        was_read = response.is_closed
        try:
            content = await self._content(response, headers)
        except (bodies.BodyError, self._library.TransportError) as error:
            problem = bodies.problem_of(error, self._library.TimeoutException)
            return Response(status, headers, body_error=problem)
        finally:
            connection = _connection_of(response)
            # If an event hook of the client has read the response, another request may have the
            # connection by now.
            if (
                connection is not None
                and connection.is_idle() == was_read
                and (
                    self._closed or bodies.has_unclear_end(status, headers) or _has_more(connection)
                )
            ):
                # httpcore closes such a connection instead of using it again.
                connection._h11_state.send_failed()
                if was_read:
                    await connection.aclose()
            await response.aclose()
        return Response(status, headers, content)

    async def _content(self, response: httpx.Response, headers: Mapping[str, str]) -> bytes:
        """Read a body and return it decoded. Raise BodyError, or an error of the library."""
        if response.is_closed:
            # An event hook of the client has read it.
            if len(response.content) > self._limit:
                raise bodies.too_large(self._limit)
            return response.content
        bodies.validate_length(headers.get("content-length"), self._limit)
        stream = aiter(cast("httpx.AsyncByteStream", response.stream))
        try:
            content = await bodies.read_body(stream, self._limit)
        except bodies.BodyError:
            # End by cancellation: an exception between two chunks would leave generators of
            # the library unfinished, and trio warns about those.
            with anyio.CancelScope() as enough:
                enough.cancel()
                async for _ in stream:
                    pass
            raise
        return bodies.decoded(content, headers, self._limit)


def _connection_of(response: httpx.Response) -> Any:
    """Return the HTTP/1.1 connection of httpcore below a response, or None.

    No public attribute leads to it. It is None over HTTP/2, which numbers the responses, and with
    a transport that is not of httpx.
    """
    stream: Any = response.stream
    for _ in range(MAX_WRAPPERS):
        connection = getattr(stream, "_connection", None)
        if connection is not None:
            return connection if hasattr(connection, "_h11_state") else None
        stream = getattr(stream, "_stream", None) or getattr(stream, "_httpcore_stream", None)
    return None


def _has_more(connection: Any) -> bool:
    """Return whether bytes behind the response were received and not read.

    They may be in the buffers of h11, TLS and anyio. httpcore itself looks for those in the buffer
    of the socket before it uses a connection again.
    """
    if connection._h11_state.trailing_data[0]:
        return True
    stream: Any = getattr(connection._network_stream, "_stream", None)
    if hasattr(stream, "transport_stream"):
        try:
            connection._network_stream.get_extra_info("ssl_object").read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return True
        else:
            return True
        while hasattr(stream, "transport_stream"):
            stream = stream.transport_stream
    # anyio keeps the rest of a piece that is larger than httpcore asks for.
    return bool(getattr(getattr(stream, "_protocol", None), "read_queue", None))


class _Connection:
    """One of the transport's own connections, opened by its first request.

    An `httpx.AsyncHTTPTransport` of its own, whose pool has no other connection: httpcore looks at
    all connections of a pool several times a request, and may give one to several requests. There
    is no `httpx.AsyncClient`: it would add cookies, redirects and authentication, and a tenth to
    the time of a request.
    """

    def __init__(self, origin: tuple[str, bytes]) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.transport = httpx.AsyncHTTPTransport(
            verify=default_context(),
            trust_env=False,
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE),
        )
        if sniffio.current_async_library() == "trio":
            from .._utils.trio_backend import TrioBackend

            # httpx has no argument for it.
            pool: Any = self.transport._pool
            pool._network_backend = TrioBackend()


class _Body:
    """The content of a request, and its own iterator: trio warns about unfinished generators.

    Attributes:
        begun: whether the library has begun to send it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left: list[bytes] = []
        self.begun = False

    def __aiter__(self) -> _Body:
        self.begun = True
        self._left = [self._content]
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class _TimeLeft(dict[str, float]):
    """Timeouts of single operations that take no longer than `seconds` together."""

    def __init__(self, seconds: float) -> None:
        super().__init__(dict.fromkeys(("connect", "pool", "read", "write"), seconds))
        self._clock = monotonic_clock()
        self._end = self._clock() + seconds

    def get(self, key: str, default: Any = None) -> Any:
        left = max(0.0, self._end - self._clock())
        # httpx reads it once, but applies it twice: to the connection and then to TLS.
        return left / 2 if key == "connect" else left


def _library_of(client: object) -> Any:
    """Return httpx or httpx2, to which a client belongs. It is imported already."""
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library is not None and isinstance(client, library.AsyncClient):
            return library
    raise TypeError(
        f"HttpxTransport(client={type(client).__name__}): "
        "pass an httpx.AsyncClient, an httpx2.AsyncClient or nothing"
    )


@functools.cache
def _secret_url_type(library: Any) -> Any:
    """Return a class of URLs of httpx or httpx2 whose text has no last segment of the path."""

    class SecretUrl(library.URL):  # type: ignore[misc]
        def __str__(self) -> str:
            return redacted(super().__str__())

        def __repr__(self) -> str:
            return f"URL({str(self)!r})"

    return SecretUrl
