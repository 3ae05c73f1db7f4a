"""From runs to figures: medians, spread, ratios, use of a quota; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Runs = Sequence[Mapping[str, float]]
"""Results of one contestant, by round."""


@dataclass(frozen=True)
class Pair:
    """Updates of `one` as a multiple of those of `other`: a second, and for the same CPU time.

    Attributes:
        aim: Target by CPU.
    """

    one: str
    other: str
    aim: float | None = None


def summary(title: str, pairs: Sequence[Pair], runs: Mapping[str, Runs]) -> dict[str, Any]:
    """Return the spread of each contestant, and the ratios of pairs, of one scenario."""
    compared = [pair for pair in pairs if pair.one in runs and pair.other in runs]
    return {
        "title": title,
        "contestants": {name: spreads(results) for name, results in runs.items()},
        "ratios": [_compared(pair, runs[pair.one], runs[pair.other]) for pair in compared],
    }


def _compared(pair: Pair, one: Runs, other: Runs) -> dict[str, Any]:
    return {
        "one": pair.one,
        "other": pair.other,
        "aim": pair.aim,
        "per_second": ratio(_each(one, "per_second"), _each(other, "per_second")),
        # Other load on the machine takes wall time from both, and little CPU time.
        "cpu": ratio(_each(other, "cpu_us"), _each(one, "cpu_us")),
    }


def latencies(rate: float, update: Runs, bare: Runs) -> dict[str, Any]:
    """Return percentiles of `update` and of the bare library, and the ratio of their p99."""
    p99 = ratio(_each(update, "p99_ms"), _each(bare, "p99_ms"))
    return {
        "rate": round(rate),
        "update": spreads(update),
        "bare": spreads(bare),
        "p99_ratio": {"aim": 1.2, **p99},
    }


def quota(times: Sequence[float], per_second: int) -> dict[str, float]:
    """Return how well a rate limit was used, by the arrival of requests.

    Only whole windows count: from the first request to the one that no longer fits into them,
    which takes `ideal_seconds` at least.
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


def most_within(times: Sequence[float], seconds: float) -> int:
    """Return the most events in any window, whose end does not belong to it."""
    ordered = sorted(times)
    most = first = 0
    for number, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        most = max(most, number - first + 1)
    return most


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not below this share of all."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Return median, lowest and highest, rounded to significant digits."""
    three = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: float(f"{value:.{digits}g}") for name, value in three.items()}


def spreads(runs: Runs) -> dict[str, dict[str, float]]:
    """Return the spread of every result."""
    return {kind: spread(_each(runs, kind)) for kind in runs[0]}


def ratio(ones: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return the spread of ratios within each round: what disturbs a round affects both."""
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def ratio_text(value: Mapping[str, float]) -> str:
    """Return a median and its spread."""
    return f"{value['median']:.2f} ({value['lowest']:.2f} to {value['highest']:.2f})"


def _each(runs: Runs, kind: str) -> list[float]:
    return [run[kind] for run in runs]
