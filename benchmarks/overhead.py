"""CPU time and memory of an update without a network, as a multiple of a minimal client.

    python benchmarks/overhead.py              # a table on stdout
    python benchmarks/overhead.py --json       # JSON on stdout
    python benchmarks/overhead.py --rate-limit # with a rate limit that is never reached
    python benchmarks/overhead.py --check      # exit status 1 if a limit is exceeded
    python benchmarks/overhead.py --audit      # instead: CPU that an audit adds to the event loop
    python benchmarks/overhead.py --otel       # also: traced by OpenTelemetry without an SDK

Figures are medians of interleaved runs in this process. The calibration is a minimal client: a
queue, workers, JSON, a send, a result. Compare multiples of it between machines. Each kind runs
with a tiny payload, and with a nested one of about 1 kB ("nested").

Crowded work, in which thousands of updates or callers wait at once, is measured as a multiple of a
plain case in which they need not; see `harness/crowded.py`. A path that looks at all that wait for
each of them would show.

To compare two checkouts, run this file with each in turn, several times, and compare the lowest
figures: `PYTHONPATH=CHECKOUT python benchmarks/overhead.py --json --memory 0`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

from cognigy_async import JsonLinesAudit, RateLimit, Request, StateUpdate
from harness.crowded import CROWDS
from harness.null import IN_FLIGHT, NullTransport, client, memory_mb

LIMITS = {"update_many": 3.6, "update": 8.3, "update_many_nested": 2.3, "update_nested": 3.3}
"""Multiples of the calibration with the same payload: about a seventh above what was measured, so
that other load on the machine does not fail the check."""
MEMORY_LIMIT = 10.0
"""Megabytes that updates to as many dialogs may add."""
AUDIT_LIMIT = 5.0
"""CPU microseconds that an audit may add to an update on the thread of the event loop."""
CROWDED_LIMIT = 2.0
"""CPU of crowded work as a multiple of its plain case."""
MORE = 3
"""Factor of rounds if a limit is exceeded: the lowest figure can only improve."""
NESTED: dict[str, Any] = json.loads("""{
  "case": {"status": "open", "priority": 2, "escalated": false, "assignee": null},
  "customer": {"name": "Ada Example", "email": "ada@example.com", "locale": "de-DE",
    "address": {"street": "Musterstraße 12", "zip": "40213", "city": "Düsseldorf"},
    "segments": ["retail", "loyalty", "newsletter"]},
  "order": {"total": 449.97, "currency": "EUR", "items": [
    {"sku": "A-4711", "name": "a thing with a name", "price": 149.99, "amount": 1},
    {"sku": "A-4712", "name": "a thing with a name", "price": 149.99, "amount": 1},
    {"sku": "A-4713", "name": "a thing with a name", "price": 149.99, "amount": 1}]},
  "history": [
    {"at": "2024-05-01T12:00:00Z", "intent": "order_status", "score": 0.93, "handled": true},
    {"at": "2024-05-01T12:01:00Z", "intent": "order_status", "score": 0.71, "handled": true},
    {"at": "2024-05-01T12:02:00Z", "intent": "complaint", "score": 0.88, "handled": false},
    {"at": "2024-05-01T12:03:00Z", "intent": "handover", "score": 0.97, "handled": true}]
}""")
Payload = Callable[[int], dict[str, Any]]
Kind = Callable[..., Awaitable[None]]
Clock = Callable[[], float]


def tiny(number: int) -> dict[str, Any]:
    return {"n": number, "tag": "x"}


def nested(number: int) -> dict[str, Any]:
    return {"n": number, **NESTED}


async def calibration(count: int, payload: Payload, **_: Any) -> None:
    """Send updates with as little code as possible."""
    transport = NullTransport()
    waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    done: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    for number in range(count):
        waiting.put_nowait((f"d{number}", payload(number)))

    async def worker() -> None:
        while not waiting.empty():
            dialog, values = await waiting.get()
            content = json.dumps({"session": values}).encode()
            headers = {"content-type": "application/json", "authorization": "Bearer x"}
            request = Request("PATCH", f"http://localhost/{dialog}", headers, content)
            answer = await transport.send(request, timeout=15.0)
            await done.put((dialog, answer.status))

    await asyncio.gather(*[worker() for _ in range(IN_FLIGHT)])


async def update_many(count: int, payload: Payload, traced: bool = False, **options: Any) -> None:
    one = client(**options)
    if traced:
        from cognigy_async.integrations.opentelemetry import instrument

        instrument(one)
    updates = (StateUpdate(dialog_id=f"d{n}", session=payload(n)) for n in range(count))
    applied = 0
    async with one, one.update_many(updates) as outcomes:
        async for outcome in outcomes:
            applied += outcome.ok
    if applied != count:
        raise RuntimeError(f"{applied} of {count} updates were applied")


async def update(count: int, payload: Payload, **options: Any) -> None:
    """Await all calls at once."""
    async with client(count + 100, **options) as one:
        await asyncio.gather(*[one.update(f"d{n}", session=payload(n)) for n in range(count)])


def cpu_us(
    kind: Kind, count: int, payload: Payload, clock: Clock = time.process_time, **options: Any
) -> float:
    """Return CPU microseconds per update."""

    async def main() -> float:
        began = clock()
        await kind(count, payload, **options)
        return clock() - began

    # Garbage of one run must not be collected in the next one.
    gc.collect()
    return asyncio.run(main()) / count * 1e6


def memory(count: int) -> float:
    """Return megabytes that updates to as many dialogs add."""
    asyncio.run(update_many(20_000, tiny))
    before = memory_mb("VmRSS")
    asyncio.run(update_many(count, tiny))
    return memory_mb("VmRSS") - before


Times = dict[str, list[float]]


def measure(options: argparse.Namespace) -> Times:
    runs = {
        f"{kind.__name__}{suffix}": partial(cpu_us, kind, options.count, payload)
        for suffix, payload in (("", tiny), ("_nested", nested))
        for kind in (calibration, update_many, update)
    }
    if options.otel:
        runs["traced"] = partial(cpu_us, update_many, options.count, tiny, traced=True)
    times: Times = {name: [] for name in runs}
    for number in range(options.rounds * (MORE if options.check else 1)):
        if number >= options.rounds and not exceeded(times):
            break
        for name, run in runs.items():
            times[name].append(run(rate_limit=options.rate_limit))
    return times


def measure_crowded(options: argparse.Namespace) -> Times:
    """Return the times of each crowded work and, with `_plain` in the name, of its plain case."""
    times: Times = {}
    for number in range(options.rounds * (MORE if options.check else 1)):
        if number >= options.rounds and not exceeded_when_crowded(times):
            break
        for crowd in CROWDS:
            count = max(20, int(crowd.share * options.count))
            for suffix, crowded in (("", True), ("_plain", False)):
                cost = crowded_us(partial(crowd.run, count, crowded)) / count
                times.setdefault(f"{crowd.run.__name__}{suffix}", []).append(cost)
    return times


def crowded_us(run: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Return the CPU microseconds of a run."""
    gc.collect()
    began = time.process_time()
    asyncio.run(run())
    return (time.process_time() - began) * 1e6


