"""The `Transport` protocol."""

from __future__ import annotations

from typing import Protocol

from ..models.http import Request, Response


class Transport(Protocol):
    """Sends HTTP requests. Define these two methods to use another HTTP library.

    A transport sends each request at most once: it never retries, even after a lost
    connection, and does not follow redirects. A status is never an error. An exception says whether
    the server may have acted on the request, which decides on a retry (RFC 9110, section 9.2.2).

    A status says what the server did with the request (RFC 9110, section 15). So once the head of
    a response is complete, the transport returns its status and headers, whatever becomes of the
    body. If the body is cut off, too large or not encoded as the headers say, `content` is empty
    and `body_error` says why. An update that was answered 2xx then counts as applied. A read and a
    token request fail.

    Bytes that were received before a request was sent are no part of its response. A transport
    closes a connection that has such bytes.

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
            NoResponseError: the request may have been applied, and there is no response with a
                complete head.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport opened itself."""
        ...
