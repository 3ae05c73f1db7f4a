"""Well-behaved and misbehaving servers for the tests of the transports."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
from anyio.streams.tls import TLSListener

from cognigy_async import (
    NoResponseError,
    NotSentError,
    PyreqwestTransport,
    Request,
    Transport,
    UpdateError,
)

CANARY = "tok-CANARY-5f2b"
CONTENT = b'{"session": {"a": 1}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: 7\r\n\r\n{}"
TLS = httpx.create_ssl_context()
PACKAGES = ("cognigy_async", "httpx", "httpcore", "aiohttp", "pyreqwest")
"""Packages whose frames are searched for the token."""


class Connection:
    """One connection of the server."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self._unread = b""

    async def request(self) -> bytes:
        """Return the next request, head and content; empty at the end of the connection."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if not await self._more():
                return b""
        length = 0
        for line in self._unread[:end].lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(self._unread) < end + 4 + length:
            if not await self._more():
                return b""
        whole, self._unread = self._unread[: end + 4 + length], self._unread[end + 4 + length :]
        return whole

    async def _more(self) -> bool:
        try:
            self._unread += await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False
        return True

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def until_closed(self) -> None:
        while await self._more():
            pass


class Server:
    """Address and counters of a server."""

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0


@asynccontextmanager
async def serving(
    behaviour: Callable[[Connection, Server], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Serve each connection by `behaviour`, and close it when that returns."""
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(
        plain.extra(anyio.abc.SocketAttribute.local_port), "http" if tls is None else "https"
    )
    listener: anyio.abc.Listener[Any] = plain
    if tls is not None:
        listener = TLSListener(plain, tls, standard_compatible=False)

    async def handle(stream: anyio.abc.ByteStream) -> None:
        server.connections += 1
        server.open += 1
        try:
            async with stream:
                await behaviour(Connection(stream), server)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            server.open -= 1

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield server
        group.cancel_scope.cancel()


async def answering(connection: Connection, server: Server) -> None:
    while request := await connection.request():
        server.requests.append(request)
        await connection.send(OK)


def answers(*parts: bytes) -> Callable[[Connection, Server], Awaitable[None]]:
    """Return a behaviour that responds to each request with these bytes."""

    async def behaviour(connection: Connection, server: Server) -> None:
        while request := await connection.request():
            server.requests.append(request)
            for part in parts:
                await connection.send(part)

    return behaviour


def answers_and_closes(
    answer: bytes,
) -> Callable[[Connection, Server], Awaitable[None]]:
    async def behaviour(connection: Connection, server: Server) -> None:
        server.requests.append(await connection.request())
        if answer:
            await connection.send(answer)

    return behaviour


def patch(server: Server | str, path: str = "/state", **headers: str) -> Request:
    base = server if isinstance(server, str) else server.url
    return Request("PATCH", base + path, {"authorization": f"Bearer {CANARY}", **headers}, CONTENT)


async def failure(transport: Transport, request: Request, timeout: float = 5) -> UpdateError:
    """Return the exception of a send, which must not show the token."""
    with pytest.raises((NotSentError, NoResponseError)) as caught:
        await transport.send(request, timeout=timeout)
    error = caught.value
    assert not leaks(error)
    return error


def leaks(error: BaseException) -> list[str]:
    """Return the paths of attributes that lead from an exception to the token."""
    found: list[str] = []
    seen: set[int] = set()

    def walk(value: object, path: str) -> None:
        if id(value) in seen or len(path) > 400:
            return
        seen.add(id(value))
        if CANARY in repr(value) or CANARY in str(value):
            found.append(path)
        if isinstance(value, dict):
            for key, item in value.items():
                walk(key, f"{path}.key")
                walk(item, f"{path}[{key!r}]")
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                walk(item, f"{path}[]")
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            walk(vars(value), path)
        slots = getattr(type(value), "__slots__", ())
        for name in ("__cause__", "__context__", "args", "exceptions", *slots):
            if (item := getattr(value, name, None)) is not None and not callable(item):
                walk(item, f"{path}.{name}")

    walk(error, "error")
    if CANARY in "".join(traceback.format_exception(error)):
        found.append("traceback")
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith(PACKAGES):
            names = {name: value for name, value in frame.f_locals.items() if name != "self"}
            walk(names, f"locals of {frame.f_code.co_name}")
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that the other side of a socket brings about."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def all_can_be_served(transport: Transport, server: Server, owned: bool) -> None:
    """Check that all connections work and none is left behind."""
    at_once = 20
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(lambda: transport.send(patch(server), timeout=10))
    if owned:
        # hyper completes a connection in the background if another one is free before it is made.
        most = 2 * at_once if isinstance(transport, PyreqwestTransport) else at_once
        await until(lambda: server.open <= most)
