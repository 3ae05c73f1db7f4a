"""`AiohttpTransport` with given sessions, proxies and misbehaving servers, over sockets."""

from __future__ import annotations

import asyncio
import re
import ssl
import warnings
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict
from yarl import URL

from cognigy_async import (
    AiohttpTransport,
    ApiKey,
    AsyncStateClient,
    HttpxTransport,
    NoResponseError,
    NotSentError,
    PyreqwestTransport,
    Request,
    RetryPolicy,
    Transport,
)
from cognigy_async.emulator import Emulator, Faults, Rules, serve
from tests.integration.tls import server_context, trusting_context
from tests.integration.transport_servers import (
    CANARY,
    OK,
    Connection,
    Server,
    answering,
    answers,
    failure,
    patch,
    serving,
    until,
)

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Sleepy(AbstractResolver):
    """Never resolves a name."""

    async def resolve(self, *_: Any, **__: Any) -> Any:
        await anyio.sleep_forever()

    async def close(self) -> None:
        pass


class Closing(aiohttp.TCPConnector):
    """Returns connections that are closing."""

    async def connect(self, *args: Any, **options: Any) -> Any:
        connection = await super().connect(*args, **options)
        assert connection.transport is not None
        connection.transport.close()
        return connection


class TestASessionOfTheUsers:
    async def test_headers_of_the_request_override_its_default_headers(self) -> None:
        headers = {"X-Proxy": "p", "authorization": "Basic no", "User-Agent": "me"}
        async with aiohttp.ClientSession(headers=headers) as session, serving(answering) as server:
            transport = AiohttpTransport(session)
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
        head = server.requests[0].lower()
        assert b"x-proxy: p\r\n" in head
        assert b"user-agent: me\r\n" in head
        assert head.count(b"authorization:") == 1
        assert b"basic" not in head
        assert head.count(b"accept-encoding: gzip, deflate\r\n") == 1

    async def test_its_cookies_credentials_and_middlewares_are_not_used(self) -> None:
        called: list[str] = []

        async def middleware(request: Any, handler: Any) -> Any:
            called.append("middleware")
            return await handler(request)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            session = aiohttp.ClientSession(
                auth=aiohttp.BasicAuth("somebody", "else"),
                cookie_jar=aiohttp.CookieJar(unsafe=True),
                middlewares=(middleware,),
            )
        answer = OK.replace(b"ETag: 7", b"Set-Cookie: theirs=1; Path=/")
        async with session, serving(answers(answer)) as server:
            session.cookie_jar.update_cookies({"sid": CANARY}, URL(server.url))
            transport = AiohttpTransport(session)
            for _ in range(2):
                await transport.send(patch(server), timeout=5)
            await transport.aclose()
            assert [cookie.key for cookie in session.cookie_jar] == ["sid"]
        assert called == []
        for request in server.requests:
            assert b"cookie" not in request.lower()
            assert b"Basic" not in request

    async def test_its_traces_are_kept(self) -> None:
        seen: list[str] = []
        trace = aiohttp.TraceConfig()

        async def ended(_: Any, __: Any, parameters: aiohttp.TraceRequestEndParams) -> None:
            seen.append(parameters.method)

        trace.on_request_end.append(ended)
        async with (
            aiohttp.ClientSession(trace_configs=[trace]) as session,
            serving(answering) as server,
        ):
            transport = AiohttpTransport(session)
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
        assert seen == ["PATCH"]

    async def test_its_proxy_is_used(self) -> None:
        async with (
            serving(answering) as proxy,
            aiohttp.ClientSession(proxy=proxy.url) as session,
        ):
            transport = AiohttpTransport(session)
            response = await transport.send(patch("http://tenant.invalid"), timeout=5)
            await transport.aclose()
        assert response.status == 200
        assert proxy.requests[0].startswith(b"PATCH http://tenant.invalid/state HTTP/1.1\r\n")

    @pytest.mark.parametrize("credentials", ["", "me:p%2Fw@"])
    async def test_the_proxy_of_the_environment_is_used(
        self, credentials: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(answering) as proxy, aiohttp.ClientSession(trust_env=True) as session:
            monkeypatch.setenv("NO_PROXY", "other.invalid")
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", f"http://{credentials}"))
            transport = AiohttpTransport(session)
            await transport.send(patch("http://tenant.invalid"), timeout=5)
            monkeypatch.setenv("NO_PROXY", "tenant.invalid")
            error = await failure(transport, patch("http://tenant.invalid"))
            await transport.aclose()
        [request] = proxy.requests
        assert request.startswith(b"PATCH http://tenant.invalid/state HTTP/1.1\r\n")
        found = re.findall(rb"(?i)\r\nproxy-authorization: Basic (\S+)", request)
        assert found == ([b64encode(b"me:p/w")] if credentials else [])
        assert isinstance(error, NotSentError)

    @pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
    async def test_no_credentials_of_a_netrc_file_are_added(
        self, header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login someone password c4nary\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        async with serving(answering) as server, aiohttp.ClientSession(trust_env=True) as session:
            transport = AiohttpTransport(session)
            url = f"{server.url}/state"
            response = await transport.send(
                Request("PATCH", url, {header: "own"}, b"{}"), timeout=5
            )
            await transport.aclose()
        assert response.status == 200
        [request] = server.requests
        assert f"{header}: own".encode() in request
        assert b"Basic" not in request

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    async def test_a_proxy_that_does_not_connect(self, answer: bytes) -> None:
        async with (
            serving(answers(answer)) as proxy,
            aiohttp.ClientSession(proxy=proxy.url) as session,
        ):
            transport = AiohttpTransport(session)
            error = await failure(transport, patch("https://tenant.invalid"))
            await transport.aclose()
        assert isinstance(error, NotSentError)
        assert "proxy" in str(error)
        assert CANARY.encode() not in proxy.requests[0]

    async def test_a_closed_one_is_an_error(self) -> None:
        session = aiohttp.ClientSession()
        transport = AiohttpTransport(session)
        async with serving(answering) as server:
            await transport.send(patch(server), timeout=5)
            await session.close()
            error = await failure(transport, patch(server))
            assert isinstance(error, NotSentError)
            assert "closed" in str(error)
            error = await failure(AiohttpTransport(session), patch(server))
            assert isinstance(error, NotSentError)
        await transport.aclose()
        assert len(server.requests) == 1

    async def test_closing_it_fails_requests_that_wait_for_a_connection(self) -> None:
        async with serving(answers()) as server:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
            transport = AiohttpTransport(session)
            first = asyncio.create_task(failure(transport, patch(server)))
            await until(lambda: len(server.requests) == 1)
            second = asyncio.create_task(failure(transport, patch(server)))
            await anyio.sleep(0.02)
            await session.close()
            assert isinstance(await first, NoResponseError)
            error = await second
            await transport.aclose()
        assert isinstance(error, NotSentError)
        assert "the session was closed" in str(error)
        assert len(server.requests) == 1

    async def test_closing_it_fails_requests_that_wait_for_an_address(self) -> None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Sleepy()))
        transport = AiohttpTransport(session)
        waiting = asyncio.create_task(failure(transport, patch("http://tenant.invalid")))
        await anyio.sleep(0.02)
        await session.close()
        assert isinstance(await waiting, NotSentError)
        await transport.aclose()

    async def test_nothing_is_written_on_a_connection_that_is_closing(self) -> None:
        async with (
            aiohttp.ClientSession(connector=Closing()) as session,
            serving(answering) as server,
        ):
            transport = AiohttpTransport(session)
            assert isinstance(await failure(transport, patch(server)), NotSentError)
            await transport.aclose()
        assert server.requests == []

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Length": "5"},
            {"transfer-encoding": "chunked"},
            {"X-Note: a\r\nX-More": "b"},
            {"X Note": "a"},
            {"X-Note": "a\r\nX-More: b"},
            {"X-Note": "\ud800"},
        ],
        ids=ascii,
    )
    async def test_its_default_headers_cannot_break_a_request(
        self, headers: dict[str, str]
    ) -> None:
        async with aiohttp.ClientSession(headers=headers) as session, serving(answering) as server:
            transport = AiohttpTransport(session)
            error = await failure(transport, patch(server))
            await transport.aclose()
        assert isinstance(error, NotSentError)
        assert "not valid in HTTP" in str(error)
        assert server.requests == []

    @pytest.mark.parametrize("force_close", [False, True])
    async def test_its_default_headers_override_added_ones(self, force_close: bool) -> None:
        headers = CIMultiDict({"host": "tenant", "connection": "keep-alive", "X-Note": "1"})
        headers.add("X-Note", "2")
        connector = aiohttp.TCPConnector(force_close=force_close)
        async with (
            aiohttp.ClientSession(headers=headers, connector=connector) as session,
            serving(answering) as server,
        ):
            transport = AiohttpTransport(session)
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
        head = server.requests[0].lower()
        assert head.count(b"\r\nhost: ") == head.count(b"\r\nhost: tenant\r\n") == 1
        assert head.count(b"\r\nconnection: ") == 1
        assert b"\r\nx-note: 1\r\nx-note: 2\r\n" in head


