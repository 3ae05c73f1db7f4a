"""Lock that lets one process at a time use a SQLite file. It ends with its process.

The lock belongs to the file and not to its name, so links and renames do not lead around it. A
symbolic link is refused all the same: it may lead to the file of somebody else.

A process that closes any descriptor of a file loses its record locks on this file, and those are
the locks of SQLite. Therefore the lock opens the file before the database does and closes it
afterwards, and nothing else in the process opens a file that it has locked.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CognigyError
from .locks import try_lock
from .private_files import make_private, open_private

if sys.platform != "win32":
    import fcntl

ATTEMPTS = 5
PROBE_TIME = 0.01
"""Seconds between attempts. `is_locked` in another process holds the lock for a moment."""

FREE_BYTE = 2**31 - 2
"""Position of a byte that SQLite never locks. It may lie beyond the end of the file."""

HEADER_SIZE = 100
"""Bytes of the header of a SQLite file."""
SQLITE_MAGIC = b"SQLite format 3\0"
APPLICATION_ID_AT = 68
"""Position of the application id in the header."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Rights of others than the owner."""

_guard = threading.Lock()
_locked_here: set[tuple[int, int]] = set()
"""Files that this process has locked."""


@dataclass(frozen=True, slots=True)
class DatabaseKind:
    """A kind of SQLite file that one process at a time uses.

    Attributes:
        name: its name in messages, such as "journal".
        title: its name with its owner, such as "journal of a job".
        application_id: application id of its files.
        choice: what the user chooses another one of, such as "--journal".
        error: makes the error for a file that cannot be used, from its message and path.
    """

    name: str
    title: str
    application_id: int
    choice: str
    error: Callable[[str, Path], CognigyError]

    def foreign(self, path: Path) -> CognigyError:
        """Return the error for a file that is of another kind."""
        return self.error(
            f"{path} is no {self.title}: it is empty, or a SQLite file of another program. "
            f"Choose another {self.choice}.",
            path,
        )


class DatabaseLock:
    """The lock of a SQLite file, held until `release`.

    Attributes:
        path: The file, in a folder without symbolic links.
        identity: Device and inode of the file.
        is_record_lock: True if SQLite may have released the lock; then `renew` it.
    """

    def __init__(self, path: Path, descriptor: int, *, is_record_lock: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self.is_record_lock = is_record_lock
        self.identity = _identity(os.fstat(descriptor))
        _locked_here.add(self.identity)

    @classmethod
    def acquire(
        cls, file: Path, kind: DatabaseKind, *, attempts: int = ATTEMPTS
    ) -> DatabaseLock | None:
        """Create the file if needed, and lock it. Return None if it is in use.

        Raises:
            CognigyError: `kind.error`: the file cannot be created, written or locked, or may be
                that of somebody else.
        """
        path = Path(os.path.realpath(file.parent)) / file.name
        for attempt in range(attempts):
            if attempt:
                time.sleep(PROBE_TIME)
            if path.is_symlink() and is_locked(path):
                return None
            with _guard:
                if _identity_of(path) in _locked_here:
                    return None
                try:
                    lock = cls._acquire_once(path, file, kind)
                except OSError as error:
                    option = f", with {kind.choice}" if kind.choice.startswith("-") else ""
                    raise kind.error(
                        f"{kind.name} {file} cannot be locked: {error.strerror}. Choose a "
                        f"folder on a local disk{option}.",
                        file,
                    ) from error
                if lock is not None:
                    return lock
        return None

    @classmethod
    def _acquire_once(cls, path: Path, file: Path, kind: DatabaseKind) -> DatabaseLock | None:
        with contextlib.ExitStack() as stack:
            descriptor = _open(path, file, kind)
            stack.callback(os.close, descriptor)
            locked = try_lock(descriptor)
            is_record_lock = locked and not _lock_byte(descriptor)
            if is_record_lock:
                # On NFS, BSD and macOS flock and record locks exclude each other, also
                # within one process. There flock would lock out SQLite.
                stack.close()
                descriptor = _open(path, file, kind)
                stack.callback(os.close, descriptor)
                locked = _lock_byte(descriptor)
            # Between the calls, the file may have been replaced.
            if not locked or _identity(os.fstat(descriptor)) != _identity_of(path):
                return None
            _claim(descriptor, file, kind)
            stack.pop_all()
            return cls(path, descriptor, is_record_lock=is_record_lock)

    def renew(self) -> bool:
        """Lock again once the database is in WAL mode. Return False if another process was faster.

        In other modes, SQLite releases all record locks of the process after each transaction.
        """
        return _lock_byte(self._descriptor)

    def was_deleted(self) -> bool:
        """Return whether the file has no name any more."""
        return not os.fstat(self._descriptor).st_nlink

    def release(self) -> None:
        """Release the lock."""
        with _guard:
            _locked_here.discard(self.identity)
            if sys.platform != "win32":
                # A process that was forked meanwhile has the same lock and does not close it.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)


def is_locked(file: Path) -> bool:
    """Return whether a process uses a file. Do not call this while the process reads it."""
    with _guard:
        identity = _identity_of(file)
        if identity is None or identity in _locked_here:
            return identity is not None
        try:
            # Locks need no write access on local disks.
            mode = os.O_RDWR if os.access(file, os.W_OK) else os.O_RDONLY
            descriptor = os.open(file, mode)
        except OSError:
            return False
        try:
            return not try_lock(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _identity(found) if stat.S_ISREG(found.st_mode) else None


def _open(path: Path, file: Path, kind: DatabaseKind) -> int:
    try:
        return open_private(path, linked=True)
    except OSError as error:
        raise kind.error(
            f"{kind.name} {file} cannot be created or written: {error.strerror}. Correct this, "
            f"or choose another {kind.choice}, in a folder that can be written.",
            file,
        ) from error


def _claim(descriptor: int, file: Path, kind: DatabaseKind) -> None:
    """Check that a file is new or may be of this kind, and close it to other users.

    SQLite would complete in the database of another program what that left unfinished. It gives the
    files beside a database the mode of the database. Earlier versions left the mode to the umask.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    header = os.read(descriptor, HEADER_SIZE)
    found = os.fstat(descriptor)
    if not header and found.st_nlink > 1:
        raise kind.error(
            f"{kind.name} {file} is empty and has a second name (a hard link), so that it may "
            f"belong to another program. Choose another {kind.choice}.",
            file,
        )
    is_database = header.startswith(SQLITE_MAGIC)
    if is_database and header[APPLICATION_ID_AT:][:4] != kind.application_id.to_bytes(4):
        raise kind.foreign(file)
    if (is_database or not header) and found.st_mode & OTHERS:
        make_private(descriptor)


def _lock_byte(descriptor: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, FREE_BYTE)
        except (BlockingIOError, PermissionError):
            return False
    return True
