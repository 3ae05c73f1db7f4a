"""Reach a stub in the process, in virtual time, or over HTTP on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import uvicorn

from cognigy_async import HttpxTransport, Request, Response


@dataclass
class Reply:
    """A response of a stub; `body` is sent as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return b"" if self.body is None else json.dumps(self.body).encode()


class Stub(Protocol):
    """A server without a socket."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the response to a request; header names are in lower case."""
        ...


class InProcess:
    """A transport that calls a stub.

    Attributes:
        latency: seconds of each request.
        failures: errors to raise instead of the next requests.
        requests: those that were sent.
    """

    def __init__(self, stub: Stub, *, latency: float = 0.0) -> None:
        self.stub = stub
        self.latency = latency
        self.failures: list[Exception] = []
        self.requests: list[Request] = []
        self.closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        await anyio.sleep(self.latency)
        if self.failures:
            raise self.failures.pop(0)
        headers = {name.lower(): value for name, value in request.headers.items()}
        reply = self.stub.handle(request.method, path_of(request.url), headers, request.content)
        return Response(reply.status, reply.headers, reply.content)

    async def aclose(self) -> None:
        self.closed = True


class Redirected(HttpxTransport):
    """Sends all requests over HTTP to another origin."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin_of_stub = origin

    async def send(self, request: Request, *, timeout: float) -> Response:
        url = self._origin_of_stub + path_of(request.url)
        request = Request(request.method, url, request.headers, request.content)
        return await super().send(request, timeout=timeout)


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    """Serve a stub over HTTP in a thread of its own, and yield its origin."""
    config = uvicorn.Config(_app(stub), port=0, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _app(stub: Stub) -> Callable[..., Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        reply = stub.handle(scope["method"], scope["path"], headers, content)
        raw = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        raw.append((b"content-length", str(len(reply.content)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        await send({"type": "http.response.body", "body": reply.content})

    return app
