"""The journal of a job: one SQLite file that says what became of each row.

All of it is synchronous; `Scribe` writes to it off the event loop. What was committed survives the
death of the process, and what was committed with `durable` survives that of the machine.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .errors import JournalError, JournalRefusedError
from .fingerprint import Mark
from .lock import JournalLock
from .records import (
    APPLICATION,
    SCHEMA,
    VERSION,
    Failure,
    OpenSend,
    Settled,
    Status,
    Totals,
    damaged,
    other_version,
    reading,
    totals_of,
)


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


class Journal:
    """The journal of one job, open for writing; close it.

    Args:
        path: made where it is not there.

    Attributes:
        job_id: names the job, and is part of the keys of its updates.
        resumed: whether an earlier run got so far that anything was sent or refused, or was cut
            off, so that nobody knows.

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
                    self.job_id = self.meta("job")
                    self.run = self._one("SELECT coalesce(max(run), 0) + 1 FROM runs")
                    self.current_pass = int(self.meta("pass"))
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise
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
            raise other_version(self.path, version)
        if tables:
            problem = self._one("PRAGMA quick_check(1)")
            if problem != "ok":
                raise damaged(self.path, problem)
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
                raise damaged(self.path, f"{strange} of its rows make no sense")
            self.totals()
        work = (
            "SELECT EXISTS (SELECT 1 FROM outcomes) OR EXISTS (SELECT 1 FROM sends)"
            " OR EXISTS (SELECT 1 FROM runs WHERE ended IS NULL OR requests)"
        )
        return self.stored("input") is not None and bool(self._one(work))

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        return self._connection.execute(query, values).fetchone()[0]

    # What it says.

    def meta(self, key: str) -> str:
        """A text that was stored."""
        with reading(self.path):
            found = self.stored(key)
        if found is None:
            raise damaged(self.path, f"it has no {key}")
        return found

    def stored(self, key: str) -> str | None:
        """The same; None where there is none."""
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

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
        raise JournalRefusedError(
            f"journal {path} cannot be opened: {error}. Give a file that can be written, with "
            "--journal."
        ) from error


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(
            f"journal {path} cannot be written: {error}. Nothing more is sent. Make room, or mend "
            "what is wrong with the disk, and run the same command again to go on."
        ) from error
