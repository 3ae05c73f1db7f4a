"""No response is taken from bytes that were there before its request, over sockets.

Servers send more than a response should have. A client must not take the rest for the response to
its next request. That request gets its own response, or an error.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from cognigy_async import HttpxTransport, NoResponseError, NotSentError, Request, Transport
from tests.integration.tls import server_context, trusting_context
from tests.integration.transport_cases import (
    CASES,
    LIBRARIES,
    TRUSTING,
    Case,
    backend_of,
    name_of,
    only,
    opened,
)
from tests.integration.transport_servers import (
    TLS,
    Connection,
    Server,
    answers,
    patch,
    serving,
    until,
)

pytestmark = pytest.mark.real_time

OWN = b'HTTP/1.1 200 OK\r\nETag: "own"\r\nContent-Length: 2\r\n\r\n{}'
READ_SIZE = 65_536
"""Bytes that httpcore asks for at a time."""


def answer(status: str, content: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Return a response with a Content-Length."""
    size = len(content) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


STRAYS = {
    "200": answer("200 OK", b'{"version": 9}', 'ETag: "stray"'),
    "401": answer("401 Unauthorized", b"", 'ETag: "stray"'),
    "409": answer("409 Conflict", b"{}", 'ETag: "stray"'),
    "500 that closes": answer("500 Oops", b"", 'ETag: "stray"', "Connection: close"),
    "204": b'HTTP/1.1 204 No Content\r\nETag: "stray"\r\n\r\n',
    "200 after an empty line": b"\r\n" + answer("200 OK", b"", 'ETag: "stray"'),
    "200 after an interim response": b"HTTP/1.1 100 Continue\r\n\r\n"
    + answer("200 OK", b"", 'ETag: "stray"'),
    "two": answer("200 OK", b"{}", 'ETag: "stray"') * 2,
    "half a head": b'HTTP/1.1 200 OK\r\nETag: "stray"\r\nX-Note: ',
    "a head without its body": answer("200 OK", b"", 'ETag: "stray"', length=2),
    "garbage": b"garbage",
    "an empty line": b"\r\n",
}


def firsts(stray: bytes) -> dict[str, bytes]:
    """Return first responses, which the stray bytes follow or are a part of."""
    size = len(stray)
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    head = answer("200 OK", length=2 * READ_SIZE)
    return {
        "length": answer("200 OK", b"{}") + stray,
        "length 0": answer("200 OK") + stray,
        "twice the same length": answer("200 OK", b"{}", "Content-Length: 2") + stray,
        "chunked": chunked + b"\r\n" + chunks + stray,
        "chunked with a trailer": chunked + b"\r\n2\r\n{}\r\n0\r\nX-Note: 1\r\n\r\n" + stray,
        "chunked, and too short a length": chunked + b"Content-Length: 2\r\n\r\n" + chunks + stray,
        "chunked, and the length of all": chunked
        + b"Content-Length: %d\r\n\r\n" % (len(chunks) + size)
        + chunks
        + stray,
        "204": b"HTTP/1.1 204 No Content\r\n\r\n" + stray,
        "204 with its length": answer("204 No Content", stray),
        "205": answer("205 Reset Content") + stray,
        "205 with its length": answer("205 Reset Content", stray),
        "304 with its length": answer("304 Not Modified", stray),
        "gzip": answer("200 OK", gzip.compress(b"{}"), "Content-Encoding: gzip") + stray,
        "an error": answer("503 Busy", b"{}", "Retry-After: 1") + stray,
        "after an interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer("200 OK") + stray,
        "HTTP/1.0": answer("200 OK", b"{}", "Connection: keep-alive").replace(b"/1.1", b"/1.0")
        + stray,
        # Ends where httpcore ends a read.
        "two full reads": answer("200 OK", bytes(2 * READ_SIZE - len(head))) + stray,
    }


CRAFTED = {
    f"{first}, then {name}": content
    for name, stray in STRAYS.items()
    for first, content in firsts(stray).items()
}


