"""Throughput, CPU and latency with 1 to 256 requests in flight, over loopback.

    python benchmarks/in_flight.py                # a table on stdout
    python benchmarks/in_flight.py --json FILE    # and all results in a file

Runs are as in `throughput.py`. A latency is that of a request, from its sending to its response.
"""

from __future__ import annotations

from typing import Any

from harness.figures import ratio, spreads
from harness.processes import in_process, interleaved, parser_of, publish, serving
from harness.scenarios import Scenario

LEVELS = (1, 8, 32, 64, 256)
LIBRARIES = ("pyreqwest", "aiohttp", "httpx2", "httpx")
NAMES = tuple(f"{kind} {library}" for library in LIBRARIES for kind in ("library over", "bare"))
COMPARED = ("httpx", "httpx2")
"""Libraries whose costs are compared at `COMPARED_LEVELS`."""
COMPARED_LEVELS = (8, 32, 64)
SCENARIO = Scenario("Requests in flight", (), contestants=NAMES)


def main() -> None:
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--count", type=int, default=6_000, help="updates of the fastest")
    parser.add_argument("--level", action="append", type=int, metavar="N", help="repeatable")
    options = parser.parse_args()
    levels = options.level or LEVELS
    with serving() as server:
        more = {"latencies": True, "server_pid": server.pid}

        def run(key: tuple[str, int]) -> dict[str, Any]:
            name, level = key
            work = SCENARIO.work_of(name, server.url, options.count, level, **more)
            return in_process("-m", "harness.contestants", name, work.to_json())

        keys = [(name, level) for name in NAMES for level in levels]
        runs = interleaved(keys, options.rounds, run)
    results = {name: {level: spreads(runs[name, level]) for level in levels} for name in NAMES}
    ratios = []
    for library in COMPARED:
        for level in sorted({*levels} & {*COMPARED_LEVELS}):
            one, other = f"library over {library}", f"bare {library}"
            costs = ([run["cpu_us"] for run in runs[name, level]] for name in (other, one))
            ratios.append({"one": one, "other": other, "level": level, "cpu": ratio(*costs)})
    settings = {"count": options.count, "rounds": options.rounds}
    publish("in_flight", {**settings, "contestants": results, "ratios": ratios}, options.json)


if __name__ == "__main__":
    main()
