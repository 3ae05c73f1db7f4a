"""The `Transport` protocol, and what the transports over HTTP libraries have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from .._utils.arguments import validate_count
from .._utils.concurrency import current_loop_getter
from ..errors import ClientUsageError, NotSentError, UpdateError
from ..models.http import Request, Response

Body = TypeVar("Body")


class Transport(Protocol):
    """Sends HTTP requests. Define these two methods to use another HTTP library.

    A transport sends each request at most once: it never retries, even after a lost connection, and
    does not follow redirects. A transport raises no exception for any status. The type of an
    exception says whether the server may have acted on the request, because the client decides by
    it about a retry (RFC 9110, section 9.2.2).

    A status says what the server did with the request (RFC 9110, section 15). So once the headers
    of a response are complete, the transport returns status and headers, even if the body is
    unusable. If the body is cut off, too large or not encoded as the headers say, `content` is
    empty and `body_error` says why. With an unusable body, an update that the server answered 2xx
    counts as applied; a read or a token request fails.

    Bytes that arrive before the transport sends a request are no part of the response. A transport
    closes a connection on which such bytes arrived.

    The URL of a request with a `url_token` ends in a secret: it must not be in a log or an error.

    ```py
    class Fixed:  # a transport for tests
        async def send(self, request: Request, *, timeout: float) -> Response:
            return Response(200, {"etag": '"1"'}, b"{}")

        async def aclose(self) -> None: ...
    ```
    """

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request and return the response, within `timeout` seconds in all.

        Raises:
            NotSentError: the server got nothing that it could act on.
            NoResponseError: the server may have applied the request, and no response with complete
                headers came.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport opened itself."""
        ...


class NotStartedError(Exception):
    """No part of the request was given to the library."""


class LibraryTransport(ABC, Generic[Body]):
    """A transport over an HTTP library. It raises errors that hold no part of the request.

    Args:
        body_type: makes the content of a request into what the library takes.
        theirs: what the user gave it with connections, if anything; for the repr.
    """

    def __init__(
        self, max_response_bytes: int, body_type: Callable[[bytes], Body], theirs: str | None
    ) -> None:
        self._limit = validate_count("max_response_bytes", max_response_bytes)
        self._body_type = body_type
        self._connections = theirs or "its own connections"
        self._loop: object = None
        self._running_loop: Callable[[], object] = object
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"with {self._connections}"
        return f"<{type(self).__name__} {state}>"

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request as `Transport.send` does.

        Raises:
            ClientUsageError: in another event loop than before, or in one that does not suit it.
        """
        body = self._body_type(request.content)
        try:
            return await self._send(request, body, timeout)
        except ClientUsageError:
            raise
        except NotStartedError as error:
            failure: list[UpdateError] = [NotSentError(str(error))]
        except Exception as error:
            failure = [self._translate(error, request, body, timeout)]
        # Raise outside of the handler and without these locals, so that no header of the request
        # can be reached from the exception.
        del request, body
        raise failure.pop()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections it opened. Requests on them fail. May be called several times."""

    @abstractmethod
    async def _send(self, request: Request, body: Body, timeout: float) -> Response:
        """Send a request; raise NotStartedError or any error of the library."""

    @abstractmethod
    def _translate(
        self, error: Exception, request: Request, body: Body, timeout: float
    ) -> UpdateError:
        """Return the error to raise instead of the library's error."""

    def _enter_loop(self, *, on_trio: bool = False) -> None:
        """Bind to the event loop of the first request. Raise ClientUsageError in another one."""
        try:
            if self._running_loop() is self._loop:
                return
        except RuntimeError:  # This is an event loop of another library.
            self._running_loop = object
        name = type(self).__name__
        self._running_loop = current_loop_getter()
        loop = self._running_loop()
        if not (on_trio or isinstance(loop, asyncio.AbstractEventLoop)):
            raise ClientUsageError(f"{name} needs asyncio; under trio use HttpxTransport")
        if self._loop not in (None, loop):
            raise ClientUsageError(
                f"this {name} belongs to the event loop that used it first; give each loop its own"
            )
        self._loop = loop
