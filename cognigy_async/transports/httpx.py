"""The default transport: httpx, or its maintained fork httpx2."""

from __future__ import annotations

import functools
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx

from ..errors import NotSentError, UpdateError
from ..models.http import Request, Response
from ._errors import INVALID, NotBegun, failure, host_of, reason_of
from ._response_body import (
    ACCEPTED_ENCODINGS,
    MAX_RESPONSE_BYTES,
    UnusableAnswer,
    decoded,
    headers_of,
    too_large,
    validate_length,
    validate_limit,
)

if TYPE_CHECKING:
    import httpx2

KEEPALIVE = 30.0
"""Seconds for which a connection of the transport's own is kept idle; a connection that the server
has closed meanwhile is noticed before it is used."""

OWN_HEADERS = [(b"user-agent", b"cognigy-async")]
FIXED_REASONS = {
    "LocalProtocolError": INVALID,
    "UnsupportedProtocol": "the URL must begin with http:// or https://",
}


class HttpxTransport:
    """Sends with httpx or httpx2, on asyncio and on trio.

    Without a client it opens connections of its own: as many as are asked for at once, which are
    never more than the `max_in_flight` of the client that sends, with the certificates that httpx
    brings, and regardless of proxies and certificates in the environment.

    With a client, its proxies, certificates, limits, event hooks and default headers hold (headers
    of the request go first), and it stays open when the transport is closed. Its `auth`, redirects,
    cookies, query parameters, timeouts and ``Accept-Encoding`` do not apply: each request is sent
    as it is, once.
    `max_connections` of that client should not be below `max_in_flight` of whoever sends.

    Args:
        client: an `httpx.AsyncClient` or `httpx2.AsyncClient`.
        max_response_bytes: how large an answer may be, after it is decompressed; a larger one is
            not read to its end and counts as none.

    Raises:
        TypeError: for anything else as a client.
        ConfigurationError: `max_response_bytes` is no whole number above 0.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
        *,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._limit = validate_limit(max_response_bytes)
        self._toolkit = _toolkit("httpx" if client is None else _library_of(client))
        # The two libraries have the same interface; to a type checker one stands for both.
        self._client = cast("httpx.AsyncClient | None", client)
        self._pool: _Pool | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self._client is not None:
            return f"<HttpxTransport with a client of {self._toolkit.name}>"
        return f"<HttpxTransport {'closed' if self._closed else 'with its own connections'}>"

    async def send(self, request: Request, *, timeout: float) -> Response:
        """The whole answer, whatever its status, within `timeout` seconds.

        The cause of an exception is one of the library's, without the request: no header is
        reachable from it.

        Raises:
            NotSentError: nothing reached the server, or nothing that it could carry out: a request
                whose content was not even begun.
            NoResponseError: the request may have been applied, and there is no whole answer.
        """
        body = self._toolkit.body(request.content)
        try:
            return await self._send(request, body, timeout)
        except Exception as error:
            failure, cause = self._failed(error, request, body, timeout)
        # Raised here, when the original error, which knows the request, has been left behind.
        del request, body
        raise failure from cause

    async def aclose(self) -> None:
        """Close the connections of its own; what is under way on them fails. May be repeated."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.transport.aclose()

    async def _send(self, request: Request, body: _Content, timeout: float) -> Response:
        if self._closed or (self._client is not None and self._client.is_closed):
            raise NotBegun("The transport is closed")
        outgoing = self._built(request, body)
        # The library limits the time of each operation, so each is told what is left of the whole.
        # That ends a request which gets no answer, and leaves the connections in order. The scope
        # ends an answer that trickles in, where no single operation takes long.
        left = _TimeLeft(timeout - min(0.05, timeout / 20))
        outgoing.extensions["timeout"] = left
        with anyio.move_on_after(timeout):
            if self._client is None:
                return await self._send_on_own(outgoing)
            no_auth = self._toolkit.no_auth
            answer = await self._client.send(
                outgoing, auth=no_auth, follow_redirects=False, stream=True
            )
            return await self._read(answer)
        raise TimeoutError

    async def _send_on_own(self, outgoing: httpx.Request) -> Response:
        if self._pool is None:
            self._pool = _Pool()
        pool = self._pool
        pool.users += 1
        cancelled = True
        try:
            response = await self._read(await pool.transport.handle_async_request(outgoing))
            cancelled = False
        except Exception:
            cancelled = False
            raise
        finally:
            pool.users -= 1
            # Cancelled right after it was opened, a connection would stay in the pool unused for
            # good. So those who come later get another pool, and who leaves this one last closes
            # it. Errors and time-outs of an operation leave nothing behind.
            if cancelled and self._pool is pool:
                self._pool = None
            if self._pool is not pool and not pool.users:
                with anyio.CancelScope(shield=True):
                    await pool.transport.aclose()
        return response

    def _built(self, request: Request, body: _Content) -> httpx.Request:
        try:
            url = self._toolkit.url(request.url)
            given = {name.lower() for name in request.headers} | {"accept-encoding"}
            headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
            defaults = OWN_HEADERS if self._client is None else self._client.headers.raw
            headers += [item for item in defaults if item[0].decode().lower() not in given]
            if "host" not in given:
                headers.insert(0, (b"Host", url.netloc))
            # Decoded here, and not by the library, which may know more encodings.
            headers.append((b"Accept-Encoding", ACCEPTED_ENCODINGS.encode()))
            if request.content or request.method in ("POST", "PUT", "PATCH"):
                headers.append((b"Content-Length", b"%d" % len(request.content)))
            return self._toolkit.request(request.method, url, headers=headers, stream=body)
        except (ValueError, self._toolkit.invalid_url):
            raise NotBegun("The URL or a header is not valid") from None

    def _failed(
        self, error: Exception, request: Request, body: _Content, timeout: float
    ) -> tuple[UpdateError, Exception | None]:
        """What is raised instead of the library's error, and its cause."""
        host = host_of(request.url)
        if isinstance(error, NotBegun):
            return NotSentError(str(error)), None
        tools = self._toolkit
        reason = self._reason(error)
        known = next((kind for kind in type(error).__mro__ if kind in tools.errors), None)
        # A claim that nothing was sent is believed if the content was not begun. Some transports
        # say so of a connection that was lost afterwards. One that has no cause was not translated
        # from another library's: then a transport for tests was told to raise it.
        claimed = isinstance(error, tools.not_sent)
        told = failure(
            host=host,
            reason=reason,
            timeout=timeout if isinstance(error, tools.timeouts) else None,
            refused=claimed and not (body.begun and error.__cause__),
            # A request without the content that it announces cannot be carried out.
            begun=body.begun or not request.content,
        )
        return told, known(reason) if known else None

    def _reason(self, error: Exception) -> str:
        told = FIXED_REASONS.get(type(error).__name__, "")
        if isinstance(error, UnusableAnswer):
            told = str(error)
        elif not told and type(error).__module__.partition(".")[0] == self._toolkit.name:
            # After a colon it may quote a header.
            told = str(error).partition(":")[0].rstrip(".")
        return reason_of(error, told)

    async def _read(self, answer: httpx.Response) -> Response:
        limit = self._limit
        headers = headers_of(answer.headers.raw)
        if answer.is_closed:
            # A hook of the client has read it.
            if len(answer.content) > limit:
                raise too_large(limit)
            return Response(answer.status_code, headers, answer.content)
        chunks: list[bytes] = []
        size = 0
        try:
            validate_length(headers.get("content-length"), limit)
            # An error between two chunks would leave generators of the library unfinished, which
            # is a warning on trio. A cancellation ends them, where they wait for more.
            with anyio.CancelScope() as enough:
                async for chunk in cast("httpx.AsyncByteStream", answer.stream):
                    size += len(chunk)
                    if size > limit:
                        chunks.clear()
                        enough.cancel()
                    else:
                        chunks.append(chunk)
            if size > limit:
                raise too_large(limit)
        finally:
            await answer.aclose()
        # Decoded when it is complete: then no generator is left behind by an error either.
        return Response(answer.status_code, headers, decoded(b"".join(chunks), headers, limit))


