"""The folder of an outbox: who may use it, its files, and the errors of SQLite in plain words."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cognigy_async import OutboxError
from cognigy_async._utils.database_lock import DatabaseKind, DatabaseLock

APPLICATION_ID = 0x636F676F
"""Application id of the SQLite files, which marks them as files of an outbox."""
PATTERN = "outbox-*.sqlite3"
SIDE_FILES = ("-wal", "-shm", "-journal")
ADOPTION = "adoption.lock"
"""File whose lock lets one process at a time adopt files."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Rights of others than the owner."""
ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
PLACE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def refused(message: str, path: Path) -> OutboxError:
    """Return the error for a file that cannot be used."""
    return OutboxError(message, str(path))


OUTBOX = DatabaseKind("outbox file", "file of an outbox", APPLICATION_ID, "place", refused)


def prepare_folder(folder: Path) -> None:
    """Create a folder with mode 0700, or check that it belongs to this user alone.

    Raises:
        OutboxError: it cannot be created, or others can use it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise OutboxError(
            f"the folder of the outbox, {folder}, cannot be created: {error.strerror}. Choose a "
            "folder that this program can write.",
            str(folder),
        ) from error
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise OutboxError(
            f"the folder of the outbox, {folder}, belongs to another user, with the id "
            f"{found.st_uid}. Choose a folder of this user: it will hold values of variables.",
            str(folder),
        )
    if found.st_mode & OTHERS:
        if any(entry.name != ADOPTION for entry in folder.iterdir()):
            raise OutboxError(
                f"the folder of the outbox, {folder}, is open to other users. It will hold values "
                f"of variables: run chmod 700 {folder}, or choose a folder for the outbox alone.",
                str(folder),
            )
        folder.chmod(0o700)


def files_of(folder: Path) -> list[Path]:
    """Return the files of an outbox, the oldest first."""
    return sorted(folder.glob(PATTERN))


def new_file(folder: Path) -> DatabaseLock:
    """Create a file with a name of its own, and lock it.

    Raises:
        OutboxError: it cannot be created.
    """
    while True:
        # Files are adopted in the order of their names.
        name = f"outbox-{time.time_ns():020}-{secrets.token_hex(4)}.sqlite3"
        # A process that looks for dead files may be faster than this one, and remove the new file.
        if (lock := DatabaseLock.acquire(folder / name, OUTBOX)) is not None:
            return lock


def remove_file(path: Path) -> None:
    """Remove a file and those that SQLite keeps beside it."""
    # The file last: if this process dies meanwhile, the next one finds it and removes the rest.
    for suffix in (*SIDE_FILES, ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise `OutboxError` for an error of SQLite or of the system."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explain(path, error) from error
    except UnicodeDecodeError as error:
        # SQLite quotes bytes of the file in its message.
        raise damaged(path, "its tables have names that are not UTF-8") from error


def explain(path: Path, error: sqlite3.Error | OSError) -> OutboxError:
    """Return the error for a file that cannot be read or written."""
    if isinstance(error, OSError):
        problem, remedy = error.strerror or "it failed", "Correct this, or choose another folder"
    else:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        problem = str(error)
        if code in ROOM:
            remedy = "Make room on its disk; the outbox goes on as soon as it can write"
        elif code in PLACE:
            remedy = "Its folder must be writable for this program"
        elif code in BUSY:
            remedy = "Another program uses it: close that program"
        else:
            return damaged(path, problem)
    return OutboxError(f"outbox file {path} cannot be used: {problem}. {remedy}.", str(path))


def damaged(path: Path, problem: str) -> OutboxError:
    """Return the error for a damaged file."""
    lines = [line for line in problem.splitlines() if not line.startswith("***")]
    return OutboxError(
        f"outbox file {path} is damaged: {(lines or ['inconsistent data'])[0]}. Move it and the "
        "files with the same name out of the folder, and restore them from a copy if there is one: "
        "the updates in it may be missing in the targets.",
        str(path),
    )
