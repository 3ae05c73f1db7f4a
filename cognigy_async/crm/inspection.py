"""Look at the folder of an outbox and correct it, also while processes use it.

No function changes what a running process has in flight. It notices retried and dropped entries
within seconds.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cognigy_async import OutboxError, UpdateEvent
from cognigy_async._utils.database_lock import is_locked
from cognigy_async.spi import load_update

from .adoption import adoption_turn
from .folder import explained, files_of
from .recorder import event_of
from .store import COLUMNS, INTENT, EventRow, check_kind, check_values, connect, target_counts

PAGE = 500
"""Entries that are read or changed at a time, so that no process waits long."""
FACTS = "id, update_id, dialog_id, state, recorded_at, settled_at, pending, dead"
STATES = ("unresolved", "applied", "failed", "ambiguous")
PATIENCE = 10.0
"""Seconds to wait for a process that takes over files of dead ones."""


@dataclass(frozen=True, slots=True)
class TargetSummary:
    """Counts of a target in all files. `oldest_at` is the time of its oldest event's outcome."""

    name: str
    depth: int
    dead_letters: int
    oldest_at: float | None


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """State of a folder.

    Attributes:
        unresolved: intents without an outcome: updates under way, or those of dead processes.
        processes: files that a process uses now.
        abandoned: files of dead processes, which the next start of a client takes over.
        size: bytes of all files.
    """

    targets: tuple[TargetSummary, ...]
    unresolved: int
    processes: int
    abandoned: int
    size: int


