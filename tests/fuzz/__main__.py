"""Feed mutated data to the package: only its own errors, bounded memory, and no hang.

    python -m tests.fuzz answers --over aiohttp --tries 5000
    python -m tests.fuzz rows --over parquet --tries 1500 --seed 7
    python -m tests.fuzz journals --tries 500
    python -m tests.fuzz outboxes --tries 1000
    python -m tests.fuzz audit --tries 3000
    python -m tests.fuzz settings --tries 1000

It prints the number of tries by outcome. Each try has a seed of its own. A failure names it, and
--seed gives its data again. Memory is measured on Linux only.
"""

from __future__ import annotations

import argparse
import collections
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cognigy_async import CognigyError

from . import files, outboxes, wire
from .attempt import Attempt

TARGETS = {
    "answers": wire.KINDS,
    "rows": files.FORMATS,
    "journals": (),
    "outboxes": (),
    "audit": (),
    "settings": (),
}

LONGEST = 20
"""Seconds of one try."""
MORE = 150_000_000
"""Bytes that one try may take."""

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


class HungError(Exception):
    """A try has not ended in time."""


def memory(field: str) -> int:
    """Return a value of this process in bytes; 0 where the system has no such file."""
    if not STATUS.exists():
        return 0
    found = re.search(rf"^{field}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _hung(number: int, frame: FrameType | None) -> None:
    raise HungError


@contextmanager
def bounded() -> Iterator[None]:
    """Raise an error if the block hangs or takes too much memory."""
    if STATUS.exists():
        RESET.write_text("5")
    before = memory("VmRSS")
    timer = hasattr(signal, "SIGALRM")
    if timer:
        signal.signal(signal.SIGALRM, _hung)
        signal.alarm(LONGEST)
    try:
        yield
    finally:
        if timer:
            signal.alarm(0)
    taken = memory("VmHWM") - before
    if taken > MORE:
        raise MemoryError(f"{taken >> 20} MiB")


def attempts(target: str, over: str | None, folder: Path) -> Attempt:
    if target == "answers":
        return wire.Answers(over or wire.KINDS[0])
    if target == "rows":
        return files.Rows(folder, over or files.FORMATS[0])
    if target == "journals":
        return files.Journals(folder)
    if target == "outboxes":
        return outboxes.Outboxes(folder)
    if target == "audit":
        return files.AuditFiles(folder)
    return files.SettingsFiles(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--over", help="transport of answers, or format of rows")
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="of the first try")
    given = parser.parse_args()
    first = time.time_ns() // 1000 if given.seed is None else given.seed
    outcomes: collections.Counter[str] = collections.Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        attempts(given.target, given.over, Path(folder)) as attempt,
    ):
        for seed in range(first, first + given.tries):
            try:
                with bounded():
                    outcome = attempt.run(seed)
            except CognigyError as error:
                outcome = type(error).__name__
            except BaseException:
                sys.stderr.write(f"\nseed {seed}, of {' '.join(sys.argv[1:])}:\n")
                raise
            outcomes[outcome] += 1
    for outcome, count in outcomes.most_common():
        sys.stdout.write(f"{count:6} {outcome}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