class Crafted:
    """Serves the crafted responses: each at its path, and its own response at others."""

    def __init__(self, pieces: dict[str, tuple[bytes, bytes]]) -> None:
        self._pieces = list(pieces.values())
        self.sent = 0

    def has_sent(self, count: int) -> bool:
        return self.sent == count

    async def __call__(self, connection: Connection, server: Server) -> None:
        while request := await connection.request():
            server.requests.append(request)
            number = request.split(b" ")[1].removeprefix(b"/first/")
            if not number.isdigit():
                await connection.send(OWN)
                continue
            first, rest = self._pieces[int(number)]
            await connection.send(first)
            if rest:
                # The client has the response by now, and the connection is idle.
                await anyio.sleep(0.01)
                with contextlib.suppress(anyio.BrokenResourceError):
                    await connection.send(rest)
            self.sent += 1


@pytest.fixture(params=CASES, ids=name_of)
def case(request: pytest.FixtureRequest) -> Case:
    given: Case = request.param
    return given


@pytest.fixture
def anyio_backend(case: Case) -> tuple[str, dict[str, Any]]:
    return backend_of(case)


@pytest.fixture
async def transport(case: Case) -> AsyncIterator[Transport]:
    async with opened(case) as made:
        yield made


async def result_of(transport: Transport, request: Request) -> str:
    """Return the kind of the response, or the name of the error."""
    try:
        response = await transport.send(request, timeout=5)
    except (NotSentError, NoResponseError) as error:
        return type(error).__name__
    etag = response.headers.get("etag")
    return "own" if (response.status, etag) == (200, '"own"') else f"{response.status} {etag}"


@pytest.mark.quick("asyncio-httpx", "trio-httpx-client", "*-aiohttp")
async def test_what_comes_with_a_response_is_not_the_next_one(
    case: Case, transport: Transport
) -> None:
    results: dict[str, str] = {}
    crafted = Crafted({name: (content, b"") for name, content in CRAFTED.items()})
    async with serving(crafted) as server:
        for number, name in enumerate(CRAFTED):
            await result_of(transport, patch(server, f"/first/{number}"))
            results[name] = await result_of(transport, patch(server, "/second"))
    assert crafted.sent == len(CRAFTED)
    allowed = ("own", "NotSentError") if "traced" in case.kind else ("own",)
    assert {name: got for name, got in results.items() if got not in allowed} == {}


async def test_what_comes_on_an_idle_connection_is_not_the_next_response(
    case: Case, transport: Transport
) -> None:
    pieces = {name: (OWN, stray) for name, stray in STRAYS.items()}
    pieces["204, then its content"] = (b"HTTP/1.1 204 No Content\r\n\r\n", b"{}")
    pieces["205, then its content"] = (answer("205 Reset Content"), STRAYS["200"])
    results: dict[str, str] = {}
    crafted = Crafted(pieces)
    async with serving(crafted) as server:
        for number, name in enumerate(pieces):
            await result_of(transport, patch(server, f"/first/{number}"))
            await until(partial(crafted.has_sent, number + 1))
            results[name] = await result_of(transport, patch(server, "/second"))
    allowed = ("own", "NotSentError") if "traced" in case.kind else ("own",)
    assert {name: got for name, got in results.items() if got not in allowed} == {}


