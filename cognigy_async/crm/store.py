"""The file in which one process keeps its intents and events.

All calls are synchronous, and one thread at a time makes them. The id of an entry is a number of
this file that grows: an entry gets a new one when its outcome is recorded, so that the events are
in the order of their outcomes. All is found by its id: another index would slow down each record.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from cognigy_async import OutboxError

from .folder import APPLICATION_ID, OUTBOX, damaged, explained, new_file, remove_file

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, update_id TEXT NOT NULL, dialog_id TEXT NOT NULL,
    state INTEGER NOT NULL, recorded_at REAL NOT NULL, settled_at REAL, content BLOB NOT NULL,
    outcome BLOB, answer BLOB, pending INTEGER NOT NULL, dead INTEGER NOT NULL);
CREATE TABLE dead_letters (
    target INTEGER, entry INTEGER, attempts INTEGER NOT NULL, error TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (target, entry)) WITHOUT ROWID;
"""
GROUPS = (4, 16, 64)
"""Rows of one statement. Few sizes, so that SQLite knows the statements already."""
INTENT, APPLIED, FAILED, AMBIGUOUS = range(4)
"""States of an entry. `pending` and `dead` are bit masks of target numbers."""

MOST_TARGETS = 60
BUSY_TIMEOUT = 5.0
"""Seconds to wait for a command that changes the file."""
WAL_LIMIT = 16 << 20
CHECKPOINT_PAGES = 4000
"""Pages in the `-wal` that SQLite copies to the file at once, for which it waits for the disk."""

Durability: TypeAlias = Literal["process", "power"]
SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}

USED = (
    "SELECT page_size * (page_count - freelist_count)"
    " FROM pragma_page_size, pragma_page_count, pragma_freelist_count"
)
COLUMNS = "id, update_id, dialog_id, settled_at, content, outcome, answer"

TIME = "typeof({0}) IN ('real', 'integer') AND {0} BETWEEN -1e9 AND 1e11"
# In this order, because the masks depend on the numbers of the targets.
SOUND = {
    "targets": f"number BETWEEN 0 AND {MOST_TARGETS - 1} AND typeof(name) = 'text'",
    "meta": "typeof(key) = 'text'",
    "entries": (
        "id BETWEEN 1 AND 1e15 AND typeof(update_id) = 'text' AND typeof(dialog_id) = 'text'"
        f" AND typeof(state) = 'integer' AND state BETWEEN {INTENT} AND {AMBIGUOUS}"
        f" AND {TIME.format('recorded_at')}"
        f" AND (state = {INTENT} OR {TIME.format('settled_at')})"
        " AND typeof(pending) = 'integer' AND typeof(dead) = 'integer'"
        " AND (pending | dead) & ~{targets} = 0"
    ),
    "dead_letters": (
        "(1 << target) & {targets} AND typeof(entry) = 'integer' AND typeof(error) = 'text'"
        f" AND typeof(attempts) = 'integer' AND attempts >= 0 AND {TIME.format('at')}"
    ),
}
"""Conditions of the rows of each table. An event with damaged content is a dead letter instead."""


class EventRow(NamedTuple):
    """An event as the file has it."""

    id: int
    update_id: str
    dialog_id: str
    settled_at: float
    content: bytes
    outcome: bytes
    answer: bytes | None


class IntentRow(NamedTuple):
    """An intent as the file has it."""

    update_id: str
    dialog_id: str
    recorded_at: float
    content: bytes


Key: TypeAlias = tuple[str, str]
"""Update id and dialog id of an intent. Users may give updates of two dialogs the same id."""


class OutcomeRow(NamedTuple):
    """An outcome; `pending` is the mask of the targets that get it."""

    state: int
    settled_at: float
    outcome: bytes
    answer: bytes | None
    pending: int
    key: Key


class DeadRow(NamedTuple):
    """An event that a target will not get."""

    target: int
    entry: int
    attempts: int
    error: str
    at: float


@dataclass(slots=True)
class Batch:
    """Changes of one transaction, in the order in which they are made.

    Attributes:
        withdrawn: of intents that were recorded before.
        delivered: ids by the mask of their target.
    """

    withdrawn: list[Key] = field(default_factory=list)
    intents: dict[Key, IntentRow] = field(default_factory=dict)
    outcomes: list[OutcomeRow] = field(default_factory=list)
    delivered: dict[int, list[int]] = field(default_factory=dict)
    dead: list[DeadRow] = field(default_factory=list)


class TargetCounts(NamedTuple):
    """Counts of a target in the file."""

    depth: int
    dead_letters: int
    oldest: float | None


