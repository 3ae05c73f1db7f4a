"""Connections on trio: names, several addresses, and no thread of the default limiter."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio
import anyio.to_thread
import httpcore
import pytest

from cognigy_async import HttpxTransport, NotSentError, Request
from cognigy_async._utils.trio_backend import TrioBackend, _connect_to_first

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)


@contextmanager
def no_thread_is_left() -> Iterator[None]:
    limiter = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    yield
    for borrower in borrowers:
        limiter.release_on_behalf_of(borrower)


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


@on_trio
@pytest.mark.real_time
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_connection_needs_no_thread_of_the_application(host: str) -> None:
    with listening() as port, no_thread_is_left(), anyio.fail_after(10):
        stream = await TrioBackend().connect_tcp(host, port, timeout=5)
        assert stream.get_extra_info("socket").getpeername()[1] == port
        await stream.aclose()


@on_trio
@pytest.mark.real_time
async def test_the_transport_connects_in_this_way() -> None:
    transport = HttpxTransport()
    with no_thread_is_left(), socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://localhost:{unused.getsockname()[1]}/"
        with pytest.raises(NotSentError, match="Connection refused"):
            await transport.send(Request("GET", url, {}, b""), timeout=5)
    await transport.aclose()


@on_trio
@pytest.mark.real_time
async def test_a_name_that_is_not_known_is_told() -> None:
    transport = HttpxTransport()
    for url in ("http://nowhere.invalid/", f"http://{'x' * 64}.example/"):
        with pytest.raises(NotSentError, match="No connection to"):
            await transport.send(Request("GET", url, {}, b""), timeout=5)
    await transport.aclose()


@on_trio
@pytest.mark.real_time
async def test_the_time_for_the_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go_on.wait(10))
    with pytest.raises(httpcore.ConnectTimeout):
        await TrioBackend().connect_tcp("localhost", 80, timeout=0.1)
    go_on.set()


class Stream:
    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


Attempt = Callable[[], Coroutine[Any, Any, httpcore.AsyncNetworkStream]]


def attempt(stream: Stream, *, after: float, error: Exception | None = None) -> Attempt:
    async def connect() -> httpcore.AsyncNetworkStream:
        await anyio.sleep(after)
        if error is not None:
            raise error
        return cast("httpcore.AsyncNetworkStream", stream)

    return connect


FAILURE = httpcore.ConnectError("refused")


@pytest.mark.parametrize(
    ("first", "second", "wins", "at"),
    [
        ((0.1, None), (0.1, None), 0, 0.1),
        ((9.0, None), (0.1, None), 1, 0.35),
        ((0.1, FAILURE), (0.1, None), 1, 0.2),
        ((0.4, None), (9.0, None), 0, 0.4),
        ((0.3, FAILURE), (0.5, None), 1, 0.75),
    ],
)
async def test_the_next_address_is_tried_after_a_failure_or_a_head_start(
    first: tuple[float, Exception | None],
    second: tuple[float, Exception | None],
    wins: int,
    at: float,
) -> None:
    streams = [Stream(), Stream()]
    attempts = [
        attempt(stream, after=after, error=error)
        for stream, (after, error) in zip(streams, (first, second), strict=True)
    ]
    found: object = await _connect_to_first(attempts)
    assert found is streams[wins]
    assert anyio.current_time() == pytest.approx(at, abs=0.01)
    assert not any(stream.closed for stream in streams)


async def test_without_any_connection_the_first_error_is_raised() -> None:
    errors = [httpcore.ConnectError("first"), httpcore.ConnectTimeout("second")]
    attempts = [attempt(Stream(), after=1, error=error) for error in errors]
    with pytest.raises(httpcore.ConnectError, match="first"):
        await _connect_to_first(attempts)


async def test_a_connection_that_nobody_gets_is_closed() -> None:
    streams: list[Stream] = []

    async def cancelled() -> httpcore.AsyncNetworkStream:
        streams.append(Stream())
        # The cancellation arrives when the connection is there.
        scope.cancel()
        return cast("httpcore.AsyncNetworkStream", streams[-1])

    with anyio.CancelScope() as scope:
        await _connect_to_first([cancelled, cancelled])
    assert scope.cancelled_caught
    assert [stream.closed for stream in streams] == [True]
