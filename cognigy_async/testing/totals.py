"""Sums of many runs: the promises that were broken, and the faults by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import process_time

from .simulation import Violation, simulate

COUNTED = {
    "lost": "P4 lost",
    "reordered": "P1 order",
    "overlapping": "P1 order: overlapping",
    "early": "P5 never early",
    "over quota": "P6 quota",
    "doubled transitions": "P12 doubled transition",
    "unsettled": "P4 settled",
    "undelivered": "P9 hooks: undelivered",
}
"""Violations that the summary counts one by one, and their names in the oracle."""


@dataclass
class Totals:
    """The sums of some runs; `seconds` is virtual time, `cpu` is real."""

    seeds: int = 0
    updates: int = 0
    requests: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        """Add the sums of other runs."""
        self.seeds += other.seeds
        self.updates += other.updates
        self.requests += other.requests
        self.seconds += other.seconds
        self.cpu += other.cpu
        self.faults += other.faults
        self.broken += other.broken

    def summary(self) -> str:
        """Return the sums as text: promises that were broken, and faults by kind."""
        counts = {name: self.broken[promise] for name, promise in COUNTED.items()}
        counts["other"] = self.broken.total() - sum(counts.values())
        faults = sorted(self.faults.items(), key=lambda fault: (-fault[1], fault[0]))
        return (
            f"{self.seeds:,} seeds, {self.updates:,} updates, {self.requests:,} requests, "
            f"{self.seconds / 3600:,.1f} simulated hours, {self.cpu:,.0f} s of CPU\n"
            f"violations: {', '.join(f'{name} {count:,}' for name, count in counts.items())}\n"
            f"faults: {self.faults.total():,}"
            f" ({', '.join(f'{name} {count:,}' for name, count in faults)})\n"
        )


def run_seeds(seeds: Iterable[int]) -> Totals:
    """Run some seeds in this process. Return their sums."""
    totals = Totals()
    began = process_time()
    for seed in seeds:
        totals.seeds += 1
        try:
            log = simulate(seed).log
        except Violation as violation:
            totals.broken[violation.breach.promise.removesuffix(": backoff")] += 1
            totals.texts.append(str(violation))
            continue
        totals.updates += sum(call.kind != "read" for call in log.calls)
        totals.requests += len(log.exchanges)
        totals.seconds += log.seconds
        totals.faults += log.faults
    totals.cpu = process_time() - began
    return totals
