"""CPU and memory of an update with 10^3 to 10^6 dialogs, over a transport that does nothing.

    python benchmarks/dialogs.py                # a table on stdout
    python benchmarks/dialogs.py --json FILE    # and everything that was measured

Each run is a process of its own. All dialogs of a run get an update, and where they are few they
get it again and again, so that what is measured takes long enough. The memory is the most that
was resident while the process lived.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.null import client, peak_memory
from harness.processes import in_process
from harness.rounds import interleaved, write
from harness.summary import of_one

DIALOGS = (1_000, 10_000, 100_000, 1_000_000)
KINDS = ("update_many", "update")
LEAST = 100_000
"""Updates of a run."""

CALLERS = 64


async def update_many(dialogs: int, times: int) -> None:
    async with client() as one:
        for _ in range(times):
            async with one.update_many(
                {"dialog_id": f"d{n}", "session": {"n": n, "tag": "x"}} for n in range(dialogs)
            ) as outcomes:
                async for outcome in outcomes:
                    if outcome.error is not None:
                        raise outcome.error


async def update(dialogs: int, times: int) -> None:
    async with client() as one:

        async def caller(numbers: Iterator[int]) -> None:
            for n in numbers:
                await one.update(f"d{n}", session={"n": n, "tag": "x"})

        for _ in range(times):
            numbers = iter(range(dialogs))
            await asyncio.gather(*[caller(numbers) for _ in range(CALLERS)])


def play(kind: str, dialogs: int, least: int) -> dict[str, float]:
    """One run, in this process."""
    work = {"update_many": update_many, "update": update}[kind]
    times = max(1, least // dialogs)
    asyncio.run(work(1_000, 5))
    began = time.process_time()
    asyncio.run(work(dialogs, times))
    return {
        "cpu_us": (time.process_time() - began) / (dialogs * times) * 1e6,
        "peak_mb": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=int, default=LEAST, help="updates of a run")
    parser.add_argument("--dialogs", action="append", type=int, metavar="N", help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--play", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = options.dialogs or DIALOGS
    if options.play:
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
        print(json.dumps(play(options.play, numbers[0], options.least)))
        return

    def run(key: tuple[str, int]) -> dict[str, Any]:
        kind, dialogs = key
        arguments = ["--play", kind, "--dialogs", str(dialogs), "--least", str(options.least)]
        return in_process("dialogs.py", arguments)

    runs = interleaved(
        [(kind, number) for kind in KINDS for number in numbers], options.rounds, run
    )
    told = {kind: {number: of_one(runs[kind, number]) for number in numbers} for kind in KINDS}
    print(f"{'':12} {'dialogs':>9} {'CPU us':>8} {'peak MB':>9}")
    for kind, by_number in told.items():
        for number, one in by_number.items():
            cpu, memory = one["cpu_us"]["median"], one["peak_mb"]["median"]
            print(f"{kind:12} {number:9} {cpu:8.1f} {memory:9.1f}")
    write(options.json, {"rounds": options.rounds, "least": options.least, "kinds": told})


if __name__ == "__main__":
    main()