@dataclass(frozen=True, slots=True)
class DeadDelivery:
    """An event that a target did not get, after so many `attempts`."""

    target: str
    attempts: int
    error: str
    at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An update in the outbox, without its values. Times are seconds of the epoch.

    Attributes:
        state: one of ``STATES``.
        settled_at: time of its outcome; None if it has none.
        pending: names of the targets that wait for it.
        dead: deliveries that were given up.
    """

    update_id: str
    dialog_id: str
    state: str
    recorded_at: float
    settled_at: float | None
    pending: tuple[str, ...]
    dead: tuple[DeadDelivery, ...]


def status(folder: str | Path) -> FolderStatus:
    """Return the counts of a folder.

    Raises:
        OutboxError: the folder does not exist, or a file cannot be read.
    """
    unresolved = processes = abandoned = size = 0
    found: dict[str, tuple[int, int, float | None]] = {}
    for path in files_of(_existing(folder)):
        # First the lock: probing it while the file is open here would harm the connection.
        is_used = is_locked(path)
        with _opened(path, "ro") as connection:
            if connection is None:
                continue
            processes += is_used
            abandoned += not is_used
            size += path.stat().st_size
            unresolved += connection.execute(
                f"SELECT count(*) FROM entries WHERE state = {INTENT}"
            ).fetchone()[0]
            for number, name in _names(connection).items():
                depth, dead, oldest = target_counts(connection, 1 << number)
                before = found.get(name, (0, 0, None))
                times = [each for each in (before[2], oldest) if each is not None]
                found[name] = (before[0] + depth, before[1] + dead, min(times, default=None))
    targets = tuple(TargetSummary(name, *counts) for name, counts in sorted(found.items()))
    return FolderStatus(targets, unresolved, processes, abandoned, size)


def entries(
    folder: str | Path, *, dialog: str | None = None, target: str | None = None
) -> Iterator[Entry]:
    """Yield the entries of a folder in pages, file by file, each in its order.

    Args:
        dialog: only those of this dialog.
        target: only those that wait for this target, or that it did not get.

    Raises:
        OutboxError: see `status`.
    """
    for path in files_of(_existing(folder)):
        after: int | None = 0
        while after is not None:
            page, after = _page(path, dialog, target, after)
            yield from page


def show(folder: str | Path, update_id: str) -> tuple[Entry, UpdateEvent] | None:
    """Return an entry with its event, which has the values. None if there is no such entry.

    The event of an unresolved update has neither result nor error.

    Raises:
        OutboxError: see `status`; or the entry is damaged.
    """
    for path in files_of(_existing(folder)):
        with _opened(path, "ro") as connection:
            if connection is None:
                continue
            row = connection.execute(
                f"SELECT {FACTS}, {COLUMNS} FROM entries WHERE update_id = ?", (update_id,)
            ).fetchone()
            if row is None:
                continue
            entry = _entry(connection, _names(connection), row[:8])
        found = EventRow(*row[8:])
        try:
            if entry.state != STATES[INTENT]:
                return entry, event_of(found)
            update, metadata, _ = load_update(found.dialog_id, found.content)
        except (ValueError, TypeError, AttributeError) as error:
            raise OutboxError(f"update {update_id!r} in {path} is damaged.", str(path)) from error
        return entry, UpdateEvent(entry.dialog_id, update_id, update, None, None, metadata)
    return None


def retry(folder: str | Path, *, dialog: str | None = None, target: str | None = None) -> int:
    """Deliver dead letters again. Return their number.

    Newer events of a dialog may have been delivered before.

    Raises:
        OutboxError: see `status`.
    """
    return _change(folder, dialog, target, is_retry=True)


def drop(folder: str | Path, *, dialog: str | None = None, target: str | None = None) -> int:
    """Forget events that wait, and dead letters. Return the number of deliveries given up.

    Unresolved updates stay.

    Raises:
        OutboxError: see `status`.
    """
    return _change(folder, dialog, target, is_retry=False)


def _change(folder: str | Path, dialog: str | None, target: str | None, *, is_retry: bool) -> int:
    if not files_of(_existing(folder)):
        return 0  # leave no lock in a folder that is no outbox
    changed = 0
    end = time.monotonic() + PATIENCE
    while True:
        # No file may be taken over while it is changed.
        with adoption_turn(_existing(folder)) as is_ours:
            if is_ours:
                for path in files_of(_existing(folder)):
                    with _opened(path, "rw") as connection:
                        if connection is not None:
                            changed += _change_file(connection, dialog, target, is_retry=is_retry)
                return changed
        if time.monotonic() > end:
            raise OutboxError(
                f"the outbox {folder} is busy: a process takes over files of dead ones. Try again.",
                str(folder),
            )
        time.sleep(0.05)


def _change_file(
    connection: sqlite3.Connection, dialog: str | None, target: str | None, *, is_retry: bool
) -> int:
    condition, values = _selection(connection, dialog, target)
    masks = {name: 1 << number for number, name in _names(connection).items()}
    mask = sum(masks.values()) if target is None else masks.get(target, 0)
    count = "dead" if is_retry else "pending | dead"
    changed = after = 0
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = connection.execute(
                f"SELECT id, ({count}) & {mask} FROM entries WHERE {condition} AND state > 0"
                f" AND id > ? ORDER BY id LIMIT {PAGE}",
                (*values, after),
            ).fetchall()
            ids = [(entry,) for entry, bits in rows if bits]
            pending = f"pending | (dead & {mask})" if is_retry else f"pending & ~{mask}"
            connection.executemany(
                f"UPDATE entries SET pending = {pending}, dead = dead & ~{mask} WHERE id = ?", ids
            )
            connection.executemany(
                f"DELETE FROM dead_letters WHERE entry = ? AND (1 << target) & {mask} != 0",
                ids,
            )
            connection.executemany(
                "DELETE FROM entries WHERE id = ? AND pending = 0 AND dead = 0", ids
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        if not rows:
            return changed
        changed += sum(bits.bit_count() for _, bits in rows)
        after = rows[-1][0]


def _page(
    path: Path, dialog: str | None, target: str | None, after: int
) -> tuple[list[Entry], int | None]:
    """Return entries of a file, and the id of the last one unless no more follow.

    The file is open only meanwhile: a reader would let its `-wal` grow.
    """
    with _opened(path, "ro", checks=after == 0) as connection:
        if connection is None:
            return [], None
        names = _names(connection)
        condition, values = _selection(connection, dialog, target)
        rows = connection.execute(
            f"SELECT {FACTS} FROM entries WHERE {condition} AND id > ? ORDER BY id LIMIT {PAGE}",
            (*values, after),
        ).fetchall()
        found = [_entry(connection, names, row) for row in rows]
    return found, rows[-1][0] if len(rows) == PAGE else None


def _existing(folder: str | Path) -> Path:
    path = Path(folder).absolute()
    if not path.is_dir():
        raise OutboxError(f"there is no outbox {path}. Name the folder of Outbox(...).", str(path))
    return path


@contextmanager
def _opened(path: Path, mode: str, *, checks: bool = True) -> Iterator[sqlite3.Connection | None]:
    """Open a file. Yield None if it has nothing yet, or was taken over meanwhile."""
    try:
        with explained(path):
            connection = connect(path, mode)
    except OutboxError:
        if path.exists():
            raise
        yield None
        return
    with closing(connection), explained(path):
        if connection.execute("PRAGMA page_count").fetchone()[0]:
            check_kind(path, connection)
            if checks:
                check_values(path, connection)
            yield connection
        else:
            yield None


def _names(connection: sqlite3.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT number, name FROM targets").fetchall())


def _selection(
    connection: sqlite3.Connection, dialog: str | None, target: str | None
) -> tuple[str, list[Any]]:
    condition, values = "1", []
    if dialog is not None:
        condition += " AND dialog_id = ?"
        values.append(dialog)
    if target is not None:
        numbers = {name: number for number, name in _names(connection).items()}
        mask = 1 << numbers[target] if target in numbers else 0
        condition += f" AND (pending | dead) & {mask}"
    return condition, values


def _entry(connection: sqlite3.Connection, names: dict[int, str], row: tuple[Any, ...]) -> Entry:
    number, update_id, dialog_id, state, recorded_at, settled_at, pending, dead = row
    letters = (
        ()
        if not dead
        else connection.execute(
            "SELECT target, attempts, error, at FROM dead_letters WHERE entry = ?", (number,)
        )
    )
    return Entry(
        update_id,
        dialog_id,
        STATES[state],
        recorded_at,
        settled_at,
        tuple(name for each, name in names.items() if pending >> each & 1),
        tuple(DeadDelivery(names[each], *facts) for each, *facts in letters),
    )
