"""The part of ASGI that the emulator speaks: read a request, answer it, or hang up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote

from .answers import Answer

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

EXTENSION = "cognigy_async.emulator"
"""Where `serve` puts the connection of a request: ``scope["extensions"][EXTENSION]``."""


class Connection(Protocol):
    """The socket below a request; there is none when the app is called in the process."""

    def abort(self) -> None:
        """Close it at once, without what was not yet written."""
        ...

    def is_closed(self) -> bool:
        """Whether either side has closed it, so that nobody waits for an answer."""
        ...


class ClientGoneError(Exception):
    """The client went away before its request was whole."""


class Request:
    """One HTTP request and the way back to who sent it."""

    __slots__ = (
        "_drop_error",
        "_receive",
        "_send",
        "address",
        "connection",
        "headers",
        "method",
        "path",
    )

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
        """The value of a header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def read(self, limit: int) -> bytes | None:
        """The whole content, or None where it has more than `limit` bytes.

        Raises:
            ClientGoneError: the client went away first.
        """
        message = await self._receive()
        content = cast("bytes", message.get("body", b""))
        size = len(content)
        while message["type"] != "http.disconnect" and message.get("more_body", False):
            message = await self._receive()
            more = message.get("body", b"")
            size += len(more)
            # What is too much is read all the same: a client that still sends reads no answer.
            content = content + more if size <= limit else b""
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        return content if size <= limit else None

    async def answer(self, answer: Answer) -> None:
        """Send the answer."""
        headers = list(answer.headers)
        if answer.status != 204:
            headers.insert(0, (b"content-length", b"%d" % len(answer.content)))
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": answer.content})

    async def hang_up(self) -> None:
        """Close the connection without an answer.

        Raises:
            Exception: the transport error that a client sees, where there is no connection.
        """
        if self.connection is None:
            raise self._drop_error("Server disconnected without sending a response.")
        self.connection.abort()
        await self.until_gone()

    async def until_gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _raw_path(scope: Scope) -> bytes:
    raw = cast("bytes | None", scope.get("raw_path"))
    path = quote(scope["path"]).encode() if raw is None else raw
    root = scope.get("root_path", "")
    return path.removeprefix(quote(root).encode()) if root else path
