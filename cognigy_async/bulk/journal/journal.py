"""The journal of a job: a SQLite file that one job writes and any process may read.

All calls are synchronous; `JournalWriter` writes in a worker thread. A committed batch survives
a crash of the process, a durable batch also a crash of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import JournalError, JournalRefusedError
from ..input.fingerprint import Mark
from .lock import JournalLock
from .schema import (
    APPLICATION_ID,
    SCHEMA,
    SCHEMA_VERSION,
    CompletedRow,
    EarlierRuns,
    Failure,
    OpenSend,
    Status,
    Totals,
)

LOCK_TIMEOUT = 0.9
"""Seconds to wait for another program that uses the journal, which may have been stopped."""


@dataclass(slots=True)
class Batch:
    """Rows to write in one transaction. Dead letters are written to a separate file."""

    outcomes: list[tuple[Any, ...]] = field(default_factory=list)
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    sends: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    dead_letters: list[bytes] = field(default_factory=list)
    run: tuple[Any, ...] | None = None
    meta: dict[str, str] = field(default_factory=dict)
    durable: bool = False


class Journal:
    """The journal of one job.

    Args:
        path: Its file, created if missing.

    Attributes:
        job_id: Name of the job, part of the keys of its updates.
        run: Number of this run, from 1.
        current_pass: Number of the pass; it grows with each run that reaches the end.
        resumed: True if an earlier run may have sent or refused anything.

    Raises:
        JournalRefusedError: The journal is in use, damaged, not a journal, or cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = JournalLock(path)
        try:
            self._connection = _connect(path)
            try:
                with refuse_unreadable(path):
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
        self._durable = False

    def _prepare(self) -> bool:
        """Check the database, or create its tables. Return whether an earlier run did any work."""
        connection = self._connection
        is_new = not self._one("SELECT count(*) FROM sqlite_master")
        if not is_new:
            if self._one("PRAGMA application_id") != APPLICATION_ID:
                raise JournalRefusedError(
                    f"{self.path} is a SQLite file, but no journal of a job; choose another "
                    "--journal"
                )
            _check_format(self.path, self._one("PRAGMA user_version"))
            problem = self._one("PRAGMA quick_check(1)")
            if problem != "ok":
                raise _damaged(self.path, problem)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if is_new:
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; "
                f"INSERT INTO meta VALUES ('job', '{secrets.token_hex(8)}'), ('pass', '1'); COMMIT;"
            )
            return False
        # Look for impossible rows and totals, because the check does not find all damage.
        strange = self._one(
            "SELECT count(*) FROM outcomes WHERE line < 1 OR status NOT BETWEEN 1 AND 4"
        )
        if strange:
            raise _damaged(self.path, f"{strange} of its rows are inconsistent")
        self.totals()
        work = (
            "SELECT EXISTS (SELECT 1 FROM outcomes) OR EXISTS (SELECT 1 FROM sends)"
            " OR EXISTS (SELECT 1 FROM runs WHERE ended IS NULL OR requests)"
        )
        return self._stored("input") is not None and bool(self._one(work))

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        return self._connection.execute(query, values).fetchone()[0]

    def _stored(self, key: str) -> str | None:
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    # Reading.

    def meta(self, key: str) -> str:
        """Return a stored text.

        Raises:
            KeyError: The text is not stored.
        """
        found = self._stored(key)
        if found is None:
            raise KeyError(key)
        return found

    def marks(self) -> list[Mark]:
        """Return the marks of the input from earlier runs, in order."""
        rows = self._connection.execute("SELECT offset, digest, last FROM marks ORDER BY 1, 3")
        return [Mark(offset, digest, bool(last)) for offset, digest, last in rows]

    def last_line(self) -> int:
        """Return the last completed line, 0 if there is none."""
        line: int = self._one("SELECT coalesce(max(line), 0) FROM outcomes")
        return line

    def completed(self, first: int, last: int) -> dict[int, CompletedRow]:
        """Return the completed rows between two lines, by line."""
        rows = self._connection.execute(
            "SELECT line, status, dialog, pass, type, message, http"
            " FROM outcomes LEFT JOIN failures USING (line) WHERE line BETWEEN ? AND ?",
            (first, last),
        )
        return {
            line: CompletedRow(
                dialog,
                number == self.current_pass,
                Failure(kind, message, http)
                if kind is not None and status in (Status.FAILED, Status.AMBIGUOUS)
                else None,
            )
            for line, status, dialog, number, kind, message, http in rows
        }

    def earlier_runs(self) -> EarlierRuns:
        """Return the state left by earlier runs."""
        sends = self._connection.execute(
            "SELECT line, sends.dialog, etag FROM sends LEFT JOIN outcomes USING (line)"
            " WHERE open AND status IS NULL ORDER BY line"
        )
        groups = self._connection.execute(
            "SELECT line, carrier FROM sends LEFT JOIN outcomes USING (line)"
            " WHERE carrier IS NOT NULL AND status IS NULL"
        )
        return EarlierRuns(
            self.totals(),
            [OpenSend(*send) for send in sends],
            dict(groups.fetchall()),
            self._stored("quota"),
        )

    def totals(self) -> Totals:
        """Return the counts of all runs."""
        return read_totals(self._connection)

    # Writing.

    def begin_run(self, meta: dict[str, str], *, same_input: bool) -> None:
        """Record that this run begins: from now on, keys of this job may be in use.

        Args:
            same_input: True if the marks of earlier runs still match the input.
        """
        now = time.time()
        with self._transaction():
            if not same_input:
                self._connection.execute("DELETE FROM marks")
            self._fill(Batch(meta=meta, run=(self.run, now, now, 0.0, 0, "{}", None)))

    def write(self, batch: Batch) -> None:
        """Write all of a batch, or nothing.

        Raises:
            JournalError: The batch cannot be written. Earlier batches are kept.
        """
        with self._transaction(durable=batch.durable):
            self._fill(batch)

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        connection = self._connection
        try:
            if durable != self._durable:
                # Wait for the disk only if the batch is durable, because that is slow.
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
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
                f"journal {self.path} cannot be written: {error}. Nothing more is sent. Make room, "
                "or repair the disk, and run the same command again to go on."
            ) from error

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

    def close(self) -> None:
        """Close the journal and release its lock."""
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
        # Worker threads use the connection one after another.
        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=LOCK_TIMEOUT
        )
    except sqlite3.Error as error:
        raise JournalRefusedError(
            f"journal {path} cannot be opened: {error}. Give a file that can be written, with "
            "--journal."
        ) from error


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a journal for reading, also while a job writes to it.

    Raises:
        JournalRefusedError: The journal does not exist or is damaged.
    """
    if not path.is_file():
        raise JournalRefusedError(
            f"there is no journal {path}; a run keeps it as FILE.journal, or where --journal says"
        )
    with refuse_unreadable(path):
        connection = sqlite3.connect(
            _uri(path), isolation_level=None, timeout=LOCK_TIMEOUT, uri=True
        )
        try:
            connection.execute("PRAGMA query_only = 1")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID:
                raise JournalRefusedError(f"{path} is not a journal of a job")
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            _check_format(path, found)
        except BaseException:
            connection.close()
            raise
    return connection


def _uri(path: Path) -> str:
    uri = path.absolute().as_uri()
    if os.access(path.parent, os.W_OK):
        return uri
    # Even a reader makes SQLite create files beside a database, unless it is immutable.
    wal = path.with_name(f"{path.name}-wal")
    return f"{uri}?mode=ro" if wal.exists() else f"{uri}?mode=ro&immutable=1"


def read_totals(connection: sqlite3.Connection) -> Totals:
    """Return the counts of all runs in a journal."""
    totals = Totals()
    by_status = Counter(
        dict(connection.execute("SELECT status, count(*) FROM outcomes GROUP BY status"))
    )
    if by_status[Status.REPEATED]:
        # A repeated row has the outcome of the row it repeats.
        repeated = connection.execute(
            "SELECT first.status, count(*) FROM outcomes AS again"
            " LEFT JOIN outcomes AS first ON first.line = again.refers"
            " WHERE again.status = ? GROUP BY first.status",
            (Status.REPEATED,),
        )
        by_status.update(dict(repeated))
    totals.succeeded = by_status[Status.SUCCEEDED]
    totals.failed = by_status[Status.FAILED]
    totals.ambiguous = by_status[Status.AMBIGUOUS]
    for requests, retries, elapsed in connection.execute(
        "SELECT requests, retries, elapsed FROM runs"
    ):
        totals.requests += requests
        totals.elapsed += elapsed
        totals.retries.update(json.loads(retries))
    return totals


@contextmanager
def refuse_unreadable(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of damaged content into `JournalRefusedError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise JournalRefusedError(f"journal {path} is in use by another program") from error
        if "malformed" in text or "no such" in text:
            raise _damaged(path, error) from error
        raise JournalRefusedError(
            f"journal {path} cannot be created or written: {text}. Choose a folder that can be "
            "written and has room, with --journal."
        ) from error
    except KeyError as error:
        raise _damaged(path, f"it has no {error.args[0]}") from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _check_format(path: Path, found: int) -> None:
    """Raise `JournalRefusedError` if this version cannot read a journal of this format."""
    if found != SCHEMA_VERSION:
        raise JournalRefusedError(
            f"journal {path} was written by another version of cognigy_async (format {found}, and "
            f"this one has {SCHEMA_VERSION}). Go on with that version, or give another --journal "
            "for a new job, which applies all rows again."
        )


def _damaged(path: Path, problem: object) -> JournalRefusedError:
    """Return the error for a damaged journal."""
    # SQLite's own check puts a headline before the first problem.
    lines = [line for line in str(problem).splitlines() if not line.startswith("***")]
    return JournalRefusedError(
        f"journal {path} is damaged: {(lines or ['inconsistent data'])[0]}. Restore it from a "
        "copy, or move it away and start a new job, which applies all rows again."
    )
