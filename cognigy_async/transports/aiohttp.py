"""A faster transport for asyncio: aiohttp."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import ClientUsageError, ConfigurationError, NotSentError, UpdateError
from ..models.http import Request, Response
from ._errors import INVALID, NotBegun, failure, host_of, reason_of
from ._response_body import MAX_RESPONSE_BYTES, UnusableAnswer, validate_limit

INSTALLED = find_spec("aiohttp") is not None

if TYPE_CHECKING:
    import aiohttp

if TYPE_CHECKING or INSTALLED:
    from . import _aiohttp_parts as parts
    from ._aiohttp_session import ViaSession, needs_session, open_session, validate_session
    from ._aiohttp_wire import Wire

REASONS = {
    "ClientConnectorCertificateError": "SSL: the certificate is not trusted",
    "ClientHttpProxyError": "the proxy refused to connect",
    "ClientPayloadError": "the answer is not complete",
    "ClientResponseError": "the answer is not valid in HTTP",
    "Closed": "the session was closed",
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
    is, once. `limit` of its connector should not be below `max_in_flight` of whoever sends. With a
    proxy, trace configurations or `trust_env`, a request takes about twice the CPU time.

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
        self._limit = validate_limit(max_response_bytes)
        if not INSTALLED:
            raise ConfigurationError(
                "AiohttpTransport needs aiohttp, which comes with an extra: "
                "pip install 'cognigy-async[aiohttp]'"
            )
        validate_session(session)
        self._theirs = session
        self._session: aiohttp.ClientSession | None = None
        self._way: Wire | ViaSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
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
        sending = parts.Sending()
        try:
            way = self._way
            if way is None or self._loop is not asyncio.get_running_loop():
                way = self._opened()
            if self._theirs is not None and self._theirs.closed:
                raise NotBegun("The session is closed")
            return await way.send(request, timeout, sending)
        except ClientUsageError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled it: a connector that is closed does so to who waits for it.
            told, cause = self._failed(parts.Closed(), request.url, sending, timeout)
        except Exception as error:
            told, cause = self._failed(error, request.url, sending, timeout)
        # Raised here, when the original error, which knows the request, has been left behind.
        del request
        try:
            raise told from cause
        finally:
            # Its traceback holds this frame, which shall not hold it in turn.
            del told, cause

    async def aclose(self) -> None:
        """Close the connections of its own; what is under way on them fails. May be repeated."""
        self._closed = True
        session, self._session, self._way = self._session, None, None
        if session is not None:
            await session.close()

    def _opened(self) -> Wire | ViaSession:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientUsageError(
                "AiohttpTransport needs asyncio; under trio use HttpxTransport"
            ) from None
        if self._way is not None:
            raise ClientUsageError(
                "this AiohttpTransport belongs to the event loop that used it first; "
                "give each loop its own"
            )
        if self._closed or (self._theirs is not None and self._theirs.closed):
            raise NotBegun("The transport is closed")
        # It brings httpx with it, and is not needed to make a transport.
        from .httpx import ssl_context

        self._loop = loop
        self._session = open_session(self._theirs, ssl_context())
        through_it = self._theirs is not None and needs_session(self._theirs)
        self._way = (ViaSession if through_it else Wire)(self._session, self._limit)
        return self._way

    @staticmethod
    def _failed(
        error: Exception, url: str, sending: parts.Sending, timeout: float
    ) -> tuple[UpdateError, Exception | None]:
        """What is raised instead of the library's error, and its cause."""
        if isinstance(error, NotBegun):
            return NotSentError(str(error)), None
        if isinstance(error, parts.Lost) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        invalid = type(error) in (ValueError, UnicodeEncodeError, UnicodeError)
        told = REASONS.get(type(error).__name__, INVALID if invalid else "")
        if isinstance(error, UnusableAnswer):
            told = str(error)
        reason = reason_of(error, told)
        known = next((kind for kind in parts.CAUSES if isinstance(error, kind)), None)
        begun = sending.begun
        if begun is None:
            begun = not (invalid or isinstance(error, parts.Unusable))
        told_error = failure(
            host=host_of(url),
            reason=reason,
            timeout=timeout if isinstance(error, TimeoutError) else None,
            # What was not begun did not leave, whatever kind of error it is.
            refused=isinstance(error, parts.NOT_SENT) and not sending.begun,
            begun=begun,
        )
        return told_error, known(reason) if known else None
