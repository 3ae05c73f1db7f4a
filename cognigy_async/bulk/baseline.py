"""The baseline of recurring jobs: a SQLite file that knows what was last applied through it.

It has a keyed hash of a session variable's value only while no later write of this variable is
under way: a job removes the hash before it sends such a write, and adds the new one once the
write was applied. So after a crash at any moment, what it has is true, and the rest is unknown.

SQLite keeps its usual rollback journal here, not a `-wal`: a copy of the file alone is never older
than the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from cognigy_async._utils.database_lock import DatabaseKind, DatabaseLock

from .errors import JournalError, JournalRefusedError
from .journal.reading import BUSY, UNREADABLE, check_side_files, connect, refused
from .journal.schema import expected_objects, objects_of

BASELINE = DatabaseKind("baseline", "baseline of a job", 0x636F6762, "--baseline", refused)
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE applied (
    dialog TEXT, name TEXT, digest BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (dialog, name)
) WITHOUT ROWID;
"""
KEY_SIZE = 32
DIGEST_SIZE = 16
"""Bytes of a hash."""
IS_INVALID = """
SELECT EXISTS (
    SELECT 1 FROM applied WHERE (
        typeof(dialog) = 'text' AND typeof(name) = 'text' AND typeof(digest) = 'blob'
        AND typeof(at) = 'real'
    ) IS NOT 1
)
"""
"""Query for rows that no job writes. A column of SQLite takes values of any type."""


