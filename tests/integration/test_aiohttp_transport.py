"""What is particular to `AiohttpTransport`: asyncio, a session of the user's, proxies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from cognigy_async import (
    AiohttpTransport,
    ApiKey,
    AsyncStateClient,
    ClientUsageError,
    HttpxTransport,
    NotSentError,
    Transport,
)
from cognigy_async.emulator import Emulator, Faults, serve
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
)

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class TestASessionOfTheUsers:
    async def test_its_default_headers_go_behind_those_of_the_request(self) -> None:
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

    async def test_its_cookies_credentials_and_middlewares_are_left_alone(self) -> None:
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

    @pytest.mark.parametrize("session", [object(), aiohttp.ClientSession, "session"])
    def test_anything_else_is_refused(self, session: Any) -> None:
        with pytest.raises(TypeError, match=r"aiohttp\.ClientSession"):
            AiohttpTransport(session)

    async def test_its_repr(self) -> None:
        async with aiohttp.ClientSession() as session:
            assert repr(AiohttpTransport(session)) == "<AiohttpTransport with a session>"


async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_client_keeps_its_promises_over_it() -> None:
    emulator = Emulator(
        api_key="key",
        honour_idempotency_keys=False,
        faults=Faults(drop_before=0.05, drop_after=0.05, error_503=0.02, conflict=0.02),
    )
    rows = [{"dialog_id": f"d-{number % 20}", "session": {"seq": number}} for number in range(400)]
    async with (
        serve(emulator) as base_url,
        AsyncStateClient(
            base_url, auth=ApiKey("key"), max_in_flight=8, transport=AiohttpTransport()
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


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_under_trio_it_says_that_it_needs_asyncio() -> None:
    transport: Transport = AiohttpTransport()
    with pytest.raises(ClientUsageError, match="needs asyncio"):
        await transport.send(patch("http://127.0.0.1:1"), timeout=1)
    async with AsyncStateClient(
        "http://127.0.0.1:1", auth=ApiKey("k"), transport=transport
    ) as client:
        with pytest.raises(ClientUsageError, match="under trio use HttpxTransport"):
            await client.update("d-1", session={"a": 1})


def test_it_belongs_to_one_event_loop() -> None:
    transport = AiohttpTransport()

    async def use() -> None:
        await transport.send(patch("http://127.0.0.1:1"), timeout=1)

    async def close() -> None:
        await transport.aclose()

    with asyncio.Runner() as first:
        with pytest.raises(NotSentError):
            first.run(use())
        with asyncio.Runner() as second, pytest.raises(ClientUsageError, match="event loop"):
            second.run(use())
        first.run(close())


def test_without_aiohttp_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["aiohttp"] = None
from cognigy_async import AiohttpTransport, ConfigurationError
try:
    AiohttpTransport()
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'cognigy-async[aiohttp]'" in done.stdout