def base_of(name: str) -> str:
    """Return the calibration with the same payload."""
    return "calibration_nested" if name.endswith("_nested") else "calibration"


def exceeded(times: Times) -> list[str]:
    """Return limits that the lowest figures exceed: nothing makes a run cheaper than it is."""
    multiples = {name: min(times[name]) / min(times[base_of(name)]) for name in LIMITS}
    return [
        f"{name} costs {multiples[name]:.2f} times the calibration; the limit is {limit}"
        for name, limit in LIMITS.items()
        if multiples[name] > limit
    ]


def exceeded_when_crowded(times: Times) -> list[str]:
    """Return the crowded works whose lowest figure exceeds the limit."""
    names = [crowd.run.__name__ for crowd in CROWDS]
    multiples = {name: min(times[name]) / min(times[f"{name}_plain"]) for name in names}
    return [
        f"{name} costs {multiple:.2f} times its plain case; the limit is {CROWDED_LIMIT}"
        for name, multiple in multiples.items()
        if multiple > CROWDED_LIMIT
    ]


def show(rows: dict[str, dict[str, float]], facts: dict[str, Any], as_json: bool) -> None:
    """Print rows with the same columns, as JSON or as a table."""
    if as_json:
        print(json.dumps({**facts, **rows}, indent=2))
        return
    show_table(rows)


