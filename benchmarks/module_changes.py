"""Count how often control moves from module to module on the way of an update and of a row.

    python benchmarks/module_changes.py           # three figures
    python benchmarks/module_changes.py --check   # exit status 1 if one exceeds its limit

A change is a call, or a resumed coroutine, in another module of the package than the one before
it in the same thread. The transport, which does nothing, and the caller count as modules too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import cognigy_async
from cognigy_async import RateLimit, UpdateEvent
from cognigy_async.bulk import BulkJob
from harness import null

PACKAGE = str(Path(cognigy_async.__file__).parent)

LIMITS = {
    "one update": 36,
    "one update, with a callback and a rate limit": 46,
    "a job of one row, from opening its files to closing them": 174,
}


class Trace:
    """A profile function that counts module changes, thread by thread."""

    def __init__(self) -> None:
        self.changes = 0
        # The caller's module, which the first call leaves.
        self._last = {threading.get_ident(): ""}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not (file.startswith(PACKAGE) or file == null.__file__):
            return
        thread = threading.get_ident()
        self.changes += self._last.get(thread, file) != file
        self._last[thread] = file


@contextmanager
def traced() -> Iterator[Trace]:
    trace = Trace()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def taken(_: UpdateEvent) -> None:
    pass


async def update_changes(*, with_more: bool) -> int:
    client = null.client(rate_limit=RateLimit(1000, per=300) if with_more else None)
    if with_more:
        client.on_state_updated(taken)
    async with client:
        # The first update imports modules. Its callback must not run while the next is traced.
        await client.update("d-1", session={"n": 1})
        await client.flush()
        with traced() as trace:
            await client.update("d-1", session={"n": 2})
    return trace.changes


async def row_changes(rows: Path) -> int:
    async with null.client() as client:
        with traced() as trace:
            result = await BulkJob(rows).run(client)
    if not result.ok:
        raise RuntimeError(f"the row was not applied: {result}")
    return trace.changes


def measure() -> dict[str, int]:
    row = json.dumps({"dialog_id": "d-1", "session": {"n": 1}}) + "\n"
    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in "abc":
            Path(folder, name).write_text(row)
            jobs.append(asyncio.run(row_changes(Path(folder, name))))
    changes = (
        asyncio.run(update_changes(with_more=False)),
        asyncio.run(update_changes(with_more=True)),
        # The first job imports modules, and a slow one writes its journal once more.
        min(jobs),
    )
    return dict(zip(LIMITS, changes, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for name, number in (changes := measure()).items():
        print(f"{number:4} changes of module, at most {LIMITS[name]}: {name}")
    return int(options.check and any(number > LIMITS[name] for name, number in changes.items()))


if __name__ == "__main__":
    sys.exit(main())
