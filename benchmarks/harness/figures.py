"""Medians, spread, percentiles and ratios; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["most_within", "percentile", "ratio", "spread"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of all of them."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, lowest and highest, to so many significant digits."""
    three = {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }
    return {name: float(f"{value:.{digits}g}") for name, value in three.items()}


def ratio(mine: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """How many times the others': within each round, since what disturbs a round meets both.

    Raises:
        ValueError: they are not of the same rounds.
    """
    return spread([one / other for one, other in zip(mine, others, strict=True)])


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most events in any window of so many seconds, whose end does not belong to it."""
    ordered = sorted(times)
    most = first = 0
    for number, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        most = max(most, number - first + 1)
    return most
