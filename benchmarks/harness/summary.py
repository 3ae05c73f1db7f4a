"""From the runs of a scenario to what its table shows; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import most_within, ratio, spread
from .scenarios import Pair, Scenario

__all__ = ["latencies", "latency_table", "of_one", "quota", "summary", "table"]

Runs = Mapping[str, Sequence[Mapping[str, float]]]


def summary(scenario: Scenario, runs: Runs) -> dict[str, Any]:
    """Medians and spread of each contestant, and the ratios of those who are compared."""
    return {
        "title": scenario.title,
        "contestants": {name: of_one(results) for name, results in runs.items()},
        "ratios": [
            _compared(pair, runs)
            for pair in scenario.pairs
            if pair.one in runs and pair.other in runs
        ],
    }


def of_one(results: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median and spread of everything that the runs have measured."""
    return {kind: spread([result[kind] for result in results]) for kind in results[0]}


def _compared(pair: Pair, runs: Runs) -> dict[str, Any]:
    one, other = runs[pair.one], runs[pair.other]
    rates = [[result["per_second"] for result in results] for results in (one, other)]
    # What else the machine does takes wall time from both, and little of this.
    cpu = [[result["cpu_us"] for result in results] for results in (other, one)]
    return {
        "one": pair.one,
        "other": pair.other,
        "aim": pair.aim,
        "per_second": ratio(*rates),
        "cpu": ratio(*cpu),
    }


def quota(times: Sequence[float], per_second: int) -> dict[str, float]:
    """How well a limit of so many in each second was used, by when requests came.

    Of whole windows: from the first request to the one that no longer fits into them, which takes
    `ideal_seconds` at least.
    """
    ordered = sorted(times)
    windows = (len(ordered) - 1) // per_second
    seconds = ordered[windows * per_second] - ordered[0]
    return {
        "seconds": seconds,
        "ideal_seconds": float(windows),
        "utilisation": windows / seconds if windows else 0.0,
        "most_in_a_second": float(most_within(times, 1.0)),
    }


def latencies(
    rate: float, mine: Sequence[Mapping[str, float]], bare: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Of `update` and of the bare library at the same rate; how many times the latter's p99."""
    p99 = [[result["p99_ms"] for result in results] for results in (mine, bare)]
    return {
        "rate": round(rate),
        "update": of_one(mine),
        "bare": of_one(bare),
        "p99_ratio": {"aim": 3.0, **ratio(*p99)},
    }


def latency_table(told: Mapping[str, Any]) -> str:
    """As text."""
    lines = [f"{'milliseconds':18} {'per second':>10} {'p50':>8} {'p95':>8} {'p99':>8}"]
    for library, one in told.items():
        for name in ("update", "bare"):
            cells = [one[name][kind]["median"] for kind in ("p50_ms", "p95_ms", "p99_ms")]
            line = f"{name + ' ' + library:18} {one['rate']:10}"
            lines.append(line + "".join(f" {cell:8.2f}" for cell in cells))
        p99 = one["p99_ratio"]
        spread_of_it = f"{p99['lowest']:.2f} to {p99['highest']:.2f}"
        lines.append(f"  p99, times bare: {p99['median']:.2f} ({spread_of_it}; aim {p99['aim']:g})")
    return "\n".join(lines)


def table(told: Mapping[str, Any]) -> str:
    """As text."""
    lines = [
        f"{told['title']:38} {'updates/s':>9} {'lowest':>9} {'highest':>9} {'CPU us':>9} server"
    ]
    for name, one in told["contestants"].items():
        rate = one["per_second"]
        line = f"{name:38} {rate['median']:9.0f} {rate['lowest']:9.0f} {rate['highest']:9.0f} "
        line += f"{one['cpu_us']['median']:9.1f} {one['server_share']['median']:6.0%}"
        for kind in ("requests_per_update", "utilisation", "most_in_a_second"):
            if kind in one:
                line += f"  {kind.replace('_', ' ')} {one[kind]['median']:g}"
        lines.append(line)
    for compared in told["ratios"]:
        rate, aim = compared["per_second"], compared["aim"]
        line = f"  {compared['one']} / {compared['other']}: {rate['median']:.2f} "
        line += f"({rate['lowest']:.2f} to {rate['highest']:.2f}"
        line += f"; aim {aim:.2f}" if aim is not None else ""
        lines.append(f"{line}; by CPU {compared['cpu']['median']:.2f})")
    return "\n".join(lines)
