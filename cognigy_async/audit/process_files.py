"""One file for each process: the first to come writes to the path itself, others beside it.

A lock on a file beside the path says that it is in use. The names are few and used again, so that
workers which are started anew continue the chains of those before them.
"""

from __future__ import annotations

import os
from pathlib import Path

from .._utils.locks import try_lock
from ..errors import AuditError

MOST = 1000
"""Files for one path, and so processes that may write to it at the same time."""


def take_slot(path: Path) -> tuple[Path, int]:
    """`path` itself, or the first of `stem.2.suffix`, `stem.3.suffix`, ... that is free, and the
    descriptor that keeps it until it is closed; closed in a forked child it leaves the lock alone.

    Raises:
        OSError: the lock cannot be made.
        AuditError: all are in use.
    """
    for number in range(1, MOST + 1):
        mine = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        lock = os.open(mine.with_name(f".{mine.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            locked = try_lock(lock)
        except BaseException:
            os.close(lock)
            raise
        if locked:
            return mine, lock
        os.close(lock)
    raise AuditError(f"{MOST} processes write to {path} already; use another path.")
