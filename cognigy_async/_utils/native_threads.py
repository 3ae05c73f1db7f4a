"""Threads that a library starts outside Python."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def threads_in_batches() -> Iterator[None]:
    """Let threads that start meanwhile not interrupt the event loop when they wake up.

    With both on one core, the thread of pyreqwest would interrupt the event loop for each request,
    which takes a sixth of the CPU time. On systems without `SCHED_BATCH` (see sched(7)) it does.
    """
    changed = False
    with suppress(AttributeError, OSError):
        changed = os.sched_getscheduler(0) == os.SCHED_OTHER
        if changed:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def let_threads_return() -> None:
    """Wait until no such thread is in Python, before Python ends and they cannot leave it.

    The thread of pyreqwest wakes the event loop with `call_soon_threadsafe`, which releases the
    lock of the interpreter while it writes to a socket. If the interpreter ends then, the process
    is aborted.
    """
    end = time.monotonic() + 1
    while time.monotonic() < end:
        time.sleep(0.001)
        if not any(
            frame.f_code.co_name in ("_write_to_self", "call_soon_threadsafe")
            for frame in sys._current_frames().values()
        ):
            break
