"""Requests in flight that a transport carries to a server that takes its time.

    python benchmarks/tenant.py                 # a table on stdout
    python benchmarks/tenant.py --json FILE     # and all results in a file
    python benchmarks/tenant.py --case "20 ms"  # one latency; repeatable

A server that answers after 20 ms allows, with 256 requests in flight, 256 / 0.020 = 12,800 updates
per second. A transport carries that many requests if it reaches 95% of this rate. The number of
requests in flight doubles until a transport reaches less than 70%. The latency is what the server
measured. Rates are those of a steady state, in which all requests in flight are used. Runs are as
in `throughput.py`.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from cognigy_async.cli.bench.load import turns
from harness.contestants import CONTESTANTS, present
from harness.figures import spreads
from harness.processes import Server, in_process, parser_of, publish, serving, tell
from harness.work import Work

NAMES = (
    "library over pyreqwest, uvloop",
    "library over aiohttp, uvloop",
    "library over httpx2",
    "library over httpx",
    "bare pyreqwest, uvloop",
)
BENT = 0.7
"""Share of the rate that the latency allows, below which more requests in flight are useless."""


@dataclass(frozen=True)
class Case:
    """A server that answers after `latency` seconds in the mean, and the levels to measure."""

    latency: float
    levels: tuple[int, ...]
    heavy_tail: bool = False

    @property
    def server(self) -> str:
        """Options of `server.py`."""
        return f"--latency {self.latency}{' --heavy-tail' if self.heavy_tail else ''}"


SHORT = tuple(8 << power for power in range(8))
LONG = tuple(64 << power for power in range(8))
CASES = {
    "20 ms": Case(0.02, SHORT),
    "20 ms, heavy tail": Case(0.02, SHORT, heavy_tail=True),
    "200 ms": Case(0.2, LONG),
    "200 ms, heavy tail": Case(0.2, LONG, heavy_tail=True),
}


def latency_of(server: Server) -> float:
    """Return the mean latency since the last call, in seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/latency") as answer:
        return float(json.load(answer))


def measure(name: str, case: Case, level: int, server: Server, seconds: float) -> dict[str, float]:
    """Run a contestant for about `seconds` with `level` requests in flight."""
    # A contestant that the CPU limits would take longer.
    most = int(seconds * 20_000 * CONTESTANTS[name].share)
    count = max(4 * level, min(int(seconds * level / case.latency), most))
    work = Work(server.url, count, 2 * level, level, steady=True, server_pid=server.pid)
    results = in_process("-m", "harness.contestants", name, work.to_json())
    latency = latency_of(server)
    share = results["per_second"] * latency / level
    return {**results, "latency_ms": latency * 1000, "share": share}


def ladder(name: str, case: Case, server: Server, seconds: float) -> dict[int, dict[str, float]]:
    """Measure a contestant with more and more requests in flight, until it does not follow."""
    levels: dict[int, dict[str, float]] = {}
    for level in case.levels:
        levels[level] = measure(name, case, level, server, seconds)
        if levels[level]["share"] < BENT:
            break
    return levels


def main() -> None:
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable")
    parser.add_argument("--only", action="append", metavar="TEXT", help="repeatable")
    parser.add_argument("--seconds", type=float, default=0.7, help="duration of each run")
    options = parser.parse_args()
    only = options.only or [""]
    names = present([name for name in NAMES if any(text in name for text in only)], tell)
    results = {}
    for title in options.case or CASES:
        results[title] = run(title, names, options)
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    publish("tenant", {**settings, "cases": results}, options.json)


def run(title: str, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one case; levels that not every round reached are left out."""
    case = CASES[title]
    runs: dict[str, list[dict[int, dict[str, float]]]] = {name: [] for name in names}
    with serving(case.server) as server:
        for number, name in turns(names, options.rounds):
            tell(f"{title}, round {number + 1} of {options.rounds}: {name}")
            runs[name].append(ladder(name, case, server, options.seconds))
    return {
        "latency": case.latency,
        "contestants": {
            name: {
                level: spreads([one[level] for one in rounds])
                for level in case.levels
                if all(level in one for one in rounds)
            }
            for name, rounds in runs.items()
        },
    }


if __name__ == "__main__":
    main()
