"""What `HttpxTransport` makes of servers that behave and of servers that do not, over sockets."""

from __future__ import annotations

import gzip
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpx
import httpx2
import pytest

from cognigy_async.errors import NoResponseError, NotSentError, UpdateError
from cognigy_async.messages import Request, Response
from cognigy_async.transports.httpx import HttpxTransport, _TimeLeft

pytestmark = pytest.mark.real_time

CANARY = "tok-CANARY-5f2b"
CONTENT = b'{"session": {"a": 1}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: 7\r\n\r\n{}"
TLS = httpx.create_ssl_context()
LIBRARIES = {"httpx": httpx, "httpx2": httpx2}

Client = httpx.AsyncClient | httpx2.AsyncClient


class Connection:
    """One connection of the server: reads whole requests, writes what a test wants."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._unread = b""

    async def request(self) -> bytes:
        """The next request, head and content; empty at the end of the connection."""
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
    """Where it listens, and what it has seen."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0


@asynccontextmanager
async def serving(
    behaviour: Callable[[Connection, Server], Awaitable[None]],
) -> AsyncIterator[Server]:
    """A server in which `behaviour` has each connection; it is closed when that returns."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))

    async def handle(stream: anyio.abc.SocketStream) -> None:
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
    """A behaviour: each request is answered by these bytes; None of them keeps it open."""

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


@pytest.fixture(params=["own", "httpx", "httpx2"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[HttpxTransport]:
    if request.param == "own":
        transport = HttpxTransport()
        yield transport
        await transport.aclose()
        return
    # What its owner has set must not reach a request.
    library = LIBRARIES[request.param]
    async with library.AsyncClient(
        auth=("somebody", "else"), follow_redirects=True, params={"page": "3"}, verify=TLS
    ) as client:
        transport = HttpxTransport(client)
        yield transport
        await transport.aclose()
        assert not client.is_closed


def patch(server: Server | str, path: str = "/state", **headers: str) -> Request:
    base = server if isinstance(server, str) else server.url
    return Request("PATCH", base + path, {"authorization": f"Bearer {CANARY}", **headers}, CONTENT)


async def failure(transport: HttpxTransport, request: Request, timeout: float = 5) -> UpdateError:
    """The exception of a send, which must not give away the token."""
    with pytest.raises((NotSentError, NoResponseError)) as caught:
        await transport.send(request, timeout=timeout)
    error = caught.value
    assert not leaks(error)
    return error


def leaks(error: BaseException) -> list[str]:
    """Paths of attributes by which the token can be reached from an exception."""
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
        if frame.f_globals["__name__"].startswith(("cognigy_async", "httpx", "httpcore")):
            names = {name: value for name, value in frame.f_locals.items() if name != "self"}
            walk(names, f"locals of {frame.f_code.co_name}")
    return found


class TestAnswers:
    async def test_status_headers_and_content_come_back(self, transport: HttpxTransport) -> None:
        answer = (
            b"HTTP/1.1 409 Conflict\r\nETag: W/x\r\nX-Note: a\r\nx-note: b\r\n"
            b"Content-Length: 4\r\n\r\nbody"
        )
        async with serving(answers(answer)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert (response.status, response.content) == (409, b"body")
        assert response.headers["etag"] == "W/x"
        assert response.headers["x-note"] == "a, b"

    async def test_the_request_arrives_as_it_was_given(self, transport: HttpxTransport) -> None:
        path = "/dialogs/%2E%2E/%2Fx%20%C3%A9/state?q=%2B"
        async with serving(answering) as server:
            await transport.send(patch(server, path, **{"idempotency-key": "k-1"}), timeout=5)
        head, _, content = server.requests[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines[1:]}
        assert lines[0] == f"PATCH {path} HTTP/1.1"
        assert content == CONTENT
        assert headers["host"] == server.url.removeprefix("http://")
        assert headers["authorization"] == f"Bearer {CANARY}"
        assert headers["idempotency-key"] == "k-1"
        assert headers["content-length"] == str(len(CONTENT))
        assert len(headers) == len(lines) - 1, "no header twice"

    async def test_a_read_has_no_content(self, transport: HttpxTransport) -> None:
        async with serving(answering) as server:
            await transport.send(Request("GET", f"{server.url}/state", {}), timeout=5)
        assert server.requests[0].startswith(b"GET /state HTTP/1.1\r\n")
        assert b"content-length" not in server.requests[0].lower()

    async def test_a_compressed_answer_is_decoded(self, transport: HttpxTransport) -> None:
        content = gzip.compress(b'{"version": 3}')
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        async with serving(answers(head % len(content) + content)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert response.content == b'{"version": 3}'
        assert b"gzip" in server.requests[0]

    async def test_a_chunked_answer_in_pieces_is_put_together(
        self, transport: HttpxTransport
    ) -> None:
        pieces = (b"HTTP/1.1 200 OK\r\nTransfer-", b"Encoding: chunked\r\n\r\n3\r", b"\n[1,\r\n")
        async with serving(answers(*pieces, b"2\r\n2]\r\n0\r\n\r\n")) as server:
            assert (await transport.send(patch(server), timeout=5)).content == b"[1,2]"

    async def test_a_preliminary_answer_is_passed_over(self, transport: HttpxTransport) -> None:
        async with serving(answers(b"HTTP/1.1 100 Continue\r\n\r\n", OK)) as server:
            assert (await transport.send(patch(server), timeout=5)).status == 200

    async def test_an_early_refusal_of_a_large_request_is_heard(
        self, transport: HttpxTransport
    ) -> None:
        async def refuses(connection: Connection, server: Server) -> None:
            await connection.stream.receive(1000)
            await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await connection.until_closed()

        async with serving(refuses) as server:
            request = Request("PATCH", server.url, {}, b"x" * 1_000_000)
            assert (await transport.send(request, timeout=5)).status == 413

    @pytest.mark.parametrize("location", [b"/elsewhere", b"https://[bad", b"http://x.invalid/"])
    async def test_a_redirect_is_an_answer(
        self, transport: HttpxTransport, location: bytes
    ) -> None:
        answer = b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
        async with serving(answers(answer)) as server:
            try:
                response = await transport.send(patch(server), timeout=5)
            except NoResponseError:
                # A client of the user's looks at where it leads, and may not understand it.
                assert transport._client is not None
                assert location == b"https://[bad"
            else:
                assert response.status == 307
        assert len(server.requests) == 1

    async def test_cookies_are_not_kept(self, transport: HttpxTransport) -> None:
        answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1; Path=/\r\nContent-Length: 0\r\n\r\n"
        async with serving(answers(answer)) as server:
            await transport.send(patch(server), timeout=5)
            await transport.send(patch(server), timeout=5)
        assert len(server.requests) == 2
        assert b"cookie" not in server.requests[1].lower()

    async def test_a_connection_is_used_again(self, transport: HttpxTransport) -> None:
        async with serving(answering) as server:
            for _ in range(5):
                await transport.send(patch(server), timeout=5)
        assert (server.connections, len(server.requests)) == (1, 5)

    async def test_a_connection_that_the_server_closed_is_not(
        self, transport: HttpxTransport
    ) -> None:
        async with serving(answers_and_closes(OK)) as server:
            for _ in range(3):
                assert (await transport.send(patch(server), timeout=5)).status == 200
                await until(lambda: server.open == 0)
        assert (server.connections, len(server.requests)) == (3, 3)

    async def test_many_at_once(self, transport: HttpxTransport) -> None:
        async def slow(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                await until(lambda: len(server.requests) == 60)
                await connection.send(OK)

        async with serving(slow) as server, anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(lambda: transport.send(patch(server), timeout=20))
        assert server.connections == 60


class TestNothingWasSent:
    async def test_nobody_listens(self, transport: HttpxTransport, free_tcp_port: int) -> None:
        error = await failure(transport, patch(f"http://127.0.0.1:{free_tcp_port}"))
        assert isinstance(error, NotSentError)
        assert f"127.0.0.1:{free_tcp_port}: Connection refused" in str(error)
        assert type(error.__cause__).__name__ == "ConnectError"

    @pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.invalid"])
    async def test_the_name_is_not_known(self, transport: HttpxTransport, host: str) -> None:
        error = await failure(transport, patch(f"http://{host}:8080"))
        assert isinstance(error, NotSentError)
        assert host in str(error)

    async def test_no_tls(self, transport: HttpxTransport) -> None:
        async def plain(connection: Connection, server: Server) -> None:
            await connection.stream.receive()
            await connection.send(b"HTTP/1.1 400 Bad\r\n\r\n")

        async with serving(plain) as server:
            error = await failure(transport, patch(server.url.replace("http:", "https:")))
        assert isinstance(error, NotSentError)
        assert "SSL" in str(error)

    async def test_a_server_that_never_completes_tls(self, transport: HttpxTransport) -> None:
        async def silent(connection: Connection, server: Server) -> None:
            await connection.until_closed()

        async with serving(silent) as server:
            error = await failure(transport, patch(server.url.replace("http:", "https:")), 0.6)
        assert isinstance(error, NotSentError)

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://127.0.0.1/",
            "/relative",
            "http://",
            "http://[::1",
            "http://127.0.0.1:99999/",
            "h\n",
        ],
    )
    async def test_the_url_is_none(self, transport: HttpxTransport, url: str) -> None:
        assert isinstance(await failure(transport, patch(url, "")), NotSentError)

    @pytest.mark.parametrize(
        "headers", [{"x-note": "a\nb: c"}, {"x-note": "é\ud800"}, {"a b": "c"}], ids=ascii
    )
    async def test_a_header_is_none(
        self, transport: HttpxTransport, headers: dict[str, str]
    ) -> None:
        async with serving(answering) as server:
            headers = {name: value + CANARY for name, value in headers.items()}
            assert isinstance(await failure(transport, patch(server, **headers)), NotSentError)
        assert server.requests == []

    async def test_what_is_wrong_with_a_header_is_said_without_it(
        self, transport: HttpxTransport
    ) -> None:
        async with serving(answering) as server:
            error = await failure(transport, patch(server, **{"x-note": f"{CANARY}\n"}))
        assert "the URL or a header is not valid in HTTP" in str(error)

    async def test_user_and_password_of_an_url_are_not_told(
        self, transport: HttpxTransport, free_tcp_port: int
    ) -> None:
        error = await failure(transport, patch(f"http://me:{CANARY}@127.0.0.1:{free_tcp_port}"))
        assert f"to 127.0.0.1:{free_tcp_port}" in str(error)

    async def test_the_transport_is_closed(self, transport: HttpxTransport) -> None:
        async with serving(answering) as server:
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
            await transport.aclose()
            error = await failure(transport, patch(server))
        assert isinstance(error, NotSentError)
        assert "closed" in str(error)
        assert len(server.requests) == 1


class TestItMayHaveBeenApplied:
    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (b"", "disconnected"),
            (b"HTTP/1.1 200 OK\r\nContent-", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", ""),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n{}", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", ""),
            (f"garbage {CANARY}\r\n\r\n".encode(), ""),
            (f"HTTP/1.1 200 OK\r\nno header {CANARY}\r\n\r\n".encode(), ""),
        ],
    )
    async def test_no_whole_answer(
        self, transport: HttpxTransport, answer: bytes, told: str
    ) -> None:
        async with serving(answers_and_closes(answer)) as server:
            error = await failure(transport, patch(server))
        assert isinstance(error, NoResponseError)
        assert not error.timed_out
        assert server.url.removeprefix("http://") in str(error)
        assert told in str(error)
        assert len(server.requests) == 1, "not repeated"

    async def test_the_connection_is_reset(self, transport: HttpxTransport) -> None:
        async def resets(connection: Connection, server: Server) -> None:
            await connection.stream.receive(1)
            # Closed with unread data, which the peer is told by a reset.

        async with serving(resets) as server:
            error = await failure(transport, patch(server))
        assert isinstance(error, NoResponseError)
        assert not error.timed_out

    async def test_it_is_closed_before_the_request_is_read(self, transport: HttpxTransport) -> None:
        async def closes(connection: Connection, server: Server) -> None:
            pass

        async with serving(closes) as server:
            # By the time that the system says so, a part may have left, or none.
            await failure(transport, patch(server))

    async def test_no_answer_in_time(self, transport: HttpxTransport) -> None:
        async with serving(answers()) as server:
            with anyio.fail_after(2):
                error = await failure(transport, patch(server), timeout=0.1)
            assert isinstance(error, NoResponseError)
            assert error.timed_out
            assert "within 0.1 s" in str(error)
            await until(lambda: server.open == 0)

    @pytest.mark.parametrize(
        "start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"]
    )
    async def test_an_answer_that_trickles_in_is_cut_off(
        self, transport: HttpxTransport, start: bytes
    ) -> None:
        async def trickles(connection: Connection, server: Server) -> None:
            await connection.request()
            await connection.send(start)
            while True:
                await anyio.sleep(0.02)
                await connection.send(b"x")

        async with serving(trickles) as server:
            begun = anyio.current_time()
            error = await failure(transport, patch(server), timeout=0.2)
            assert 0.1 < anyio.current_time() - begun < 1
        assert isinstance(error, NoResponseError)
        assert error.timed_out

    async def test_the_time_holds_for_the_whole_and_not_for_each_step(
        self, transport: HttpxTransport
    ) -> None:
        async def dawdles(connection: Connection, server: Server) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n")
            await anyio.sleep(0.15)
            await connection.send(b"Content-Length: 2\r\n\r\n")
            await anyio.sleep(0.15)
            await connection.send(b"{}")

        async with serving(dawdles) as server:
            begun = anyio.current_time()
            assert isinstance(await failure(transport, patch(server), 0.2), NoResponseError)
            assert anyio.current_time() - begun < 0.25
            assert (await transport.send(patch(server), timeout=2)).content == b"{}"

    async def test_the_time_that_an_operation_is_given_shrinks(self) -> None:
        # So that the library itself ends a request, in order, and not a cancellation.
        left = _TimeLeft(1.0)
        await anyio.sleep(0.05)
        assert 0.5 < left.get("read") < 0.96
        assert left.get("connect") < 0.48
        assert _TimeLeft(0.0).get("write") == 0.0

    async def test_a_server_that_does_not_read_a_large_request(
        self, transport: HttpxTransport
    ) -> None:
        async def deaf(connection: Connection, server: Server) -> None:
            await anyio.sleep_forever()

        async with serving(deaf) as server:
            request = Request("PATCH", server.url, {}, b"x" * 30_000_000)
            error = await failure(transport, request, timeout=0.3)
        assert isinstance(error, NoResponseError)
        assert error.timed_out

    async def test_what_is_under_way_when_the_transport_closes(
        self, transport: HttpxTransport
    ) -> None:
        if transport._client is not None:
            pytest.skip("a client of the user's stays open")
        async with serving(answers()) as server, anyio.create_task_group() as group:

            async def close() -> None:
                await until(lambda: bool(server.requests))
                await transport.aclose()

            group.start_soon(close)
            assert isinstance(await failure(transport, patch(server)), NoResponseError)


class TestConnectionsStayHealthy:
    async def test_after_random_cancellation(self, transport: HttpxTransport) -> None:
        chance = random.Random(5)

        async def dawdles(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                if chance.random() < 0.5:
                    await anyio.sleep(chance.random() * 0.004)
                await connection.send(OK[:30])
                if chance.random() < 0.3:
                    await anyio.sleep(0.001)
                await connection.send(OK[30:])

        async def cut_off(server: Server, seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await transport.send(patch(server), timeout=5)

        async with serving(dawdles) as server:
            for _ in range(200):
                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(cut_off, server, chance.random() * 0.006)
            await all_can_be_served(transport, server)

    @pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
    async def test_after_cancellation_at_each_step(
        self, warm: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = HttpxTransport._built
        events: list[str] = []
        stop_at = 1_000
        scope = anyio.CancelScope()

        async def trace(event: str, _: object) -> None:
            events.append(event)
            if len(events) > stop_at:
                scope.cancel()

        def traced(self: HttpxTransport, request: Request, body: Any) -> httpx.Request:
            outgoing = build(self, request, body)
            outgoing.extensions["trace"] = trace
            return outgoing

        transport = HttpxTransport()
        async with serving(answering) as server:
            monkeypatch.setattr(HttpxTransport, "_built", traced)
            await transport.send(patch(server), timeout=5)
            steps = len(events)
            assert steps > 10
            for step in range(steps + 1):
                stop_at = step
                if not warm:
                    await transport.aclose()
                    transport = HttpxTransport()
                events.clear()
                with anyio.CancelScope() as scope:
                    await transport.send(patch(server), timeout=5)
            monkeypatch.undo()
            await all_can_be_served(transport, server)
        await transport.aclose()

    async def test_others_go_on_when_one_is_cancelled(self) -> None:
        transport = HttpxTransport()

        async def dawdles(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                await anyio.sleep(0.05)
                await connection.send(OK)

        async with serving(dawdles) as server, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: transport.send(patch(server), timeout=5))
            await until(lambda: len(server.requests) == 3)
            with anyio.move_on_after(0.01):
                await transport.send(patch(server), timeout=5)
            await until(lambda: server.open == 0)
        await transport.aclose()

    async def test_after_timeouts(self, transport: HttpxTransport) -> None:
        silent = True

        async def moody(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                if not silent:
                    await connection.send(OK)

        async with serving(moody) as server:
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(failure, transport, patch(server), 0.1)
            silent = False
            await all_can_be_served(transport, server)


async def all_can_be_served(transport: HttpxTransport, server: Server) -> None:
    """No connection is lost, and none is left behind."""
    at_once = 20
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(lambda: transport.send(patch(server), timeout=10))
    if transport._client is None:
        await until(lambda: server.open <= at_once)


async def until(condition: Callable[[], bool]) -> None:
    """What the other side of a socket does has no event to wait for."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


