"""Throughput, CPU and latency with 1 to 256 requests in flight, over the network of this machine.

    python benchmarks/in_flight.py                # a table on stdout
    python benchmarks/in_flight.py --json FILE    # and everything that was measured

Processes, cores and rounds are as in `throughput.py`. The latency is that of a request, from its
sending to its answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.processes import in_process, serving
from harness.rounds import interleaved, write
from harness.scenarios import Scenario
from harness.summary import of_one

LEVELS = (1, 4, 16, 64, 256)
NAMES = ("library over aiohttp", "bare aiohttp", "library over httpx2", "bare httpx2")
SCENARIO = Scenario("Requests in flight", (), contestants=NAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=6_000, help="updates of the fastest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--level", action="append", type=int, metavar="N", help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    levels = options.level or LEVELS
    with serving() as server:

        def run(key: tuple[str, int]) -> dict[str, Any]:
            name, level = key
            work = SCENARIO.work_of(
                name, server.url, options.count, level, latencies=True, server_pid=server.pid
            )
            return in_process("play.py", [name, work.to_json()])

        keys = [(name, level) for name in NAMES for level in levels]
        runs = interleaved(keys, options.rounds, run)
    told = {name: {level: of_one(runs[name, level]) for level in levels} for name in NAMES}
    heads = "".join(
        f" {head:>9}" for head in ("in flight", "updates/s", "CPU us", "p50 ms", "p99 ms")
    )
    print(f"{'':22}{heads}")
    for name, by_level in told.items():
        for level, one in by_level.items():
            values = [one[kind]["median"] for kind in ("per_second", "cpu_us", "p50_ms", "p99_ms")]
            cells = "".join(f" {value:9.4g}" for value in values)
            print(f"{name:22} {level:9}{cells}")
    settings = {name: getattr(options, name) for name in ("count", "rounds")}
    write(options.json, {**settings, "contestants": told})


if __name__ == "__main__":
    main()
