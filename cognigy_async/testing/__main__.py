"""Run seeds: ``python -m cognigy_async.testing SEED [SEED ...]`` or ``--seeds N [--first K]``."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterable
from contextlib import closing

from .totals import Totals, run_seeds

AT_ONCE = 50
"""Seeds that a process takes at a time."""


def main() -> int:
    """Run seeds and print their sums. Return 1 after a violation, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m cognigy_async.testing",
        description="Run a client under faults in virtual time, and check its promises.",
    )
    parser.add_argument("seed", nargs="*", type=int, help="seeds to replay")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run N seeds")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes")
    options = parser.parse_args()
    last = options.first + options.seeds
    chunks: list[Iterable[int]] = [[seed] for seed in options.seed]
    chunks += [
        range(first, min(first + AT_ONCE, last)) for first in range(options.first, last, AT_ONCE)
    ]
    if not chunks:
        parser.error("name a seed, or give --seeds")
    totals = Totals()
    status = 0
    show = sys.stderr.write if sys.stderr.isatty() else lambda _: 0
    try:
        with closing(_results(chunks, options.jobs)) as results:
            for result in results:
                show("\r\x1b[K")
                sys.stdout.writelines(f"{text}\n\n" for text in result.texts)
                totals.add(result)
                show(f"{totals.seeds:,} seeds, {totals.broken.total():,} violations")
    except KeyboardInterrupt:
        status = 130
    show("\r\x1b[K")
    sys.stdout.write(totals.summary())
    return 1 if totals.broken else status


def _results(chunks: list[Iterable[int]], jobs: int) -> Generator[Totals, None, None]:
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    # Ctrl-C reaches every process of the terminal: the first one ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=signal.signal, initargs=ignore) as pool:
        yield from pool.imap_unordered(run_seeds, chunks)


if __name__ == "__main__":
    sys.exit(main())
