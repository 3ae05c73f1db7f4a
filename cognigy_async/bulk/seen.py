"""Sets that are too large for memory: on disk, in a file that goes with the process."""

from __future__ import annotations

import heapq
import sqlite3
import tempfile
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from cognigy_async import StateUpdate

__all__ = ["Distinct", "UpdateIds"]


class UpdateIds:
    """The `update_id`s of an input, and where each one stands first."""

    def __init__(self) -> None:
        # With no name SQLite makes a file of its own when its cache is full, and removes it.
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("PRAGMA cache_size = -8192")
        self._connection.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY, line, content)")
        self._connection.execute("BEGIN")

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


MOST_IN_MEMORY = 200_000
PIECE = 8192


class Distinct:
    """Counts how many different texts there are."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._spilt: list[BinaryIO] = []

    def add(self, text: str) -> None:
        """One more, perhaps a known one."""
        recent = self._recent
        recent.add(hash(text))
        if len(recent) > MOST_IN_MEMORY:
            file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - `count` closes it
            file.write(array("q", sorted(recent)).tobytes())
            self._spilt.append(file)
            recent.clear()

    def count(self) -> int:
        """How many; nothing can be added afterwards."""
        if not self._spilt:
            return len(self._recent)
        number = 0
        last = None
        for item in heapq.merge(sorted(self._recent), *map(_read, self._spilt)):
            number += item != last
            last = item
        for file in self._spilt:
            file.close()
        return number


def _read(file: BinaryIO) -> Iterator[int]:
    file.seek(0)
    while data := file.read(8 * PIECE):
        yield from array("q", data)
