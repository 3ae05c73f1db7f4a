"""Bare HTTP libraries: the same requests, and nothing that is promised of them.

A pool of workers keeps the order of a dialog only while nothing fails, where each worker has
dialogs of its own. With faults a request is repeated until it is applied, in the simplest way:
the worker waits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import httpx
import httpx2

from .connections import aiohttp_session, httpx2_client, httpx_client
from .driving import Call, drive
from .measuring import Meter
from .work import HEADERS, Work

__all__ = ["bare", "naive_gather"]

REPEATED = frozenset({409, 429, 503})
ATTEMPTS = 10
LONGEST_BACKOFF = 2.0
"""Seconds."""


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"an answer was {status}")
        self.status = status
        self.retry_after = retry_after


@asynccontextmanager
async def _aiohttp(work: Work) -> AsyncIterator[Call]:
    async with aiohttp_session(work) as session:

        async def send(number: int) -> None:
            async with session.patch(
                work.url_of(number), data=work.content(number), headers=HEADERS
            ) as response:
                await response.read()
                if response.status != 200:
                    raise RefusedError(response.status, response.headers.get("Retry-After"))

        yield send


def _sending(client: httpx.AsyncClient | httpx2.AsyncClient, work: Work) -> Call:
    async def send(number: int) -> None:
        response = await client.patch(
            work.url_of(number), content=work.content(number), headers=HEADERS
        )
        if response.status_code != 200:
            raise RefusedError(response.status_code, response.headers.get("Retry-After"))

    return send


@asynccontextmanager
async def _httpx(work: Work) -> AsyncIterator[Call]:
    async with httpx_client(work) as client:
        yield _sending(client, work)


@asynccontextmanager
async def _httpx2(work: Work) -> AsyncIterator[Call]:
    async with httpx2_client(work) as client:
        yield _sending(client, work)


SENDING: dict[str, Callable[[Work], AbstractAsyncContextManager[Call]]] = {
    "aiohttp": _aiohttp,
    "httpx": _httpx,
    "httpx2": _httpx2,
}


def _until_applied(send: Call) -> Call:
    async def sent(number: int) -> None:
        for attempt in range(ATTEMPTS):
            wait = random.uniform(0, min(LONGEST_BACKOFF, 0.25 * 2**attempt))
            try:
                await send(number)
            except RefusedError as refused:
                if refused.status not in REPEATED:
                    raise
                if refused.retry_after is not None:
                    wait = float(refused.retry_after)
            except (aiohttp.ClientError, httpx.TransportError, httpx2.TransportError):
                pass
            else:
                return
            await asyncio.sleep(wait)
        raise RuntimeError(f"update {number} was not applied in {ATTEMPTS} attempts")

    return sent


def bare(library: str) -> Callable[[Work, Meter], Awaitable[None]]:
    """Calls of an HTTP library, as many at a time as the work says."""

    async def play(work: Work, measure: Meter) -> None:
        async with SENDING[library](work) as send:
            call = _until_applied(send) if work.faults else send
            await measure(lambda start, end: drive(work, start, end, call, measure.latencies))

    return play


async def naive_gather(work: Work, measure: Meter) -> None:
    """A task for each request, a semaphore, and the client of httpx as it comes."""
    async with httpx.AsyncClient() as client:

        async def run(start: int, end: int) -> None:
            semaphore = asyncio.Semaphore(work.in_flight)

            async def send(number: int) -> None:
                async with semaphore:
                    response = await client.patch(
                        work.url_of(number),
                        json={"session": work.session(number)},
                        headers=HEADERS,
                    )
                    response.raise_for_status()

            await asyncio.gather(*[send(number) for number in range(start, end)])

        await measure(run)
