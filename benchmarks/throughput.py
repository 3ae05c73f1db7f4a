"""Updates per second over the network of this machine: this library beside other ways to do it.

    python benchmarks/throughput.py                        # a table of each scenario on stdout
    python benchmarks/throughput.py --json FILE            # and everything that was measured
    python benchmarks/throughput.py --scenario dialogs     # one scenario; repeatable
    python benchmarks/throughput.py --only aiohttp         # contestants whose name has that in it

Each run is a process of its own, warms up first, and makes the same updates. The server
(`server.py`) has one core and the client another. The contestants take turns, round after round,
so that what else the machine does meets all of them; ratios are made within a round. The memory
allocator is set alike for all. Beside updates per second stands the CPU of each update, which
is what to compare where a machine has other work to do, and the share of its core that the
server used: where that comes near 100%, the server is what was measured.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path
from typing import Any

from harness.contestants import present
from harness.processes import Server, in_process, serving
from harness.rounds import interleaved, tell, write
from harness.scenarios import SCENARIOS, Scenario
from harness.summary import quota, summary, table


def times(server: Server) -> list[float]:
    """When the requests since the last call came."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/times") as answer:
        told: list[float] = json.load(answer)
    return told


def measure(
    scenario: Scenario, names: list[str], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    with serving(scenario.server) as server:

        def run(name: str) -> dict[str, Any]:
            work = scenario.work_of(
                name,
                server.url,
                options.count,
                options.in_flight,
                server_pid=server.pid,
                authority=server.authority,
            )
            told = in_process("play.py", [name, work.to_json()])
            if work.per_second:
                told |= quota(times(server), work.per_second)
            return told

        return interleaved(names, min(options.rounds, scenario.rounds or options.rounds), run)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="updates of the fastest")
    parser.add_argument("--rounds", type=int, default=5, help="at most 3 but of the first scenario")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeatable")
    parser.add_argument("--only", action="append", metavar="TEXT", help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    told: dict[str, Any] = {}
    for key in options.scenario or SCENARIOS:
        scenario = SCENARIOS[key]
        wanted = [
            name
            for name in scenario.names
            if not options.only or any(text in name for text in options.only)
        ]
        if names := present(wanted, tell):
            tell(scenario.title)
            runs = measure(scenario, names, options)
            told[key] = {**summary(scenario, runs), "runs": runs}
            print(table(told[key]), end="\n\n", flush=True)
    settings = {name: getattr(options, name) for name in ("count", "rounds", "in_flight")}
    write(options.json, {**settings, "scenarios": told})


if __name__ == "__main__":
    main()
