"""The fastest transport, for asyncio: pyreqwest, which is reqwest and hyper."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
from anyio.lowlevel import checkpoint_if_cancelled

from .._utils.arguments import validate_seconds
from .._utils.native_threads import let_threads_return, threads_in_batches
from .._utils.tls import context_of_file
from ..errors import ConfigurationError, UpdateError
from ..models.http import Request, Response
from . import _response_body as bodies
from ._errors import INVALID, reason_of, translate
from .base import LibraryTransport, NotStartedError

INSTALLED = find_spec("pyreqwest") is not None

if TYPE_CHECKING or INSTALLED:
    from pyreqwest.client import Client, ClientBuilder
    from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError
    from pyreqwest.proxy import ProxyBuilder
    from pyreqwest.request import StreamRequest
    from pyreqwest.response import Response as Answer

KEEPALIVE = timedelta(seconds=30)
FIRST_CHUNK = 1
"""Bytes of a body that pyreqwest waits for before it returns the response.

With 0, each body would wake the event loop once more, which takes a fifth of the time of a request.
With more, the status of a response whose body is cut off would be lost.
"""

MIN_TIMEOUT = 0.001  # seconds
_timedelta = functools.lru_cache(timedelta)
NOT_CONNECTED = "client error (Connect)"
"""The cause of an error that means that nothing was sent. The class of an error does not tell."""

TIMEOUTS = ("operation timed out", "deadline has elapsed")
DISCONNECTED = "connection closed before message completed"
BEFORE_TLS = ("tcp connect error", "dns error", *TIMEOUTS)
"""Causes of `NOT_CONNECTED` that are not of TLS, nor of a proxy."""

USER_IN_URL = re.compile(r"^(\w+://)[^/?#]*@")
OS_ERROR = re.compile(r" \(os error \d+\)$")
CHANGED_CHARACTER = re.compile(r"[^!#-&(-;=?-\[\]_a-zA-Z~]").search
CHANGED_SEGMENT = re.compile(r"/(?:\.|%2[eE]){1,2}(?:[/?#]|$)").search
"""Find parts of a URL that pyreqwest does not send as they are. One expression would be slower."""


class PyreqwestTransport(LibraryTransport[bytes]):
    """Sends requests with pyreqwest, on asyncio; the fastest of the transports on uvloop.

    The transport opens one connection for each request in flight, so at most `max_in_flight` of the
    client; with HTTP/2 one for all requests. It trusts the certificates of the operating system,
    too. A transport belongs to the event loop in which it sends first.

    Example: `AsyncStateClient(base_url, auth=auth, transport=PyreqwestTransport())`

    Args:
        proxy: URL of a proxy, with user and password if it needs them.
        ca_file: more certificates to trust, in PEM format; by default those that httpx brings.
        trust_env: whether to use the proxy of the environment if `proxy` is not given.
        http2: whether to use HTTP/2 where the server offers it, over TLS.
        connect_timeout: most seconds for opening a connection. If the timeout of a request passes
            first, the transport cannot tell whether the request was sent.
        max_response_bytes: largest body after decompression; a larger one is a `body_error`.

    Raises:
        ConfigurationError: pyreqwest is not installed, or an argument is not valid.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        trust_env: bool = False,
        http2: bool = False,
        connect_timeout: float = 10.0,
        max_response_bytes: int = bodies.MAX_RESPONSE_BYTES,
    ) -> None:
        if not INSTALLED:
            raise ConfigurationError(
                "PyreqwestTransport needs pyreqwest, which an extra installs: "
                "pip install 'cognigy-async[pyreqwest]'"
            )
        super().__init__(max_response_bytes, bytes, None)
        seconds = validate_seconds("connect_timeout", connect_timeout, least=MIN_TIMEOUT)
        self._connect_timeout = timedelta(seconds=seconds)
        self._proxy = proxy
        if proxy is not None:
            _proxy_of(proxy)
        if ca_file is not None:
            context_of_file(ca_file, "ca_file")
        # A context does not list the certificates that are not of an authority.
        self._certificates = Path(ca_file or certifi.where()).read_bytes()
        self._trust_env = trust_env
        self._http2 = http2
        self._client: Client | None = None

    async def aclose(self) -> None:
        """Close the connections it opened. Requests on them fail. May be called several times."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _send(self, request: Request, body: bytes, timeout: float) -> Response:
        self._enter_loop()
        client = self._client or self._open()
        outgoing = self._built(client, request, timeout)
        try:
            response = await outgoing.__aenter__()
            status, headers = response.status, _headers_of(response)
            unclear = bodies.has_unclear_end(status, headers)
            if unclear and response.version.startswith("HTTP/1") and self._client is client:
                # Only giving up all its connections closes this one.
                self._client = None
            complete = False
            try:
                length = headers.get("content-length")
                if length is None or unclear or not length.isdecimal():
                    # Equal lengths may be repeated (RFC 9112, section 6.3).
                    content = await bodies.read_body(_chunks_of(response), self._limit)
                else:
                    bodies.validate_length(length, self._limit)
                    # `bytes()` would wait for the end of the stream: once more for the event loop.
                    content = bytes(await response.body_reader.read(int(length)) or b"")
                complete = True
                if "content-encoding" in headers:
                    content = bodies.decoded(content, headers, self._limit)
            except (bodies.BodyError, DetailedPyreqwestError) as error:
                return Response(status, headers, body_error=bodies.problem_of(error))
            finally:
                if not complete:
                    await outgoing.__aexit__(None, None, None)
        except asyncio.CancelledError:
            # pyreqwest raises another one than it got, by which anyio does not know its own.
            await checkpoint_if_cancelled()
            raise
        return Response(status, headers, content)

    def _open(self) -> Client:
        if self._closed:
            raise NotStartedError("The transport is closed")
        builder = (
            ClientBuilder()
            .follow_redirects(False)
            .referer(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .default_headers({"Accept-Encoding": bodies.ACCEPTED_ENCODINGS})
            .user_agent("cognigy-async")
            .http2(self._http2)
            .connect_timeout(self._connect_timeout)
            .pool_idle_timeout(KEEPALIVE)
            .add_root_certificate_pem(self._certificates)
        )
        if self._proxy is not None:
            builder = builder.proxy(_proxy_of(self._proxy))
        elif not self._trust_env:
            builder = builder.no_proxy()
        try:
            with threads_in_batches():
                self._client = builder.build()
        except RuntimeError as error:
            # Its thread was started before this process was forked.
            raise NotStartedError(str(error)) from None
        return self._client

    def _built(self, client: Client, request: Request, timeout: float) -> StreamRequest:
        if CHANGED_CHARACTER(request.url) or CHANGED_SEGMENT(request.url):
            raise NotStartedError(f"pyreqwest cannot send this URL as it is: {INVALID}")
        try:
            # pyreqwest would send the user and password of a URL.
            url = USER_IN_URL.sub(r"\1", request.url) if "@" in request.url else request.url
            patches = request.method == "PATCH"
            # pyreqwest takes as long for the name of a method as for the URL.
            builder = client.patch(url) if patches else client.request(request.method, url)
            builder.headers(request.headers)
            if request.content or request.method not in ("GET", "HEAD"):
                builder.body_bytes(request.content)
            builder.timeout(_timedelta(0, max(timeout, MIN_TIMEOUT)))
            return builder.streamed_read_buffer_limit(FIRST_CHUNK).build_streamed()
        except (ValueError, TypeError, OverflowError):
            raise NotStartedError(INVALID) from None

    def _translate(
        self, error: Exception, request: Request, body: bytes, timeout: float
    ) -> UpdateError:
        causes = _causes_of(error)
        refused = NOT_CONNECTED in causes
        timed_out = bool(causes) and causes[-1] in TIMEOUTS
        if timed_out and refused:
            timeout = min(timeout, self._connect_timeout.total_seconds())
        secure = request.url.lower().startswith("https:")
        return translate(
            request.url,
            reason_of(error, _reason_of(causes, secure=secure)),
            timeout=timeout if timed_out else None,
            refused=refused,
            begun=not isinstance(error, BuilderError),
        )


async def _chunks_of(response: Answer) -> AsyncIterator[bytes]:
    reader = response.body_reader
    while (chunk := await reader.read_chunk()) is not None:
        yield bytes(chunk)


def _causes_of(error: Exception) -> list[str]:
    """Return the texts of an error's causes, without those that quote the URL."""
    if not isinstance(error, DetailedPyreqwestError):
        return []
    causes = [cause["message"] for cause in error.details["causes"] or ()]
    return [cause for cause in causes if "://" not in cause] or [error.message]


