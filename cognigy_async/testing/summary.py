"""Run many seeds, and sum up what they did."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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
"""Names of violations in the summary, by their promise."""


@dataclass
class Summary:
    """Sums over seeds; `seconds` is virtual time, `cpu` is seconds of CPU."""

    seeds: int = 0
    calls: int = 0
    requests: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Add what other seeds did."""
        self.seeds += other.seeds
        self.calls += other.calls
        self.requests += other.requests
        self.seconds += other.seconds
        self.cpu += other.cpu
        self.faults += other.faults
        self.broken += other.broken

    def __str__(self) -> str:
        """Return the summary that is printed."""
        known = Counter({name: self.broken[promise] for name, promise in COUNTED.items()})
        known["other"] = self.broken.total() - known.total()
        return (
            f"{self.seeds:,} seeds: {self.calls:,} calls and {self.requests:,} requests in "
            f"{self.seconds / 3600:,.1f} simulated hours, {self.cpu:,.0f} s of CPU\n"
            f"violations: {', '.join(f'{name} {count:,}' for name, count in known.items())}\n"
            f"faults injected: {self.faults.total():,}\n"
            + "".join(f"  {count:>9,}  {name}\n" for name, count in sorted(self.faults.items()))
        )


def run_seeds(seeds: Sequence[int]) -> Summary:
    """Run seeds one after the other."""
    summary = Summary(seeds=len(seeds))
    began = os.times()
    for seed in seeds:
        try:
            log = simulate(seed).log
        except Violation as violation:
            summary.texts.append(str(violation))
            summary.broken[violation.breach.promise] += 1
            continue
        summary.faults.update(log.faults)
        summary.faults["crash of the process"] += len(log.crashes)
        summary.seconds += log.seconds
        # The rows of a job are its calls.
        summary.requests += len(log.exchanges)
        summary.calls += len(log.calls) or sum(log.job or ())
    ended = os.times()
    summary.cpu = ended.user + ended.system - began.user - began.system
    return summary
