"""Values of a SQLite file changed in place, so that the file itself is sound."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .mutations import mutate

VALUES = (None, 0, -1, 1, 60, 2**31, 2**63 - 1, -(2**63), 0.5, 1e300, -1e300, "", b"", "x", b"\xff")


def change(path: Path, chance: random.Random) -> None:
    """Give one to eight cells another value, of any type that SQLite lets them have."""
    with closing(sqlite3.connect(path)) as file, file:
        file.text_factory = bytes
        tables = [
            name.decode()
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            table = chance.choice(tables)
            columns = [row[1].decode() for row in file.execute(f"PRAGMA table_info({table})")]
            rows = file.execute(f"SELECT * FROM {table}").fetchall()
            if not rows:
                continue
            row, at = chance.choice(rows), chance.randrange(len(columns))
            same = " AND ".join(f"{column} IS ?" for column in columns)
            found = [_text(value) for value in row]
            # A key or a NOT NULL column does not take each value.
            with suppress(sqlite3.IntegrityError):
                file.execute(
                    f"UPDATE {table} SET {columns[at]} = ? WHERE {same}",
                    (_other(row[at], chance), *found),
                )


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bytes) and chance.random() < 0.7:
        changed = mutate(value, chance)
        return changed if chance.random() < 0.5 else _text(changed)
    return chance.choice(VALUES)
