"""The part of ASGI that the emulator uses: read a request, answer it, or hang up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote, unquote_to_bytes

import anyio
import anyio.lowlevel
from pydantic_core import from_json

from ..responses import HttpResponse

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

EXTENSION = "cognigy_async.emulator"
"""Key of the connection of a request: ``scope["extensions"][EXTENSION]``."""


class Connection(Protocol):
    """The socket of a request. Requests made in the process have none."""

    def abort(self) -> None:
        """Close the socket at once and discard unsent data."""
        ...

    def is_closed(self) -> bool:
        """Return whether either side has closed the socket."""
        ...


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


class HttpRequest:
    """An HTTP request and the means to answer it."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, drop_error: Callable[[str], Exception]
    ) -> None:
        self.method: str = scope["method"]
        client = scope.get("client")
        self.address: str | None = client[0] if client else None
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path = _raw_path(scope)
        extensions = scope.get("extensions")
        self.connection: Connection | None = extensions.get(EXTENSION) if extensions else None
        self._receive = receive
        self._send = send
        self._drop_error = drop_error

    def header(self, name: bytes) -> str | None:
        """Return the value of a header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def read(self, limit: int) -> bytes | None:
        """Return the whole body, or None if it exceeds `limit` bytes.

        Raises:
            ClientGoneError: The client disconnected first.
        """
        content, size, more = b"", 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = cast("bytes", message.get("body", b""))
            more = message.get("more_body", False)
            size += len(part)
            # Read the excess too: a client reads the response only after it has sent the body.
            content = content + part if size <= limit else b""
        return content if size <= limit else None

    async def delay(self, seconds: float) -> None:
        """Sleep for the simulated latency. At 0 seconds, still let other requests run first."""
        if seconds:
            await anyio.sleep(seconds)
        elif self.connection is None:
            await anyio.lowlevel.checkpoint()

    async def answer(self, response: HttpResponse) -> None:
        """Send the response."""
        headers = list(response.headers)
        if response.status != 204:
            headers.insert(0, (b"content-length", b"%d" % len(response.content)))
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": response.content})

    async def refuse(self, response: HttpResponse) -> None:
        """Send the response after the body, which is not kept.

        Raises:
            ClientGoneError: The client disconnected first.
        """
        await self.read(0)
        await self.answer(response)

    async def hang_up(self) -> None:
        """Close the connection without an answer.

        Raises:
            Exception: The transport error that a client sees, if there is no connection.
        """
        if self.connection is None:
            raise self._drop_error("Server disconnected without sending a response.")
        self.connection.abort()
        await self.wait_until_gone()

    async def wait_until_gone(self) -> None:
        """Wait until the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        ValueError: The body is not a JSON object.
    """
    body = from_json(content, allow_inf_nan=False)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def decode_segment(segment: bytes) -> str | None:
    """Return the text of a percent-encoded path segment, or None if it is not UTF-8."""
    try:
        return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    except UnicodeDecodeError:
        return None


def _raw_path(scope: Scope) -> bytes:
    raw = cast("bytes | None", scope.get("raw_path"))
    path = quote(scope["path"]).encode() if raw is None else raw
    root = scope.get("root_path", "")
    return path.removeprefix(quote(root).encode()) if root else path
