"""Apply one fault after the other to a copy of the package, and run the simulation's seeds on it.

    python -m tests.mutants [--seeds 300] [--jobs 2] [--write docs/proof.md] [WORD ...]

It prints a table: the fault, the promise that caught it, and the number of seeds needed. With
words, only faults whose name has one of them. `--write` puts the table between the markers of a
page.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from .faults import FAULTS, Fault

PACKAGE = Path(__file__).parents[2] / "cognigy_async"
LONGEST = 300.0
"""Seconds for the seeds of one fault; a client that hangs without a wait is caught as well."""
HEAD = "| fault | caught by | seeds |\n|---|---|---|\n"
MARKED = re.compile(r"(<!-- mutants -->\n)(.*?)(<!-- end of mutants -->)", re.DOTALL)
"""The table of a page, between its markers."""
RUN = """
import sys
from cognigy_async.testing import Violation, simulate
for seed in range(int(sys.argv[1])):
    try:
        simulate(seed, shrink=False)
    except Violation as violation:
        print(f"{violation.breach.promise}|{seed + 1}")
        break
"""


def main() -> int:
    """Print the table. Return 1 if a fault was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="faults at a time")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page that gets the table")
    options = parser.parse_args()
    chosen = [
        fault
        for fault in FAULTS
        if not options.words or any(word in fault.name for word in options.words)
    ]
    survivors = 0
    table = [HEAD]
    sys.stdout.write(HEAD)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(partial(caught, seeds=options.seeds), chosen)
        for fault, (promise, seeds) in zip(chosen, results, strict=True):
            survivors += not promise
            table.append(f"| {fault.name} | {promise or '**not caught**'} | {seeds} |\n")
            sys.stdout.write(table[-1])
            sys.stdout.flush()
    sys.stdout.write(f"\n{len(chosen) - survivors} of {len(chosen)} faults were caught.\n")
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        filled = MARKED.sub(lambda marked: f"{marked[1]}{''.join(table)}{marked[3]}", page)
        options.write.write_text(filled, encoding="utf-8")
    return 1 if survivors else 0


def caught(fault: Fault, seeds: int) -> tuple[str, str]:
    """Return the promise that caught a fault, or an empty text, and the number of seeds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cognigy_async"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / fault.file
        source = path.read_text(encoding="utf-8")
        if source.count(fault.old) != 1:
            raise SystemExit(f"{fault.name}: its text is not once in {fault.file}")
        path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            run = subprocess.run(
                [sys.executable, "-c", RUN, str(seeds)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "it hangs", ""
    if run.returncode:
        raise SystemExit(f"{fault.name}: the run failed:\n{run.stderr[-2000:]}")
    promise, _, needed = run.stdout.strip().rpartition("|")
    return promise, needed or str(seeds)


if __name__ == "__main__":
    sys.exit(main())
