"""Jobs over several workers, on the development server of Temporal.

    python benchmarks/temporal_jobs.py rate              # one worker and four, beside bulk run
    python benchmarks/temporal_jobs.py kill              # four workers, one of them killed
    python benchmarks/temporal_jobs.py quota             # a tenant's limit shared by four workers
    python benchmarks/temporal_jobs.py rate --rows 20000 # fewer rows

Workers, the development server and the server that gets the updates share one machine, so a rate
is at most what its cores allow. `rate` uses a server that takes 20 ms, and few requests in flight,
so that a worker waits most of the time. `kill` uses the emulator, which knows what it got and when.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from temporalio.client import Client, WorkflowHandle

from cognigy_async.emulator import Emulator, Rules, serve
from cognigy_async.temporal import DurableStateClient, dead_letters, job_result, start_job
from harness.figures import most_within
from harness.processes import serving, tell
from tests.integration.temporal_server import TemporalServer

WORKERS = 4
LATENCY = 0.02
SECRET = "the-secret-of-the-benchmark"
PER_SECOND = 100
WINDOW = 10.0


@contextmanager
def cluster() -> Iterator[TemporalServer]:
    """Run the development server with a database file."""
    with tempfile.TemporaryDirectory() as folder:
        server = TemporalServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def workers(
    address: str, url: str, count: int, in_flight: int, **variables: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run workers as processes."""
    environment = os.environ | settings(url) | {"TEMPORAL_ADDRESS": address} | variables
    command = [sys.executable, "-m", "cognigy_async", "worker", "--quiet"]
    command += ["--max-in-flight", str(in_flight)]
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            process = subprocess.Popen(command, env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            started.append(process)
        yield started


def settings(url: str) -> dict[str, str]:
    """Return the settings of a command."""
    client = {"COGNIGY_CLIENT_ID": "emulator-client", "COGNIGY_CLIENT_SECRET": SECRET}
    return {"COGNIGY_BASE_URL": url, **client}


def write(path: Path, rows: int, *, mixed: bool = False) -> None:
    """Write rows of 1,000 dialogs; if mixed, some with a transition and some that are not valid."""
    with path.open("w") as file:
        for n in range(rows):
            row: dict[str, Any] = {"dialog_id": f"d-{n % 1000}", "session": {"seq": n}}
            if mixed and n % 50 == 0:
                row["next_step"] = f"s{n}"
            if mixed and n % 997 == 0:
                row["session"] = {"_user": n}
            file.write(json.dumps(row) + "\n")


async def apply(
    address: str, path: Path, partitions: int
) -> tuple[WorkflowHandle[Any, Any], float]:
    """Run a job to its end; return its handle and the seconds that it took."""
    client = await Client.connect(address)
    began = time.monotonic()
    handle = await start_job(client, path, partitions=partitions)
    await handle.result()
    return handle, time.monotonic() - began


async def events_of(handle: WorkflowHandle[Any, Any]) -> int:
    return len((await handle.fetch_history()).events)


def rate(rows: int, in_flight: int) -> dict[str, Any]:
    """Measure one worker and four, and `bulk run`."""
    found: dict[str, Any] = {"rows": rows, "in_flight": in_flight}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(f"--latency {LATENCY}", pinned=False) as server,
        cluster() as temporal,
    ):
        path = Path(folder, "rows.jsonl")
        write(path, rows)
        for count in (1, WORKERS):
            with workers(temporal.address, server.url, count, in_flight):
                # All of them work before the clock starts.
                warm = Path(folder, f"warm-{count}.jsonl")
                write(warm, 4000)
                asyncio.run(apply(temporal.address, warm, 16))
                handle, seconds = asyncio.run(apply(temporal.address, path, 16))
            found[f"rows_per_second_{count}"] = round(rows / seconds, 1)
            tell(f"{count} workers: {rows / seconds:,.0f} rows/s")
        environment = os.environ | settings(server.url)
        command = [sys.executable, "-m", "cognigy_async", "bulk", "run", str(path), "--json", "-q"]
        command += ["--max-in-flight", str(in_flight)]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        found["rows_per_second_bulk_run"] = round(rows / json.loads(output)["elapsed"], 1)
        found["speedup"] = round(
            found[f"rows_per_second_{WORKERS}"] / found["rows_per_second_1"], 2
        )
        share = found["rows_per_second_1"] / found["rows_per_second_bulk_run"]
        found["share_of_bulk_run"] = round(share, 3)
        found["events_per_row"] = asyncio.run(_events_per_row(temporal.address, handle.id, rows))
    return found


