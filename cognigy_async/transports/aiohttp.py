"""A faster transport for asyncio: aiohttp."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._utils.arguments import validate_count
from ..errors import ClientUsageError, ConfigurationError, NotSentError, UpdateError
from ..models.http import Request, Response
from ._errors import INVALID, NotStartedError, reason_of, translate
from ._response_body import MAX_RESPONSE_BYTES

INSTALLED = find_spec("aiohttp") is not None

if TYPE_CHECKING or INSTALLED:
    import aiohttp

    from . import _aiohttp_senders as senders

REASONS = {
    "ClientConnectorCertificateError": "SSL: the certificate is not trusted",
    "ClientHttpProxyError": "the proxy refused to connect",
    "ClientResponseError": "the response is not valid in HTTP",
    "ConnectorClosedError": "the session was closed",
    "InvalidResponseError": "the response is not valid in HTTP",
    "ServerDisconnectedError": "the server disconnected",
    "StaleConnectionError": "the server has given up the connection",
}


class AiohttpTransport:
    """Sends requests with aiohttp, on asyncio; several times as fast as `HttpxTransport`.

    Without the argument `session`, the transport opens one connection for each request in flight,
    so at most `max_in_flight` of the client. The transport trusts the certificates that httpx
    brings, and ignores HTTP(S)_PROXY, SSL_CERT_FILE and SSLKEYLOGFILE.

    With the argument `session`, the session's connector with limits, certificates and resolver, its
    proxy, `trust_env`, traces and default headers apply. Headers of a request override the default
    headers. The session's cookies, `auth`, middlewares, redirects, timeouts, `raise_for_status`,
    `base_url` and Accept-Encoding do not apply, nor do credentials of a netrc file. The `limit` of
    the connector should be at least `max_in_flight`. A request takes about twice the CPU time with
    a proxy, traces or `trust_env`. The transport does not close the session.

    A transport belongs to the event loop in which it sends first.

    Example: `AsyncStateClient(base_url, auth=auth, transport=AiohttpTransport())`

    Args:
        session: an `aiohttp.ClientSession`.
        max_response_bytes: largest body of a response, after decompression. The transport does not
            read a larger body to its end, and the response has a `body_error`.

    Raises:
        TypeError: `session` is something else.
        ConfigurationError: aiohttp is not installed, or `max_response_bytes` is not an integer of
            at least 1.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._limit = validate_count("max_response_bytes", max_response_bytes)
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
        self._given = session
        self._session: aiohttp.ClientSession | None = None
        self._sender: senders.DirectSender | senders.SessionSender | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self._given is not None:
            return "<AiohttpTransport with a session>"
        return f"<AiohttpTransport {'closed' if self._closed else 'with its own connections'}>"

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request, within `timeout` seconds in all, and return the response.

        Raises:
            NotSentError: no part of the content was sent.
            NoResponseError: the request may have been applied, and there is no response with a
                complete head.
            ClientUsageError: not on asyncio, or in another event loop than before.
        """
        progress = senders.Progress()
        try:
            sender = self._sender
            if sender is None or self._loop is not asyncio.get_running_loop():
                sender = self._open()
            if self._given is not None and self._given.closed:
                raise NotStartedError("The session is closed")
            return await sender.send(request, timeout, progress)
        except ClientUsageError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # This task was not cancelled: a closing connector cancels the waits for a connection.
            closed = senders.ConnectorClosedError()
            failure = self._translate(closed, request.url, progress, timeout)
        except Exception as error:
            failure = self._translate(error, request.url, progress, timeout)
        # Raise outside of the handler and without this local, so that no header of the request can
        # be reached from the exception.
        del request
        try:
            raise failure
        finally:
            # Avoid a reference cycle: the traceback of the exception refers to this frame.
            del failure

    async def aclose(self) -> None:
        """Close the connections it opened. Requests on them fail. May be called several times."""
        self._closed = True
        session, self._session, self._sender = self._session, None, None
        if session is not None:
            await session.close()

    def _open(self) -> senders.DirectSender | senders.SessionSender:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientUsageError(
                "AiohttpTransport needs asyncio; under trio use HttpxTransport"
            ) from None
        if self._sender is not None:
            raise ClientUsageError(
                "this AiohttpTransport belongs to the event loop that used it first; "
                "give each loop its own"
            )
        if self._closed or (self._given is not None and self._given.closed):
            raise NotStartedError("The transport is closed")
        # Imported late, because it imports httpx, which creating a transport does not need.
        from .httpx import ssl_context

        self._loop = loop
        self._session = senders.open_session(self._given, ssl_context())
        self._sender = senders.sender_of(self._given, self._session, self._limit)
        return self._sender

    @staticmethod
    def _translate(
        error: Exception, url: str, progress: senders.Progress, timeout: float
    ) -> UpdateError:
        if isinstance(error, NotStartedError):
            return NotSentError(str(error))
        if isinstance(error, senders.ConnectionLostError) and isinstance(
            error.__cause__, Exception
        ):
            error = error.__cause__
        invalid = type(error) in (ValueError, UnicodeEncodeError, UnicodeError)
        reason = REASONS.get(type(error).__name__, INVALID if invalid else "")
        begun = progress.begun
        if begun is None:
            begun = not (invalid or isinstance(error, senders.StaleConnectionError))
        return translate(
            url,
            reason_of(error, reason),
            next((kind for kind in senders.CAUSES if isinstance(error, kind)), None),
            timeout=timeout if isinstance(error, TimeoutError) else None,
            # Whatever the error, a request that was not begun was not sent.
            refused=isinstance(error, senders.NOT_SENT) and not progress.begun,
            begun=begun,
        )
