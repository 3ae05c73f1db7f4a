"""Run seeds of the simulation: ``python -m cognigy_async.testing 42``, or with ``--seeds N``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

from .summary import Summary, run_seeds

CHUNK = 50
"""Seeds that a process gets at a time."""


def main() -> int:
    """Run seeds and print the summary. Return 1 after a violation, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m cognigy_async.testing", description="Run seeds of the simulation."
    )
    parser.add_argument("seed", nargs="*", type=int, help="seed to replay")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run N seeds")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first of them")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for a core)"
    )
    options = parser.parse_args()
    if not options.seed and options.seeds < 1:
        parser.error("name a seed to replay, or --seeds N")
    seeds = [*options.seed, *range(options.first, options.first + options.seeds)]
    total = Summary()
    status = 0
    try:
        for summary in _summaries(seeds, options.jobs):
            total.add(summary)
            for text in summary.texts:
                sys.stdout.write(f"{text}\n\n")
            sys.stdout.flush()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{total.seeds:,} of {len(seeds):,} seeds ")
    except KeyboardInterrupt:
        status = 130
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    sys.stdout.write(str(total))
    return 1 if total.broken else status


def _summaries(seeds: Sequence[int], jobs: int) -> Iterator[Summary]:
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        yield from map(run_seeds, chunks)
        return
    # Only the first process hears Ctrl-C, and ends the others.
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        signal.signal,
        (signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield from pool.map(run_seeds, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
