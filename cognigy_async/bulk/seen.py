"""Sets that are too large for memory: on disk, in a file that goes with the process."""

from __future__ import annotations

import sqlite3

from cognigy_async import StateUpdate

MOST_IN_MEMORY = 200_000


def _scratch(columns: str) -> sqlite3.Connection:
    # With no name SQLite makes a file of its own when its cache is full, and removes it.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for statement in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8192"):
        connection.execute(f"PRAGMA {statement}")
    connection.execute(f"CREATE TABLE seen (id INTEGER PRIMARY KEY{columns})")
    connection.execute("BEGIN")
    return connection


class UpdateIds:
    """The `update_id`s of an input, and where each one stands first."""

    def __init__(self) -> None:
        self._connection = _scratch(", line, content")

    def first(self, update: StateUpdate, line: int) -> tuple[int, bool] | None:
        """Where the same `update_id` stood before, and whether with the same content; else None."""
        name, content = hash(update.update_id), hash(update)
        insert = "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)"
        if self._connection.execute(insert, (name, line, content)).rowcount:
            return None
        select = "SELECT line, content FROM seen WHERE id = ?"
        before, its_content = self._connection.execute(select, (name,)).fetchone()
        return before, its_content == content

    def close(self) -> None:
        """Forget them."""
        self._connection.close()


class Distinct:
    """Counts how many different texts there are."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._connection = _scratch("")

    def add(self, text: str) -> None:
        """One more, perhaps a known one."""
        self._recent.add(hash(text))
        if len(self._recent) > MOST_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        rows = ((item,) for item in sorted(self._recent))
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
        self._recent.clear()

    def count(self) -> int:
        """How many; nothing can be added afterwards."""
        self._spill()
        number: int = self._connection.execute("SELECT count(*) FROM seen").fetchone()[0]
        self._connection.close()
        return number
