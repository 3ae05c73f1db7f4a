"""The `Transport` protocol."""

from __future__ import annotations

from typing import Protocol

from ..models.http import Request, Response


class Transport(Protocol):
    """Sends HTTP requests. Define these two methods to use another HTTP library.

    A transport sends each request at most once: it never retries, even after a lost
    connection, and does not follow redirects. A status is never an error. An exception says whether
    the server may have acted on the request, which decides on a retry (RFC 9110, section 9.2.2).

    ```py
    class Fixed:  # a transport for tests
        async def send(self, request: Request, *, timeout: float) -> Response:
            return Response(200, {"etag": '"1"'}, b"{}")

        async def aclose(self) -> None: ...
    ```
    """

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request and return the complete response, within `timeout` seconds in all.

        Raises:
            NotSentError: the server got nothing that it could act on.
            NoResponseError: the request may have been applied, and there is no complete response.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport opened itself."""
        ...
