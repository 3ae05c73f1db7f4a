"""Contestants: ways to send the updates, by name."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import httpx2
import pyreqwest.exceptions
from pyreqwest.client import ClientBuilder

from cognigy_async import (
    AiohttpTransport,
    ApiKey,
    AsyncStateClient,
    HttpxTransport,
    PyreqwestTransport,
    RateLimit,
    SessionsApi,
    StateApi,
    Transport,
)
from cognigy_async.cli.bench.load import run_stream

from .elsewhere import javascript, missing_javascript, missing_wrk, wrk
from .script import one_at_a_time
from .work import HEADERS, Meter, Work

REPEATED = frozenset({409, 429, 503})
ATTEMPTS = 10
LOST = (
    aiohttp.ClientError,
    httpx.TransportError,
    httpx2.TransportError,
    pyreqwest.exceptions.RequestError,
)
"""Errors of requests that got no answer."""

Play = Callable[[Work, Meter], Awaitable[None]]


def _connect(library: str, work: Work) -> Any:
    """Return a session or a client with one connection for each request in flight."""
    if library == "pyreqwest":
        builder = ClientBuilder()
        if work.authority:
            builder = builder.add_root_certificate_pem(Path(work.authority).read_bytes())
        return builder.build()
    trusted = ssl.create_default_context(cafile=work.authority) if work.authority else True
    if library == "aiohttp":
        connector = aiohttp.TCPConnector(limit=work.in_flight, ssl=trusted)
        return aiohttp.ClientSession(connector=connector)
    module: Any = httpx if library == "httpx" else httpx2
    # With a limit of connections, the pool of httpx looks at all of them several times a request.
    limits = module.Limits(max_connections=None, max_keepalive_connections=None)
    return module.AsyncClient(limits=limits, verify=trusted)


@asynccontextmanager
async def _opened(
    library: str, work: Work, api: StateApi | None = None
) -> AsyncIterator[AsyncStateClient]:
    async with AsyncExitStack() as stack:
        transport: Transport
        if library == "pyreqwest":
            transport = PyreqwestTransport(ca_file=work.authority)
        elif library == "httpx" and work.authority is None:
            transport = HttpxTransport()
        else:
            session = await stack.enter_async_context(_connect(library, work))
            transport = (AiohttpTransport if library == "aiohttp" else HttpxTransport)(session)
        async with AsyncStateClient(
            work.url,
            auth=ApiKey("key"),
            api=api,
            max_in_flight=work.in_flight,
            transport=transport,
            rate_limit=RateLimit(work.per_second, per=1) if work.per_second else None,
            coalesce=work.coalesce,
        ) as client:
            yield client


async def update_many(library: str, work: Work, meter: Meter, api: StateApi | None = None) -> None:
    """Send one stream of updates."""
    async with _opened(library, work, api) as client:

        async def run(numbers: range) -> None:
            before = client.metrics.requests
            await run_stream(client, work.load.rows(numbers), meter.take)
            requests = client.metrics.requests - before
            meter.results["requests_per_update"] = requests / len(numbers)

        await meter.measure(run)


async def update(library: str, work: Work, meter: Meter) -> None:
    """Make a call for each update."""
    async with _opened(library, work) as client:
        load = work.load

        async def call(number: int) -> None:
            await client.update(load.dialog(number), session=load.session(number))

        await meter.measure_calls(call)


async def bare(library: str, work: Work, meter: Meter) -> None:
    """Send requests with an HTTP library alone; repeat them only if the server has faults.

    The order of a dialog is kept only if nothing fails and each worker has dialogs of its own.
    """
    async with _connect(library, work) as session:

        async def over_aiohttp(number: int) -> tuple[int, Mapping[str, str]]:
            url, content = work.url_of(number), work.content(number)
            async with session.patch(url, data=content, headers=HEADERS) as response:
                await response.read()
                return response.status, response.headers

        async def over_httpx(number: int) -> tuple[int, Mapping[str, str]]:
            url, content = work.url_of(number), work.content(number)
            response = await session.patch(url, content=content, headers=HEADERS)
            return response.status_code, response.headers

        async def over_pyreqwest(number: int) -> tuple[int, Mapping[str, str]]:
            url, content = work.url_of(number), work.content(number)
            request = session.patch(url).headers(HEADERS).body_bytes(content).build()
            response = await request.send()
            await response.bytes()
            return response.status, response.headers

        ways = {"aiohttp": over_aiohttp, "pyreqwest": over_pyreqwest}
        send = ways.get(library, over_httpx)
        attempts = ATTEMPTS if work.faults else 1

        async def call(number: int) -> None:
            status = 0
            for attempt in range(attempts):
                try:
                    status, headers = await send(number)
                except LOST:
                    if not work.faults:
                        raise
                    status, headers = 503, {}
                if status == 200:
                    return
                if status not in REPEATED:
                    break
                wait = random.uniform(0, min(2.0, 0.25 * 2**attempt))
                await asyncio.sleep(float(headers.get("Retry-After", wait)))
            raise RuntimeError(f"update {number} was not applied: the last response was {status}")

        await meter.measure_calls(call)


async def naive_gather(work: Work, meter: Meter) -> None:
    """Start a task for each request, with a semaphore and the client of httpx as it comes."""
    async with httpx.AsyncClient() as client:

        async def run(numbers: range) -> None:
            semaphore = asyncio.Semaphore(work.in_flight)

            async def send(number: int) -> None:
                values = {"session": work.load.session(number)}
                async with semaphore:
                    response = await client.patch(work.url_of(number), json=values, headers=HEADERS)
                    response.raise_for_status()

            await asyncio.gather(*[send(number) for number in numbers])

        await meter.measure(run)


def _missing_uvloop() -> str | None:
    return None if find_spec("uvloop") else "uvloop is not installed"


@dataclass(frozen=True)
class Contestant:
    """A way to send the updates.

    Attributes:
        share: Updates as a share of those of the fastest contestant, to save time.
        warm_up: Updates of the warm-up as a share of the measured ones.
        missing: Function that returns why the contestant cannot take part, if it cannot.
    """

    run: Callable[[Work], dict[str, Any]]
    share: float = 1.0
    warm_up: float = 0.2
    missing: Callable[[], str | None] | None = None


def _run(play: Play, uvloop: bool, work: Work) -> dict[str, Any]:
    meter = Meter(work)
    anyio.run(play, work, meter, backend_options={"use_uvloop": uvloop})
    return meter.results


def _in_python(play: Play, share: float = 1.0, *, uvloop: bool = False) -> Contestant:
    missing = _missing_uvloop if uvloop else None
    return Contestant(partial(_run, play, uvloop), share, missing=missing)


SHARES = {"pyreqwest": 1.0, "aiohttp": 0.8, "httpx": 0.06, "httpx2": 0.15}
KINDS: dict[str, Callable[..., Awaitable[None]]] = {
    "library over": update_many,
    "bare": bare,
    "update over": update,
}
CONTESTANTS: dict[str, Contestant] = {
    f"{kind} {library}{suffix}": _in_python(partial(play, library), share, uvloop=bool(suffix))
    for suffix in ("", ", uvloop")
    for library, share in SHARES.items()
    for kind, play in KINDS.items()
    if not (suffix and play is update)
}
CONTESTANTS |= {
    # Sends what the JavaScript client sends.
    "library over pyreqwest, sessions API": _in_python(
        partial(update_many, "pyreqwest", api=SessionsApi(user_id="u"))
    ),
    "official JavaScript client": Contestant(
        # Its code is compiled while it runs, and needs thousands of calls to reach its full speed.
        javascript,
        0.5,
        warm_up=1.0,
        missing=missing_javascript,
    ),
    "naive gather on httpx": _in_python(naive_gather, SHARES["httpx"]),
    "the tutorial's script": _in_python(one_at_a_time, 0.2),
    "wrk": Contestant(wrk, missing=missing_wrk),
}


def present(names: list[str], tell: Callable[[str], None]) -> list[str]:
    """Return the contestants that can take part, and report why others cannot."""
    there = []
    for name in names:
        missing = CONTESTANTS[name].missing
        if missing is not None and (reason := missing()):
            tell(f"without {name}: {reason}")
        else:
            there.append(name)
    return there


if __name__ == "__main__":
    # One run of one contestant, for the other programs.
    print(json.dumps(CONTESTANTS[sys.argv[1]].run(Work.from_json(sys.argv[2]))))
