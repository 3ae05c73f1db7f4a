"""What one update costs above the network: CPU time and memory over a transport that does nothing.

    python benchmarks/overhead.py              # a table on stdout
    python benchmarks/overhead.py --json       # the same as JSON
    python benchmarks/overhead.py --rate-limit # with a rate limit that is never reached
    python benchmarks/overhead.py --check      # exit status 1 where a limit is exceeded
    python benchmarks/overhead.py --audit      # instead: what an audit adds to the loop's thread
    python benchmarks/overhead.py --otel       # besides: traced by OpenTelemetry without an SDK

CPU time of this process, medians of interleaved runs. The calibration is the least that any client
does: a queue, workers, JSON, a send, a result. Compare ratios to it between machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    AuditSink,
    JsonLinesAudit,
    RateLimit,
    Request,
    Response,
    StateUpdate,
)

MANY_LIMIT = 3.9
LIVE_LIMIT = 9.0
"""Times the CPU of the calibration in the same run, which holds on a faster machine as on a slower.

A seventh above what was measured: enough for a machine that others use as well."""

MEMORY_LIMIT = 30.0
"""Megabytes that a million updates to a million dialogs may add."""

AUDIT_LIMIT = 5.0
"""Microseconds of CPU that an audit may add to an update on the event loop's thread."""

IN_FLIGHT = 32

rate_limit: RateLimit | None = None


class NullTransport:
    """Answers at once."""

    answer = Response(
        status=200,
        headers={"etag": '"1"', "content-type": "application/json"},
        content=b'{"dialogId": "d", "version": 1, "message": "state updated"}',
    )

    async def send(self, request: Request, *, timeout: float) -> Response:
        return self.answer

    async def aclose(self) -> None:
        pass


def updates(count: int) -> Iterator[StateUpdate]:
    for number in range(count):
        yield StateUpdate(dialog_id=f"d{number}", session={"n": number, "tag": "x"})


def client(max_pending: int = 10_000, audit: AuditSink | None = None) -> AsyncStateClient:
    return AsyncStateClient(
        "http://localhost",
        auth=ApiKey("key"),
        transport=NullTransport(),
        max_in_flight=IN_FLIGHT,
        max_pending=max_pending,
        rate_limit=rate_limit,
        audit=audit,
    )


async def calibration(count: int) -> None:
    transport = NullTransport()
    waiting: asyncio.Queue[tuple[str, dict[str, object]]] = asyncio.Queue()
    done: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    for number in range(count):
        waiting.put_nowait((f"d{number}", {"n": number, "tag": "x"}))

    async def worker() -> None:
        while not waiting.empty():
            dialog, values = await waiting.get()
            content = json.dumps({"session": values}).encode()
            headers = {"content-type": "application/json", "authorization": "Bearer x"}
            request = Request("PATCH", f"http://localhost/{dialog}", headers, content)
            answer = await transport.send(request, timeout=15.0)
            await done.put((dialog, answer.status))

    await asyncio.gather(*[worker() for _ in range(IN_FLIGHT)])


async def many(count: int, audit: AuditSink | None = None) -> None:
    async with client(audit=audit) as one, one.update_many(updates(count)) as outcomes:
        applied = 0
        async for outcome in outcomes:
            applied += outcome.ok
    if applied != count:
        raise RuntimeError(f"{applied} of {count} were applied")


async def many_traced(count: int) -> None:
    from cognigy_async.integrations.opentelemetry import instrument

    one = client()
    instrument(one)
    async with one, one.update_many(updates(count)) as outcomes:
        async for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error


async def live(count: int, audit: AuditSink | None = None) -> None:
    async with client(max_pending=count + 100, audit=audit) as one:
        calls = [one.update(f"d{n}", session={"n": n, "tag": "x"}) for n in range(count)]
        await asyncio.gather(*calls)


def cpu(run: Callable[[int], Awaitable[None]], count: int) -> float:
    """Microseconds of CPU for one update."""

    async def main() -> float:
        began = time.process_time()
        await run(count)
        return time.process_time() - began

    return asyncio.run(main()) / count * 1e6


