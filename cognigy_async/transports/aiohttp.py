"""A faster transport for asyncio: aiohttp."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import ClientUsageError, ConfigurationError, NotSentError, UpdateError
from ..messages import Request, Response
from ._content import (
    MAX_RESPONSE_BYTES,
    UnusableAnswer,
    checked_length,
    checked_limit,
    decoded,
    too_large,
)
from ._failures import INVALID, NotBegun, failure, host_of, reason_of

INSTALLED = find_spec("aiohttp") is not None

if TYPE_CHECKING:
    import aiohttp

if TYPE_CHECKING or INSTALLED:
    from . import _aiohttp_session as tools

__all__ = ["AiohttpTransport"]

REPEATED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that aiohttp sends again by itself if nothing prevents it."""

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A name of a header (RFC 9110, section 5.6.2)."""

KNOWN_NAMES = 1_000

REASONS = {
    "ClientConnectorCertificateError": "SSL: the certificate is not trusted",
    "ClientHttpProxyError": "the proxy refused to connect",
    "ClientPayloadError": "the answer is not complete",
    "ClientResponseError": "the answer is not valid in HTTP",
    "ServerDisconnectedError": "the server disconnected",
    "Unusable": "the connection was given up by the server",
}


class AiohttpTransport:
    """Sends with aiohttp, on asyncio; several times as fast as `HttpxTransport`.

    Without a session it opens connections of its own: as many as are asked for at once, which are
    never more than the `max_in_flight` of the client that sends, with the certificates that httpx
    brings, and regardless of proxies and certificates in the environment.

    With a session, its connector (so its limits, certificates and resolver), proxy, `trust_env`,
    trace configurations and default headers hold (headers of the request go first), and it stays
    open when the transport is closed. Its cookies, `auth`, middlewares, redirects, timeouts,
    `raise_for_status`, `base_url` and ``Accept-Encoding`` do not apply: each request is sent as it
    is, once. `limit` of its connector should not be below `max_in_flight` of whoever sends.

    It belongs to the event loop in which it sends first.

    Args:
        session: an `aiohttp.ClientSession`.
        max_response_bytes: how large an answer may be, after it is decompressed; a larger one is
            not read to its end and counts as none.

    Raises:
        TypeError: for anything else as a session.
        ConfigurationError: aiohttp is not installed, or `max_response_bytes` is no whole number
            above 0.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._limit = checked_limit(max_response_bytes)
        if not INSTALLED:
            raise ConfigurationError(
                "AiohttpTransport needs aiohttp, which comes with an extra: "
                "pip install 'cognigy-async[aiohttp]'"
            )
        tools.checked_session(session)
        self._theirs = session
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._names: set[str] = set()
        self._closed = False

    def __repr__(self) -> str:
        if self._theirs is not None:
            return "<AiohttpTransport with a session>"
        return f"<AiohttpTransport {'closed' if self._closed else 'with its own connections'}>"

    async def send(self, request: Request, *, timeout: float) -> Response:
        """The whole answer, whatever its status, within `timeout` seconds.

        The cause of an exception is one of the library's, without the request: no header is
        reachable from it.

        Raises:
            NotSentError: nothing reached the server, or nothing that it could carry out: a request
                whose content was not even begun.
            NoResponseError: the request may have been applied, and there is no whole answer.
            ClientUsageError: not on asyncio, or in another event loop than before.
        """
        content = tools.Content(request.content) if request.content else None
        try:
            return await self._read(await self._started(request, content, timeout))
        except ClientUsageError:
            raise
        except Exception as error:
            told, cause = self._failed(error, request, content, timeout)
        # Raised here, when the original error, which knows the request, has been left behind.
        del request, content
        raise told from cause

    async def aclose(self) -> None:
        """Close the connections of its own; what is under way on them fails. May be repeated."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _started(
        self, request: Request, content: tools.Content | None, timeout: float
    ) -> Awaitable[aiohttp.ClientResponse]:
        session = self._session
        if session is None or self._loop is not asyncio.get_running_loop():
            session = self._opened()
        if self._theirs is not None and self._theirs.closed:
            raise NotBegun("The session is closed")
        headers = request.headers
        if not self._names.issuperset(headers):
            self._check_names(headers)
        if not "".join(headers.values()).isascii():
            # aiohttp would send half of a character.
            "".join(headers.values()).encode()
        return session.request(
            request.method,
            tools.parsed_url(request.url),
            headers=headers,
            data=content,
            allow_redirects=False,
            timeout=tools.within(timeout),
            middlewares=(tools.once,) if request.method in REPEATED else None,
        )

    def _opened(self) -> aiohttp.ClientSession:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientUsageError(
                "AiohttpTransport needs asyncio; under trio use HttpxTransport"
            ) from None
        if self._session is not None:
            raise ClientUsageError(
                "this AiohttpTransport belongs to the event loop that used it first; "
                "give each loop its own"
            )
        if self._closed or (self._theirs is not None and self._theirs.closed):
            raise NotBegun("The transport is closed")
        # It brings httpx with it, and is not needed to make a transport.
        from .httpx import ssl_context

        self._loop = loop
        self._session = tools.open_session(self._theirs, ssl_context())
        return self._session

    def _check_names(self, headers: dict[str, str]) -> None:
        for name in headers:
            if not NAME.fullmatch(name):
                raise NotBegun("The URL or a header is not valid")
        if len(self._names) < KNOWN_NAMES:
            self._names.update(headers)

    async def _read(self, answer: aiohttp.ClientResponse) -> Response:
        headers: dict[str, str] = {}
        for raw_name, raw_value in answer.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = headers.get("content-length")
        try:
            checked_length(length, self._limit)
            if length is not None and "transfer-encoding" not in headers:
                content = await answer.read()
            else:
                content = await self._read_some(answer)
            if "content-encoding" in headers:
                content = decoded(content, headers, self._limit)
        except BaseException:
            answer.close()
            raise
        return Response(answer.status, headers, content)

    async def _read_some(self, answer: aiohttp.ClientResponse) -> bytes:
        """The content of an answer that does not say how long it is."""
        chunks: list[bytes] = []
        size = 0
        while chunk := await answer.content.readany():
            size += len(chunk)
            if size > self._limit:
                raise too_large(self._limit)
            chunks.append(chunk)
        await answer.wait_for_close()
        return b"".join(chunks)

    def _failed(
        self, error: Exception, request: Request, content: tools.Content | None, timeout: float
    ) -> tuple[UpdateError, Exception | None]:
        """What is raised instead of the library's error, and its cause."""
        if isinstance(error, NotBegun):
            return NotSentError(str(error)), None
        if isinstance(error, tools.Lost) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        invalid = type(error) in (ValueError, UnicodeEncodeError, UnicodeError)
        told = REASONS.get(type(error).__name__, INVALID if invalid else "")
        if isinstance(error, UnusableAnswer):
            told = str(error)
        reason = reason_of(error, told)
        known = next((kind for kind in tools.CAUSES if isinstance(error, kind)), None)
        # What was not begun did not leave, whatever kind of error it is. A request without content
        # has nothing to tell that by.
        refused = isinstance(error, tools.NOT_SENT) and (content is None or not content.begun)
        unsent = invalid or isinstance(error, tools.Unusable)
        told_error = failure(
            host=host_of(request.url),
            reason=reason,
            timeout=timeout if isinstance(error, TimeoutError) else None,
            refused=refused,
            begun=not unsent if content is None else content.begun,
        )
        return told_error, known(reason) if known else None
