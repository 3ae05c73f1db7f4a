"""This library as a contestant, over each of its transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from cognigy_async import (
    AiohttpTransport,
    ApiKey,
    AsyncStateClient,
    HttpxTransport,
    RateLimit,
    RuntimeApi,
    SessionsApi,
    StateApi,
    Transport,
)

from .connections import aiohttp_session, httpx2_client, httpx_client
from .driving import drive
from .measuring import Meter
from .work import Work

__all__ = ["sessions_api", "update", "update_many"]


@asynccontextmanager
async def _aiohttp(work: Work) -> AsyncIterator[Transport]:
    async with aiohttp_session(work) as session:
        yield AiohttpTransport(session)


@asynccontextmanager
async def _httpx(work: Work) -> AsyncIterator[Transport]:
    async with httpx_client(work) as client:
        yield HttpxTransport(client)


@asynccontextmanager
async def _httpx2(work: Work) -> AsyncIterator[Transport]:
    async with httpx2_client(work) as client:
        yield HttpxTransport(client)


def _transport(library: str, work: Work) -> AbstractAsyncContextManager[Transport]:
    """With connections of its own, unless it has to be told whom to trust."""
    if work.authority is None and library == "aiohttp":
        return nullcontext(AiohttpTransport())
    if work.authority is None and library == "httpx":
        return nullcontext(HttpxTransport())
    return {"aiohttp": _aiohttp, "httpx": _httpx, "httpx2": _httpx2}[library](work)


@asynccontextmanager
async def _opened(
    library: str, work: Work, api: StateApi | None = None
) -> AsyncIterator[AsyncStateClient]:
    """A client that is ready for the work."""
    limit = RateLimit(work.per_second, per=1) if work.per_second else None
    async with (
        _transport(library, work) as transport,
        AsyncStateClient(
            work.url,
            auth=ApiKey("key"),
            api=api,
            max_in_flight=work.in_flight,
            transport=transport,
            rate_limit=limit,
            coalesce=work.coalesce,
        ) as client,
    ):
        yield client


def update_many(
    library: str, api: Callable[[], StateApi] = RuntimeApi
) -> Callable[[Work, Meter], Awaitable[None]]:
    """One stream of updates."""

    async def play(work: Work, measure: Meter) -> None:
        async with _opened(library, work, api()) as client:

            async def run(start: int, end: int) -> None:
                before = client.metrics.requests
                latencies = measure.latencies
                async with client.update_many(work.rows(start, end)) as outcomes:
                    async for outcome in outcomes:
                        if outcome.result is None:
                            raise RuntimeError("an update was not applied") from outcome.error
                        if latencies is not None:
                            latencies.append(outcome.result.latency)
                requests = client.metrics.requests - before
                measure.told["requests_per_update"] = requests / (end - start)

            await measure(run)

    return play


def update(library: str) -> Callable[[Work, Meter], Awaitable[None]]:
    """A call for each update, as many at a time as the work says."""

    async def play(work: Work, measure: Meter) -> None:
        async with _opened(library, work) as client:

            async def call(number: int) -> None:
                await client.update(work.dialog(number), session=work.session(number))

            await measure(lambda start, end: drive(work, start, end, call, measure.latencies))

    return play


def sessions_api() -> StateApi:
    """What the official JavaScript client speaks."""
    return SessionsApi(user_id="u")