def show_table(rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    width = max(map(len, rows))
    print(" " * width + "".join(f" {column:>17}" for column in columns))
    for name, row in rows.items():
        print(f"{name:{width}}" + "".join(f" {row[column]:17.2f}" for column in columns))


def report(times: Times, crowded: Times, grown: float, options: argparse.Namespace) -> None:
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = {
        name: {
            "cpu_us": round(middle[name], 2),
            "lowest_us": round(min(values), 2),
            "highest_us": round(max(values), 2),
            "times_calibration": round(middle[name] / middle[base_of(name)], 2),
        }
        for name, values in times.items()
    }
    crowds = {
        name: {
            "cpu_us": round(statistics.median(crowded[name]), 2),
            "plain_us": round(statistics.median(crowded[f"{name}_plain"]), 2),
            "times_plain": round(
                statistics.median(map(truediv, crowded[name], crowded[f"{name}_plain"])), 2
            ),
        }
        for name in (crowd.run.__name__ for crowd in CROWDS)
    }
    facts = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "count": options.count,
        "rate_limit": options.rate_limit and options.rate_limit.n,
        "rounds": len(times["calibration"]),
        "payload_bytes": {each.__name__: len(json.dumps(each(0))) for each in (tiny, nested)},
        "memory": {"updates": options.memory, "grown_mb": round(grown, 1)},
        "crowded": crowds,
    }
    show(rows, facts, options.json)
    if not options.json:
        show_table(crowds)
        print(f"memory grown by {options.memory} updates: {grown:.1f} MB")


def report_audit(options: argparse.Namespace) -> int:
    """Print what an audit adds on the thread of the event loop, closing included."""
    whole: Times = {"update_many": [], "update": []}
    added: Times = {"update_many": [], "update": []}
    for _ in range(options.rounds):
        for kind in (update_many, update):
            run = partial(cpu_us, kind, options.count, tiny, time.thread_time)
            without = run(rate_limit=options.rate_limit)
            with tempfile.TemporaryDirectory() as folder:
                # The queue has room for all records: none is dropped, and the event loop does not
                # wait for the sink.
                audit = JsonLinesAudit(Path(folder, "audit.jsonl"), max_queue=2 * options.count)
                cost = run(rate_limit=options.rate_limit, audit=audit)
            whole[kind.__name__].append(cost)
            added[kind.__name__].append(cost - without)
    rows = {
        name: {
            "adds_us": round(statistics.median(values), 2),
            "lowest_us": round(min(values), 2),
            "highest_us": round(max(values), 2),
            "cpu_us": round(statistics.median(whole[name]), 1),
        }
        for name, values in added.items()
    }
    show(rows, {}, options.json)
    return int(options.check and max(row["adds_us"] for row in rows.values()) > AUDIT_LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="updates per run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=1_000_000, help="updates; 0 skips it")
    for name in ("--otel", "--json", "--check", "--audit"):
        parser.add_argument(name, action="store_true")
    parser.add_argument(
        "--rate-limit",
        nargs="?",
        const=RateLimit(1_000_000, per=1),
        type=lambda text: RateLimit(int(text), per=1),
        metavar="N",
        help="requests per second; up to 10000 they are remembered one by one",
    )
    options = parser.parse_args()
    if options.audit:
        return report_audit(options)
    # First, while no garbage hides the growth.
    grown = memory(options.memory) if options.memory else 0.0
    times = measure(options)
    crowded = measure_crowded(options)
    report(times, crowded, grown, options)
    faults = [*exceeded(times), *exceeded_when_crowded(crowded)]
    if grown > MEMORY_LIMIT:
        faults.append(f"memory grew by {grown:.1f} MB; the limit is {MEMORY_LIMIT:g} MB")
    if options.check:
        for fault in faults:
            print(f"limit exceeded: {fault}", file=sys.stderr)
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
