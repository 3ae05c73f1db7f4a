"""What is particular to `HttpxTransport`: two libraries, and clients of the user's."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import pytest

from cognigy_async import HttpxTransport, NoResponseError, NotSentError, Request
from cognigy_async.transports.httpx import _TimeLeft
from tests.integration.transport_servers import (
    CANARY,
    CONTENT,
    TLS,
    all_can_be_served,
    answering,
    failure,
    patch,
    serving,
)

pytestmark = pytest.mark.real_time

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}


async def test_the_time_that_an_operation_is_given_shrinks() -> None:
    # So that the library itself ends a request, in order, and not a cancellation.
    left = _TimeLeft(1.0)
    await anyio.sleep(0.05)
    assert 0.5 < left.get("read") < 0.96
    assert left.get("connect") < 0.48
    assert _TimeLeft(0.0).get("write") == 0.0


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