def _reason_of(causes: list[str], *, secure: bool) -> str:
    """Return a description of an error without any part of the request."""
    if not causes:
        return ""
    reason = "the server disconnected" if causes[-1] == DISCONNECTED else causes[-1]
    if secure and causes[:-1] == [NOT_CONNECTED] and reason not in BEFORE_TLS:
        reason = f"SSL: {reason}"
    return OS_ERROR.sub("", reason)


def _headers_of(response: Answer) -> dict[str, str]:
    """Return headers with lower-case names. Repeated ones are joined (RFC 9110, section 5.3)."""
    try:
        values: dict[str, Any] = response.headers.dict_multi_value()
    except ValueError:
        # pyreqwest has no way to read a value that is not ASCII.
        values = {}
        for name in response.headers:
            with suppress(ValueError):
                values[name] = response.get_header_all(name)
    for name, value in values.items():
        if type(value) is list:
            values[name] = ", ".join(value)
    return values


def _proxy_of(url: str) -> ProxyBuilder:
    try:
        return ProxyBuilder.all(url)
    except (ValueError, TypeError):
        # The error may quote the password.
        raise ConfigurationError(
            "proxy: must be the URL of a proxy, such as http://proxy.example:3128"
        ) from None


if INSTALLED:
    atexit.register(let_threads_return)
