"""Latency of `update` at half of its maximum throughput, beside that of the bare HTTP library.

    python benchmarks/latency.py                # a table on stdout
    python benchmarks/latency.py --json FILE    # and all results in a file

The maximum is measured first: as many callers as requests in flight, each with one `update` after
the other. Then updates start at half of that rate, at constant intervals, however long they take;
so do requests of the bare library. A latency counts from the moment at which an update was due, so
that a client which falls behind cannot hide it. Runs are as in `throughput.py`.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from harness.contestants import CONTESTANTS
from harness.figures import latencies
from harness.processes import Server, in_process, interleaved, parser_of, publish, serving, tell
from harness.work import Work

LIBRARIES = ("pyreqwest", "aiohttp", "httpx", "httpx2")


def maximum(library: str, server: Server, options: argparse.Namespace) -> float:
    """Return updates per second of callers that wait for each update."""
    name = f"update over {library}"
    count = max(1, int(options.count * CONTESTANTS[name].share))
    work = Work(server.url, count, warm_up=count // 5, in_flight=options.in_flight)
    runs = [in_process("-m", "harness.contestants", name, work.to_json()) for _ in range(3)]
    return float(statistics.median(one["per_second"] for one in runs))


def main() -> None:
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--count", type=int, default=20_000, help="updates, for the maximum")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each run")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--library", action="append", choices=LIBRARIES, help="repeatable")
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
                warm_up=int(rate),
                in_flight=options.in_flight,
                rate=rate,
                latencies=True,
                server_pid=server.pid,
            )
            return in_process("-m", "harness.contestants", f"{kind} {library}", work.to_json())

        kinds = ("update over", "bare")
        runs = interleaved(
            [(kind, one) for one in libraries for kind in kinds], options.rounds, run
        )
    results = {
        library: {
            **latencies(rates[library], runs["update over", library], runs["bare", library]),
            "runs": {kind: runs[kind, library] for kind in kinds},
        }
        for library in libraries
    }
    settings = {name: getattr(options, name) for name in ("seconds", "rounds", "in_flight")}
    publish("latency", {**settings, "libraries": results}, options.json)


if __name__ == "__main__":
    main()