class TestTheHeadOfARequest:
    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("/a%2Fb%20c/state", b"/a%2Fb%20c/state"),
            ("/state?x=1&y=%C3%A4", b"/state?x=1&y=%C3%A4"),
            ("/state#part", b"/state"),
            ("?x=1", b"/?x=1"),
            ("", b"/"),
        ],
    )
    async def test_the_target_is_the_unchanged_url(self, path: str, target: bytes) -> None:
        transport = AiohttpTransport()
        async with serving(answering) as server:
            await transport.send(patch(server, path), timeout=5)
            port = server.url.rpartition(":")[2].encode()
        await transport.aclose()
        assert server.requests[0].startswith(b"PATCH %b HTTP/1.1\r\n" % target)
        assert b"\r\nHost: 127.0.0.1:%b\r\n" % port in server.requests[0]

    async def test_a_header_of_the_request_overrides_added_ones(self) -> None:
        transport = AiohttpTransport()
        async with serving(answering) as server:
            await transport.send(patch(server, host="tenant", **{"user-agent": "me"}), timeout=5)
        await transport.aclose()
        head = server.requests[0].lower()
        assert head.count(b"\r\nhost: ") == head.count(b"\r\nhost: tenant\r\n") == 1
        assert head.count(b"\r\nuser-agent: ") == head.count(b"\r\nuser-agent: me\r\n") == 1

    @pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
    async def test_framing_headers_are_refused(self, name: str) -> None:
        async with aiohttp.ClientSession() as session, serving(answering) as server:
            transport = AiohttpTransport(session)
            error = await failure(transport, patch(server, **{name: "2"}))
            await transport.send(patch(server), timeout=5)
            await transport.aclose()
        assert isinstance(error, NotSentError)
        assert "not valid in HTTP" in str(error)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("method", ["PA TCH", "PATCH / HTTP/1.1\r\nx: y"])
    async def test_an_invalid_method_is_refused(self, method: str) -> None:
        transport = AiohttpTransport()
        async with serving(answering) as server:
            request = patch(server)
            request.method = method
            error = await failure(transport, request)
        await transport.aclose()
        assert isinstance(error, NotSentError)
        assert server.requests == []

    async def test_non_ascii_headers_are_sent_as_utf8(self) -> None:
        transport = AiohttpTransport()
        async with serving(answering) as server:
            await transport.send(patch(server, note="grün"), timeout=5)
        await transport.aclose()
        assert "\r\nnote: grün\r\n".encode() in server.requests[0]

    async def test_a_request_without_content_has_no_length(self) -> None:
        transport = AiohttpTransport()
        async with serving(answering) as server:
            for method in ("GET", "PATCH"):
                await transport.send(Request(method, f"{server.url}/state", {}), timeout=5)
        await transport.aclose()
        read, write = server.requests
        assert b"content-length" not in read.lower()
        assert b"\r\nContent-Length: 0\r\n" in write

    async def test_a_connector_without_keepalive_sends_connection_close(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            transport = AiohttpTransport(session)
            async with serving(answering) as server:
                for _ in range(2):
                    await transport.send(patch(server), timeout=5)
            await transport.aclose()
        assert server.connections == 2
        assert all(b"\r\nConnection: close\r\n" in request for request in server.requests)


async def test_a_connection_with_an_unfinished_request_is_not_reused() -> None:
    async def hasty(connection: Connection, server: Server) -> None:
        """Respond after the first bytes."""
        server.requests.append(await connection.stream.receive())
        await connection.send(OK)
        await anyio.sleep_forever()

    transport = AiohttpTransport()
    async with serving(hasty) as server:
        large = Request("PATCH", f"{server.url}/state", {}, b"x" * 32_000_000)
        for _ in range(2):
            assert (await transport.send(large, timeout=5)).status == 200
        assert server.connections == 2
    await transport.aclose()


# Over TLS aiohttp reads no response before the request is written.
@pytest.mark.parametrize(
    ("tls", "answered"),
    [(None, False), (None, True), (server_context(), False)],
    ids=["silent", "answered", "silent TLS"],
)
async def test_unsent_data_is_discarded_after_a_timeout(
    tls: ssl.SSLContext | None, answered: bool
) -> None:
    size = 16_000_000
    read = 0
    given_up, closed = asyncio.Event(), asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read the rest after the client has given up."""
        nonlocal read
        if answered:
            read = len(await reader.read(1000))
            writer.write(OK)
        await given_up.wait()
        with suppress(OSError):
            while data := await reader.read(65536):
                read += len(data)
        writer.close()
        closed.set()

    connector = aiohttp.TCPConnector(ssl=trusting_context())
    listening = await asyncio.start_server(late, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(connector=connector) as session:
        transport = AiohttpTransport(session)
        url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/state"
        request = Request("PATCH", url, {}, b"x" * size)
        if answered:
            assert (await transport.send(request, timeout=5)).status == 200
        else:
            assert isinstance(await failure(transport, request, timeout=0.5), NoResponseError)
        given_up.set()
        async with asyncio.timeout(10):
            await closed.wait()
        await transport.aclose()
    listening.close()
    assert 0 < read < size


async def test_one_timeout_holds_for_all_connections_that_are_tried() -> None:
    reused = anyio.Event()

    async def reuse(*_: Any) -> None:
        reused.set()
        await anyio.sleep(0.4)

    async def behaviour(connection: Connection, server: Server) -> None:
        server.requests.append(await connection.request())
        if len(server.requests) == 1:
            await connection.send(OK)
            await reused.wait()
            await connection.send(OK)
        await connection.until_closed()

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reuse)
    async with (
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        serving(behaviour) as server,
    ):
        transport = AiohttpTransport(session)
        await transport.send(patch(server), timeout=5)
        begun = anyio.current_time()
        assert isinstance(await failure(transport, patch(server), 0.5), NoResponseError)
        assert anyio.current_time() - begun < 0.75
        assert len(server.requests) == 2


async def test_no_free_connection_in_time_is_not_sent() -> None:
    async def silent(connection: Connection, server: Server) -> None:
        server.requests.append(await connection.request())
        await anyio.sleep_forever()

    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session, serving(silent) as server:
        transport = AiohttpTransport(session)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: transport.send(patch(server), timeout=60))
            await until(lambda: len(server.requests) == 1)
            error = await failure(transport, patch(server), timeout=0.2)
            group.cancel_scope.cancel()
        await transport.aclose()
    assert isinstance(error, NotSentError)
    assert "No connection to 127.0.0.1" in str(error)
    assert "within 0.2 s" in str(error)


async def test_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    transport = AiohttpTransport()
    async with serving(answering) as server:
        assert (await transport.send(patch(server), timeout=5)).status == 200
    await transport.aclose()


@pytest.mark.parametrize("kind", [HttpxTransport, AiohttpTransport])
async def test_a_client_opens_no_more_connections_than_it_has_requests_in_flight(
    kind: type[HttpxTransport] | type[AiohttpTransport],
) -> None:
    async def slow(connection: Connection, server: Server) -> None:
        while request := await connection.request():
            server.requests.append(request)
            await anyio.sleep(0.001)
            await connection.send(OK)

    async with serving(slow) as server:
        rows = ({"dialog_id": f"d-{number}", "session": {"n": 1}} for number in range(60))
        async with (
            AsyncStateClient(
                server.url, auth=ApiKey("key"), max_in_flight=4, transport=kind()
            ) as client,
            client.update_many(rows) as outcomes,
        ):
            assert [outcome.ok async for outcome in outcomes] == [True] * 60
        assert server.connections == 4


@pytest.mark.quick("uvloop-*")
@pytest.mark.parametrize("kind", [AiohttpTransport, PyreqwestTransport])
async def test_a_client_keeps_its_promises(kind: Callable[[], Transport]) -> None:
    emulator = Emulator(
        api_key="key",
        rules=Rules(honour_idempotency_keys=False),
        faults=Faults(drop_before=0.05, drop_after=0.05, error_503=0.02, conflict=0.02),
    )
    rows = [{"dialog_id": f"d-{number % 20}", "session": {"seq": number}} for number in range(400)]
    async with (
        serve(emulator) as base_url,
        AsyncStateClient(
            base_url,
            auth=ApiKey("key"),
            max_in_flight=8,
            retry=RetryPolicy(max_attempts=20),
            transport=kind(),
        ) as client,
        client.update_many(rows) as outcomes,
    ):
        failed = [outcome.error async for outcome in outcomes if not outcome.ok]
    assert failed == []
    assert client.metrics.retries["no_response"] > 0
    for dialog_id, dialog in emulator.dialogs.items():
        number = int(dialog_id.removeprefix("d-"))
        assert dialog.session["seq"] == 380 + number
    assert emulator.stats.in_flight_max <= 8
