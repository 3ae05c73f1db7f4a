"""One file for each process: the first to come writes to the path itself, others beside it.

A lock on a file beside the path says that it is in use; the system lets go of it when the process
ends, however it ends. The names are few and used again, so that workers which are started anew
continue the chains of those before them.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import AuditError

__all__ = ["Slot", "take_slot"]

MOST = 1000
"""Files for one path, and so processes that may write to it at the same time."""

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        # Not `lockf`: its locks do not keep two sinks of one process apart.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Slot:
    """A path that is ours alone until it is given back."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Let others have it. In a forked child this leaves the parent's lock alone."""
        with suppress(OSError):
            os.close(self._descriptor)


def take_slot(path: Path) -> Slot:
    """`path` itself, or the first of `stem.2.suffix`, `stem.3.suffix`, ... that is free.

    Raises:
        OSError: the lock cannot be made.
        AuditError: all are in use.
    """
    for number in range(1, MOST + 1):
        mine = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        lock = mine.with_name(f".{mine.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            locked = _lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if locked:
            return Slot(mine, descriptor)
        os.close(descriptor)
    raise AuditError(f"{MOST} processes write to {path} already; use another path.")
