"""uvicorn's HTTP protocol on a listening socket, with connections that can be aborted.

uvicorn's own server is not used: it takes over the signal handlers of the process, exits the
process if it cannot listen, and checks only ten times a second for its end.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ..app import Emulator
from .access import Access
from .asgi import EXTENSION, ClientGoneError, HttpRequest, Receive, Scope, Send

KEEP_ALIVE = 120
"""Seconds. Long enough that no idle connection is closed just when a client reuses it."""


class SocketConnection:
    """The `Connection` of requests that come over a socket."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        """Close the socket at once and discard unsent data."""
        self._transport.abort()

    def is_closed(self) -> bool:
        """Return whether either side has closed the socket."""
        return self._transport.is_closing()


class CountingProtocol(HttpToolsProtocol):
    """Add the connection to each request, and count connections."""

    def __init__(self, server: SocketServer, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._socket_server = server
        self._extensions: dict[str, Any] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count a new connection."""
        super().connection_made(transport)
        self._extensions[EXTENSION] = SocketConnection(transport)
        stats = self._socket_server.stats
        stats.connections += 1
        stats.connections_max = max(stats.connections_max, len(self.connections))
        if self._socket_server.closing:
            # It was accepted before the socket was closed.
            transport.abort()

    def on_message_begin(self) -> None:
        """Add the connection to the scope of a new request."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


class SocketServer:
    """A listening socket and its connections, all closed by `aclose`.

    Attributes:
        closing: True after `aclose` was called; later connections are closed at once.
    """

    def __init__(self, emulator: Emulator, access: Access) -> None:
        self._emulator = emulator
        self._access = access
        self.stats = emulator.stats
        self.closing = False
        self._state = ServerState()
        self._server: asyncio.Server
        self._config = Config(
            self._app,
            http=CountingProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
        )

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the base URL.

        Raises:
            OSError: The address cannot be listened on.
        """
        protocol = partial(CountingProtocol, self, self._config, self._state)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(protocol, host, port, backlog=2048)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None) or 0
            # asyncio changes the system's error text, so get it by number. Resolver errors have no
            # positive number.
            detail = os.strerror(number) if number > 0 else str(error)
            remedy = "choose another address or port; port 0 takes a free one"
            raise OSError(number, f"cannot listen on {host}:{port}: {detail}; {remedy}") from error
        address = self._server.sockets[0].getsockname()
        name: str = address[0]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
        return f"http://[{name}]:{address[1]}" if ":" in name else f"http://{name}:{address[1]}"

    async def aclose(self) -> None:
        """Stop listening, close the connections and cancel the requests in flight."""
        self.closing = True
        # Accept no more, and let connections just accepted get their transports before the server
        # is closed: asyncio would drop them without closing them.
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            with suppress(NotImplementedError):
                loop.remove_reader(listening.fileno())
        await asyncio.sleep(0)
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        while tasks := list(self._state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._server.wait_closed()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Otherwise uvicorn would log the cancellation of the task as an error of the app.
        with suppress(asyncio.CancelledError):
            refusal = self._access.refusal(scope)
            if refusal is None:
                await self._emulator(scope, receive, send)
                return
            try:
                await HttpRequest(scope, receive, send, ConnectionError).refuse(refusal)
            except ClientGoneError:
                self._emulator.stats.abandoned += 1
