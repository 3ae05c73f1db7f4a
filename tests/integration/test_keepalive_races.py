"""Servers that close idle connections just when the next request is sent, over sockets.

Nothing is executed twice, and what is reported about a request is what the server did.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import anyio
import pytest

from cognigy_async import NoResponseError, NotSentError, Request, Response, Transport
from tests.integration.transport_cases import CASES, Case, backend_of, name_of, opened
from tests.integration.transport_servers import until

pytestmark = pytest.mark.real_time

WORKERS = 16


class Closing(asyncio.Protocol):
    """Executes each request that it has read, and closes the connection at some moment after it."""

    def __init__(
        self, executed: Counter[bytes], chance: random.Random, connections: set[Closing]
    ) -> None:
        self._executed = executed
        self._connections = connections
        self._chance = chance
        self._unread = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0 and len(self._unread) >= end + 12:
            self._answer(self._unread[end + 4 : end + 12])
            self._unread = self._unread[end + 12 :]

    def _answer(self, content: bytes) -> None:
        if self._transport.is_closing():
            return
        self._executed[content] += 1
        moment = self._chance.random()
        if moment < 0.02:
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + content)
        if moment < 0.06:
            self._transport.close()
        elif moment < 0.1:
            self._transport.abort()
        elif moment < 0.5:
            delay = self._chance.random() * 0.002
            asyncio.get_running_loop().call_later(delay, self._transport.close)


@pytest.fixture(params=[case for case in CASES if case.backend != "trio"], ids=name_of)
def case(request: pytest.FixtureRequest) -> Case:
    given: Case = request.param
    return given


@pytest.fixture
def anyio_backend(case: Case) -> tuple[str, dict[str, Any]]:
    return backend_of(case)


@pytest.mark.parametrize(
    "transitions",
    [1000, pytest.param(20_000, marks=[pytest.mark.thorough, pytest.mark.timeout(900)])],
)
async def test_no_transition_is_executed_twice_or_reported_wrongly(
    case: Case, transitions: int
) -> None:
    executed: Counter[bytes] = Counter()
    results: Counter[str] = Counter()
    chance = random.Random(transitions)
    numbers = iter(range(transitions))

    async def work(transport: Transport, url: str) -> None:
        for number in numbers:
            content = b"%8d" % number
            result = await result_of(transport, Request("PATCH", url, {}, content))
            results[type(result).__name__] += 1
            if isinstance(result, Response):
                assert (result.status, result.content) == (200, content)
                assert executed[content] == 1
            elif isinstance(result, NotSentError):
                assert executed[content] == 0
            if number % 7 == 0:
                await anyio.sleep(chance.random() * 0.003)

    connections: set[Closing] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Closing(executed, chance, connections), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with opened(case) as transport, anyio.create_task_group() as group:
        for _ in range(WORKERS):
            group.start_soon(work, transport, url)
    server.close()
    for connection in connections:
        connection.abort()
    await until(lambda: not connections)
    # Let the delayed closings pass.
    await anyio.sleep(0.005)
    assert max(executed.values()) == 1
    assert results.total() == transitions
    assert results["Response"] > transitions / 2
    assert results["NoResponseError"] > transitions / 100


async def result_of(
    transport: Transport, request: Request
) -> Response | NotSentError | NoResponseError:
    try:
        return await transport.send(request, timeout=10)
    except (NotSentError, NoResponseError) as error:
        return error
