"""What the rounds of a benchmark come to, as numbers and as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cognigy_async import CognigyError, Distribution

from ._output import REASONS
from .bench_measure import Sample

N = TypeVar("N", int, float)

HEADINGS = (
    "in flight",
    "updates/s",
    "lowest",
    "highest",
    "CPU us",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "memory MB",
)


@dataclass(frozen=True)
class Row:
    """All rounds with the same number of requests in flight.

    Attributes:
        per_second: updates applied in a second, of each round.
        cpu_us: microseconds of the processor for each update: the median of the rounds.
        latency: from the first request of an update to its answer; of all rounds.
        queued: from the acceptance of an update to its first request; of all rounds.
        grown: bytes that memory grew in the round in which it grew most.
        busy: the share of a core that this process used, from 0.
        first_error: of the updates that were not applied.
    """

    in_flight: int
    per_second: tuple[float, ...]
    cpu_us: float
    latency: Distribution
    queued: Distribution
    succeeded: int
    failed: int
    ambiguous: int
    requests: int
    retries: Counter[str]
    elapsed: float
    busy: float
    quota: float | None
    grown: int | None
    first_error: CognigyError | None

    @classmethod
    def of(cls, in_flight: int, samples: Sequence[Sample]) -> Row | None:
        """None where nothing was settled."""
        samples = [sample for sample in samples if sample.settled and sample.elapsed]
        if not samples:
            return None
        elapsed = sum(sample.elapsed for sample in samples)
        # The rounds have recorded into the same one.
        latencies = samples[0].latencies.snapshot()
        return cls(
            in_flight,
            tuple(sample.per_second for sample in samples),
            statistics.median(sample.cpu / sample.settled * 1e6 for sample in samples),
            latencies.latency,
            latencies.queued,
            sum(sample.applied for sample in samples),
            sum(sample.failed for sample in samples),
            sum(sample.ambiguous for sample in samples),
            sum(sample.requests for sample in samples),
            sum((sample.retries for sample in samples), Counter()),
            elapsed,
            sum(sample.cpu for sample in samples) / elapsed,
            _largest(sample.quota for sample in samples),
            _largest(sample.grown for sample in samples),
            next((sample.first_error for sample in samples if sample.first_error), None),
        )

    @property
    def ok(self) -> bool:
        """Whether all was applied."""
        return not self.failed and not self.ambiguous

    def record(self) -> dict[str, Any]:
        """As JSON; times are seconds unless their name says otherwise."""
        return {
            "in_flight": self.in_flight,
            "rounds": len(self.per_second),
            "per_second": round(statistics.median(self.per_second), 1),
            "per_second_lowest": round(min(self.per_second), 1),
            "per_second_highest": round(max(self.per_second), 1),
            "cpu_us": round(self.cpu_us, 1),
            "cpu_share": round(self.busy, 3),
            "latency": _seconds(self.latency),
            "queued": _seconds(self.queued),
            "succeeded": self.succeeded,
            "failed": self.failed,
            "ambiguous": self.ambiguous,
            "requests": self.requests,
            "retries": sum(self.retries.values()),
            "retries_by_reason": dict(self.retries),
            "elapsed": round(self.elapsed, 6),
            "quota_utilisation": None if self.quota is None else round(self.quota, 4),
            "memory_growth": self.grown,
            "first_error": _error(self.first_error),
        }

    def cells(self) -> tuple[str, ...]:
        """Under `HEADINGS`."""
        latency = self.latency
        return (
            f"{self.in_flight:,}",
            told_speed(statistics.median(self.per_second)),
            told_speed(min(self.per_second)),
            told_speed(max(self.per_second)),
            f"{self.cpu_us:,.1f}",
            *(f"{1000 * seconds:,.2f}" for seconds in (latency.p50, latency.p95, latency.p99)),
            "-" if self.grown is None else f"{self.grown / 1e6:+.1f}",
        )

    def remarks(self) -> Iterator[str]:
        """What happened besides."""
        where = f"{self.in_flight} in flight"
        if self.retries:
            yield f"{where}: {told_retries(self.retries)}"
        if self.quota is not None:
            yield f"{where}: {self.quota:.1%} of the quota was used"
        if not self.ok:
            yield (
                f"{where}: {self.succeeded:,} applied, {self.failed:,} failed, "
                f"{self.ambiguous:,} ambiguous; the first: {_told(self.first_error)}"
            )


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of a table, and what else is to be said of its rows."""
    if not rows:
        return []
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return lines + [remark for row in rows for remark in row.remarks()]


def told_speed(per_second: float) -> str:
    """Updates a second; under the quota of a tenant there are few."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:,.1f}"


def told_retries(retries: Mapping[str, int]) -> str:
    """How many there were, and why."""
    reasons = sorted(retries.items(), key=lambda each: -each[1])
    told = ", ".join(f"{REASONS.get(reason, reason)}: {count:,}" for reason, count in reasons)
    return f"retries: {sum(retries.values()):,} ({told})"


def _told(error: CognigyError | None) -> str:
    """Its kind and its message."""
    return f"{type(error).__name__}: {error}"


def _error(error: CognigyError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status", None),
    }


def _seconds(distribution: Distribution) -> dict[str, float]:
    names = ("mean", "p50", "p95", "p99", "max")
    return {name: round(getattr(distribution, name), 7) for name in names}


def _largest(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)