@pytest.mark.parametrize(
    "head",
    [
        answer("204 No Content", length=len(STRAYS["200"])),
        answer("205 Reset Content", length=2),
        answer("304 Not Modified", length=len(STRAYS["200"])),
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 90\r\n\r\n"
        b"2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["204", "205", "304", "204 chunked", "two lengths"],
)
async def test_a_response_that_announces_more_ends_the_connection(
    transport: Transport, head: bytes
) -> None:
    """The rest comes after the next request has left, where nothing else can tell it apart."""

    async def late(connection: Connection, server: Server) -> None:
        while request := await connection.request():
            server.requests.append(request)
            if len(server.requests) > 1:
                await connection.send(STRAYS["200"] if server.connections == 1 else OWN)
            elif head.startswith(b"HTTP/1.1 205"):
                await connection.send(head + b"{}")
            else:
                await connection.send(head)

    async with serving(late) as server:
        await result_of(transport, patch(server))
        await until(lambda: server.open == 0)
        assert await result_of(transport, patch(server)) == "own"


class ThreadedServer:
    """Sends a stray response when it is told to, whatever the event loop of the client does."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._due, self._sent, self._closed = (threading.Event() for _ in range(3))
        self._strays = [True]
        self._threads: list[threading.Thread] = []

    def send_stray(self, *, seen: bool) -> None:
        """Block the event loop until the stray response is in the buffer of its socket.

        Args:
            seen: Wait until another thread of the client has read it and closed the connection.
        """
        self._due.set()
        assert (self._closed if seen else self._sent).wait(10)

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            self._threads.append(thread)
        for thread in self._threads:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            while connection.recv(READ_SIZE):
                connection.sendall(OWN)
                if self._strays:
                    self._strays.clear()
                    self._due.wait(10)
                    connection.sendall(STRAYS["200"])
                    self._sent.set()
        if self._sent.is_set():
            self._closed.set()


@contextlib.contextmanager
def threaded_server() -> Iterator[ThreadedServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ThreadedServer(listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


async def test_what_the_event_loop_has_not_read_yet_is_not_the_next_response(
    case: Case, transport: Transport
) -> None:
    with threaded_server() as server:
        async with opened(case) as transport:
            assert await result_of(transport, patch(server.url)) == "own"
            server.send_stray(seen="pyreqwest" in case.kind)
            expected = "NotSentError" if "traced" in case.kind else "own"
            assert await result_of(transport, patch(server.url)) == expected
            assert await result_of(transport, patch(server.url)) == "own"


@only(TRUSTING)
async def test_what_comes_over_tls_is_not_the_next_response(case: Case) -> None:
    """Two TLS records come at once, and the first one has the whole response."""
    first = True

    async def babbles(connection: Connection, server: Server) -> None:
        nonlocal first
        while await connection.request():
            if first:
                connection.stream.extra(TLSAttribute.ssl_object).write(OWN)
            await connection.send(STRAYS["200"] if first else OWN)
            first = False

    async with (
        opened(case, trusts=trusting_context()) as transport,
        serving(babbles, server_context()) as server,
    ):
        assert await result_of(transport, patch(server)) == "own"
        allowed = ("own", "NotSentError") if "traced" in case.kind else ("own",)
        assert await result_of(transport, patch(server)) in allowed
        assert await result_of(transport, patch(server)) == "own"
        assert server.connections == 2


@only(TRUSTING)
async def test_a_connection_over_tls_is_reused(case: Case) -> None:
    async with (
        opened(case, trusts=trusting_context()) as transport,
        serving(answers(OWN), server_context()) as server,
    ):
        for _ in range(5):
            assert await result_of(transport, patch(server)) == "own"
        assert server.connections == 1


async def test_a_connection_with_large_responses_is_reused(transport: Transport) -> None:
    async with serving(answers(answer("200 OK", bytes(3 * READ_SIZE), 'ETag: "own"'))) as server:
        for _ in range(5):
            assert await result_of(transport, patch(server)) == "own"
        assert server.connections == 1


@only(LIBRARIES)
async def test_a_client_with_a_proxy(case: Case) -> None:
    first = True

    async def babbles(connection: Connection, server: Server) -> None:
        nonlocal first
        while await connection.request():
            await connection.send(OWN + STRAYS["200"] if first else OWN)
            first = False

    async with (
        serving(babbles) as proxy,
        LIBRARIES[case.kind].AsyncClient(proxy=proxy.url, verify=TLS) as client,
    ):
        transport = HttpxTransport(client)
        for _ in range(3):
            assert await result_of(transport, patch("http://tenant.invalid")) == "own"
        assert proxy.connections == 2


@only(LIBRARIES)
async def test_a_client_whose_event_hooks_read_the_response(case: Case) -> None:
    async def read(response: Any) -> None:
        await response.aread()

    first = True

    async def babbles(connection: Connection, server: Server) -> None:
        nonlocal first
        while await connection.request():
            await connection.send(OWN + STRAYS["200"] if first else OWN)
            first = False

    library = LIBRARIES[case.kind]
    async with (
        library.AsyncClient(event_hooks={"response": [read]}, verify=TLS) as client,
        serving(babbles) as server,
    ):
        transport = HttpxTransport(client)
        for _ in range(3):
            assert await result_of(transport, patch(server)) == "own"
        assert server.connections == 2
