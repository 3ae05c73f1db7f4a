"""The `Transport` protocol."""

from __future__ import annotations

from typing import Protocol

from ..models.http import Request, Response


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