class TestAClientOfTheUsers:
    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_its_default_headers_go_behind_those_of_the_request(self, library: str) -> None:
        headers = {"X-Proxy": "p", "Authorization": "Basic no", "User-Agent": "me"}
        async with (
            LIBRARIES[library].AsyncClient(headers=headers, verify=TLS) as client,
            serving(answering) as server,
        ):
            await HttpxTransport(client).send(patch(server), timeout=5)
        head = server.requests[0].lower()
        assert b"x-proxy: p\r\n" in head
        assert b"user-agent: me\r\n" in head
        assert head.count(b"authorization:") == 1
        assert b"basic" not in head

    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_a_closed_one_is_an_error(self, library: str) -> None:
        client = LIBRARIES[library].AsyncClient(verify=TLS)
        await client.aclose()
        error = await failure(HttpxTransport(client), patch("http://127.0.0.1:1"))
        assert isinstance(error, NotSentError)
        assert "is closed" in str(error)

    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_a_mock_may_say_that_nothing_was_sent(self, library: str) -> None:
        module = LIBRARIES[library]

        def refuse(request: Any) -> Any:
            assert request.content == CONTENT
            raise module.ConnectError("refused")

        async with module.AsyncClient(transport=module.MockTransport(refuse)) as client:
            error = await failure(HttpxTransport(client), patch("http://h"))
        assert isinstance(error, NotSentError)

    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_a_translated_claim_is_not_believed_once_the_content_has_left(
        self, library: str
    ) -> None:
        module = LIBRARIES[library]

        async def disconnect(request: Any) -> Any:
            await request.aread()
            raise module.ConnectTimeout("disconnected") from OSError("connection lost")

        async with module.AsyncClient(transport=module.MockTransport(disconnect)) as client:
            error = await failure(HttpxTransport(client), patch("http://h"))
        assert isinstance(error, NoResponseError)

    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_an_error_of_its_hooks_tells_no_secret(self, library: str) -> None:
        async def hook(request: Any) -> None:
            raise RuntimeError(f"broken by {request.headers!r} {CANARY}")

        module = LIBRARIES[library]
        async with module.AsyncClient(
            transport=module.MockTransport(lambda request: module.Response(200)),
            event_hooks={"response": [hook]},
        ) as client:
            error = await failure(HttpxTransport(client), patch("http://h"))
        assert "RuntimeError" in str(error)

    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_its_hooks_may_read_the_answer(self, library: str) -> None:
        async def read(response: Any) -> None:
            await response.aread()

        async with (
            LIBRARIES[library].AsyncClient(event_hooks={"response": [read]}, verify=TLS) as client,
            serving(answering) as server,
        ):
            response = await HttpxTransport(client).send(patch(server), timeout=5)
        assert response.content == b"{}"

    @pytest.mark.parametrize("client", [object(), httpx.Client(verify=TLS), httpx.AsyncClient])
    def test_anything_else_is_refused(self, client: Any) -> None:
        with pytest.raises(TypeError, match="AsyncClient"):
            HttpxTransport(client)

    def test_a_client_may_be_of_a_class_of_their_own(self) -> None:
        class Theirs(httpx2.AsyncClient):
            pass

        assert "httpx2" in repr(HttpxTransport(Theirs()))


def test_it_is_made_outside_of_an_event_loop_and_opens_nothing() -> None:
    assert repr(HttpxTransport()) == "<HttpxTransport with its own connections>"


async def test_a_response_says_nothing_of_its_content() -> None:
    assert repr(Response(200, {"x": CANARY}, CANARY.encode())) == "<Response 200 15 bytes>"
