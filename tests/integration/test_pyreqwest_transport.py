"""`PyreqwestTransport`: the texts that it relies on, HTTP/2, proxies, certificates, the end."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import pytest
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError

from cognigy_async import NoResponseError, NotSentError, PyreqwestTransport, Request
from tests.integration.tls import self_signed, server_context, trusting_context
from tests.integration.transport_servers import (
    CONTENT,
    OK,
    Connection,
    Server,
    answering,
    answers,
    answers_and_closes,
    failure,
    patch,
    serving,
    until,
)

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    [authority] = trusting_context().get_ca_certs(binary_form=True)
    path.write_text(ssl.DER_cert_to_PEM_cert(authority))
    return path


async def causes_of(url: str, timeout: float = 5, connecting: float = 5) -> list[str]:
    """Return the class of the error of a bare request, and the texts of its causes."""
    client = ClientBuilder().no_proxy().connect_timeout(timedelta(seconds=connecting)).build()
    with pytest.raises(DetailedPyreqwestError) as caught:
        await client.get(url).timeout(timedelta(seconds=timeout)).build().send()
    causes = [cause["message"] for cause in caught.value.details["causes"] or ()]
    assert "for url (" in causes[0]
    return [type(caught.value).__name__, *causes[1:]]


class TestTheTextsOfErrors:
    """They tell what was sent. Do not use a version of pyreqwest with other texts."""

    async def test_refused(self, free_tcp_port: int) -> None:
        assert await causes_of(f"http://127.0.0.1:{free_tcp_port}/") == [
            "ConnectError",
            "client error (Connect)",
            "tcp connect error",
            "Connection refused (os error 111)",
        ]

    async def test_an_unknown_name(self) -> None:
        kind, connect, dns, *_ = await causes_of("http://no-such-host.invalid/")
        assert (kind, connect, dns) == ("ConnectError", "client error (Connect)", "dns error")

    async def test_no_tls(self) -> None:
        async def plain(connection: Connection, server: Server) -> None:
            await connection.stream.receive()
            await connection.send(b"HTTP/1.1 400 Bad\r\n\r\n")

        async with serving(plain) as server:
            kind, connect, reason = await causes_of(server.url.replace("http:", "https:"))
        assert (kind, connect) == ("ConnectError", "client error (Connect)")
        assert "corrupt message" in reason

    async def test_a_certificate_that_is_not_trusted(self) -> None:
        async with serving(answering, server_context()) as server:
            kind, connect, reason = await causes_of(server.url)
        assert (kind, connect) == ("ConnectError", "client error (Connect)")
        assert reason.startswith("invalid peer certificate")

    async def test_tls_takes_too_long(self) -> None:
        async def silent(connection: Connection, server: Server) -> None:
            await connection.until_closed()

        async with serving(silent) as server:
            url = server.url.replace("http:", "https:")
            assert await causes_of(url, connecting=0.2) == [
                "ConnectTimeoutError",
                "client error (Connect)",
                "operation timed out",
            ]
            # The same class, and nothing tells how far the request came.
            assert await causes_of(url, timeout=0.2) == [
                "ConnectTimeoutError",
                "operation timed out",
            ]

    async def test_no_response_in_time(self) -> None:
        async with serving(answers()) as server:
            assert await causes_of(server.url, timeout=0.2) == [
                "ConnectTimeoutError",
                "operation timed out",
            ]

    async def test_the_server_reads_the_request_and_closes(self) -> None:
        async with serving(answers_and_closes(b"")) as server:
            assert await causes_of(server.url) == [
                "ConnectError",
                "client error (SendRequest)",
                "connection closed before message completed",
            ]


async def test_a_request_that_ends_before_its_connection_is_open_may_have_been_sent() -> None:
    async def silent(connection: Connection, server: Server) -> None:
        await connection.until_closed()

    transport = PyreqwestTransport()
    async with serving(silent) as server:
        error = await failure(transport, patch(server.url.replace("http:", "https:")), 0.2)
    await transport.aclose()
    assert isinstance(error, NoResponseError)
    assert error.timed_out


async def test_a_header_that_is_not_ascii_is_left_out() -> None:
    transport = PyreqwestTransport()
    answer = OK.replace(b"ETag: 7", b"ETag: 7\r\nX-Note: gr\xfcn\r\nX-Two: 1\r\nX-Two: 2")
    async with serving(answers(answer)) as server:
        response = await transport.send(patch(server), timeout=5)
    await transport.aclose()
    assert response.headers == {"etag": "7", "content-length": "2", "x-two": "1, 2"}


@pytest.mark.parametrize(
    "lines", [b"X-Note: 1\r\n" * 100, b"X-Note: 1\r\n 2\r\n"], ids=["101 headers", "two lines"]
)
async def test_a_head_that_pyreqwest_does_not_read(lines: bytes) -> None:
    transport = PyreqwestTransport()
    async with serving(answers(OK.replace(b"ETag: 7\r\n", lines))) as server:
        assert isinstance(await failure(transport, patch(server)), NoResponseError)
    await transport.aclose()


async def test_a_length_without_a_body_is_no_error() -> None:
    transport = PyreqwestTransport()
    async with serving(answers(OK.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")) as server:
        response = await transport.send(Request("HEAD", f"{server.url}/", {}), timeout=5)
    await transport.aclose()
    assert response.headers["content-length"] == "2"
    assert (response.status, response.content, response.body_error) == (200, b"", None)


@pytest.mark.parametrize("trust_env", [False, True])
async def test_the_proxy_of_the_environment_is_used_only_if_asked(
    trust_env: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(answering) as server, serving(answering) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        transport = PyreqwestTransport(trust_env=trust_env)
        assert (await transport.send(patch(server), timeout=5)).status == 200
        await transport.aclose()
        assert (len(server.requests), len(proxy.requests)) == ((0, 1) if trust_env else (1, 0))


async def test_a_given_proxy_is_used() -> None:
    async with serving(answering) as proxy:
        transport = PyreqwestTransport(proxy=proxy.url)
        assert (await transport.send(patch("http://tenant.invalid"), timeout=5)).status == 200
        await transport.aclose()
        assert proxy.requests[0].startswith(b"PATCH http://tenant.invalid/state HTTP/1.1\r\n")


async def test_a_proxy_that_refuses_is_an_error_before_sending() -> None:
    refusal = b"HTTP/1.1 407 Ask\r\nContent-Length: 0\r\n\r\n"
    async with serving(answers(refusal)) as proxy:
        transport = PyreqwestTransport(proxy=proxy.url)
        error = await failure(transport, patch("https://tenant.invalid"))
        await transport.aclose()
    assert isinstance(error, NotSentError)
    assert "proxy" in str(error)


# HTTP/2


def http2(*orders: str) -> Callable[[Connection, Server], Awaitable[None]]:
    """Return a behaviour that speaks HTTP/2 and does with each request what it is told."""
    left = list(orders)

    async def behaviour(connection: Connection, server: Server) -> None:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        order = "answer"
        while order not in ("close", "go away"):
            await connection.send(protocol.data_to_send())
            try:
                received = protocol.receive_data(await connection.stream.receive())
            except anyio.EndOfStream:
                return
            for event in received:
                if isinstance(event, h2.events.DataReceived):
                    server.requests.append(event.data)
                if not isinstance(event, h2.events.StreamEnded):
                    continue
                order = left.pop(0) if left else "answer"
                if order == "answer":
                    protocol.send_headers(event.stream_id, [(":status", "200"), ("etag", "7")])
                    protocol.send_data(event.stream_id, b"{}", end_stream=True)
                elif order == "reset":
                    protocol.reset_stream(event.stream_id, error_code=8)
                elif order == "refuse":
                    protocol.reset_stream(event.stream_id, error_code=7)
                elif order == "go away":
                    protocol.close_connection(last_stream_id=event.stream_id)
        await connection.send(protocol.data_to_send())

    return behaviour


async def test_http2_shares_one_connection(ca_file: Path) -> None:
    transport = PyreqwestTransport(ca_file=ca_file, http2=True)
    async with serving(http2(), server_context("h2")) as server:
        assert (await transport.send(patch(server), timeout=5)).status == 200
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(lambda: transport.send(patch(server), timeout=5))
        response = await transport.send(patch(server), timeout=5)
        assert (response.status, response.content) == (200, b"{}")
        assert response.headers["etag"] == "7"
        await transport.aclose()
    assert server.requests == [CONTENT] * 22
    assert server.connections == 1


@pytest.mark.parametrize("order", ["reset", "go away", "close"])
async def test_http2_repeats_nothing_that_was_read(ca_file: Path, order: str) -> None:
    transport = PyreqwestTransport(ca_file=ca_file, http2=True)
    async with serving(http2("answer", order), server_context("h2")) as server:
        await transport.send(patch(server), timeout=5)
        error = await failure(transport, patch(server))
        assert isinstance(error, NoResponseError)
        assert server.requests == [CONTENT] * 2
        assert (await transport.send(patch(server), timeout=5)).status == 200
        await transport.aclose()


async def test_http2_repeats_what_the_server_says_it_did_not_process(ca_file: Path) -> None:
    transport = PyreqwestTransport(ca_file=ca_file, http2=True)
    async with serving(http2("refuse"), server_context("h2")) as server:
        assert (await transport.send(patch(server), timeout=5)).status == 200
        assert server.requests == [CONTENT] * 2
        await transport.aclose()


async def test_without_the_choice_it_speaks_http1(ca_file: Path) -> None:
    transport = PyreqwestTransport(ca_file=ca_file)
    async with serving(answering, server_context()) as server:
        for _ in range(2):
            assert (await transport.send(patch(server), timeout=5)).status == 200
        await transport.aclose()
    assert server.connections == 1


async def test_a_connection_that_is_given_up_is_closed_though_its_errors_are_kept() -> None:
    async def unclear(connection: Connection, server: Server) -> None:
        while request := await connection.request():
            server.requests.append(request)
            if b"/silent" in request:
                await connection.until_closed()
            await connection.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n")

    transport = PyreqwestTransport()
    errors: list[Exception] = []
    async with serving(unclear) as server, anyio.create_task_group() as group:

        async def fail() -> None:
            errors.append(await failure(transport, patch(server, "/silent"), 0.5))

        group.start_soon(fail)
        await until(lambda: len(server.requests) == 1)
        assert (await transport.send(patch(server), timeout=5)).status == 204
        await until(lambda: bool(errors) and server.open == 0)
    await transport.aclose()


async def test_a_self_signed_certificate_of_a_server_is_trusted(tmp_path: Path) -> None:
    context, pem = self_signed()
    ca_file = tmp_path / "server.pem"
    ca_file.write_bytes(pem)
    transport = PyreqwestTransport(ca_file=ca_file)
    async with serving(answering, context) as server:
        assert (await transport.send(patch(server), timeout=5)).status == 200
        await transport.aclose()


# The end of the process


@pytest.mark.timeout(60)
def test_a_program_may_end_right_after_its_last_response() -> None:
    """The thread of pyreqwest must not be in Python when the interpreter ends."""
    program = """
import asyncio
from cognigy_async import PyreqwestTransport, Request
OK = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
class Server(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(OK)
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = PyreqwestTransport()
    await asyncio.gather(*[transport.send(Request("GET", url, {}), timeout=5) for _ in range(40)])
asyncio.run(main())
"""
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
