"""What one update costs above the network: CPU time and memory over a transport that does nothing.

    python benchmarks/overhead.py              # a table on stdout
    python benchmarks/overhead.py --json       # the same as JSON
    python benchmarks/overhead.py --rate-limit # with a rate limit that is never reached
    python benchmarks/overhead.py --check      # exit status 1 where a limit is exceeded
    python benchmarks/overhead.py --audit      # instead: what an audit adds to the loop's thread
    python benchmarks/overhead.py --otel       # besides: traced by OpenTelemetry without an SDK

CPU time of this process, medians of interleaved runs. The calibration is the least that any
client does: a queue, workers, JSON, a send, a result. Compare ratios to it between machines. The
check takes the least of each kind, as nothing makes a run cheaper than it is, and measures more
rounds before it says that a limit is exceeded.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys

from cognigy_async import RateLimit
from harness.costs import Kind, audit_cost, calibration, cpu, live, many, memory, traced

LIMITS = {"update_many": 3.6, "update": 8.3}
"""Times the CPU of the calibration in the same run, which holds on a faster machine as on a slower.

A seventh above what was measured: enough for a machine that others use as well."""

MEMORY_LIMIT = 10.0
"""Megabytes that the updates to as many dialogs may add."""

AUDIT_LIMIT = 5.0
"""Microseconds of CPU that an audit may add to an update on the event loop's thread."""

MORE = 3
"""Times as many rounds, at most, where a limit is exceeded after the first ones."""

Times = dict[str, list[float]]


def kinds(options: argparse.Namespace) -> dict[str, Kind]:
    limit = limit_of(options)
    table: dict[str, Kind] = {
        "calibration": calibration,
        "update_many": functools.partial(many, rate_limit=limit),
        "update": functools.partial(live, rate_limit=limit),
    }
    return table | ({"traced": traced} if options.otel else {})


def measure(options: argparse.Namespace) -> Times:
    table = kinds(options)
    times: Times = {name: [] for name in table}
    for number in range(options.rounds * (MORE if options.check else 1)):
        if number >= options.rounds and not exceeded(times):
            break
        for name, kind in table.items():
            times[name].append(cpu(kind, options.count))
    return times


def least(times: Times, name: str) -> float:
    """Times the calibration, by what disturbs least."""
    return min(times[name]) / min(times["calibration"])


def exceeded(times: Times) -> list[str]:
    return [
        f"{name} costs {least(times, name):.2f} times the calibration, and may cost {limit}"
        for name, limit in LIMITS.items()
        if least(times, name) > limit
    ]


def report(times: Times, grown: float, options: argparse.Namespace) -> None:
    base = statistics.median(times["calibration"])
    if options.json:
        told: dict[str, object] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "count": options.count,
            "rate_limit": options.rate_limit,
            "rounds": len(times["calibration"]),
        }
        for name, values in times.items():
            told[name] = {
                "cpu_us": round(statistics.median(values), 1),
                "lowest_us": round(min(values), 1),
                "highest_us": round(max(values), 1),
                "times_calibration": round(statistics.median(values) / base, 2),
            }
        told["memory"] = {"updates": options.memory, "grown_mb": round(grown, 1)}
        print(json.dumps(told, indent=2))
        return
    print(f"{'':12} {'CPU us':>8} {'lowest':>8} {'highest':>8} {'x calibration':>14}")
    for name, values in times.items():
        middle = statistics.median(values)
        spread = f"{min(values):8.1f} {max(values):8.1f}"
        print(f"{name:12} {middle:8.1f} {spread} {middle / base:14.2f}")
    print(f"memory grown by {options.memory} updates: {grown:.1f} MB")


def report_audit(options: argparse.Namespace) -> int:
    whole, added = audit_cost(options.count, options.rounds, limit_of(options))
    medians = {name: statistics.median(values) for name, values in added.items()}
    if options.json:
        told = {
            name: {"adds_us": round(medians[name], 2), "cpu_us": round(statistics.median(costs), 1)}
            for name, costs in whole.items()
        }
        print(json.dumps(told, indent=2))
    else:
        print(f"{'audit adds':12} {'CPU us':>8} {'lowest':>8} {'highest':>8} {'to a whole of':>14}")
        for name, values in added.items():
            spread = f"{min(values):8.2f} {max(values):8.2f}"
            print(f"{name:12} {medians[name]:8.2f} {spread} {statistics.median(whole[name]):14.1f}")
    return int(options.check and max(medians.values()) > AUDIT_LIMIT)


def limit_of(options: argparse.Namespace) -> RateLimit | None:
    return None if options.rate_limit is None else RateLimit(options.rate_limit, per=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=1_000_000, help="updates; 0 to leave it out")
    parser.add_argument("--otel", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--rate-limit",
        nargs="?",
        const=1_000_000,
        type=int,
        metavar="N",
        help="requests in a second; up to 10000 they are remembered one by one",
    )
    parser.add_argument("--audit", action="store_true")
    options = parser.parse_args()
    if options.audit:
        return report_audit(options)
    # First, while nothing has left room that would hide it.
    grown = memory(options.memory) if options.memory else 0.0
    times = measure(options)
    report(times, grown, options)
    faults = exceeded(times)
    if grown > MEMORY_LIMIT:
        faults.append(f"{grown:.1f} MB more memory, where {MEMORY_LIMIT:g} may be")
    if options.check:
        for fault in faults:
            print(f"too much: {fault}", file=sys.stderr)
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
