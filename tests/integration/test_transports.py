"""Every transport with well-behaved and misbehaving servers, over sockets.

The expectations are the same for all of them, so that one may take the place of another.
"""

from __future__ import annotations

import gzip
import random
import socket
import weakref
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from cognigy_async import (
    AiohttpTransport,
    ConfigurationError,
    HttpxTransport,
    NoResponseError,
    NotSentError,
    PyreqwestTransport,
    Request,
    Response,
    Transport,
)
from cognigy_async.retry import retry_after
from tests.integration.tls import server_context, trusting_context
from tests.integration.transport_cases import (
    AIOHTTP,
    CASES,
    CONNECT_TIMEOUT,
    HTTPX,
    LIBRARIES,
    OWNED,
    THEIRS,
    TRUSTING,
    Case,
    backend_of,
    name_of,
    only,
    opened,
)
from tests.integration.transport_servers import (
    CANARY,
    CONTENT,
    OK,
    Connection,
    Server,
    all_can_be_served,
    answering,
    answers,
    answers_and_closes,
    failure,
    patch,
    serving,
    until,
)

pytestmark = pytest.mark.real_time

GZIPPED = gzip.compress(b"{}", mtime=0)


def raw_deflate(content: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(content) + machine.flush()


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


@pytest.fixture
def owned(case: Case) -> bool:
    """Whether the connections belong to the transport."""
    return case.kind in OWNED


class TestAnswers:
    async def test_status_headers_and_content_are_returned(self, transport: Transport) -> None:
        answer = (
            b"HTTP/1.1 409 Conflict\r\nETag: W/x\r\nX-Note: a\r\nx-note: b\r\n"
            b"Content-Length: 4\r\n\r\nbody"
        )
        async with serving(answers(answer)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert (response.status, response.content) == (409, b"body")
        assert response.headers["etag"] == "W/x"
        assert response.headers["x-note"] == "a, b"

    async def test_equal_headers_name_one_moment(self, transport: Transport) -> None:
        date, later = "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:40 GMT"
        for value in ("40", later):
            lines = [f"Date: {date}", f"Retry-After: {value}"] * 2
            head = ["HTTP/1.1 429 Too Many Requests", *lines, "Content-Length: 0", "", ""]
            async with serving(answers("\r\n".join(head).encode())) as server:
                response = await transport.send(patch(server), timeout=5)
            assert retry_after(response.headers, 0.0) == 40

    async def test_the_request_arrives_as_it_was_given(self, transport: Transport) -> None:
        path = "/dialogs/%2E%2E%2Fx%20%C3%A9/state?q=%2B"
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

    @pytest.mark.parametrize("segment", ["%2E%2E", "%2e"])
    async def test_a_segment_of_dots_is_sent_as_it_is_or_not_at_all(
        self, case: Case, transport: Transport, segment: str
    ) -> None:
        path = f"/dialogs/{segment}/state"
        async with serving(answering) as server:
            if case.kind == "pyreqwest":
                assert isinstance(await failure(transport, patch(server, path)), NotSentError)
                assert server.requests == []
            else:
                await transport.send(patch(server, path), timeout=5)
                assert server.requests[0].startswith(f"PATCH {path} HTTP/1.1".encode())

    async def test_user_and_password_of_a_url_are_not_sent(self, transport: Transport) -> None:
        async with serving(answering) as server:
            url = server.url.replace("//", "//me:word@") + "/state?to=a@b"
            await transport.send(Request("PATCH", url, {}, CONTENT), timeout=5)
        assert server.requests[0].startswith(b"PATCH /state?to=a@b HTTP/1.1\r\n")
        assert b"authorization" not in server.requests[0].lower()

    async def test_a_read_has_no_content(self, transport: Transport) -> None:
        async with serving(answering) as server:
            await transport.send(Request("GET", f"{server.url}/state", {}), timeout=5)
        assert server.requests[0].startswith(b"GET /state HTTP/1.1\r\n")
        assert b"content-length" not in server.requests[0].lower()

    async def test_a_compressed_response_is_decoded(self, transport: Transport) -> None:
        content = gzip.compress(b'{"version": 3}')
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        async with serving(answers(head % len(content) + content)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert response.content == b'{"version": 3}'
        assert b"gzip" in server.requests[0]

    async def test_a_chunked_response_in_pieces_is_joined(self, transport: Transport) -> None:
        pieces = (b"HTTP/1.1 200 OK\r\nTransfer-", b"Encoding: chunked\r\n\r\n3\r", b"\n[1,\r\n")
        async with serving(answers(*pieces, b"2\r\n2]\r\n0\r\n\r\n")) as server:
            assert (await transport.send(patch(server), timeout=5)).content == b"[1,2]"

    async def test_an_interim_response_is_skipped(self, transport: Transport) -> None:
        async with serving(answers(b"HTTP/1.1 100 Continue\r\n\r\n", OK)) as server:
            assert (await transport.send(patch(server), timeout=5)).status == 200

    @pytest.mark.parametrize("deflated", [zlib.compress, raw_deflate], ids=["zlib", "raw"])
    async def test_both_formats_called_deflate_are_decoded(
        self, transport: Transport, deflated: Callable[[bytes], bytes]
    ) -> None:
        content = deflated(b'{"version": 3}')
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
        async with serving(answers(head % len(content) + content)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert response.content == b'{"version": 3}'

    async def test_a_response_that_ends_with_the_connection(self, transport: Transport) -> None:
        async with serving(answers_and_closes(b"HTTP/1.1 200 OK\r\n\r\n{}")) as server:
            assert (await transport.send(patch(server), timeout=5)).content == b"{}"

    @only((*HTTPX, "pyreqwest"))
    async def test_a_length_that_is_repeated(self, transport: Transport) -> None:
        for lengths in (b"2\r\nContent-Length: 2", b"2, 2"):
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n{}" % lengths
            async with serving(answers(answer)) as server:
                assert (await transport.send(patch(server), timeout=5)).content == b"{}"

    async def test_a_response_byte_by_byte(self, transport: Transport) -> None:
        async with serving(answers(*(bytes([byte]) for byte in OK))) as server:
            for _ in range(2):
                assert (await transport.send(patch(server), timeout=5)).content == b"{}"
        assert server.connections == 1

    async def test_long_headers(self, transport: Transport) -> None:
        answer = OK.replace(b"ETag: 7", b"ETag: 7\r\nX-Note: " + b"x" * 30_000)
        async with serving(answers(answer)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert len(response.headers["x-note"]) == 30_000

    @only(AIOHTTP)
    async def test_a_long_first_line(self, transport: Transport) -> None:
        answer = OK.replace(b"200 OK", b"200 " + b"x" * 30_000)
        async with serving(answers(answer)) as server:
            assert (await transport.send(patch(server), timeout=5)).status == 200

    @only(AIOHTTP)
    async def test_a_status_below_100_is_not_an_interim_response(
        self, transport: Transport
    ) -> None:
        async with serving(answers(OK.replace(b"200", b"099"))) as server:
            assert (await transport.send(patch(server), timeout=5)).status == 99

    async def test_several_interim_responses_are_skipped(self, transport: Transport) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        async with serving(answers(b"HTTP/1.1 100 Continue\r\n\r\n", early, early, OK)) as server:
            assert (await transport.send(patch(server), timeout=5)).headers["etag"] == "7"

    @only(TRUSTING)
    async def test_tls(self, case: Case) -> None:
        async with (
            opened(case, trusts=trusting_context()) as transport,
            serving(answering, server_context()) as server,
        ):
            for _ in range(2):
                assert (await transport.send(patch(server), timeout=5)).status == 200
        assert (server.connections, len(server.requests)) == (1, 2)

    async def test_an_early_response_to_a_large_request_is_returned(
        self, transport: Transport
    ) -> None:
        async def refuses(connection: Connection, server: Server) -> None:
            await connection.stream.receive(1000)
            await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await connection.until_closed()

        async with serving(refuses) as server:
            request = Request("PATCH", server.url, {}, b"x" * 1_000_000)
            assert (await transport.send(request, timeout=5)).status == 413

    @pytest.mark.parametrize("location", [b"/elsewhere", b"https://[bad", b"http://x.invalid/"])
    async def test_a_redirect_is_returned(
        self, case: Case, transport: Transport, location: bytes
    ) -> None:
        answer = b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
        async with serving(answers(answer)) as server:
            try:
                response = await transport.send(patch(server), timeout=5)
            except NoResponseError:
                # A given client parses the location, and may fail.
                assert case.kind in LIBRARIES
                assert location == b"https://[bad"
            else:
                assert response.status == 307
        assert len(server.requests) == 1

    async def test_cookies_are_not_kept(self, transport: Transport) -> None:
        answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1; Path=/\r\nContent-Length: 0\r\n\r\n"
        async with serving(answers(answer)) as server:
            # Some libraries keep no cookies for an IP address.
            url = server.url.replace("127.0.0.1", "localhost")
            await transport.send(patch(url), timeout=5)
            await transport.send(patch(url), timeout=5)
        assert len(server.requests) == 2
        assert b"cookie" not in server.requests[1].lower()

    async def test_a_connection_is_reused(self, transport: Transport) -> None:
        async with serving(answering) as server:
            for _ in range(5):
                await transport.send(patch(server), timeout=5)
        assert (server.connections, len(server.requests)) == (1, 5)

    async def test_a_connection_that_the_server_closed_is_not_reused(
        self, transport: Transport
    ) -> None:
        async with serving(answers_and_closes(OK)) as server:
            for _ in range(3):
                assert (await transport.send(patch(server), timeout=5)).status == 200
                await until(lambda: server.open == 0)
                # The event loop notices it in one of its next iterations.
                await anyio.sleep(0.02)
        assert (server.connections, len(server.requests)) == (3, 3)

    async def test_many_at_once(self, transport: Transport, case: Case) -> None:
        async def slow(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                await until(lambda: len(server.requests) == 60)
                await connection.send(OK)

        async with serving(slow) as server:
            for _ in range(3):
                server.requests.clear()
                async with anyio.create_task_group() as group:
                    for _ in range(60):
                        group.start_soon(lambda: transport.send(patch(server), timeout=20))
        # The pools of the others may take a connection for free that a request has just got.
        most = 60 if case.kind in ("httpx", "aiohttp") else 180
        assert 60 <= server.connections <= most


class TestNothingWasSent:
    async def test_connection_refused(self, transport: Transport, free_tcp_port: int) -> None:
        error = await failure(transport, patch(f"http://127.0.0.1:{free_tcp_port}"))
        assert isinstance(error, NotSentError)
        assert f"127.0.0.1:{free_tcp_port}: Connection refused" in str(error)
        assert error.__cause__ is not None

    @pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.invalid"])
    async def test_an_unknown_host_name(self, transport: Transport, host: str) -> None:
        error = await failure(transport, patch(f"http://{host}:8080"))
        assert isinstance(error, NotSentError)
        assert host in str(error)

    async def test_no_tls(self, transport: Transport) -> None:
        async def plain(connection: Connection, server: Server) -> None:
            await connection.stream.receive()
            await connection.send(b"HTTP/1.1 400 Bad\r\n\r\n")

        async with serving(plain) as server:
            error = await failure(transport, patch(server.url.replace("http:", "https:")))
        assert isinstance(error, NotSentError)
        assert "SSL" in str(error)

    async def test_a_certificate_that_is_not_trusted(self, transport: Transport) -> None:
        async with serving(answering, server_context()) as server:
            error = await failure(transport, patch(server))
        assert isinstance(error, NotSentError)
        assert "certificate" in str(error).lower()
        assert server.requests == []

    @pytest.mark.quick("*-PATCH")
    @pytest.mark.parametrize("method", ["PATCH", "GET"])
    async def test_no_connection_in_time(
        self, case: Case, transport: Transport, method: str
    ) -> None:
        with ExitStack() as queue, socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # Linux drops connections beyond the backlog, so that connecting takes for ever.
            with suppress(TimeoutError):
                while True:
                    waiting = socket.create_connection(listener.getsockname(), timeout=0.2)
                    queue.enter_context(waiting)
            request = Request(method, url, {}, CONTENT if method == "PATCH" else b"")
            with anyio.fail_after(5):
                error = await failure(transport, request, timeout=1.0)
        assert isinstance(error, NotSentError)
        seconds = CONNECT_TIMEOUT if case.kind == "pyreqwest" else 1
        assert f"within {seconds} s" in str(error)

    @only(THEIRS)
    async def test_no_connection_is_free_in_time(self, case: Case) -> None:
        async with (
            serving(answers()) as server,
            opened(case, connections=1) as transport,
            anyio.create_task_group() as group,
        ):
            group.start_soon(failure, transport, patch(server), 1.0)
            await until(lambda: bool(server.requests))
            error = await failure(transport, patch(server), timeout=0.1)
            assert isinstance(error, NotSentError)
            assert "within 0.1 s" in str(error)
        assert len(server.requests) == 1

    async def test_a_server_that_never_completes_tls(self, transport: Transport) -> None:
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
    async def test_an_invalid_url(self, transport: Transport, url: str) -> None:
        assert isinstance(await failure(transport, patch(url, "")), NotSentError)

    @pytest.mark.parametrize(
        "headers", [{"x-note": "a\nb: c"}, {"x-note": "é\ud800"}, {"a b": "c"}], ids=ascii
    )
    async def test_an_invalid_header(self, transport: Transport, headers: dict[str, str]) -> None:
        async with serving(answering) as server:
            headers = {name: value + CANARY for name, value in headers.items()}
            assert isinstance(await failure(transport, patch(server, **headers)), NotSentError)
        assert server.requests == []

    async def test_an_error_about_a_header_does_not_show_it(self, transport: Transport) -> None:
        async with serving(answering) as server:
            error = await failure(transport, patch(server, **{"x-note": f"{CANARY}\n"}))
        assert "the URL or a header is not valid in HTTP" in str(error)

    async def test_user_and_password_of_a_url_are_not_shown(
        self, transport: Transport, free_tcp_port: int
    ) -> None:
        error = await failure(transport, patch(f"http://me:{CANARY}@127.0.0.1:{free_tcp_port}"))
        assert f"to 127.0.0.1:{free_tcp_port}" in str(error)

    async def test_the_url_token_of_a_message_is_not_shown(
        self, transport: Transport, free_tcp_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        headers = {"content-type": "application/json"}

        def message(origin: str) -> Request:
            url = f"{origin}/inject/{CANARY}"
            return Request("POST", url, headers, b"{}", False, SecretStr(CANARY))

        await failure(transport, message(f"http://127.0.0.1:{free_tcp_port}"))
        async with serving(answering) as server:
            await transport.send(message(server.url), timeout=5)
            assert server.requests[0].startswith(f"POST /inject/{CANARY} ".encode())
        async with serving(answers_and_closes(b"")) as server:
            await failure(transport, message(server.url))
        assert CANARY not in caplog.text

    @pytest.mark.parametrize("rest", ["/word@127.0.0.1/", "?word@127.0.0.1/"])
    async def test_a_password_that_breaks_a_url_is_not_shown(
        self, transport: Transport, rest: str
    ) -> None:
        error = await failure(transport, patch(f"http://me:{CANARY}{rest}", ""))
        assert isinstance(error, NotSentError)

    async def test_the_transport_is_closed(self, transport: Transport) -> None:
        async with serving(answering) as server:
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
            await transport.aclose()
            error = await failure(transport, patch(server))
        assert isinstance(error, NotSentError)
        assert "closed" in str(error)
        assert len(server.requests) == 1

    async def test_an_exception_is_in_no_reference_cycle(
        self, transport: Transport, free_tcp_port: int
    ) -> None:
        seen: weakref.ref[NotSentError] | None = None
        try:
            await transport.send(patch(f"http://127.0.0.1:{free_tcp_port}"), timeout=5)
        except NotSentError as error:
            seen = weakref.ref(error)
        assert seen is not None
        assert seen() is None


class TestItMayHaveBeenApplied:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"", "disconnected"),
            (b"HTTP/1.1 200 OK\r\nContent-", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n{}", ""),
            (f"garbage {CANARY}\r\n\r\n".encode(), ""),
            (f"HTTP/1.1 200 OK\r\nno header {CANARY}\r\n\r\n".encode(), ""),
        ],
    )
    async def test_an_incomplete_head(
        self, transport: Transport, answer: bytes, reason: str
    ) -> None:
        async with serving(answers_and_closes(answer)) as server:
            error = await failure(transport, patch(server))
        assert isinstance(error, NoResponseError)
        assert not error.timed_out
        assert server.url.removeprefix("http://") in str(error)
        assert reason in str(error)
        assert len(server.requests) == 1, "not repeated"

    async def test_the_connection_is_reset(self, transport: Transport) -> None:
        async def resets(connection: Connection, server: Server) -> None:
            await connection.stream.receive(1)
            # Closing with unread data sends a reset.

        async with serving(resets) as server:
            error = await failure(transport, patch(server))
        assert isinstance(error, NoResponseError)
        assert not error.timed_out

    async def test_the_server_closes_before_it_reads_the_request(
        self, transport: Transport
    ) -> None:
        async def closes(connection: Connection, server: Server) -> None:
            pass

        async with serving(closes) as server:
            # Either error is right: a part of the request may have been sent, or none.
            await failure(transport, patch(server))

    async def test_no_response_in_time(self, transport: Transport) -> None:
        async with serving(answers()) as server:
            with anyio.fail_after(5):
                error = await failure(transport, patch(server), timeout=0.5)
            assert isinstance(error, NoResponseError)
            assert error.timed_out
            assert "within 0.5 s" in str(error)
            await until(lambda: server.open == 0)

    async def test_a_head_that_trickles_in_times_out(self, transport: Transport) -> None:
        async def trickles(connection: Connection, server: Server) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n")
            while True:
                await anyio.sleep(0.02)
                await connection.send(b"x")

        async with serving(trickles) as server:
            begun = anyio.current_time()
            error = await failure(transport, patch(server), timeout=0.5)
            assert 0.4 < anyio.current_time() - begun < 2
        assert isinstance(error, NoResponseError)
        assert error.timed_out

    @only(AIOHTTP)
    async def test_endless_interim_responses_time_out(self, transport: Transport) -> None:
        async def postpones(connection: Connection, server: Server) -> None:
            server.requests.append(await connection.request())
            while True:
                await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

        async with serving(postpones) as server:
            error = await failure(transport, patch(server), timeout=0.5)
            assert isinstance(error, NoResponseError)
            assert error.timed_out
            await until(lambda: server.open == 0)

    @pytest.mark.quick("asyncio-httpx", "trio-httpx-client", "asyncio-aiohttp", "uvloop-aiohttp")
    async def test_the_timeout_holds_for_the_whole_request(self, transport: Transport) -> None:
        async def dawdles(connection: Connection, server: Server) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n")
            await anyio.sleep(0.4)
            await connection.send(b"Content-Length: 2\r\n")
            await anyio.sleep(0.4)
            await connection.send(b"\r\n{}")

        async with serving(dawdles) as server:
            begun = anyio.current_time()
            assert isinstance(await failure(transport, patch(server), 0.5), NoResponseError)
            assert anyio.current_time() - begun < 0.75
            assert (await transport.send(patch(server), timeout=5)).content == b"{}"

    async def test_a_server_that_does_not_read_a_large_request(self, transport: Transport) -> None:
        async def deaf(connection: Connection, server: Server) -> None:
            await anyio.sleep_forever()

        async with serving(deaf) as server:
            request = Request("PATCH", server.url, {}, b"x" * 30_000_000)
            error = await failure(transport, request, timeout=0.3)
        assert isinstance(error, NoResponseError)
        assert error.timed_out

    @only(OWNED)
    async def test_closing_the_transport_fails_requests_in_flight(
        self, transport: Transport
    ) -> None:
        async with serving(answers()) as server, anyio.create_task_group() as group:

            async def close() -> None:
                await until(lambda: bool(server.requests))
                await transport.aclose()

            group.start_soon(close)
            assert isinstance(await failure(transport, patch(server)), NoResponseError)

    async def test_endless_headers(self, transport: Transport) -> None:
        async def talks(connection: Connection, server: Server) -> None:
            server.requests.append(await connection.request())
            await connection.send(b"HTTP/1.1 200 OK\r\nX-Note: ")
            for _ in range(100):
                await connection.send(b"x" * 10_000)
            await connection.until_closed()

        async with serving(talks) as server:
            error = await failure(transport, patch(server))
            assert isinstance(error, NoResponseError)
            assert not error.timed_out
        assert len(server.requests) == 1

    @pytest.mark.parametrize("method", ["PATCH", "GET", "PUT", "DELETE", "POST"])
    @pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
    async def test_a_kept_connection_that_closes_under_a_request(
        self, transport: Transport, method: str, reads: bool
    ) -> None:
        async def fails_later(connection: Connection, server: Server) -> None:
            server.requests.append(await connection.request())
            await connection.send(OK)
            if reads:
                server.requests.append(await connection.request())
            else:
                server.requests.append(await connection.stream.receive(1))

        content = CONTENT if method in ("PATCH", "PUT", "POST") else b""
        async with serving(fails_later) as server:
            request = Request(method, f"{server.url}/state", {}, content)
            await transport.send(request, timeout=5)
            error = await failure(transport, request)
        assert isinstance(error, NoResponseError)
        assert len(server.requests) == 2, "not repeated"


class TestStatusAndHeadersHold:
    """Whatever becomes of the body, once the head is complete."""

    @pytest.mark.parametrize("status", [200, 429, 503])
    @pytest.mark.parametrize(
        ("rest", "problem"),
        [
            (b"Content-Length: 20\r\n\r\n{}", "cut off"),
            (b"Content-Length: 20\r\n\r\n", "cut off"),
            (b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}", "cut off"),
            (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "cut off"),
            (b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx", "not requested"),
            (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", "does not match"),
            (b"Content-Encoding: gzip\r\n\r\n" + GZIPPED[:-4], "does not match"),
            (b"Content-Encoding: deflate\r\n\r\n\x78\x9c nonsense", "does not match"),
            (b"Content-Encoding: gzip, gzip, gzip\r\n\r\nx", "too many times"),
        ],
        ids=[
            *("cut off", "none of it", "a cut chunk", "no last chunk"),
            *("br", "no gzip", "cut gzip", "no deflate", "three encodings"),
        ],
    )
    async def test_without_a_usable_body(
        self, case: Case, transport: Transport, status: int, rest: bytes, problem: str
    ) -> None:
        head = b"HTTP/1.1 %d Some Reason\r\nETag: 7\r\nRetry-After: 3\r\n" % status
        async with serving(answers_and_closes(head + rest)) as server:
            if case.kind == "pyreqwest" and rest.endswith(b"20\r\n\r\n"):
                # It waits for the beginning of the body, and drops the head if there is none.
                assert isinstance(await failure(transport, patch(server)), NoResponseError)
                return
            response = await transport.send(patch(server), timeout=5)
        assert (response.status, response.content) == (status, b"")
        assert response.headers["etag"] == "7"
        assert response.headers["retry-after"] == "3"
        assert response.body_error is not None
        assert problem in response.body_error
        assert len(server.requests) == 1

    async def test_the_connection_is_reset_in_the_body(self, transport: Transport) -> None:
        async def resets(connection: Connection, server: Server) -> None:
            await connection.stream.receive(1)
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{")
            await anyio.sleep(0.02)
            # Closing with unread data sends a reset.

        async with serving(resets) as server:
            response = await transport.send(patch(server), timeout=5)
        assert (response.status, response.content) == (200, b"")
        assert response.body_error is not None
        assert "cut off" in response.body_error

    # aiohttp loses the head with it.
    @only(HTTPX)
    @pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}zz0\r\n\r\n"])
    async def test_chunks_that_are_not_valid(self, transport: Transport, chunks: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with serving(answers(head + chunks)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert response.status == 200
        assert response.body_error is not None

    @pytest.mark.quick("asyncio-httpx-trickles", "trio-httpx2-*-trickles", "uvloop-*-trickles")
    @pytest.mark.parametrize("trickles", [True, False], ids=["trickles", "stops"])
    async def test_the_body_is_not_complete_in_time(
        self, transport: Transport, trickles: bool
    ) -> None:
        async def dawdles(connection: Connection, server: Server) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 429 Slow\r\nContent-Length: 2000\r\n\r\nx")
            while trickles:
                await anyio.sleep(0.02)
                await connection.send(b"x")
            await connection.until_closed()

        async with serving(dawdles) as server:
            begun = anyio.current_time()
            response = await transport.send(patch(server), timeout=2.0)
            assert anyio.current_time() - begun > 1.9
            assert response.status == 429
            assert response.body_error == "the body was not complete in time"
            await until(lambda: server.open == 0)

    @pytest.mark.parametrize("method", ["PATCH", "GET"])
    @pytest.mark.parametrize(
        "rest",
        [b"Content-Length: 20\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"],
        ids=["length", "chunked"],
    )
    async def test_a_cancellation_in_the_body_is_no_response(
        self, transport: Transport, method: str, rest: bytes
    ) -> None:
        async def stops(connection: Connection, server: Server) -> None:
            server.requests.append(await connection.request())
            await connection.send(b"HTTP/1.1 200 OK\r\n" + rest)
            await connection.until_closed()

        returned: list[Response] = []
        async with serving(stops) as server:
            request = Request(method, server.url, {}, CONTENT if method == "PATCH" else b"")
            with anyio.move_on_after(0.1) as scope:
                returned.append(await transport.send(request, timeout=5))
            assert scope.cancelled_caught
            assert returned == []
            await until(lambda: server.open == 0)

    async def test_a_gzip_file_of_several_members_is_read(self, transport: Transport) -> None:
        content = gzip.compress(b'{"ver') + gzip.compress(b'sion": 3}') + bytes(8)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        async with serving(answers(head % len(content) + content)) as server:
            response = await transport.send(patch(server), timeout=5)
        assert response.content == b'{"version": 3}'
        assert response.body_error is None


class TestAnswersAreBounded:
    LIMIT = 10_000

    @pytest.mark.parametrize(
        ("head", "content"),
        [
            (b"Content-Length: %d\r\n" % 10_001, b"x" * 10_001),
            (b"Content-Length: %d\r\n" % 10**30, b"x"),
            (b"Transfer-Encoding: chunked\r\n", b"2711\r\n" + b"x" * 10_001 + b"\r\n0\r\n\r\n"),
            (b"", b"x" * 10_001),
            (b"Content-Encoding: gzip\r\n", gzip.compress(bytes(5_000_000), mtime=0)),
            (b"Content-Encoding: deflate\r\n", zlib.compress(bytes(5_000_000))),
            (
                b"Content-Encoding: gzip, gzip\r\n",
                gzip.compress(gzip.compress(bytes(5_000_000), mtime=0), mtime=0),
            ),
        ],
        ids=["announced", "astronomic", "chunked", "unannounced", "gzip", "deflate", "twice"],
    )
    async def test_a_response_that_is_too_large(
        self, case: Case, head: bytes, content: bytes
    ) -> None:
        answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + content
        async with (
            serving(answers_and_closes(answer)) as server,
            opened(case, max_response_bytes=self.LIMIT) as transport,
        ):
            if b"%d" % 10**30 in head:
                # The parsers refuse such a length, and the head with it.
                assert isinstance(await failure(transport, patch(server)), NoResponseError)
            else:
                response = await transport.send(patch(server), timeout=5)
                assert (response.status, response.content) == (200, b"")
                assert response.body_error == "the body is larger than max_response_bytes=10000"
            await until(lambda: server.open == 0)
        assert len(server.requests) == 1

    async def test_an_endless_response_is_not_read_on(self, case: Case) -> None:
        sent = 0

        async def talks(connection: Connection, server: Server) -> None:
            nonlocal sent
            server.requests.append(await connection.request())
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while sent < 100_000_000:
                await connection.send(b"x" * 100_000)
                sent += 100_000

        async with (
            serving(talks) as server,
            opened(case, max_response_bytes=self.LIMIT) as transport,
        ):
            response = await transport.send(patch(server), timeout=5)
            assert (response.status, response.content) == (200, b"")
            assert response.body_error is not None
            await until(lambda: server.open == 0)
        assert sent < 50_000_000

    @pytest.mark.parametrize(
        ("head", "content"),
        [
            (b"Content-Length: 10000\r\n", b"x" * 10_000),
            (b"Transfer-Encoding: chunked\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n0\r\n\r\n"),
            (b"Content-Encoding: gzip\r\n", gzip.compress(b"x" * 10_000, mtime=0)),
        ],
        ids=["announced", "chunked", "gzip"],
    )
    async def test_a_response_at_the_limit(self, case: Case, head: bytes, content: bytes) -> None:
        answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + content
        async with (
            serving(answers_and_closes(answer)) as server,
            opened(case, max_response_bytes=self.LIMIT) as transport,
        ):
            response = await transport.send(patch(server), timeout=5)
        assert response.content == b"x" * 10_000

    async def test_an_empty_response_is_not_decoded(self, transport: Transport) -> None:
        answer = b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n"
        async with serving(answers(answer)) as server:
            assert (await transport.send(patch(server), timeout=5)).content == b""

    @pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1"])
    def test_an_invalid_limit(self, limit: Any) -> None:
        for kind in (HttpxTransport, AiohttpTransport, PyreqwestTransport):
            with pytest.raises(ConfigurationError, match="max_response_bytes"):
                kind(max_response_bytes=limit)


class TestConnectionsStayHealthy:
    @pytest.mark.quick("asyncio-httpx", "trio-httpx-client", "asyncio-aiohttp", "uvloop-*")
    async def test_after_random_cancellation(self, transport: Transport, owned: bool) -> None:
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
            await all_can_be_served(transport, server, owned)

    async def test_a_cancellation_does_not_affect_other_requests(
        self, transport: Transport, owned: bool
    ) -> None:
        async def dawdles(connection: Connection, server: Server) -> None:
            while request := await connection.request():
                server.requests.append(request)
                await anyio.sleep(0.05)
                await connection.send(OK)

        async with serving(dawdles) as server:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(lambda: transport.send(patch(server), timeout=5))
                await until(lambda: len(server.requests) == 3)
                with anyio.move_on_after(0.01):
                    await transport.send(patch(server), timeout=5)
            await all_can_be_served(transport, server, owned)

    async def test_after_timeouts(self, transport: Transport, owned: bool) -> None:
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
            await all_can_be_served(transport, server, owned)


def test_the_repr_of_a_response_has_no_content() -> None:
    assert repr(Response(200, {"x": CANARY}, CANARY.encode())) == "<Response 200 15 bytes>"
