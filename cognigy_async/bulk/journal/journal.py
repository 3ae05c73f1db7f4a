"""The journal of a job: a SQLite file that one job writes and any process may read.

All calls are synchronous; `JournalWriter` writes in a worker thread. A committed batch survives
a crash of the process, a durable batch also a crash of the machine.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cognigy_async._utils.database_lock import DatabaseLock

from ..errors import JournalError, JournalRefusedError
from ..input.fingerprint import FIRST_MARKS, MARK_EVERY, Mark
from .reading import (
    IN_WAL,
    JOURNAL,
    UNREADABLE,
    beside,
    check_content,
    check_side_files,
    check_tables,
    connect,
    damaged,
    has_wal,
    incomplete,
    lacks_wal,
    parse_object,
    refusal,
)
from .schema import (
    APPLICATION_ID,
    IS_UNCHANGED,
    SCHEMA,
    SCHEMA_VERSION,
    CompletedRow,
    EarlierRuns,
    Failure,
    OpenSend,
    Status,
    Totals,
)

CLOSING = 1.0
"""Seconds to wait at the end until other programs have closed the journal."""
CLOSING_INTERVAL = 0.002

REASON = re.compile(r"[a-z_]{1,32}").fullmatch
MAX_REASONS = 100
"""Reasons for retries in a journal. A report draws a bar for each."""


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

    While a run lasts, its newest records are in a second file, the `-wal` of SQLite. The journal
    knows this from the begin of the run to its end, so a copy without that file is recognized.

    Args:
        path: Its file, created if missing.
        force: Use the journal also if its `-wal` is missing.

    Attributes:
        job_id: Name of the job, part of the keys of its updates.
        run: Number of this run, from 1.
        current_pass: Number of the pass; it grows with each run that reaches the end.
        resumed: True if an earlier run may have sent or refused anything.

    Raises:
        JournalRefusedError: The journal is in use, damaged, not a journal, cannot be created, or
            lacks its `-wal`.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path
        lock = DatabaseLock.acquire(path, JOURNAL)
        if lock is None:
            raise _in_use(path)
        self._lock = lock
        self._durable = True
        self._is_complete = True
        try:
            check_side_files(path, lock.path, opens=True)
            keeps_wal = beside(lock.path, "-wal").exists()
            had_wal = has_wal(lock.path)
            if had_wal and not lock.path.stat().st_size:
                raise JournalRefusedError(
                    f"journal {path} is missing, but {lock.path}-wal, with the newest records of "
                    "its last run, is still there. Restore the journal, or remove that file to "
                    "start a new job, which applies all rows again."
                )
            self._connection = connect(lock.path, "rw")
            try:
                self.resumed = self._prepare(force=force, had_wal=had_wal)
            except BaseException:
                self._abandon(keeps_wal=keeps_wal)
                raise
        except UNREADABLE as error:
            lock.release()
            raise refusal(path, error) from error
        except BaseException:
            lock.release()
            raise

    def _prepare(self, *, force: bool, had_wal: bool) -> bool:
        """Check the database, or create its tables. Return whether an earlier run did any work."""
        connection = self._connection
        is_new = not self._one("PRAGMA page_count")
        if is_new:
            # Not in the -wal yet: the main file has the tables and the job's id before all else.
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; "
                f"INSERT INTO meta VALUES ('job', '{secrets.token_hex(8)}'), ('pass', '1'); COMMIT;"
            )
        else:
            check_tables(self.path, connection)
            self._is_complete = not lacks_wal(connection, had_wal=had_wal)
            if not self._is_complete and not force:
                raise incomplete(self.path)
            check_content(self.path, connection)
            self.totals()
        self.job_id = self.meta("job")
        self.current_pass = int(self.meta("pass"))
        if not re.fullmatch("[0-9a-f]{16}", self.job_id) or not 0 < self.current_pass < 1 << 31:
            raise damaged(self.path, "it has no valid job")
        self.run = self._one("SELECT coalesce(max(run), 0) + 1 FROM runs")
        connection.set_progress_handler(None, 0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        with self._transaction():
            self._fill(Batch(meta={"owner": json.dumps(owner)}))
        self._check_side_files()
        if self._lock.is_record_lock and not self._lock.renew():
            raise _in_use(self.path)
        work = (
            "SELECT EXISTS (SELECT 1 FROM outcomes) OR EXISTS (SELECT 1 FROM sends)"
            " OR EXISTS (SELECT 1 FROM runs WHERE ended IS NULL OR requests)"
        )
        return not is_new and self._stored("input") is not None and bool(self._one(work))

    def _check_side_files(self) -> None:
        """Check that nobody put files there after the first check, before SQLite made its own."""
        owner = os.stat(self._lock.path).st_uid
        for name in (f"{self._lock.path}-wal", f"{self._lock.path}-shm"):
            found = os.lstat(name)
            if (found.st_uid, found.st_nlink) != (owner, 1):
                check_side_files(self.path, self._lock.path)

    def _abandon(self, *, keeps_wal: bool) -> None:
        """Close a journal that cannot be used. Keep its `-wal`, also a damaged one."""
        if keeps_wal:
            # The last connection removes the -wal, unless it is read-only.
            with suppress(sqlite3.Error), closing(connect(self._lock.path, "ro")) as other:
                with suppress(sqlite3.Error):
                    other.execute("SELECT 1 FROM sqlite_master").fetchone()
                self._connection.close()
        self._connection.close()

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
        try:
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
        except UNREADABLE as error:
            raise refusal(self.path, error) from error

    def earlier_runs(self) -> EarlierRuns:
        """Return the state left by earlier runs."""
        try:
            sends = self._connection.execute(
                "SELECT line, sends.dialog, etag FROM sends LEFT JOIN outcomes USING (line)"
                " WHERE open AND status IS NULL ORDER BY line"
            )
            groups = self._connection.execute(
                "SELECT line, carrier FROM sends LEFT JOIN outcomes USING (line)"
                " WHERE carrier IS NOT NULL AND status IS NULL"
            )
            return EarlierRuns(
                sends=[OpenSend(*send) for send in sends],
                groups=dict(groups.fetchall()),
                quota=self._stored("quota"),
                totals=read_totals(self._connection),
                began=self._one("SELECT min(began) FROM runs"),
            )
        except UNREADABLE as error:
            raise refusal(self.path, error) from error

    def totals(self) -> Totals:
        """Return the counts of all runs."""
        try:
            return read_totals(self._connection)
        except UNREADABLE as error:
            raise refusal(self.path, error) from error

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
            begin = (self.run, now, now, 0.0, 0, "{}", None)
            self._fill(Batch(meta={**meta, IN_WAL: "1"}, run=begin))
        self._is_complete = True
        try:
            # A copy of the main file must know that a run has begun, before anything is sent.
            self._checkpoint()
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error

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
        self._check_place()
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
            newest = batch.marks[-1].offset
            # What was read of a pipe ends with a mark, which replaces the marks of earlier ends.
            self._connection.execute(
                "DELETE FROM marks WHERE offset > ? AND offset < ? AND offset NOT IN (?, ?)",
                (newest // MARK_EVERY * MARK_EVERY, newest, *FIRST_MARKS),
            )
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

    def _check_place(self) -> None:
        try:
            found = self._lock.path.stat()
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == self._lock.identity:
            return
        if self._lock.was_deleted():
            raise JournalError(
                f"journal {self.path} was deleted while the job ran, and with it the record of the "
                "rows that were applied. Nothing more is sent. A new job would apply all rows "
                "again."
            )
        raise JournalError(
            f"journal {self.path} was moved or replaced while the job ran. Nothing more is sent. "
            f"Move it back beside {self.path.name}-wal, and run the same command again to go on."
        )

    def _checkpoint(self) -> None:
        """Copy everything from the `-wal` to the main file, and keep the `-wal`."""
        busy, length, copied = self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy or length != copied:
            raise JournalRefusedError(
                f"journal {self.path} is being read by another program, which takes too long. "
                "Close it and run the same command again."
            )

    def close(self) -> None:
        """Close the journal, with everything in one file, and release its lock."""
        try:
            with suppress(JournalError, sqlite3.Error):
                self._merge()
        finally:
            try:
                self._connection.close()
            finally:
                self._lock.release()

    def _merge(self) -> None:
        self._checkpoint()
        if self._is_complete:
            # Not before the checkpoint, because a kill may leave only a part of it in the file.
            with self._transaction(durable=True):
                self._fill(Batch(meta={IN_WAL: "0"}))
        end = time.monotonic() + CLOSING
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = DELETE")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > end:
                    raise
            time.sleep(CLOSING_INTERVAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_use(path: Path) -> JournalRefusedError:
    user = "another job"
    real = Path(os.path.realpath(path))
    with suppress(*UNREADABLE), closing(connect(real, "ro")) as connection:
        (found,) = connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        owner = parse_object(found)
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        user = f"process {owner['pid']} on host {owner['host']} since {began}"
    return JournalRefusedError(
        f"journal {path} is in use by {user}. Wait for that job, or interrupt it, or give another "
        "--journal for another job; this one has sent nothing."
    )


def read_totals(connection: sqlite3.Connection) -> Totals:
    """Return the counts of all runs in a journal."""
    totals = Totals()
    unchanged = 0
    status = f"CASE WHEN {IS_UNCHANGED} THEN {unchanged} ELSE {{0}}.status END"
    by_status = Counter(
        dict(
            connection.execute(
                f"SELECT {status.format('outcomes')}, count(*) FROM outcomes GROUP BY 1"
            )
        )
    )
    if by_status[Status.REPEATED]:
        # A repeated row has the outcome of the row it repeats.
        repeated = connection.execute(
            f"SELECT {status.format('first')}, count(*) FROM outcomes AS again"
            " LEFT JOIN outcomes AS first ON first.line = again.refers"
            " WHERE again.status = ? GROUP BY 1",
            (Status.REPEATED,),
        )
        by_status.update(dict(repeated))
    totals.succeeded = by_status[Status.SUCCEEDED]
    totals.failed = by_status[Status.FAILED]
    totals.ambiguous = by_status[Status.AMBIGUOUS]
    totals.unchanged = by_status[unchanged]
    for requests, retries, elapsed in connection.execute(
        "SELECT requests, retries, elapsed FROM runs"
    ):
        totals.requests += requests
        totals.elapsed += elapsed
        counts = json.loads(retries)
        if type(counts) is not dict:
            raise ValueError("the retries of a run are not a JSON object")
        for reason, count in counts.items():
            if not REASON(reason) or type(count) is not int or not 0 <= count < 1 << 53:
                raise ValueError("the retries of a run have an invalid reason or count")
            totals.retries[reason] += count
        if len(totals.retries) > MAX_REASONS:
            raise ValueError("its runs have retries for too many reasons")
    return totals