def on_the_loop(
    run: Callable[[int, AuditSink | None], Awaitable[None]], count: int, directory: str | None
) -> float:
    """Microseconds of CPU for one update on the event loop's thread, closing included."""
    audit = None
    if directory is not None:
        # None is dropped, which would cost less than to take it down.
        audit = JsonLinesAudit(Path(directory, "audit.jsonl"), max_queue=count)

    async def main() -> float:
        began = time.thread_time()
        await run(count, audit)
        return time.thread_time() - began

    return asyncio.run(main()) / count * 1e6


def audit_cost(count: int, rounds: int) -> dict[str, list[float]]:
    """What a file adds to an update, by kind: one difference for each of the interleaved rounds."""
    kinds = {"update_many": many, "update": live}
    added: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, run in kinds.items():
            without = on_the_loop(run, count, None)
            with tempfile.TemporaryDirectory() as directory:
                added[name].append(on_the_loop(run, count, directory) - without)
    return added


def report_audit(options: argparse.Namespace) -> int:
    added = audit_cost(options.count, options.rounds)
    medians = {name: statistics.median(values) for name, values in added.items()}
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in medians.items()}, indent=2))
    else:
        print(f"{'audit adds':12} {'CPU us':>8} {'lowest':>8} {'highest':>8}")
        for name, values in added.items():
            print(f"{name:12} {medians[name]:8.2f} {min(values):8.2f} {max(values):8.2f}")
    return int(options.check and max(medians.values()) > AUDIT_LIMIT)


def resident() -> float:
    """Megabytes of resident memory; 0.0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    import resource

    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6


def memory(count: int) -> float:
    """Megabytes that `count` updates to as many dialogs add."""
    asyncio.run(many(20_000))
    before = resident()
    asyncio.run(many(count))
    return resident() - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=1_000_000, help="updates; 0 to leave it out")
    parser.add_argument("--otel", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--rate-limit",
        nargs="?",
        const=1_000_000,
        type=int,
        metavar="N",
        help="requests in a second; up to 10000 they are remembered one by one",
    )
    parser.add_argument("--audit", action="store_true")
    options = parser.parse_args()
    if options.rate_limit is not None:
        global rate_limit
        rate_limit = RateLimit(options.rate_limit, per=1)
    if options.audit:
        return report_audit(options)
    kinds = {"calibration": calibration, "update_many": many, "update": live}
    if options.otel:
        kinds["traced"] = many_traced
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, run in kinds.items():
            times[name].append(cpu(run, options.count))
    result: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "count": options.count,
        "rounds": options.rounds,
    }
    base = statistics.median(times["calibration"])
    for name, values in times.items():
        middle = statistics.median(values)
        result[name] = {
            "cpu_us": round(middle, 1),
            "lowest_us": round(min(values), 1),
            "highest_us": round(max(values), 1),
            "times_calibration": round(middle / base, 2),
        }
    grown = memory(options.memory) if options.memory else 0.0
    result["memory"] = {"updates": options.memory, "grown_mb": round(grown, 1)}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{'':12} {'CPU us':>8} {'lowest':>8} {'highest':>8} {'x calibration':>14}")
        for name, values in times.items():
            middle = statistics.median(values)
            spread = f"{min(values):8.1f} {max(values):8.1f}"
            print(f"{name:12} {middle:8.1f} {spread} {middle / base:14.2f}")
        print(f"memory grown by {options.memory} updates: {grown:.1f} MB")
    # The least is what disturbs least.
    least = {name: min(values) / min(times["calibration"]) for name, values in times.items()}
    too_much = (
        least["update_many"] > MANY_LIMIT or least["update"] > LIVE_LIMIT or grown > MEMORY_LIMIT
    )
    if options.check and too_much:
        print(
            f"too much: update_many {least['update_many']:.2f} (at most {MANY_LIMIT}), "
            f"update {least['update']:.2f} (at most {LIVE_LIMIT}) times the calibration, "
            f"{grown:.1f} MB (at most {MEMORY_LIMIT})",
            file=sys.stderr,
        )
    return int(options.check and too_much)


if __name__ == "__main__":
    sys.exit(main())