async def _events_per_row(address: str, workflow_id: str, rows: int) -> float:
    client = await Client.connect(address)
    return round(await events_of(client.get_workflow_handle(workflow_id)) / rows, 5)


@asynccontextmanager
async def emulating() -> AsyncIterator[tuple[Emulator, str]]:
    emulator = Emulator(client_secret=SECRET, rules=Rules(honour_idempotency_keys=False))
    async with serve(emulator) as url:
        yield emulator, url


async def kill(rows: int, in_flight: int) -> dict[str, Any]:
    """Kill one of four workers, and compare what the server got with the input."""
    with tempfile.TemporaryDirectory() as folder, cluster() as temporal:
        path = Path(folder, "rows.jsonl")
        write(path, rows, mixed=True)
        async with emulating() as (emulator, url):
            with workers(temporal.address, url, WORKERS, in_flight) as processes:
                job = asyncio.ensure_future(apply(temporal.address, path, 16))
                while emulator.stats.applied < rows // 3 and not job.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                processes[0].send_signal(signal.SIGKILL)
                handle, seconds = await job
                result = job_result(await handle.result())
                letters = [json.loads(letter) for letter in await dead_letters(handle)]
            faulty = set(range(0, rows, 997))
            in_letters = {letter["_error"]["line"] - 1 for letter in letters}
            seqs = {entry.seq for one in emulator.dialogs.values() for entry in one.history}
            missing = set(range(rows)) - faulty - seqs
            disordered = sum(not _in_order(dialog.history) for dialog in emulator.dialogs.values())
            return {
                **result.record(),
                "seconds": round(seconds, 1),
                "missing": len(missing - in_letters),
                "dialogs_out_of_order": disordered,
                "transitions_applied_twice": emulator.stats.double_applies,
                "dead_letters": len(letters),
                "dead_letters_missing": len(faulty - in_letters),
                "sent_again": emulator.stats.repeat_applies,
                "events_per_row": round(await events_of(handle) / rows, 5),
            }


def _in_order(history: Any) -> bool:
    """Return whether the rows of a dialog came in order, each at its first time."""
    seqs = list(dict.fromkeys(entry.seq for entry in history if entry.seq is not None))
    return seqs == sorted(seqs)


async def quota(rows: int, in_flight: int) -> dict[str, Any]:
    """Share a limit of 100 a second by four workers that apply a job and live updates."""
    share = f"1/{WORKERS}"
    limit = {"COGNIGY_RATE_LIMIT": f"{PER_SECOND}/1", "COGNIGY_QUOTA_SHARE": share}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(f"--times --latency {LATENCY}", pinned=False) as server,
        cluster() as temporal,
    ):
        path = Path(folder, "rows.jsonl")
        write(path, rows)
        with workers(temporal.address, server.url, WORKERS, in_flight, **limit):
            client = await Client.connect(temporal.address)
            job = asyncio.ensure_future(apply(temporal.address, path, 16))
            live = 0
            async with DurableStateClient(client) as durable:
                while not job.done():
                    await asyncio.gather(
                        *(durable.update(f"live-{live + n}", session={"seq": n}) for n in range(5))
                    )
                    live += 5
                    await asyncio.sleep(0.2)
            await job
        return {"live": live, **use_of(await asyncio.to_thread(times_of, server.url))}


def times_of(url: str) -> list[float]:
    """Return when requests came to the server."""
    with urllib.request.urlopen(f"{url}/times") as response:
        return sorted(json.load(response))


def use_of(times: list[float]) -> dict[str, Any]:
    """Return how many requests came in windows, the begin and the end of the job left out."""
    first, last = times[0] + WINDOW, times[-1] - WINDOW
    steady = [at for at in times if first <= at < last]
    return {
        "requests": len(times),
        "most_in_10_s": most_within(times, WINDOW),
        "use": round(len(steady) / (PER_SECOND * (last - first)), 3) if last > first else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["rate", "kill", "quota"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--max-in-flight", type=int, default=4)
    options = parser.parse_args()
    if options.part == "rate":
        found = rate(options.rows, options.max_in_flight)
    elif options.part == "kill":
        found = asyncio.run(kill(options.rows, options.max_in_flight))
    else:
        found = asyncio.run(quota(options.rows, options.max_in_flight))
    print(json.dumps({"part": options.part, **found}, indent=2))


if __name__ == "__main__":
    main()
