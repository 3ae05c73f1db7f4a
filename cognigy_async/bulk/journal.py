"""The journal of a job: one SQLite file that says what became of each row.

It knows lines, dialogs, times, outcomes and errors, and never a variable's value. All of it is
synchronous; `Scribe` writes to it off the event loop. What was committed survives the death of the
process, and what was committed with `durable` survives that of the machine.
"""

from __future__ import annotations

import enum
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .errors import JournalError, JournalRefusedError
from .fingerprint import Mark
from .lock import JournalLock

__all__ = ["Batch", "Failure", "Journal", "OpenSend", "Settled", "Status", "Totals"]

APPLICATION = 0x636F676A
"""Marks a SQLite file as a journal of this library."""
VERSION = 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE marks (offset INTEGER, last INTEGER, digest TEXT, PRIMARY KEY (offset, last));
CREATE TABLE outcomes (
    line INTEGER PRIMARY KEY, dialog TEXT, status INTEGER NOT NULL, pass INTEGER NOT NULL,
    queued REAL, sent REAL, settled REAL NOT NULL, attempts INTEGER NOT NULL, refers INTEGER);
CREATE TABLE failures (line INTEGER PRIMARY KEY, type TEXT, message TEXT, http INTEGER);
CREATE TABLE sends (
    line INTEGER PRIMARY KEY, dialog TEXT, at REAL NOT NULL, etag TEXT, open INTEGER NOT NULL,
    carrier TEXT);
CREATE TABLE events (
    line INTEGER, dialog TEXT, at REAL NOT NULL, what TEXT NOT NULL, seconds REAL NOT NULL);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began REAL NOT NULL, latest REAL NOT NULL, elapsed REAL NOT NULL,
    requests INTEGER NOT NULL, retries TEXT NOT NULL, ended TEXT);
"""


class Status(enum.IntEnum):
    """What became of a row that is settled."""

    SUCCEEDED = 1
    FAILED = 2
    AMBIGUOUS = 3
    REPEATED = 4
    """The same update with the same `update_id` stands in the line that it refers to."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row was not applied."""

    type: str
    message: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Settled:
    """A row that is done."""

    status: Status
    dialog_id: str | None
    this_pass: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class OpenSend:
    """A row that must not be repeated blindly, sent before a crash and not settled."""

    line: int
    dialog_id: str
    etag: str | None


@dataclass(slots=True)
class Totals:
    """All runs of a job together.

    Attributes:
        elapsed: seconds in which it ran.
        retries: by reason.
    """

    succeeded: int = 0
    failed: int = 0
    ambiguous: int = 0
    repeated_pending: int = 0
    requests: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0

    @property
    def settled(self) -> int:
        """Rows that are done."""
        return self.succeeded + self.failed + self.ambiguous


@dataclass(slots=True)
class Batch:
    """What is written in one transaction. The tuples are rows of the tables."""

    outcomes: list[tuple[Any, ...]] = field(default_factory=list)
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    sends: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)
    run: tuple[Any, ...] | None = None
    meta: dict[str, str] = field(default_factory=dict)
    durable: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.outcomes
            or self.sends
            or self.events
            or self.marks
            or self.letters
            or self.run
            or self.meta
        )


