"""Requests per second over the network of this machine: this library beside other ways to do it.

    python benchmarks/throughput.py                        # a table on stdout
    python benchmarks/throughput.py --json results.json    # and everything that was measured
    python benchmarks/throughput.py --only aiohttp         # contestants whose name has that in it

Each run is a process of its own, warms up first, and does the same work: PATCH requests of about
200 bytes to different dialogs. The server (`null_server.py`) has one core and the client another.
The contestants take turns, round after round, so that what else the machine does meets all of them;
ratios are made within a round. The memory allocator is set alike for all (`MALLOC` below).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2

from cognigy_async import AiohttpTransport, ApiKey, AsyncStateClient, HttpxTransport, Transport

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "2097152"}
"""So that glibc keeps the buffers into which asyncio reads, which are larger than what it keeps."""

PACKAGES = (
    "aiohttp",
    "anyio",
    "cognigy-async",
    "httpcore",
    "httpx",
    "httpx2",
    "pydantic",
    "uvloop",
)
WARM_UP = 0.2
"""Of the requests of a run, as many more before it."""

TEXT = "x" * 150
HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Authorization": "Bearer 0123456789abcdef",
}

Run = Callable[[int, int], Awaitable[None]]
"""Sends the requests of a range of numbers."""


@dataclass(frozen=True)
class Setting:
    """Where to, and how many at a time."""

    url: str
    in_flight: int

    def url_of(self, number: int) -> str:
        return f"{self.url}/runtime/v2/dialogs/d{number}/state"


def content_of(number: int) -> bytes:
    return json.dumps({"session": {"n": number, "text": TEXT}}).encode()


async def pool(start: int, end: int, workers: int, send: Callable[[int], Awaitable[int]]) -> None:
    """As many workers as may be in flight, which share the numbers."""
    numbers = iter(range(start, end))

    async def work() -> None:
        for number in numbers:
            if await send(number) != 200:
                raise RuntimeError("an answer was not 200")

    await asyncio.gather(*[work() for _ in range(workers)])


# Contestants: an asynchronous function that is given `Setting` and what measures a `Run`.

Measure = Callable[[Run], Awaitable[None]]


async def library(setting: Setting, measure: Measure, transport: Transport) -> None:
    async with AsyncStateClient(
        setting.url, auth=ApiKey("key"), max_in_flight=setting.in_flight, transport=transport
    ) as client:

        async def run(start: int, end: int) -> None:
            rows = (
                {"dialog_id": f"d{number}", "session": {"n": number, "text": TEXT}}
                for number in range(start, end)
            )
            async with client.update_many(rows) as outcomes:
                async for outcome in outcomes:
                    if not outcome.ok:
                        raise RuntimeError("an update was not applied")

        await measure(run)


async def library_aiohttp(setting: Setting, measure: Measure) -> None:
    await library(setting, measure, AiohttpTransport())


async def library_httpx(setting: Setting, measure: Measure) -> None:
    await library(setting, measure, HttpxTransport())


async def bare_aiohttp(setting: Setting, measure: Measure) -> None:
    connector = aiohttp.TCPConnector(limit=setting.in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(number: int) -> int:
            async with session.patch(
                setting.url_of(number), data=content_of(number), headers=HEADERS
            ) as response:
                await response.read()
                return response.status

        await measure(lambda start, end: pool(start, end, setting.in_flight, send))


async def bare_httpx(setting: Setting, measure: Measure, module: Any = httpx) -> None:
    limits = module.Limits(
        max_connections=setting.in_flight, max_keepalive_connections=setting.in_flight
    )
    async with module.AsyncClient(limits=limits) as client:

        async def send(number: int) -> int:
            response = await client.patch(
                setting.url_of(number), content=content_of(number), headers=HEADERS
            )
            return int(response.status_code)

        await measure(lambda start, end: pool(start, end, setting.in_flight, send))


async def bare_httpx2(setting: Setting, measure: Measure) -> None:
    await bare_httpx(setting, measure, httpx2)


async def naive_gather(setting: Setting, measure: Measure) -> None:
    """A task for each request, a semaphore, and the client as it comes."""
    async with httpx.AsyncClient() as client:

        async def run(start: int, end: int) -> None:
            semaphore = asyncio.Semaphore(setting.in_flight)

            async def send(number: int) -> None:
                async with semaphore:
                    response = await client.patch(
                        setting.url_of(number),
                        json={"session": {"n": number, "text": TEXT}},
                        headers=HEADERS,
                    )
                    response.raise_for_status()

            await asyncio.gather(*[send(number) for number in range(start, end)])

        await measure(run)


async def one_at_a_time(setting: Setting, measure: Measure) -> None:
    """The synchronous client of a script: one request after the other."""
    with httpx.Client() as client:

        async def run(start: int, end: int) -> None:
            for number in range(start, end):
                # That it blocks is the point.
                response = client.patch(  # noqa: ASYNC212
                    setting.url_of(number),
                    json={"session": {"n": number, "text": TEXT}},
                    headers=HEADERS,
                )
                response.raise_for_status()

        await measure(run)


@dataclass(frozen=True)
class Contestant:
    """A way to do the work, on an event loop.

    Attributes:
        share: of the requests of the fastest, as slow ones are measured as well with fewer.
        beside: the contestant to which it is compared, and what is aimed at.
    """

    play: Callable[[Setting, Measure], Awaitable[None]]
    loop: str = "asyncio"
    share: float = 1.0
    beside: tuple[str, float] | None = None


CONTESTANTS = {
    "library over aiohttp": Contestant(library_aiohttp, beside=("bare aiohttp", 0.80)),
    "bare aiohttp": Contestant(bare_aiohttp),
    "library over aiohttp, uvloop": Contestant(
        library_aiohttp, "uvloop", beside=("bare aiohttp, uvloop", 0.80)
    ),
    "bare aiohttp, uvloop": Contestant(bare_aiohttp, "uvloop"),
    "library over httpx": Contestant(library_httpx, share=0.15, beside=("bare httpx", 0.95)),
    "bare httpx": Contestant(bare_httpx, share=0.15),
    "library over httpx, uvloop": Contestant(
        library_httpx, "uvloop", share=0.15, beside=("bare httpx, uvloop", 0.95)
    ),
    "bare httpx, uvloop": Contestant(bare_httpx, "uvloop", share=0.15),
    "bare httpx2": Contestant(bare_httpx2, share=0.15),
    "naive gather on httpx": Contestant(naive_gather, share=0.08),
    "httpx, one at a time": Contestant(one_at_a_time, share=0.08),
}


def play(name: str, setting: Setting, count: int) -> dict[str, float]:
    """Be the contestant, in this process."""
    contestant = CONTESTANTS[name]
    measured: dict[str, float] = {}

    async def measure(run: Run) -> None:
        warm = int(count * WARM_UP)
        await run(0, warm)
        began, cpu = time.perf_counter(), time.process_time()
        await run(warm, warm + count)
        seconds = time.perf_counter() - began
        measured["per_second"] = count / seconds
        measured["cpu_us"] = (time.process_time() - cpu) / count * 1e6

    async def main() -> None:
        await contestant.play(setting, measure)

    if contestant.loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
    return measured


def cores() -> tuple[int, int] | None:
    """One for the server and one for the client, where the system lets processes have some."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[-1]) if len(available) > 1 else None


