"""uvicorn's HTTP protocol on a listening socket, with a way to abort a connection.

uvicorn's own server is left out: it takes over the signal handlers of the process, exits it where
it cannot listen, and looks only ten times a second whether it shall end.
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

from .app import Emulator
from .asgi import EXTENSION, Receive, Scope, Send
from .stats import Stats

KEEP_ALIVE = 120
"""Seconds; long enough that a client's idle connections are not closed in its hands."""


class SocketConnection:
    """A connection as the emulator sees it."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def is_closed(self) -> bool:
        """Whether either side has closed it."""
        return self._transport.is_closing()


class CountedProtocol(HttpToolsProtocol):
    """Gives each request its connection, and counts the connections."""

    def __init__(self, stats: Stats, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._stats = stats
        self._extensions: dict[str, Any] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count a new connection."""
        super().connection_made(transport)
        self._extensions[EXTENSION] = SocketConnection(transport)
        stats = self._stats
        stats.connections += 1
        stats.connections_max = max(stats.connections_max, len(self.connections))

    def on_message_begin(self) -> None:
        """Hand the connection to the application with the request."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


class SocketServer:
    """Listens, and closes everything that it opened."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._state = ServerState()
        self._server: asyncio.Server
        self._config = Config(
            self._app,
            http=CountedProtocol,
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
        """Listen; the base URL.

        Raises:
            OSError: the address cannot be listened on.
        """
        protocol = partial(CountedProtocol, self._emulator.stats, self._config, self._state)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(protocol, host, port, backlog=2048)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None) or 0
            # asyncio wraps what the system says into a sentence of its own; names have no number.
            told = os.strerror(number) if number > 0 else str(error)
            remedy = "choose another address or port; port 0 takes a free one"
            raise OSError(number, f"cannot listen on {host}:{port}: {told}; {remedy}") from error
        address = self._server.sockets[0].getsockname()
        name: str = address[0]
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
        bracketed = f"[{reached}]" if ":" in reached else reached
        return f"http://{bracketed}:{address[1]}"

    async def aclose(self) -> None:
        """Stop listening, close the connections, end the requests under way; for after `start`."""
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The task ends here anyway; uvicorn would log its cancellation as an error of the app.
        with suppress(asyncio.CancelledError):
            await self._emulator(scope, receive, send)
