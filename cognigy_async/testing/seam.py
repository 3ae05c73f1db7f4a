"""One seam for what leaves the event loop: worker threads, SQLite, removed files, the wall clock.

In virtual time the clock does not wait for a thread. So a function that belongs in a thread runs in
the event loop, after some virtual seconds. A run stays one exact sequence.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, TypeVarTuple
from unittest import mock

import anyio
import anyio.lowlevel
import anyio.to_thread

from cognigy_async.crm import recorder

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_900_000_000.0
"""Seconds of the epoch at which each run starts."""


class Process(Protocol):
    """A process that may crash at each crossing."""

    def cross(self) -> None:
        """Crash, if this is the moment."""
        ...


@contextmanager
def inline_threads(
    seed: int, wall_clock_jump: tuple[float, float], current: Callable[[], Process]
) -> Iterator[None]:
    """Run what belongs in threads in the event loop, with crossings before and after it.

    Each statement of SQLite and each removal of a file is a crossing too. `time.time` follows the
    virtual clock, but for one jump.

    Args:
        wall_clock_jump: see `Schedule`.
        current: returns the process that runs.
    """
    rng = random.Random(f"threads {seed}")

    async def run_sync(
        function: Callable[[*Ts], T],
        *args: *Ts,
        abandon_on_cancel: bool = False,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> T:
        await anyio.lowlevel.checkpoint()
        async with limiter if limiter is not None else anyio.CapacityLimiter(1):
            with anyio.CancelScope(shield=not abandon_on_cancel):
                await anyio.sleep(rng.choice((0.0, 0.0005, 0.003)))
            current().cross()
            result = function(*args)
            current().cross()
            return result

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            current().cross()
            return super().execute(*arguments)

        def executemany(self, *arguments: Any) -> sqlite3.Cursor:
            current().cross()
            return super().executemany(*arguments)

    connect, unlink = sqlite3.connect, os.unlink

    def connected(database: str, **options: Any) -> sqlite3.Connection:
        return connect(database, factory=Connection, **options)

    def unlinked(*arguments: Any, **options: Any) -> None:
        current().cross()
        unlink(*arguments, **options)

    jump_at, jump = wall_clock_jump

    def now() -> float:
        try:
            at = anyio.current_time()
        except anyio.NoEventLoopError:
            return EPOCH
        return EPOCH + at + (jump if at >= jump_at else 0.0)

    with (
        mock.patch.object(anyio.to_thread, "run_sync", run_sync),
        mock.patch.object(sqlite3, "connect", connected),
        mock.patch.object(os, "unlink", unlinked),
        mock.patch.object(time, "time", now),
        mock.patch.object(recorder, "clock", now),
    ):
        yield
