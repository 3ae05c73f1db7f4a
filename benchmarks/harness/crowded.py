"""Work in which much waits at once, each with a plain case: as much work that need not wait."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cognigy_async import RateLimit, Request, Response, UpdateEvent
from harness.null import NullTransport, client

LINGER = 0.02
"""Seconds."""

REFUSAL = Response(status=400, headers={}, content=b'{"message": "no"}')


class HeldTransport(NullTransport):
    """Answers when it is released."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.released = asyncio.Event()

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.asked.set()
        await self.released.wait()
        return self.answer


class RefusingTransport(NullTransport):
    """Refuses every request."""

    answer = REFUSAL


class QuotaTransport(NullTransport):
    """Names a limit with each answer, and perhaps a longer window each time."""

    def __init__(self, grows: bool) -> None:
        self._grows = grows
        self._numbers = itertools.count(1)

    async def send(self, request: Request, *, timeout: float) -> Response:
        used = next(self._numbers)
        quota = {
            "ratelimit-limit": "1000000",
            "ratelimit-remaining": str(1_000_000 - used),
            "ratelimit-reset": str(60 + used * self._grows),
        }
        return Response(200, {**self.answer.headers, **quota}, self.answer.content)


def row(dialog: object, value: object = 1) -> dict[str, Any]:
    return {"dialog_id": f"d{dialog}", "session": {"n": value}}


async def full_callback_queue(count: int, crowded: bool) -> None:
    """Updates wait for room in the queue of a callback; it has room for all in the plain case."""
    async with client(count + 100) as one:

        @one.on_state_updated(max_queue=20 if crowded else count)
        async def hook(_: UpdateEvent) -> None:
            pass

        await asyncio.gather(*[one.update(**row(each)) for each in range(count)])


async def failure_of_a_dialog(count: int, crowded: bool) -> None:
    """The first update of a dialog fails, and those behind it with it; plain: all are applied."""
    transport = RefusingTransport() if crowded else NullTransport()
    async with client(count + 100, on_failure="pause", transport=transport) as one:
        calls = [one.update(**row("")) for _ in range(count)]
        await asyncio.gather(*calls, return_exceptions=True)


async def paused_dialog(count: int, crowded: bool) -> None:
    """A dialog is resumed after each failure; plain: a dialog for each update."""
    transport = RefusingTransport()
    async with client(count + 100, on_failure="pause", transport=transport) as one:
        for each in range(count if crowded else 0):
            one.submit_nowait(row("", each))
        for each in range(count):
            if not crowded:
                one.submit_nowait(row(each, each))
            await one.flush()
            one.resume()


async def lingering_without_merge(count: int, crowded: bool) -> None:
    """Updates of a dialog linger and cannot share a request; plain: without coalescing."""
    options: dict[str, Any] = {"coalesce": True, "linger": LINGER} if crowded else {}
    async with client(count + 100, **options) as one:
        await asyncio.gather(*[one.update(**row("", {"x": each})) for each in range(count)])


async def concurrent_flushes(count: int, crowded: bool) -> None:
    """A caller in twenty flushes while all updates are in the queue; plain: one flush."""
    transport = HeldTransport()
    async with client(count + 100, transport=transport) as one:
        for each in range(count):
            one.submit_nowait(row(each))
        flushes = [asyncio.create_task(one.flush()) for _ in range(count // 20 if crowded else 1)]
        await asyncio.sleep(0)
        transport.released.set()
        await asyncio.gather(*flushes)


async def streams_left_early(count: int, crowded: bool) -> None:
    """Streams of two updates are left while all are in the queue; plain: read to the end."""
    transport = HeldTransport()
    async with client(4 * count, transport=transport) as one:

        async def read(number: int) -> None:
            async with one.update_many([row(number), row(number)]) as outcomes:
                async for _ in outcomes:
                    pass

        streams = [asyncio.create_task(read(number)) for number in range(count // 2)]
        # All are in the queue when the transport, which has one of them, is asked for the first.
        await transport.asked.wait()
        for stream in streams if crowded else ():
            stream.cancel()
        transport.released.set()
        await asyncio.gather(*streams, return_exceptions=True)


async def streams_with_more_input(count: int, crowded: bool) -> None:
    """Updates are accepted while the rate limit blocks and 100 streams have more; plain: one."""
    async with client(2 * count + 1_000, rate_limit=RateLimit(1, per=3600)) as one:

        async def rows(stream: int) -> AsyncIterator[dict[str, Any]]:
            for each in itertools.count():
                yield row(f"{stream}-{each}")

        async def read(stream: int) -> None:
            async with one.update_many(rows(stream)) as outcomes:
                async for _ in outcomes:
                    pass

        streams = [asyncio.create_task(read(stream)) for stream in range(100 if crowded else 1)]
        await asyncio.sleep(0.01)
        for each in range(count):
            one.submit_nowait(row(each))
            await asyncio.sleep(0)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await one.aclose(drain=False)


async def longer_window(count: int, crowded: bool) -> None:
    """Each answer names a longer window of the rate limit to learn; plain: always the same."""
    async with client(count + 100, rate_limit="auto", transport=QuotaTransport(crowded)) as one:
        await asyncio.gather(*[one.update(**row(each)) for each in range(count)])


@dataclass(frozen=True, slots=True)
class Crowd:
    """One kind of crowded work, and its size relative to that of the other measurements."""

    run: Callable[[int, bool], Coroutine[Any, Any, None]]
    share: float


CROWDS = (
    Crowd(full_callback_queue, 0.5),
    Crowd(failure_of_a_dialog, 2.0),
    Crowd(paused_dialog, 0.25),
    Crowd(lingering_without_merge, 0.5),
    Crowd(concurrent_flushes, 1.0),
    Crowd(streams_left_early, 0.5),
    Crowd(streams_with_more_input, 0.25),
    Crowd(longer_window, 0.5),
)
