"""One file for each process: the first one writes to the path itself, others to files beside it.

A lock on a file beside each of them marks it as in use. Its name is used again after the process
has ended, so that the next process continues its chain.
"""

from __future__ import annotations

import os
from pathlib import Path

from .._utils.locks import try_lock
from ..errors import AuditError

MAX_FILES = 1000
"""Most files of one path, and so most processes that write to it at once."""


def lock_process_file(path: Path) -> tuple[Path, int]:
    """Lock the first free file of `path`, `stem.2.suffix`, `stem.3.suffix` and so on.

    Return the file and a descriptor that holds the lock until it is closed. Closing the copy in a
    forked child does not release the lock.

    Raises:
        OSError: a lock file cannot be opened.
        AuditError: all files are in use.
    """
    for number in range(1, MAX_FILES + 1):
        own = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        lock = os.open(own.with_name(f".{own.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            locked = try_lock(lock)
        except BaseException:
            os.close(lock)
            raise
        if locked:
            return own, lock
        os.close(lock)
    raise AuditError(f"{MAX_FILES} processes already write to {path}; use another path.")