class _Pool:
    """Connections of the transport's own.

    Below a client, as cookies, redirects and authentication are none of its business. That also
    saves a tenth of the time of a request.
    """

    def __init__(self) -> None:
        self.users = 0
        self.transport = httpx.AsyncHTTPTransport(
            verify=ssl_context(),
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE
            ),
        )


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """The certificates that httpx brings, read once; the environment has no say."""
    # Reading the certificates takes longer than many requests.
    return httpx.create_ssl_context(trust_env=False)


class _Content(httpx.ByteStream):
    """The content of a request, which knows whether it was begun to be sent."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = content
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        return iter((self._content,))

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        return _Once(self._content)


class _Once:
    """Yields one item. Not a generator: one that is left before its end is a warning on trio."""

    def __init__(self, item: bytes) -> None:
        self._items = [item]

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        if not self._items:
            raise StopAsyncIteration
        return self._items.pop()


class _TimeLeft(dict[str, float]):
    """Time-outs of single operations that together take no longer than a whole."""

    def __init__(self, seconds: float) -> None:
        super().__init__(dict.fromkeys(("connect", "pool", "read", "write"), seconds))
        self._end = anyio.current_time() + seconds

    def get(self, key: str, default: Any = None) -> Any:
        left = self._end - anyio.current_time()
        if left <= 0:
            return 0.0
        # Asked for once, and applied to the connection and then to TLS on it.
        return left / 2 if key == "connect" else left


@dataclass(frozen=True)
class _Toolkit:
    """What is needed of httpx or httpx2."""

    name: str
    url: type[httpx.URL]
    request: type[httpx.Request]
    body: type[_Content]
    no_auth: httpx.Auth
    invalid_url: type[Exception]
    errors: frozenset[type[Exception]]
    not_sent: tuple[type[Exception], ...]
    timeouts: tuple[type[Exception], ...]


def _library_of(client: object) -> str:
    for kind in type(client).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in ("httpx", "httpx2") and kind.__name__ == "AsyncClient":
            return library
    raise TypeError(
        f"HttpxTransport(client={type(client).__name__}): "
        "pass an httpx.AsyncClient, an httpx2.AsyncClient or nothing"
    )


@functools.cache
def _toolkit(name: str) -> _Toolkit:
    library: Any = sys.modules[name]
    of_httpx = issubclass(library.ByteStream, httpx.ByteStream)
    body = _Content if of_httpx else type("_Content", (_Content, library.ByteStream), {})
    return _Toolkit(
        name=name,
        url=library.URL,
        request=library.Request,
        body=body,
        no_auth=library.Auth(),
        invalid_url=library.InvalidURL,
        errors=frozenset(
            {
                library.CloseError,
                library.ConnectError,
                library.ConnectTimeout,
                library.DecodingError,
                library.LocalProtocolError,
                library.PoolTimeout,
                library.ProxyError,
                library.ReadError,
                library.ReadTimeout,
                library.RemoteProtocolError,
                library.UnsupportedProtocol,
                library.WriteError,
                library.WriteTimeout,
            }
        ),
        not_sent=(
            library.ConnectError,
            library.ConnectTimeout,
            library.LocalProtocolError,
            library.PoolTimeout,
            library.ProxyError,
            library.UnsupportedProtocol,
        ),
        timeouts=(library.TimeoutException, TimeoutError),
    )
