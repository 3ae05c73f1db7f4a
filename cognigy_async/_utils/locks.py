"""Exclusive locks on open files. The system releases a lock when its process ends in any way.

A lock belongs to the descriptor, so two descriptors of one process exclude each other, and closing
the descriptor releases it. The lock is `flock` on POSIX systems. On Windows it is one byte far
beyond the content, because other processes can neither read nor write a locked byte.
"""

from __future__ import annotations

import os
import sys
import time

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 2**31 - 2
"""Position of the locked byte on Windows; `msvcrt.locking` takes at most 31 bits."""

POLL_INTERVAL = 0.01
"""Seconds between lock attempts on Windows; its blocking call gives up after ten attempts."""


def open_lockable(path: str | os.PathLike[str], mode: int) -> int:
    """Open a file for reading and writing, creating it if needed, and return the descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), mode)


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


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file, blocking the thread until the lock is free."""
    if sys.platform == "win32":
        while not try_lock(descriptor):
            time.sleep(POLL_INTERVAL)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def read_content(descriptor: int) -> bytes:
    """Return the whole content of an open file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, os.fstat(descriptor).st_size)


def replace_content(descriptor: int, content: bytes) -> None:
    """Write the whole content of an open file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, os.write(descriptor, content))
