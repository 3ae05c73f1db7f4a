"""The `Transport` protocol: send one request, and say what became of it."""

from __future__ import annotations

from typing import Protocol

from ..models.http import Request, Response

__all__ = ["Request", "Response", "Transport"]


class Transport(Protocol):
    """Sends requests; never repeats one, never follows a redirect, never raises for a status."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        """The whole answer, within `timeout` seconds.

        Raises:
            NotSentError: nothing reached the server.
            NoResponseError: the request may have been applied, and there is no whole answer.
        """
        ...

    async def aclose(self) -> None:
        """Close what the transport opened itself."""
        ...
