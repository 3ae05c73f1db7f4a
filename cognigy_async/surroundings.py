"""Where code runs: in which event loop and process, by which clock, and whether it is to end."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from typing import Any

import anyio
import sniffio


class _Forks:
    """Counts the forks between the first process and this one; asking for a pid costs more."""

    count = 0

    def add(self) -> None:
        self.count += 1


forks = _Forks()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forks.add)


def cancellation_requested() -> bool:
    """Whether this task is being cancelled, rather than given a stray `CancelledError`.

    On asyncio whatever awaits a cancelled future raises the same exception.
    """
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if sniffio.current_async_library() != "asyncio":
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_failure(error: BaseException) -> bool:
    """Whether what other people's code raised is its own failure, and not the end of this task."""
    if isinstance(error, Exception):
        return True
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return False
    return not (isinstance(error, anyio.get_cancelled_exc_class()) and cancellation_requested())


def monotonic_clock() -> Callable[[], float]:
    """The clock of the running event loop, in seconds, without the detection at each call.

    uvloop's own clock stands still while a task runs, so that a moment would be taken for earlier
    than it is; it and the standard library's loops follow `time.monotonic`.
    """
    if sniffio.current_async_library() != "asyncio":
        return anyio.current_time
    loop = asyncio.get_running_loop()
    follows_monotonic = (
        type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__ == "uvloop"
    )
    return time.monotonic if follows_monotonic else loop.time


def home_of_this_task() -> Callable[[], Any]:
    """A function that tells which event loop runs it, and raises RuntimeError where none does."""
    if sniffio.current_async_library() == "asyncio":
        return asyncio.get_running_loop
    import trio

    return trio.lowlevel.current_trio_token
