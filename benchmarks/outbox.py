"""What an outbox adds to an update: CPU, latency and memory, and the calls to its targets.

    python benchmarks/outbox.py           # tables on stdout
    python benchmarks/outbox.py --json    # JSON on stdout
    python benchmarks/outbox.py --check   # exit status 1 if a limit is exceeded

Runs with and without an outbox take turns in this process. CPU is that of all threads:

- recorded: intent and outcome of each update of `update_many`, to a target that is down;
- delivered: also the delivery to an async function that returns at once, until the last one;
- power: the same with `durability="power"`.

Latency is that of `update`, by callers that make one update after another. A transport without a
wait saturates the process, and what its callers wait for is CPU. The folder is in the directory for
temporary files: set `TMPDIR` to measure another disk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from overhead import show_table

from cognigy_async import AsyncStateClient, Request, Response, StateUpdate, UpdateEvent
from cognigy_async.crm import HubSpot, Outbox, Salesforce, SalesforceAuth, Webhook
from cognigy_async.crm.target import Target, TargetUnavailableError
from harness.null import NullTransport, client, memory_mb
from tests.stubs.hubspot import HubSpotStub
from tests.stubs.salesforce import SalesforceStub
from tests.stubs.transport import InProcess, Reply, served

LIMITS = {
    "recorded": 25.0,
    "32 callers, 20 ms": 3.0,
    "memory": 30.0,
    "calls to HubSpot": 10.1,
    "calls to Salesforce": 5.1,
}
"""CPU microseconds and milliseconds at p50 that an outbox may add, megabytes for 50,000 events, and
calls for 1,000 events."""
MORE = 3
"""Factor of rounds if a limit is exceeded: the lowest figure can only improve."""
KINDS = ("without", "recorded", "delivered", "power")
DOMAIN = "https://crm.my.salesforce.com"
SECRET = "whsec_" + "QUJD" * 8


class SlowTransport(NullTransport):
    """Answers after about 20 ms."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        await asyncio.sleep(random.uniform(0.015, 0.025))
        return self.answer


LOADS: dict[str, tuple[int, type[NullTransport]]] = {
    "32 callers, 20 ms": (32, SlowTransport),
    "64 callers": (64, NullTransport),
    "1 caller": (1, NullTransport),
}


class Counter:
    """Waits for a number of events."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.done = asyncio.Event()

    async def take(self, _: UpdateEvent) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()


async def down(_: UpdateEvent) -> None:
    raise TargetUnavailableError("closed for the day", 3600.0)


@contextmanager
def outbox_to(target: Any, **options: Any) -> Iterator[Outbox]:
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(folder, **options)
        outbox.deliver_to(target)
        yield outbox


async def update_many(one: AsyncStateClient, count: int) -> None:
    updates = (StateUpdate(f"d{n}", session={"n": n, "tag": "x"}) for n in range(count))
    applied = 0
    async with one.update_many(updates) as outcomes:
        async for outcome in outcomes:
            applied += outcome.ok
    if applied != count:
        raise RuntimeError(f"{applied} of {count} updates were applied")


async def cpu_us(kind: str, count: int) -> float:
    """Return CPU microseconds per update."""
    gc.collect()
    if kind == "without":
        async with client() as one:
            began = time.process_time()
            await update_many(one, count)
            return (time.process_time() - began) / count * 1e6
    counter = Counter(count)
    target = down if kind == "recorded" else counter.take
    durability: Any = "power" if kind == "power" else "process"
    with outbox_to(target, durability=durability) as outbox:
        async with client(outbox=outbox) as one:
            began = time.process_time()
            await update_many(one, count)
            if kind != "recorded":
                await counter.done.wait()
            return (time.process_time() - began) / count * 1e6


async def latencies_ms(load: str, seconds: float, outbox: Outbox | None) -> list[float]:
    """Return the sorted latencies of callers, each of which makes one update after another."""
    callers, transport = LOADS[load]
    times: list[float] = []

    async def call(one: AsyncStateClient, caller: int) -> None:
        end, number = time.perf_counter() + seconds, 0
        while (began := time.perf_counter()) < end:
            number += 1
            await one.update(f"d{caller}", session={"n": number, "tag": "x"})
            times.append((time.perf_counter() - began) * 1e3)

    async with client(transport=transport(), outbox=outbox) as one:
        await asyncio.gather(*[call(one, caller) for caller in range(callers)])
    return sorted(times)


def latency(load: str, seconds: float, *, with_outbox: bool) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    gc.collect()
    if with_outbox:
        with outbox_to(Counter(0).take) as outbox:
            times = asyncio.run(latencies_ms(load, seconds, outbox))
    else:
        times = asyncio.run(latencies_ms(load, seconds, None))
    return times[len(times) // 2], times[len(times) * 99 // 100]


async def memory(count: int) -> float:
    """Return megabytes that undelivered events take."""
    async with client() as one:
        await update_many(one, count)
        gc.collect()
        before = memory_mb("VmRSS")
    with outbox_to(down) as outbox:
        async with client(outbox=outbox) as one:
            await update_many(one, count)
            if outbox.status()[0].depth != count:
                raise RuntimeError("events were delivered to a target that is down")
            return memory_mb("VmRSS") - before


async def deliver(target: Target, count: int) -> float:
    """Return the seconds in which a target gets events, from the first update on."""
    with outbox_to(target) as outbox:
        async with client(outbox=outbox) as one:
            began = time.perf_counter()
            await update_many(one, count)
            while outbox.status()[0].delivered < count:  # noqa: ASYNC110 (there is no event)
                await asyncio.sleep(0.05)
            return time.perf_counter() - began


class Accepting:
    """A receiver of webhooks."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        return Reply(204)