class Journal:
    """The journal of one job, open for writing; close it.

    Args:
        path: made where it is not there.

    Attributes:
        job_id: names the job, and is part of the keys of its updates.
        resumed: whether an earlier run got so far that anything was sent or refused.

    Raises:
        JournalRefusedError: it is in use, damaged, no journal, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = JournalLock(path)
        try:
            self._connection = _connect(path)
            try:
                with reading(path):
                    self.resumed = self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self.job_id = self.meta("job")
        self.run = self._one("SELECT coalesce(max(run), 0) + 1 FROM runs")
        self.current_pass = int(self.meta("pass"))
        self._full = False

    def _prepare(self) -> bool:
        connection = self._connection
        tables = self._one("SELECT count(*) FROM sqlite_master")
        application = self._one("PRAGMA application_id")
        if tables and application != APPLICATION:
            raise JournalRefusedError(
                f"{self.path} is a SQLite file, but no journal of a job; choose another --journal"
            )
        version = self._one("PRAGMA user_version")
        if tables and version != VERSION:
            raise JournalRefusedError(
                f"journal {self.path} was written by another version (format {version}, and this "
                f"one has {VERSION})"
            )
        if tables:
            problem = self._one("PRAGMA quick_check(1)")
            if problem != "ok":
                raise _damaged(self.path, problem)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; "
                f"PRAGMA user_version = {VERSION}; "
                f"INSERT INTO meta VALUES ('job', '{secrets.token_hex(8)}'), ('pass', '1'); COMMIT;"
            )
        else:
            # What is damaged where the check does not look is found here.
            strange = self._one(
                "SELECT count(*) FROM outcomes WHERE line < 1 OR status NOT BETWEEN 1 AND 4"
            )
            if strange:
                raise _damaged(self.path, f"{strange} of its rows make no sense")
            self.totals()
        work = "SELECT EXISTS (SELECT 1 FROM outcomes) OR EXISTS (SELECT 1 FROM sends)"
        return self.meta_or("input", None) is not None and bool(self._one(work))

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        return self._connection.execute(query, values).fetchone()[0]

    # What it says.

    def meta(self, key: str) -> str:
        """A text that was stored."""
        with reading(self.path):
            found = self.meta_or(key, None)
        if found is None:
            raise _damaged(self.path, f"it has no {key}")
        return found

    def meta_or(self, key: str, default: str | None) -> str | None:
        """A text that was stored, or something else."""
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else default

    def marks(self) -> list[Mark]:
        """The hashes of the input as it was read, in order."""
        rows = self._connection.execute("SELECT offset, digest, last FROM marks ORDER BY 1, 3")
        return [Mark(offset, digest, bool(last)) for offset, digest, last in rows]

    def last_line(self) -> int:
        """The last line that is settled; 0 where none is."""
        line: int = self._one("SELECT coalesce(max(line), 0) FROM outcomes")
        return line

    def settled(self, first: int, last: int) -> dict[int, Settled]:
        """The rows that are settled, of these lines."""
        rows = self._connection.execute(
            "SELECT line, status, dialog, pass, type, message, http"
            " FROM outcomes LEFT JOIN failures USING (line) WHERE line BETWEEN ? AND ?",
            (first, last),
        )
        return {
            line: Settled(
                Status(status),
                dialog,
                number == self.current_pass,
                None if kind is None else Failure(kind, message, http),
            )
            for line, status, dialog, number, kind, message, http in rows
        }

    def open_sends(self) -> list[OpenSend]:
        """Rows that were sent, must not be repeated blindly, and are not settled."""
        rows = self._connection.execute(
            "SELECT line, sends.dialog, etag FROM sends LEFT JOIN outcomes USING (line)"
            " WHERE open AND status IS NULL ORDER BY line"
        )
        return [OpenSend(*row) for row in rows]

    def open_groups(self) -> dict[int, str]:
        """Rows that were sent together and are not settled: by line the key of their request."""
        rows = self._connection.execute(
            "SELECT line, carrier FROM sends LEFT JOIN outcomes USING (line)"
            " WHERE carrier IS NOT NULL AND status IS NULL"
        )
        return dict(rows.fetchall())

    def totals(self) -> Totals:
        """Counts of all runs."""
        return totals_of(self._connection)

    # Writing.

    def write(self, batch: Batch) -> None:
        """Write all of a batch, or nothing.

        Raises:
            JournalError: it cannot be written; what was written before stays.
        """
        with _failing(self.path):
            connection = self._connection
            if batch.durable != self._full:
                # Only what must not be sent twice is worth waiting for the disk.
                connection.execute(f"PRAGMA synchronous = {'FULL' if batch.durable else 'NORMAL'}")
                self._full = batch.durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._fill(batch)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _fill(self, batch: Batch) -> None:
        many = self._connection.executemany
        if batch.marks:
            rows = ((mark.offset, mark.last, mark.digest) for mark in batch.marks)
            many("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", rows)
        if batch.sends:
            many("INSERT OR REPLACE INTO sends VALUES (?, ?, ?, ?, ?, ?)", batch.sends)
        if batch.outcomes:
            many(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", batch.outcomes
            )
        if batch.failures:
            many("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", batch.failures)
        if batch.events:
            many("INSERT INTO events VALUES (?, ?, ?, ?, ?)", batch.events)
        if batch.run is not None:
            many("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", [batch.run])
        if batch.meta:
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", batch.meta.items())

    def forget_marks(self) -> None:
        """The input is another one by the user's own will."""
        with _failing(self.path):
            self._connection.execute("DELETE FROM marks")

    def close(self) -> None:
        """Close it and let others have it."""
        try:
            self._connection.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Worker threads use it one after another.
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    except sqlite3.Error as error:
        raise JournalRefusedError(f"journal {path} cannot be opened: {error}") from error


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection to a journal that changes nothing, also while a job writes to it.

    Raises:
        JournalRefusedError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise JournalRefusedError(f"there is no journal {path}")
    with reading(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        try:
            connection.execute("PRAGMA query_only = 1")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION:
                raise JournalRefusedError(f"{path} is no journal of a job")
        except BaseException:
            connection.close()
            raise
    return connection


def totals_of(connection: sqlite3.Connection) -> Totals:
    """Counts of all runs in a journal."""
    totals = Totals()
    by_status = dict(connection.execute("SELECT status, count(*) FROM outcomes GROUP BY status"))
    if by_status.get(Status.REPEATED):
        repeats = connection.execute(
            "SELECT first.status, count(*) FROM outcomes AS again"
            " LEFT JOIN outcomes AS first ON first.line = again.refers"
            " WHERE again.status = ? GROUP BY first.status",
            (Status.REPEATED,),
        )
        for status, count in repeats:
            by_status[status] = by_status.get(status, 0) + count
    totals.succeeded = by_status.get(Status.SUCCEEDED, 0)
    totals.failed = by_status.get(Status.FAILED, 0)
    totals.ambiguous = by_status.get(Status.AMBIGUOUS, 0)
    totals.repeated_pending = by_status.get(None, 0)
    for requests, retries, elapsed in connection.execute(
        "SELECT requests, retries, elapsed FROM runs"
    ):
        totals.requests += requests
        totals.elapsed += elapsed
        for reason, count in json.loads(retries).items():
            totals.retries[reason] = totals.retries.get(reason, 0) + count
    return totals


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same in two sets of options, each by its name."""
    return [
        f"{name}: {_shown(old.get(name))} before, {_shown(new.get(name))} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _damaged(path: Path, problem: object) -> JournalRefusedError:
    return JournalRefusedError(
        f"journal {path} is damaged: {str(problem).splitlines()[0]}. Restore it from a copy, or "
        "move it away and start a new job; rows that were applied are applied again then."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what SQLite raises while a journal is read into a `JournalRefusedError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        told = str(error)
        if "locked" in told or "busy" in told:
            raise JournalRefusedError(f"journal {path} is in use by another program") from error
        if "malformed" in told or "no such" in told:
            raise _damaged(path, error) from error
        raise JournalRefusedError(
            f"journal {path} cannot be made or written: {told}. Choose a folder that can be "
            "written and has room, with --journal."
        ) from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(
            f"journal {path} cannot be written: {error}. Nothing more is sent. Make room, or mend "
            "what is wrong with the disk, and run the same command again to go on."
        ) from error
