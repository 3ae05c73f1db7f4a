"""CPU and memory of an update with 10^3 to 10^6 dialogs, over a transport that does nothing.

    python benchmarks/dialogs.py                # a table on stdout
    python benchmarks/dialogs.py --json FILE    # and all results in a file

Each run is a process of its own. All dialogs of a run get an update; few dialogs get several, so
that a run takes long enough. The memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from cognigy_async import CognigyError, UpdateResult
from cognigy_async.cli.bench.load import run_stream
from cognigy_async.cli.bench.server import available_cores
from harness.figures import spreads
from harness.null import client, memory_mb
from harness.processes import in_process, interleaved, parser_of, publish

DIALOGS = (1_000, 10_000, 100_000, 1_000_000)
KINDS = ("update_many", "update")
CALLERS = 64


def session(number: int) -> dict[str, Any]:
    return {"n": number, "tag": "x"}


def check(_: UpdateResult | None, error: CognigyError | None) -> None:
    if error is not None:
        raise error


async def send(kind: str, dialogs: int, times: int) -> None:
    async with client() as one:
        # Tasks of asyncio alone: in a task group of anyio, a call costs a microsecond more.
        async def caller(numbers: Iterator[int]) -> None:
            for n in numbers:
                await one.update(f"d{n}", session=session(n))

        for _ in range(times):
            if kind == "update":
                numbers = iter(range(dialogs))
                await asyncio.gather(*[caller(numbers) for _ in range(CALLERS)])
            else:
                rows = ({"dialog_id": f"d{n}", "session": session(n)} for n in range(dialogs))
                await run_stream(one, rows, check)


def play(kind: str, dialogs: int, least: int) -> dict[str, float]:
    """Measure one run, in this process."""
    times = max(1, least // dialogs)
    asyncio.run(send(kind, 1_000, 5))
    began = time.process_time()
    asyncio.run(send(kind, dialogs, times))
    cpu_us = (time.process_time() - began) / (dialogs * times) * 1e6
    return {"cpu_us": cpu_us, "peak_mb": memory_mb("VmHWM")}


def main() -> None:
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--least", type=int, default=100_000, help="updates of a run")
    parser.add_argument("--dialogs", action="append", type=int, metavar="N", help="repeatable")
    parser.add_argument("--play", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = options.dialogs or DIALOGS
    if options.play:
        print(json.dumps(play(options.play, numbers[0], options.least)))
        return
    if cores := available_cores():
        os.sched_setaffinity(0, {cores.client})

    def run(key: tuple[str, int]) -> dict[str, Any]:
        kind, dialogs = key
        arguments = ("--play", kind, "--dialogs", str(dialogs), "--least", str(options.least))
        return in_process("dialogs.py", *arguments)

    keys = [(kind, number) for kind in KINDS for number in numbers]
    runs = interleaved(keys, options.rounds, run)
    results = {kind: {number: spreads(runs[kind, number]) for number in numbers} for kind in KINDS}
    settings = {"rounds": options.rounds, "least": options.least}
    publish("dialogs", {**settings, "kinds": results}, options.json)


if __name__ == "__main__":
    main()
