"""Read a journal that may be in use, cut off, damaged, or no journal at all."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cognigy_async._utils.database_lock import DatabaseKind
from cognigy_async._utils.private_files import (
    FOREIGN_CONTENT,
    check_owned,
    make_private,
    open_private,
)

from ..errors import JournalRefusedError
from .schema import APPLICATION_ID, SCHEMA_VERSION, differences, invalid_rows


def refused(message: str, _: Path) -> JournalRefusedError:
    """Return the error for a file of a job that cannot be used."""
    return JournalRefusedError(message)


JOURNAL = DatabaseKind("journal", "journal of a job", APPLICATION_ID, "--journal", refused)

PATIENCE = 10.0
"""Seconds for which the queries on a small journal may take."""
SLOWEST = 10_000_000
"""Bytes of a journal for which they may take another second."""
LONGEST = 1 << 28
"""Bytes of the longest row that is read."""

LOCK_TIMEOUT = 0.9
"""Seconds to wait for another program that uses the journal, which may have been stopped."""

WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
SHM_VERSION = 3007000
SIDE_FILES = {
    "-wal": WAL_MAGIC,
    "-shm": tuple(SHM_VERSION.to_bytes(4, order) for order in ("little", "big")),
    "-journal": (b"\xd9\xd5\x05\xf9",),
}
"""First bytes of the files that SQLite keeps beside a database, by the end of their names. They are
zero until the content is valid."""

IN_WAL = "in_wal"
"""Key of a flag, `1` while the newest records are only in the `-wal` beside the journal."""

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
UNUSABLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


UNREADABLE = (
    sqlite3.Error,
    ArithmeticError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors that a damaged or busy journal raises while it is read."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database that may come from elsewhere.

    Its queries are interrupted after some time, because those of a damaged database may not end.

    Args:
        path: An absolute path.
        mode: `mode` of a SQLite URI, and more parameters.
    """
    end = time.monotonic() + PATIENCE + path.stat().st_size / SLOWEST
    # Worker threads use the connection one after another.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        isolation_level=None,
        check_same_thread=False,
        timeout=LOCK_TIMEOUT,
        uri=True,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)
    return connection


@contextmanager
def open_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading, also while a job writes to it. No file is changed.

    Raises:
        JournalRefusedError: The journal does not exist, is damaged, or lacks its newest records.
    """
    if not path.is_file():
        raise JournalRefusedError(
            f"there is no journal {path}; a run keeps it as FILE.journal, or where --journal says"
        )
    real = Path(os.path.realpath(path))
    check_side_files(path, real, shared=True)
    try:
        if not has_wal(real) and not beside(real, "-journal").exists():
            # Only a reader of an immutable database makes no files if the journal was cut off.
            with closing(connect(real, "ro&immutable=1")) as connection:
                check_tables(path, connection)
                if lacks_wal(connection, had_wal=has_wal(real)):
                    raise incomplete(path)
        with closing(connect(real, "ro")) as connection:
            check_tables(path, connection)
            check_content(path, connection)
            yield connection
    except UNREADABLE as error:
        raise refusal(path, error) from error


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that SQLite keeps beside a database."""
    return path.with_name(path.name + suffix)


def has_wal(path: Path) -> bool:
    """Return whether the `-wal` of a database exists and is not empty."""
    try:
        with beside(path, "-wal").open("rb") as file:
            return file.read(4) in WAL_MAGIC
    except OSError:
        return False


def check_side_files(
    path: Path, real: Path, *, opens: bool = False, shared: bool = False, name: str = "journal"
) -> None:
    """Raise `JournalRefusedError` if a file beside a journal may be that of somebody else.

    SQLite writes into these files, and removes them, whatever they are.

    Args:
        path: The journal, for messages.
        real: The journal, without symbolic links.
        opens: Check the content as well. That releases the locks of this process on the `-shm`, so
            do it only before the journal is opened.
        shared: Accept files of another user, whose journal is read.
        name: Kind of the file, as in `DatabaseKind`.
    """
    for suffix, begins in SIDE_FILES.items():
        file = beside(real, suffix)
        if not os.path.lexists(file):
            continue
        try:
            if not opens:
                check_owned(file.lstat(), file, shared=shared)
                continue
            descriptor = open_private(file, create=False)
            try:
                begin = os.read(descriptor, 4)
                if begin.rstrip(b"\0") and begin not in begins:
                    raise OSError(errno.EEXIST, FOREIGN_CONTENT, str(file))
                make_private(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise JournalRefusedError(
                f"{name} {path} cannot be used because of {file}: {error.strerror}. Correct "
                f"this, or choose another --{name}."
            ) from error


def check_tables(path: Path, connection: sqlite3.Connection) -> None:
    """Raise `JournalRefusedError` if a database has not the tables of a journal."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JOURNAL.foreign(path)
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != SCHEMA_VERSION:
        raise JournalRefusedError(
            f"journal {path} was written by another version of cognigy_async (format {found}, and "
            f"this one has {SCHEMA_VERSION}). Go on with that version, or give another --journal "
            "for a new job, which applies all rows again."
        )
    for difference in differences(connection):
        raise damaged(path, difference)


def lacks_wal(connection: sqlite3.Connection, *, had_wal: bool) -> bool:
    """Return whether the newest records of a journal were in a `-wal` that is missing."""
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (IN_WAL,)).fetchone()
    return found == ("1",) and not had_wal


def incomplete(path: Path) -> JournalRefusedError:
    """Return the error for a journal whose `-wal` is missing."""
    return JournalRefusedError(
        f"journal {path} lacks its newest records: its last run was cut off, and they are in "
        f"{os.path.realpath(path)}-wal, which is missing. Copy both files from where the job ran. "
        "Without that file, bulk run --force goes on and may repeat rows that were applied. It "
        "repeats none if a database program opened the journal and moved all records into it."
    )


def check_content(path: Path, connection: sqlite3.Connection) -> None:
    """Raise `JournalRefusedError` if a journal has damaged pages, or rows that no job writes."""
    (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise damaged(path, problem)
    for problem in invalid_rows(connection):
        raise damaged(path, problem)


def parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object of a journal.

    Raises:
        ValueError: The text is no JSON object.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("a value is not a JSON object")
    return value


def refusal(path: Path, error: Exception) -> JournalRefusedError:
    """Return the error for a journal that raised one of `UNREADABLE`."""
    if isinstance(error, KeyError):
        return damaged(path, f"it has no {error.args[0]}")
    if isinstance(error, OSError):
        return _unusable(path, error.strerror)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return JournalRefusedError(
            f"journal {path} was cut off while its job began or ended. Run the job again: that "
            "repairs it."
        )
    code &= 0xFF
    if code in BUSY:
        return JournalRefusedError(
            f"journal {path} is in use by another program. Close it and try again."
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return damaged(path, "a query did not end in time")
    if code in UNUSABLE:
        return _unusable(path, error)
    return damaged(path, error)


def _unusable(path: Path, problem: object) -> JournalRefusedError:
    return JournalRefusedError(
        f"journal {path} cannot be read or written: {problem}. Its folder must be writable and "
        f"have room: copy it and {path.name}-wal to another one, or choose another --journal."
    )


def damaged(path: Path, problem: object) -> JournalRefusedError:
    """Return the error for a damaged journal."""
    # SQLite's own check puts a headline before the first problem.
    lines = [line for line in str(problem).splitlines() if not line.startswith("***")]
    return JournalRefusedError(
        f"journal {path} is damaged: {(lines or ['inconsistent data'])[0]}. Restore it from a "
        f"copy, or move it and {path.name}-wal away and start a new job, which applies all rows "
        "again."
    )
