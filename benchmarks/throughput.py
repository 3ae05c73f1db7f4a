"""Updates per second over loopback: this library beside other ways to send them.

    python benchmarks/throughput.py                        # a table of each scenario on stdout
    python benchmarks/throughput.py --json FILE            # and all results in a file
    python benchmarks/throughput.py --scenario dialogs     # one scenario; repeatable
    python benchmarks/throughput.py --only aiohttp         # contestants with this in their name
    python benchmarks/throughput.py --unpinned             # let a client use more than one core

Each run is a process of its own and warms up first. The server (`server.py`) has one core and the
client another. Contestants take turns, round after round, so that other load on the machine affects
all of them; ratios are made within a round. If the server used nearly 100% of its core, the server
was measured.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from typing import Any

from harness.contestants import present
from harness.figures import quota, summary
from harness.processes import Server, in_process, interleaved, parser_of, publish, serving, tell
from harness.scenarios import SCENARIOS, Scenario


def arrival_times(server: Server) -> list[float]:
    """Return the times of requests since the last call."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/times") as answer:
        times: list[float] = json.load(answer)
    return times


def measure(
    scenario: Scenario, names: list[str], options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    with serving(scenario.server, pinned=not options.unpinned) as server:
        more = {"server_pid": server.pid, "authority": server.authority}

        def run(name: str) -> dict[str, Any]:
            work = scenario.work_of(name, server.url, options.count, options.in_flight, **more)
            results = in_process("-m", "harness.contestants", name, work.to_json())
            if work.per_second:
                results |= quota(arrival_times(server), work.per_second)
            return results

        return interleaved(names, min(options.rounds, scenario.rounds or options.rounds), run)


def main() -> None:
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--count", type=int, default=20_000, help="updates of the fastest")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--unpinned", action="store_true", help="let processes use all cores")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeatable")
    parser.add_argument("--only", action="append", metavar="TEXT", help="repeatable")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for key in options.scenario or SCENARIOS:
        scenario, only = SCENARIOS[key], options.only or [""]
        wanted = [name for name in scenario.names if any(text in name for text in only)]
        if names := present(wanted, tell):
            tell(scenario.title)
            runs = measure(scenario, names, options)
            results[key] = {**summary(scenario.title, scenario.pairs, runs), "runs": runs}
    settings = {name: getattr(options, name) for name in ("count", "rounds", "in_flight")}
    publish("throughput", {**settings, "scenarios": results}, options.json)


if __name__ == "__main__":
    main()
