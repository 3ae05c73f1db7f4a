"""`HttpxTransport` with given clients of both libraries, over sockets."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import pytest

from cognigy_async import HttpxTransport, Request
from tests.integration.transport_servers import (
    TLS,
    all_can_be_served,
    answering,
    patch,
    serving,
    until,
)

pytestmark = pytest.mark.real_time

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}


async def test_each_server_has_its_own_connections() -> None:
    transport = HttpxTransport()
    async with serving(answering) as server, serving(answering) as other:
        for _ in range(3):
            for one in (server, other):
                await transport.send(patch(one), timeout=5)
        assert (server.connections, other.connections) == (1, 1)
        await transport.aclose()
        await until(lambda: server.open + other.open == 0)
    # They do not take turns on connections, each of which would then have one to each server.
    transport = HttpxTransport()
    async with serving(answering) as server, serving(answering) as other:
        await all_can_be_served(transport, server, owned=True)
        await transport.send(patch(other), timeout=5)
        opened = server.open
        await transport.send(patch(server), timeout=5)
        assert (server.open, other.open) == (opened, 1)
        await transport.aclose()


async def test_connections_that_are_no_longer_needed_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cognigy_async.transports.httpx.KEEPALIVE", 0.2)
    transport = HttpxTransport()
    async with serving(answering) as server:
        await all_can_be_served(transport, server, owned=True)
        opened = server.open
        assert opened > 1
        with anyio.fail_after(10):
            while server.open > 1:
                await transport.send(patch(server), timeout=5)
                await anyio.sleep(0.01)
        assert server.connections == opened
        await transport.aclose()
        await until(lambda: server.open == 0)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_after_cancellation_at_each_step(warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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
        await all_can_be_served(transport, server, owned=True)
    await transport.aclose()


async def test_a_connection_that_is_opened_while_the_transport_closes_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = HttpxTransport._built
    transport = HttpxTransport()

    async def trace(event: str, _: object) -> None:
        if event == "connection.connect_tcp.complete":
            await transport.aclose()

    def traced(self: HttpxTransport, request: Request, body: Any) -> httpx.Request:
        outgoing = build(self, request, body)
        outgoing.extensions["trace"] = trace
        return outgoing

    monkeypatch.setattr(HttpxTransport, "_built", traced)
    async with serving(answering) as server:
        assert (await transport.send(patch(server), timeout=5)).status == 200
        await until(lambda: server.open == 0)


class TestAClientOfTheUsers:
    @pytest.mark.parametrize("library", LIBRARIES)
    async def test_headers_of_the_request_override_its_default_headers(self, library: str) -> None:
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
    async def test_its_event_hooks_may_read_the_response(self, library: str) -> None:
        async def read(response: Any) -> None:
            await response.aread()

        async with (
            LIBRARIES[library].AsyncClient(event_hooks={"response": [read]}, verify=TLS) as client,
            serving(answering) as server,
        ):
            response = await HttpxTransport(client).send(patch(server), timeout=5)
        assert response.content == b"{}"