class Baseline:
    """The hashes of an open baseline. Only one thread at a time may use it.

    Args:
        path: Its name, for messages.
        connection: Its database, with its tables.
        lock: Its lock; None for a scratch copy, to which nobody else has access.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: DatabaseLock | None = None
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._key = bytes.fromhex(_meta(connection, "key") or "")
        if len(self._key) != KEY_SIZE:
            raise sqlite3.DatabaseError("it has no key")

    @classmethod
    def open(cls, path: Path, server: str | None = None) -> Self:
        """Open a baseline, or create it with mode 0600.

        Args:
            server: Server and API of the job. The baseline of another one is refused.

        Raises:
            JournalRefusedError: It is in use, damaged, no baseline, or that of another server; or
                it cannot be created, or may belong to somebody else.
        """
        lock = DatabaseLock.acquire(path, BASELINE)
        if lock is None:
            raise _in_use(path)
        try:
            check_side_files(path, lock.path, opens=True, name=BASELINE.name)
            if os.stat(lock.path).st_nlink > 1:
                raise JournalRefusedError(
                    f"baseline {path} has a second name, a hard link. Remove that name, or use a "
                    "copy: SQLite would not find what a crash left beside the other name."
                )
            connection = connect(lock.path, "rw")
            try:
                _prepare(path, connection, server)
                return cls(path, connection, lock)
            except BaseException:
                connection.close()
                raise
        except UNREADABLE as error:
            lock.release()
            raise _refusal(path, error) from error
        except BaseException:
            lock.release()
            raise

    @classmethod
    def scratch(cls, path: Path) -> Self:
        """Return a copy that may be changed and is kept nowhere. Without a file, it is empty.

        Raises:
            JournalRefusedError: See `open`.
        """
        if _is_there(path):
            original = cls.open(path)
            try:
                return original.copy()
            finally:
                original.close()
        return cls._in_memory(path, _create)

    def copy(self) -> Self:
        """Return a copy that may be changed and is kept nowhere."""
        return self._in_memory(self.path, self._connection.backup)

    @classmethod
    def _in_memory(cls, path: Path, fill: Callable[[sqlite3.Connection], object]) -> Self:
        # Unnamed database: SQLite creates a temporary file for it when its cache is full.
        copy = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            fill(copy)
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            return cls(path, copy)
        except BaseException:
            copy.close()
            raise

    def digest(self, dialog_id: str, user_id: str | None, name: str, value: Any) -> bytes:
        """Return the keyed hash of a value. Equal values of two variables have different ones."""
        # The order of the members of an object has no meaning.
        text = json.dumps([dialog_id, user_id, name, value], sort_keys=True)
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=DIGEST_SIZE).digest()

    def known(self, dialog_id: str, max_age: float | None) -> dict[str, bytes]:
        """Return the hashes of a dialog's variables by name.

        Args:
            max_age: Seconds after which a hash does not count any more.
        """
        now = time.time()
        rows = self._connection.execute(
            "SELECT name, digest, at FROM applied WHERE dialog = ?", (dialog_id,)
        )
        return {
            name: digest
            for name, digest, at in rows
            # After the clock was set back, the age is unknown.
            if max_age is None or 0 <= now - at <= max_age
        }

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that the block changes, or nothing.

        Raises:
            JournalError: It cannot be written.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(
                f"baseline {self.path} cannot be written: {error}. Nothing more is sent. Make "
                "room, or repair the disk, and run the same command again to go on."
            ) from error

    def add(self, dialog_id: str, digests: Mapping[str, bytes]) -> None:
        """Add the hashes of values that were applied."""
        now = time.time()
        self._connection.executemany(
            "INSERT OR REPLACE INTO applied VALUES (?, ?, ?, ?)",
            [(dialog_id, name, digest, now) for name, digest in digests.items()],
        )

    def forget(self, dialog_id: str, names: Iterable[str] | None = None) -> int:
        """Forget some variables of a dialog, or all; return how many were known."""
        if names is None:
            delete = "DELETE FROM applied WHERE dialog = ?"
            return self._connection.execute(delete, (dialog_id,)).rowcount
        delete = "DELETE FROM applied WHERE dialog = ? AND name = ?"
        return self._connection.executemany(delete, [(dialog_id, name) for name in names]).rowcount

    def close(self) -> None:
        """Close the file and release its lock."""
        try:
            self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def forget_dialogs(baseline: str | os.PathLike[str], dialog_ids: Collection[str]) -> int:
    """Forget all that a baseline knows of some dialogs, so that a job sends it again.

    Return the number of variables that it knew.

    Raises:
        JournalRefusedError: There is no such baseline, or a job uses it, or it is damaged.
        JournalError: It cannot be written.
    """
    path = Path(baseline)
    if not _is_there(path):
        raise JournalRefusedError(
            f"there is no baseline {path}; bulk run creates the file that --baseline names"
        )
    opened = Baseline.open(path)
    try:
        with opened.transaction():
            return sum(map(opened.forget, dialog_ids))
    finally:
        opened.close()


def _is_there(path: Path) -> bool:
    with suppress(OSError):
        return path.is_symlink() or path.stat().st_size > 0
    return False


def _prepare(path: Path, connection: sqlite3.Connection, server: str | None) -> None:
    """Lock and check a database, or create its tables."""
    # SQLite then keeps its lock until the end, also between transactions.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    if not connection.execute("PRAGMA page_count").fetchone()[0]:
        _create(connection)
    else:
        connection.execute("BEGIN EXCLUSIVE")
        _check(path, connection)
        connection.execute("COMMIT")
    connection.set_progress_handler(None, 0)
    if server is None:
        return
    found = _meta(connection, "server")
    if found is None:
        connection.execute("INSERT INTO meta VALUES ('server', ?)", (server,))
    elif found != server:
        raise JournalRefusedError(
            f"baseline {path} belongs to another server or API: {found} then, {server} now. "
            "Give each its own --baseline."
        )


def _meta(connection: sqlite3.Connection, key: str) -> str | None:
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return found[0] if found else None


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN EXCLUSIVE; {SCHEMA} PRAGMA application_id = {BASELINE.application_id}; "
        f"PRAGMA user_version = {SCHEMA_VERSION}; "
        f"INSERT INTO meta VALUES ('key', '{secrets.token_hex(KEY_SIZE)}'); COMMIT;"
    )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != SCHEMA_VERSION:
        raise JournalRefusedError(
            f"baseline {path} was written by another version of cognigy_async (format {found}, and "
            f"this one has {SCHEMA_VERSION}). Give another --baseline; its first run sends all "
            "rows."
        )
    if objects_of(connection) != expected_objects(SCHEMA):
        raise sqlite3.DatabaseError("its tables are not those of a baseline")
    (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise sqlite3.DatabaseError("its pages are inconsistent")
    if connection.execute(IS_INVALID).fetchone()[0]:
        raise sqlite3.DatabaseError("its table applied has inconsistent rows")


def _in_use(path: Path) -> JournalRefusedError:
    return JournalRefusedError(
        f"baseline {path} is in use by another job. Wait for that job, or interrupt it; jobs with "
        "one baseline run one after another."
    )


def _refusal(path: Path, error: Exception) -> JournalRefusedError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY:
        return _in_use(path)
    problem = error.strerror if isinstance(error, OSError) else error
    return JournalRefusedError(
        f"baseline {path} cannot be used: {problem}. Correct this, or move the file away; the next "
        "run then creates a new one and sends all rows."
    )
