"""A transport for asyncio through a session of aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._utils.concurrency import is_failure
from ..errors import ConfigurationError, UpdateError
from ..models.http import Request, Response
from . import _response_body as bodies
from ._errors import INVALID, reason_of, translate
from .base import LibraryTransport, NotStartedError

INSTALLED = find_spec("aiohttp") is not None

if TYPE_CHECKING or INSTALLED:
    import aiohttp

    from . import _aiohttp_session as sessions

REASONS = {
    "ClientConnectorCertificateError": "SSL: the certificate is not trusted",
    "ClientHttpProxyError": "the proxy refused to connect",
    "ClientResponseError": "the response is not valid in HTTP",
    "ServerDisconnectedError": "the server disconnected",
    "SessionClosedError": "the session was closed",
    "StaleConnectionError": "the server has given up the connection",
}


class SessionClosedError(Exception):
    """The session was closed while a request waited for a connection."""


class AiohttpTransport(LibraryTransport["sessions.Body"]):
    """Sends requests with aiohttp, on asyncio.

    Without the argument `session`, the transport opens one connection for each request in flight,
    trusts the certificates that httpx brings, and ignores the environment.

    With the argument `session`, the session's connector with limits, certificates and resolver, its
    proxy, `trust_env`, traces and default headers apply. Headers of a request override the default
    headers. The session's cookies, `auth`, middlewares, redirects, timeouts, `raise_for_status`,
    `base_url` and Accept-Encoding do not apply, nor do credentials of a netrc file. The `limit` of
    the connector should be at least `max_in_flight`. The transport does not close the session.

    A transport belongs to the event loop in which it sends first.

    Example: `AsyncStateClient(base_url, auth=auth, transport=AiohttpTransport(session))`

    Args:
        session: an `aiohttp.ClientSession`.
        max_response_bytes: largest body after decompression; a larger one is a `body_error`.

    Raises:
        TypeError: `session` is something else.
        ConfigurationError: aiohttp is not installed, or an argument is not valid.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        max_response_bytes: int = bodies.MAX_RESPONSE_BYTES,
    ) -> None:
        if not INSTALLED:
            raise ConfigurationError(
                "AiohttpTransport needs aiohttp, which an extra installs: "
                "pip install 'cognigy-async[aiohttp]'"
            )
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise TypeError(
                f"AiohttpTransport(session={type(session).__name__}): "
                "pass an aiohttp.ClientSession or nothing"
            )
        super().__init__(max_response_bytes, sessions.Body, "a session" if session else None)
        self._given = session
        self._traced = session is not None and bool(session.trace_configs)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections it opened. Requests on them fail. May be called several times."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(self, request: Request, body: sessions.Body, timeout: float) -> Response:
        try:
            session = self._opened()
            deadline, stale = time.monotonic() + timeout, 0
            while True:
                try:
                    response = await self._begin(session, request, body, timeout)
                    break
                except sessions.StaleConnectionError:
                    stale += 1
                    timeout = deadline - time.monotonic()
                    if stale == sessions.MAX_STALE or timeout <= 0:
                        raise
            headers = bodies.headers_of(response.raw_headers)
            try:
                length = headers.get("content-length")
                if length is None:
                    content = await bodies.read_body(response.content.iter_any(), self._limit)
                else:
                    bodies.validate_length(length, self._limit)
                    received = response.content.is_eof() and not self._traced
                    content = response.content.read_nowait() if received else await response.read()
                if "content-encoding" in headers:
                    content = bodies.decoded(content, headers, self._limit)
            except BaseException as error:
                body.abort()
                response.close()
                if not isinstance(error, Exception):
                    raise
                problem = bodies.problem_of(error)
                return Response(response.status, headers, body_error=problem)
            # The response may have come before the whole request was sent.
            if not body.written:
                body.abort()
            return Response(response.status, headers, content)
        except BaseException as error:
            body.abort()
            if isinstance(error, asyncio.CancelledError) and is_failure(error):
                # A closing connector cancels the waits for a connection without cancelling a task.
                raise SessionClosedError from error
            raise

    def _opened(self) -> aiohttp.ClientSession:
        self._enter_loop()
        if self._closed or (self._given is not None and self._given.closed):
            raise NotStartedError("The transport is closed")
        if self._session is None:
            self._session = sessions.open_session(self._given)
        return self._session

    def _begin(
        self, session: aiohttp.ClientSession, request: Request, body: sessions.Body, timeout: float
    ) -> Awaitable[aiohttp.ClientResponse]:
        sessions.validate_headers(request.headers)
        url = sessions.parse_url(request.url)
        by_environment = self._given is not None and self._given.trust_env
        return session.request(
            request.method,
            url,
            proxy=sessions.environment_proxy(url) if by_environment else None,
            headers=request.headers,
            data=body if request.content else None,
            allow_redirects=False,
            # Only a request with content tells whether its sending has begun.
            timeout=sessions.timeout_of(timeout, connecting=not request.content),
        )

    def _translate(
        self, error: Exception, request: Request, body: sessions.Body, timeout: float
    ) -> UpdateError:
        invalid = type(error) in (ValueError, UnicodeEncodeError, UnicodeError)
        reason = REASONS.get(type(error).__name__, INVALID if invalid else "")
        timed_out = isinstance(error, TimeoutError)
        unconnected = isinstance(error, sessions.NOT_SENT) or (timed_out and request.content)
        unsent = invalid or isinstance(error, sessions.StaleConnectionError)
        return translate(
            request.url,
            reason_of(error, reason),
            timeout=timeout if timed_out else None,
            # Whatever the error, a request that was not begun was not sent.
            refused=bool(unconnected) and not body.begun,
            begun=body.begun if request.content else not unsent,
        )