Figures = dict[str, dict[str, float]]


def targets(count: int) -> Figures:
    """Return the seconds and the calls in which each target gets events."""
    contacts, records = (
        HubSpotStub("token", "dialog", ("n",)),
        SalesforceStub(SECRET, fields=("n",)),
    )
    # The pace of HubSpot is that of its servers, not of this program.
    contacts.burst = 1_000_000
    hubspot = HubSpot(
        "token",
        {"dialog": "dialog_id", "n": "session.n"},
        id_property="dialog",
        transport=InProcess(contacts),
    )
    salesforce = Salesforce(
        SalesforceAuth(DOMAIN, "key", SECRET),
        {"Dialog__c": "dialog_id", "n": "session.n"},
        external_id="Dialog__c",
        transport=InProcess(records),
    )
    seconds = {each.name: asyncio.run(deliver(each, count)) for each in (hubspot, salesforce)}
    with served(Accepting()) as origin:
        seconds["webhook"] = asyncio.run(deliver(Webhook(origin, SECRET), count))
    calls = {"hubspot": contacts.calls, "salesforce": records.calls, "webhook": count}
    return {
        name: {"calls": calls[name], "seconds": round(value, 1), "per_second": round(count / value)}
        for name, value in seconds.items()
    }


def measure(options: argparse.Namespace) -> tuple[Figures, Figures]:
    """Return CPU microseconds, and p50 and p99 in milliseconds, with and without an outbox."""
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    delays: dict[str, list[tuple[float, ...]]] = {load: [] for load in LOADS}
    for number in range(options.rounds * (MORE if options.check else 1)):
        if number >= options.rounds and not exceeded(*figures(costs, delays), {}, 0.0, options):
            break
        for kind in KINDS:
            costs[kind].append(asyncio.run(cpu_us(kind, options.count)))
        for load in LOADS:
            pair = (latency(load, options.seconds, with_outbox=each) for each in (False, True))
            delays[load].append(tuple(value for times in pair for value in times))
    return figures(costs, delays)


def figures(
    costs: dict[str, list[float]], delays: dict[str, list[tuple[float, ...]]]
) -> tuple[Figures, Figures]:
    lowest = min(costs["without"])
    cpu = {
        kind: {
            "cpu_us": round(statistics.median(values), 1),
            "lowest_us": round(min(values), 1),
            "adds_us": round(min(values) - lowest, 1),
        }
        for kind, values in costs.items()
    }
    names = ("p50_without", "p99_without", "p50", "p99")
    rows = {}
    for load, runs in delays.items():
        rows[load] = {
            name: round(statistics.median(run[index] for run in runs), 2)
            for index, name in enumerate(names)
        }
        added = min(run[2] for run in runs) - min(run[0] for run in runs)
        rows[load]["adds_ms"] = round(added, 2)
    return cpu, rows


def exceeded(
    cpu: Figures, delays: Figures, calls: Figures, grown: float, options: argparse.Namespace
) -> list[str]:
    found = {
        "recorded": cpu["recorded"]["adds_us"],
        "32 callers, 20 ms": delays["32 callers, 20 ms"]["adds_ms"],
        "memory": grown / max(1, options.memory) * 50_000,
    }
    if calls:
        found["calls to HubSpot"] = calls["hubspot"]["calls"] / options.events * 1000
        found["calls to Salesforce"] = calls["salesforce"]["calls"] / options.events * 1000
    return [
        f"{name}: {value:.2f}; the limit is {LIMITS[name]:g}"
        for name, value in found.items()
        if value > LIMITS[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="updates per run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a run of callers")
    parser.add_argument("--memory", type=int, default=50_000, help="undelivered events; 0 skips it")
    parser.add_argument("--events", type=int, default=100_000, help="for each target; 0 skips it")
    for name in ("--json", "--check"):
        parser.add_argument(name, action="store_true")
    options = parser.parse_args()
    # First, while no garbage hides the growth.
    grown = asyncio.run(memory(options.memory)) if options.memory else 0.0
    cpu, delays = measure(options)
    calls = targets(options.events) if options.events else {}
    if options.json:
        settings = {"python": platform.python_version(), **vars(options)}
        settings |= {"cpu": cpu, "latency": delays, "grown_mb": round(grown, 1), "targets": calls}
        print(json.dumps(settings, indent=2))
    else:
        for rows in filter(None, (cpu, delays, calls)):
            show_table(rows)
        print(f"memory grown by {options.memory} undelivered events: {grown:.1f} MB")
    faults = exceeded(cpu, delays, calls, grown, options)
    if options.check:
        for fault in faults:
            print(f"limit exceeded: {fault}", file=sys.stderr)
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
