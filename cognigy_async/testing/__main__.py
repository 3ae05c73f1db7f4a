"""Run seeds: ``python -m cognigy_async.testing SEED [SEED ...]`` or ``--seeds N [--first K]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .simulation import Violation, simulate


def main() -> int:
    """Run seeds, print the hours simulated and the faults by kind. Return 1 after a violation."""
    parser = argparse.ArgumentParser(prog="python -m cognigy_async.testing")
    parser.add_argument("seed", nargs="*", type=int, help="seeds to replay")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run N seeds")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first of them")
    options = parser.parse_args()
    faults: Counter[str] = Counter()
    seconds = 0.0
    calls = failures = 0
    began = time.process_time()
    seeds = [*options.seed, *range(options.first, options.first + options.seeds)]
    for seed in seeds:
        try:
            report = simulate(seed)
        except Violation as violation:
            failures += 1
            sys.stdout.write(f"{violation}\n\n")
            continue
        faults.update(report.log.faults)
        seconds += report.log.seconds
        calls += len(report.log.calls)
    by_kind = ", ".join(f"{name}: {count}" for name, count in sorted(faults.items()))
    sys.stdout.write(
        f"{len(seeds)} seeds, {failures} violations, {calls} calls, "
        f"{seconds / 3600:.2f} simulated hours, {time.process_time() - began:.1f} s of CPU\n"
        f"faults: {by_kind or 'none'}\n"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
