"""Exclusive locks on open files. The system releases a lock when its process ends in any way.

Nothing here waits for a lock, because its process may be stopped for as long as it likes. A lock
belongs to the descriptor, so two descriptors of one process exclude each other, and closing
the descriptor releases it. The lock is `flock` on POSIX systems. On Windows it is one byte far
beyond the content, because other processes can neither read nor write a locked byte.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 2**31 - 2
"""Position of the locked byte on Windows; `msvcrt.locking` takes at most 31 bits."""


def is_in_place(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting. Return False if another descriptor holds the lock."""
    if sys.platform == "win32":
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
    else:
        # Not `lockf`: its locks belong to the process, not to the descriptor.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def read_content(descriptor: int, limit: int) -> bytes:
    """Return the content of an open file, at most `limit` bytes."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, min(limit, os.fstat(descriptor).st_size))


def replace_content(descriptor: int, content: bytes, before: bytes) -> None:
    """Write the whole content of an open file.

    Args:
        before: the present content. It is restored if there is no room for the new one.

    Raises:
        OSError: the file could not be written.
    """
    try:
        _write(descriptor, content)
    except OSError:
        # The room that the old content took is still there.
        with suppress(OSError):
            _write(descriptor, before)
        raise


def _write(descriptor: int, content: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.ftruncate(descriptor, len(content))