@contextmanager
def null_server(core: int | None) -> Iterator[str]:
    program = str(Path(__file__).with_name("null_server.py"))
    process = subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


def run_child(name: str, setting: Setting, count: int, core: int | None) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--play",
        name,
        "--url",
        setting.url,
        "--in-flight",
        str(setting.in_flight),
        "--count",
        str(max(1, int(count * CONTESTANTS[name].share))),
    ]
    if core is not None:
        command += ["--core", str(core)]
    done = subprocess.run(
        command, env={**os.environ, **MALLOC}, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, spread and ratios."""
    told: dict[str, Any] = {}
    for name, results in runs.items():
        rates = [result["per_second"] for result in results]
        told[name] = {
            "per_second": round(statistics.median(rates)),
            "lowest": round(min(rates)),
            "highest": round(max(rates)),
            "cpu_us": round(statistics.median(result["cpu_us"] for result in results), 1),
        }
        beside = CONTESTANTS[name].beside
        if beside is not None and beside[0] in runs:
            other, aim = beside
            pairs = list(zip(results, runs[other], strict=True))
            ratios = [mine["per_second"] / its["per_second"] for mine, its in pairs]
            told[name]["beside"] = other
            told[name]["ratio"] = round(statistics.median(ratios), 3)
            told[name]["ratio_lowest"] = round(min(ratios), 3)
            told[name]["ratio_highest"] = round(max(ratios), 3)
            told[name]["aim"] = aim
            # What else the machine does takes wall time from both, and little of this.
            cpu = [its["cpu_us"] / mine["cpu_us"] for mine, its in pairs]
            told[name]["cpu_ratio"] = round(statistics.median(cpu), 3)
    return told


def machine() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "malloc": MALLOC,
    }


def table(results: dict[str, Any]) -> str:
    lines = [f"{'':30} {'req/s':>8} {'lowest':>8} {'highest':>8} {'CPU us':>8}"]
    for name, told in results.items():
        line = (
            f"{name:30} {told['per_second']:8} {told['lowest']:8} {told['highest']:8} "
            f"{told['cpu_us']:8.1f}"
        )
        if "ratio" in told:
            spread = f"{told['ratio_lowest']:.2f} to {told['ratio_highest']:.2f}"
            line += f"  {told['ratio']:.2f} of {told['beside']} ({spread}; aim {told['aim']:.2f};"
            line += f" by CPU {told['cpu_ratio']:.2f})"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="requests of the fastest")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--only", action="append", metavar="TEXT", help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--play", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
        setting = Setting(options.url, options.in_flight)
        print(json.dumps(play(options.play, setting, options.count)))
        return
    names = [
        name
        for name, contestant in CONTESTANTS.items()
        if (contestant.loop == "asyncio" or has_uvloop())
        and (not options.only or any(text in name for text in options.only))
    ]
    server_core, client_core = cores() or (None, None)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with null_server(server_core) as url:
        setting = Setting(url, options.in_flight)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            # Neighbours change places, so that none always follows the other.
            for name in names if number % 2 else reversed(names):
                runs[name].append(run_child(name, setting, options.count, client_core))
    results = summary(runs)
    print(table(results))
    if options.json:
        told = {
            "machine": machine(),
            "in_flight": options.in_flight,
            "count": options.count,
            "rounds": options.rounds,
            "results": results,
            "runs": runs,
        }
        options.json.write_text(json.dumps(told, indent=2) + "\n")


def has_uvloop() -> bool:
    try:
        metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
