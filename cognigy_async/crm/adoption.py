"""Take over what dead processes left in the folder.

One process at a time adopts. It copies a file into its own in one transaction, with a mark, and
then removes the file. If it dies in between, the next one adopts its file, finds the mark, and
removes the other file without copying it again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from cognigy_async import OutboxError
from cognigy_async._utils.database_lock import DatabaseLock
from cognigy_async._utils.locks import try_lock
from cognigy_async._utils.private_files import open_private

from .folder import ADOPTION, OUTBOX, explained, files_of, remove_file
from .store import INTENT, IntentRow, Store, check_kind, check_pages, check_values

MARK = "adopted "
"""Prefix of the key of a mark."""


def adopt(store: Store, folder: Path) -> tuple[list[IntentRow], list[OutboxError]]:
    """Copy the files of dead processes into the store, and remove them.

    Returns:
        Their intents without outcome, in order, and the errors of files that cannot be adopted.
    """
    intents: list[IntentRow] = []
    errors: list[OutboxError] = []
    with explained(folder), adoption_turn(folder) as is_ours:
        locks = list(_dead_files(folder, errors)) if is_ours else []
        try:
            # A file that could not be removed is found again.
            known = _marks(store.connection)
            for lock in locks:
                try:
                    known |= _marks_of(lock.path)
                except OutboxError as error:
                    errors.append(error)
            for lock in locks:
                try:
                    if lock.path.name not in known:
                        intents += _copy(store, lock.path)
                    with explained(lock.path):
                        remove_file(lock.path)
                except OutboxError as error:
                    errors.append(error)
        finally:
            for lock in locks:
                lock.release()
    return intents, errors


@contextmanager
def adoption_turn(folder: Path) -> Iterator[bool]:
    """Yield whether it is this process that adopts now."""
    path = folder / ADOPTION
    with explained(path):
        descriptor = open_private(path)
    try:
        with explained(path):
            is_ours = try_lock(descriptor)
        yield is_ours
    finally:
        os.close(descriptor)


def _dead_files(folder: Path, errors: list[OutboxError]) -> Iterator[DatabaseLock]:
    for path in files_of(folder):
        try:
            lock = DatabaseLock.acquire(path, OUTBOX, attempts=1)
        except OutboxError as error:
            errors.append(error)
            continue
        if lock is None:
            continue
        if lock.path.stat().st_size:
            yield lock
        else:
            # Its process died before it had tables, or another one has just removed it.
            remove_file(lock.path)
            lock.release()


@contextmanager
def _attached(connection: sqlite3.Connection, path: Path) -> Iterator[bool]:
    """Attach a file as `dead`. Yield whether it has tables: its process may have died before."""
    with explained(path):
        connection.execute("ATTACH ? AS dead", (f"{path.as_uri()}?mode=rw",))
        try:
            has_tables = bool(connection.execute("PRAGMA dead.page_count").fetchone()[0])
            if has_tables:
                check_kind(path, connection, "dead")
            yield has_tables
        finally:
            with suppress(sqlite3.Error):
                connection.execute("DETACH dead")


def _marks_of(path: Path) -> set[str]:
    memory = sqlite3.connect("file::memory:", uri=True, isolation_level=None)
    with closing(memory), _attached(memory, path) as has_tables:
        return _marks(memory, "dead") if has_tables else set()


def _marks(connection: sqlite3.Connection, schema: str = "main") -> set[str]:
    rows = connection.execute(f"SELECT key FROM {schema}.meta WHERE key LIKE ?", (f"{MARK}%",))
    return {key.removeprefix(MARK) for (key,) in rows}


def _copy(store: Store, path: Path) -> list[IntentRow]:
    run = store.connection.execute
    with _attached(store.connection, path) as has_tables:
        if not has_tables:
            return []
        check_pages(path, store.connection, "dead")
        check_values(path, store.connection, "dead")
        numbers = dict(run("SELECT name, number FROM dead.targets").fetchall())
        with store.transaction():
            store.add_targets(numbers)
            # The ids of the file grow, and so all of its entries follow those of the store.
            shift = store.last_id
            masks = {number: store.masks[name] for name, number in numbers.items()}
            pending, dead = (_translated(column, masks) for column in ("pending", "dead"))
            run(
                "INSERT INTO entries SELECT id + ?, update_id, dialog_id, state, recorded_at,"
                f" settled_at, content, outcome, answer, {pending}, {dead}"
                " FROM dead.entries ORDER BY id",
                (shift,),
            )
            for number, mask in masks.items():
                run(
                    "INSERT INTO dead_letters SELECT ?, entry + ?, attempts, error, at"
                    " FROM dead.dead_letters WHERE target = ?",
                    (mask.bit_length() - 1, shift, number),
                )
            run("INSERT OR REPLACE INTO meta VALUES (?, '')", (MARK + path.name,))
            (last,) = run("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        store.last_id = max(store.last_id, last)
        store.last_event = store.last_id
        rows = run(
            "SELECT update_id, dialog_id, recorded_at, content, id FROM entries"
            f" WHERE state = {INTENT} AND id > ? ORDER BY id",
            (shift,),
        ).fetchall()
    store.open.update({row[:2]: row[4] for row in rows})
    store.measure()
    return [IntentRow(*row[:4]) for row in rows]


def _translated(column: str, masks: dict[int, int]) -> str:
    """Return the SQL that translates a mask of the file into one of the store."""
    parts = (
        f"(CASE WHEN {column} & {1 << number} THEN {mask} ELSE 0 END)"
        for number, mask in masks.items()
    )
    return " | ".join(parts) or "0"