class Store:
    """The open file of this process.

    Args:
        folder: a folder from `prepare_folder`.
        names: names of the targets.

    Attributes:
        masks: mask of each target by its name.
        open: id of each intent without outcome.
        last_id: the last id that was given.
        last_event: the last one that an event got.
        used: bytes in use.

    Raises:
        OutboxError: the file cannot be created.
    """

    def __init__(self, folder: Path, durability: Durability, names: Sequence[str]) -> None:
        self._lock = new_file(folder)
        self.path = self._lock.path
        self.masks: dict[str, int] = {}
        self.open: dict[Key, int] = {}
        self.last_id = 0
        self.last_event = 0
        self.used = 0
        self._version = 0
        self._has_deletions = False
        try:
            with explained(self.path):
                self.connection = connect(self.path, "rw")
                try:
                    self._create(durability)
                    self.add_targets(names)
                except BaseException:
                    self.connection.close()
                    raise
        except BaseException:
            remove_file(self.path)
            self._lock.release()
            raise

    def _create(self, durability: Durability) -> None:
        run = self.connection.execute
        self.connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        # Only now, because a transaction that creates the tables in the -wal could be cut off.
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        run(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        run(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        if self._lock.is_record_lock and not self._lock.renew():
            raise OutboxError(f"outbox file {self.path} was taken by another process.")
        self.changed_by_others()

    def add_targets(self, names: Iterable[str]) -> None:
        """Give each target a number, also those of adopted files."""
        for name in names:
            mask = self.masks.get(name, 1 << len(self.masks))
            number = mask.bit_length() - 1
            if number >= MOST_TARGETS:
                raise OutboxError(
                    f"outbox file {self.path} has {number} targets; drop the events of those that "
                    "no program delivers any more.",
                    str(self.path),
                )
            # A transaction that was rolled back may have left its mask here.
            self.connection.execute("INSERT OR IGNORE INTO targets VALUES (?, ?)", (number, name))
            self.masks[name] = mask

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes, or none."""
        with explained(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def write(self, batch: Batch) -> None:
        """Write all of a batch, or nothing.

        Raises:
            OutboxError: it cannot be written. What was recorded before is kept.
        """
        self._check_place()
        open_ids = self.open
        number = self.last_id
        intents: list[object] = []
        opened: dict[Key, int] = {}
        for key, intent in batch.intents.items():
            number += 1
            intents += (number, *intent)
            opened[key] = number
        struck: list[object] = [open_ids[key] for key in batch.withdrawn if key in open_ids]
        moved: list[object] = []
        with self.transaction():
            self._run(
                f"INSERT INTO entries SELECT column1, column2, column3, {INTENT}, column4,"
                " NULL, column5, NULL, NULL, 0, 0 FROM (VALUES {}) WHERE column1",
                5,
                intents,
            )
            for row in batch.outcomes:
                if (entry := opened.get(row.key) or open_ids.get(row.key)) is None:
                    continue
                if row.pending:
                    number += 1
                    state, settled_at, outcome, answer, pending, _ = row
                    moved += (number, state, settled_at, outcome, answer, pending, entry)
                else:
                    struck.append(entry)
            self._run(
                "UPDATE entries SET id = column1, state = column2, settled_at = column3,"
                " outcome = column4, answer = column5, pending = column6"
                " FROM (VALUES {}) WHERE id = column7",
                7,
                moved,
            )
            self._run("DELETE FROM entries WHERE id IN (VALUES {})", 1, struck)
            for letter in batch.dead:
                self._bury(letter)
            for mask, ids in batch.delivered.items():
                self._deliver(mask, ids)
        self.last_id = number
        if moved:
            self.last_event = number
        self._has_deletions |= bool(struck or batch.delivered)
        for key in batch.withdrawn:
            open_ids.pop(key, None)
        open_ids.update(opened)
        for row in batch.outcomes:
            open_ids.pop(row.key, None)
        self.measure()

    def _check_place(self) -> None:
        """Check that the file still has its name: what is written to another one is lost."""
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._lock.identity:
            raise OutboxError(
                f"outbox file {self.path} was removed or replaced while it was in use. Restart the "
                "program, and leave the files in the folder alone.",
                str(self.path),
            )

    def _deliver(self, mask: int, ids: Sequence[int]) -> None:
        """Mark events as delivered to a target, and delete those that all targets have."""
        condition = f"pending = {mask} AND dead = 0"
        delete = f"DELETE FROM entries WHERE id IN (VALUES {{}}) AND {condition}"
        if self._run(delete, 1, ids) < len(ids):
            update = f"UPDATE entries SET pending = pending & ~{mask} WHERE id IN (VALUES {{}})"
            self._run(update, 1, ids)

    def _run(self, statement: str, width: int, values: Sequence[object]) -> int:
        """Run a statement for many rows at a time. Return the number of rows that it changed.

        The last rows are NULL, which changes nothing. Each call of SQLite gives the interpreter
        away, and may wait for a busy event loop to get it back: a few calls must do for a batch.

        Args:
            width: values of a row. The rows follow each other in `values`.
        """
        changed = 0
        most = width * GROUPS[-1]
        for done in range(0, len(values), most):
            some = values[done : done + most]
            size = next(each for each in GROUPS if each * width >= len(some))
            padding = [None] * (width * size - len(some))
            text = statement.format(", ".join([_row_of(width)] * size))
            changed += self.connection.execute(text, [*some, *padding]).rowcount
        return changed

    def _bury(self, row: DeadRow) -> None:
        mask = 1 << row.target
        # A command may have dropped it.
        found = self.connection.execute(
            f"UPDATE entries SET pending = pending & ~{mask}, dead = dead | {mask}"
            f" WHERE id = ? AND pending & {mask}",
            (row.entry,),
        )
        if found.rowcount:
            self.connection.execute("INSERT OR REPLACE INTO dead_letters VALUES (?,?,?,?,?)", row)

    def measure(self) -> None:
        """Count the bytes in use."""
        with explained(self.path):
            (self.used,) = self.connection.execute(USED).fetchone()

    # Reading.

    def page(self, mask: int, after: int, limit: int) -> list[EventRow]:
        """Return the next events for a target, in order."""
        return self._events(f"id > ? AND pending & {mask}", (after,), limit)

    def again(self, mask: int, ids: Sequence[int]) -> list[EventRow]:
        """Return events for a target by their ids, in order."""
        # Few sizes, because each statement that SQLite knows takes memory.
        size = 1 << len(ids).bit_length()
        values = (*ids, *[None] * (size - len(ids)))
        places = ", ".join("?" * size)
        return self._events(f"id IN ({places}) AND pending & {mask}", values, len(ids))

    def _events(self, condition: str, values: tuple[object, ...], limit: int) -> list[EventRow]:
        query = f"SELECT {COLUMNS} FROM entries WHERE state > 0 AND {condition}"
        with explained(self.path):
            found = self.connection.execute(f"{query} ORDER BY id LIMIT ?", (*values, limit))
            return [EventRow(*row) for row in found]

    def counts(self, mask: int) -> TargetCounts:
        """Return the counts of a target, from the whole file."""
        with explained(self.path):
            return target_counts(self.connection, mask)

    def oldest(self, mask: int) -> float | None:
        """Return the time of the outcome of the first event for a target."""
        found = self.page(mask, 0, 1)
        return found[0].settled_at if found else None

    def changed_by_others(self) -> bool:
        """Return whether a command changed the file since the last call."""
        with explained(self.path):
            (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        before, self._version = self._version, version
        return bool(before != version)

    def empty_wal(self) -> None:
        """Cut the `-wal` off, which still has the values of deleted events."""
        if not self._has_deletions:
            return
        with explained(self.path):
            # Do not wait for a command that reads.
            self.connection.execute("PRAGMA busy_timeout = 0")
            try:
                busy, _, _ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self.connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")
        self._has_deletions = bool(busy)

    def close(self) -> None:
        """Close the file, and remove it if nothing is in it."""
        try:
            with closing(self.connection), explained(self.path):
                (is_used,) = self.connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM entries)"
                ).fetchone()
            if not is_used:
                remove_file(self.path)
        finally:
            self._lock.release()


def _row_of(width: int) -> str:
    return f"({', '.join('?' * width)})"


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file, for threads that use the connection one after another.

    Args:
        path: an absolute path.
        mode: `mode` of a SQLite URI.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT,
        uri=True,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def target_counts(connection: sqlite3.Connection, mask: int) -> TargetCounts:
    """Return the counts of a target in an open file."""
    depth, dead, oldest = connection.execute(
        f"SELECT coalesce(sum(pending & {mask} > 0), 0), coalesce(sum(dead & {mask} > 0), 0),"
        f" min(CASE WHEN pending & {mask} THEN settled_at END) FROM entries WHERE state > 0"
    ).fetchone()
    return TargetCounts(depth, dead, oldest)


def check_kind(path: Path, connection: sqlite3.Connection, schema: str = "main") -> None:
    """Check that a database is that of an outbox of this version.

    Raises:
        OutboxError: it is not.
    """
    found, version = (
        connection.execute(f"PRAGMA {schema}.{name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if found != APPLICATION_ID:
        raise OUTBOX.foreign(path)
    if version != SCHEMA_VERSION:
        raise OutboxError(
            f"outbox file {path} was written by another version of cognigy_async (format "
            f"{version}, and this one has {SCHEMA_VERSION}). Let that version deliver its events, "
            "or move the file out of the folder.",
            str(path),
        )


def check_pages(path: Path, connection: sqlite3.Connection, schema: str = "main") -> None:
    """Raise `OutboxError` if a page of a database is damaged."""
    (problem,) = connection.execute(f"PRAGMA {schema}.quick_check(1)").fetchone()
    if problem != "ok":
        raise damaged(path, problem)


def check_values(path: Path, connection: sqlite3.Connection, schema: str = "main") -> None:
    """Raise `OutboxError` if a value is none that an outbox writes.

    A column of SQLite takes values of any type, and a sound page may have any of them.
    """
    targets = f"(SELECT coalesce(sum(1 << number), 0) FROM {schema}.targets)"
    for table, condition in SOUND.items():
        (is_damaged,) = connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM {schema}.{table}"
            f" WHERE ({condition.format(targets=targets)}) IS NOT 1)"
        ).fetchone()
        if is_damaged:
            raise damaged(path, f"the table {table} has invalid values")
