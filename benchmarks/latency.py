"""Latency of `update` at half of its maximum throughput, beside that of the bare HTTP library.

    python benchmarks/latency.py                # a table on stdout
    python benchmarks/latency.py --json FILE    # and everything that was measured

First the maximum is measured: as many callers as requests may be in flight, each with one
`update` after the other. Then updates begin at half of that rate, evenly and whatever becomes of
them, and the same with the bare library. A latency runs from the moment at which an update was
due, so that a client which falls behind cannot hide it. Processes, cores and rounds are as in
`throughput.py`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from harness.contestants import CONTESTANTS
from harness.processes import Server, in_process, serving
from harness.rounds import interleaved, tell, write
from harness.summary import latencies, latency_table
from harness.work import Work

LIBRARIES = ("aiohttp", "httpx", "httpx2")
SECONDS_OF_WARM_UP = 1
ROUNDS_OF_MAXIMUM = 3


def maximum(library: str, server: Server, options: argparse.Namespace) -> float:
    """Updates a second, made by callers that wait for each of them."""
    name = f"update over {library}"
    count = max(1, int(options.count * CONTESTANTS[name].share))
    work = Work(server.url, count, warm_up=count // 5, in_flight=options.in_flight)
    told = [in_process("play.py", [name, work.to_json()]) for _ in range(ROUNDS_OF_MAXIMUM)]
    return float(statistics.median(one["per_second"] for one in told))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="updates, for the maximum")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--library", action="append", choices=LIBRARIES, help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    libraries = options.library or LIBRARIES
    with serving() as server:
        rates = {}
        for library in libraries:
            tell(f"maximum over {library}")
            rates[library] = maximum(library, server, options) / 2

        def run(key: tuple[str, str]) -> dict[str, Any]:
            kind, library = key
            rate = rates[library]
            work = Work(
                server.url,
                max(1, int(rate * options.seconds)),
                warm_up=int(rate * SECONDS_OF_WARM_UP),
                in_flight=options.in_flight,
                rate=rate,
                latencies=True,
                server_pid=server.pid,
            )
            return in_process("play.py", [f"{kind} {library}", work.to_json()])

        keys = [(kind, library) for library in libraries for kind in ("update over", "bare")]
        runs = interleaved(keys, options.rounds, run)
    told = {
        library: {
            **latencies(rates[library], runs["update over", library], runs["bare", library]),
            "runs": {kind: runs[kind, library] for kind in ("update over", "bare")},
        }
        for library in libraries
    }
    print(latency_table(told))
    settings = {name: getattr(options, name) for name in ("seconds", "rounds", "in_flight")}
    write(options.json, {**settings, "libraries": told})


if __name__ == "__main__":
    main()
