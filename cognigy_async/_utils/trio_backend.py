"""Open connections on trio without its default threads."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpcore

HEAD_START = 0.25
"""Seconds that an address has before the next one is tried as well (RFC 8305, section 5)."""


class TrioBackend(httpcore.TrioBackend):
    """Connects as httpcore does on trio, but resolves names in threads of its own.

    An application may hold all threads of trio's default limiter, which is also that of anyio,
    while it waits for a request that needs a connection.
    """

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve a name, and return the connection to the first of its addresses that answers.

        Raises:
            httpcore.ConnectError: the name is not known, or no address can be connected to.
            httpcore.ConnectTimeout: none of that was done in time.
        """
        # httpcore has another class of this name where trio is not installed.
        parent: Any = super()
        connect = partial(
            parent.connect_tcp,
            port=port,
            timeout=timeout,
            local_address=local_address,
            socket_options=socket_options,
        )
        resolve = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            with anyio.fail_after(timeout):
                found = await anyio.to_thread.run_sync(
                    resolve, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
                addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
                return await _connect_to_first(partial(connect, address) for address in addresses)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(error) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(error) from error


async def _connect_to_first(attempts: Iterable[Any]) -> httpcore.AsyncNetworkStream:
    """Return the first connection; start the next attempt when one failed or had its head start."""
    streams: list[httpcore.AsyncNetworkStream] = []
    errors: list[Exception] = []

    async def run(attempt: Any, ended: anyio.Event) -> None:
        try:
            streams.append(await attempt())
            tasks.cancel_scope.cancel()
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            errors.append(error)
        ended.set()

    kept: httpcore.AsyncNetworkStream | None = None
    try:
        async with anyio.create_task_group() as tasks:
            for attempt in attempts:
                ended = anyio.Event()
                tasks.start_soon(run, attempt, ended)
                with anyio.move_on_after(HEAD_START):
                    await ended.wait()
        if not streams:
            raise errors[0]
        kept = streams[0]
        return kept
    finally:
        for stream in streams:
            if stream is not kept:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()
