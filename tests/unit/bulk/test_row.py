"""Rows: places of faults in JSON, and dead letters."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from zlib import crc32

import pytest

from cognigy_async.bulk.input.json_values import Columns
from cognigy_async.bulk.input.row import TableRow, dead_letter
from cognigy_async.bulk.journal.schema import Failure

from ._rows import dry, rows_of, written

FAILURE = Failure("X", "m", None)


@dataclass(frozen=True)
class Cells(TableRow):
    """A row of a table of any values."""

    fields: dict[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.fields)

    def read(self) -> tuple[dict[str, Any], None]:
        return self.fields, None


def test_the_column_is_that_of_the_innermost_part_that_exists() -> None:
    line = b'{"a": {"b.c": [10, {"d": "\\"}"}]}, "b": 1}'
    columns = Columns(line)
    assert columns.of("a.b.c[1].d") == line.index(b'"d"') + 1
    assert columns.of("a.b.c[1]") == line.index(b'{"d"') + 1
    assert columns.of("b") == line.index(b'"b":') + 1
    assert columns.of("a.missing") == line.index(b'{"b.c"') + 1
    assert columns.of("b.missing") == line.index(b" 1}") + 2
    assert Columns(b"not json").of("a") == 1
    assert Columns(b"").of("a") == 1
    assert Columns(b'{"a": 1, "b": }').of("a") == 2


def test_many_faults_of_a_row_are_placed_at_once(tmp_path: Path) -> None:
    names = [f"a-{number}" for number in range(100_000)]
    line = json.dumps({"dialog_id": "d", "session": dict.fromkeys(names, 1)}).encode()
    heads, cells = (f"session.a-{n}" for n in range(16_000)), ",1" * 16_000
    table = f"dialog_id,{','.join(heads)}\nd{cells}".encode()
    began = time.process_time()
    _, faults = dry(written(tmp_path / "rows.jsonl", line))
    assert len(faults) == 1000
    assert faults[-1].column == line.index(b'"a-999"') + 1
    _, faults = dry(written(tmp_path / "rows.csv", table))
    assert [fault.column for fault in faults] == [*range(2, 1002)]
    # Placed one by one, the first ones alone take longer.
    assert time.process_time() - began < 10


def test_a_dead_letter_can_be_run_again(tmp_path: Path) -> None:
    row = b'{"dialog_id": "d", "session": {"n": 1.0}, "_error": {"type": "old"}, "_note": [1]}'
    letter = dead_letter(7, row, Failure("BadRequestError", "m", 400))
    assert json.loads(letter) == {
        "dialog_id": "d",
        "session": {"n": 1.0},
        "_note": [1],
        "_error": {
            "type": "BadRequestError",
            "message": "m",
            "status": 400,
            "line": 7,
            "crc32": crc32(b'{"dialog_id":"d","session":{"n":1.0},"_note":[1]}'),
        },
    }
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.update is not None
    assert again.update.session == {"n": 1.0}


def test_a_dead_letter_keeps_a_line_that_is_no_object() -> None:
    assert json.loads(dead_letter(3, b"no \xff JSON\r", FAILURE))["_raw"] == "no \\xff JSON"
    assert json.loads(dead_letter(3, b"[1]", FAILURE))["_raw"] == "[1]"


def test_a_dead_letter_of_a_table_has_apart_what_json_cannot_hold(tmp_path: Path) -> None:
    session = {
        "n": 1.5,
        "when": date(2024, 2, 3),
        "bytes": b"\xff",
        "amount": Decimal("1.10"),
        "least": [math.nan, 2],
        "most": {"inner": -math.inf},
        "pair": [("k", 1)],
        "text": "\ud83d",
    }
    letter = dead_letter(3, Cells({"dialog_id": "d", "session": session, "_note": b"x"}), FAILURE)
    fields = json.loads(letter, parse_constant=lambda name: pytest.fail(name))
    assert fields == {
        "dialog_id": "d",
        "session": {"n": 1.5, "text": "\ud83d"},
        "_note": "b'x'",
        "_not_json": {
            "session.when": "datetime.date(2024, 2, 3)",
            "session.bytes": r"b'\xff'",
            "session.amount": "Decimal('1.10')",
            "session.least": "[nan, 2]",
            "session.most": "{'inner': -inf}",
            "session.pair": "[('k', 1)]",
        },
        "_error": {"type": "X", "message": "m", "status": None, "line": 3, "crc32": ANY},
    }
    # It is refused again, and stays the same, until it is mended.
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.error is not None
    assert again.error.path == "_not_json"
    assert dead_letter(3, again.source, FAILURE) == letter


@pytest.mark.parametrize(
    "line",
    [
        b'{"dialog_id": "d", "session": {"n": "\xff"}, "_a": "\xff"}',
        b'{"dialog_id": "d\xff", "session": {"n": 1}}',
        b'{"dialog_id": "d", "session": {"n": ' + b"1" * 5000 + b"}}",
        b'{"dialog_id": "d", "session": {"n": NaN, "m": 1}}',
        b'{"dialog_id": "d", "session": {"n": [1, 1e999]}}',
        b'{"dialog_id": "d", "session": {"n": "\\ud83d", "m": 1}}',
        b'{"dialog_id": "d", "session": {"n": {"\\ud83d": 1}}}',
        b'{"dialog_id": "d", "session": {"n": 1, "n": 2}}',
        b'{"dialog_id": "d", "session": {"n": null}}',
        b'{"dialog_id": "d ", "session": {"n": 9007199254740993}}',
    ],
)
def test_a_row_that_is_refused_is_refused_as_a_dead_letter(tmp_path: Path, line: bytes) -> None:
    letter = line
    for number in range(3):
        (row,) = rows_of(written(tmp_path / f"{number}.jsonl", letter.rstrip()))
        assert row.error is not None
        letter = dead_letter(1, row.source, FAILURE)
        json.loads(letter, parse_constant=lambda name: pytest.fail(name))


def test_values_that_are_passed_over_may_be_any(tmp_path: Path) -> None:
    rest = b', "dialog_id": "d", "session": {"n": 1}}'
    lines = [
        b'{"_a": NaN',
        b'{"_a": [-Infinity]',
        b'{"_a": "\\ud83d"',
        b'{"_a": {"b": 1, "b": 2}',
        b'{"_a": ' + b"1" * 5000,
        b'{"_a": ' + b"[" * 300 + b"]" * 300,
        b'{"_a": "\xff"',
        b'{"_a": {"\xe2\x80": [NaN, "\xff"]}, "_b": "\\ud83d"',
        b'{"_a": 1, "_a": 2',
        b'{"_raw": "of another program"',
        b'{"_error": {}, "_raw": "no row"',
    ]
    rows = rows_of(written(tmp_path / "rows.jsonl", *(line + rest for line in lines)))
    assert len(rows) == len(lines)
    assert [row.error for row in rows] == [None] * len(lines)
    for row in rows:
        (again,) = rows_of(
            written(tmp_path / "dead.jsonl", dead_letter(1, row.source, FAILURE).rstrip())
        )
        assert again.update is not None
        assert again.update.session == {"n": 1}


@pytest.mark.parametrize(
    ("line", "path", "column"),
    [
        (b'{"dialog_id": "a", "dialog_id": "b", "next_step": "s"}', "dialog_id", 2),
        (b'{"dialog_id": "a", "session": {"n": 1}, "session": {"m": 1}}', "session", 20),
        (b'{"dialog_id": "a", "session": {"n": 1, "n": 1}}', "session.n", 32),
        (b'{"dialog_id": "a", "session": {"n": [0, {"m": 1, "m": 1}]}}', "session.n[1].m", 42),
        (b'{"dialog_id": "a", "session": {"n": "http://x", "n": 2}}', "session.n", 32),
        (b'{"dialog_id": "a", "session": {"n": ":", "n": "\\u003a"}}', "session.n", 32),
        (b'{"dialog_id": "a", "_x": {"y": 1}, "user": {"n": {"": 1, "": 2}}}', "user.n.", 51),
        (b'{"_x": 1, "dialog_id": "a", "_x": 2, "session": {"n" : 1, "n":2}}', "session.n", 50),
    ],
)
def test_a_member_given_twice_is_a_fault(
    tmp_path: Path, line: bytes, path: str, column: int
) -> None:
    _, faults = dry(written(tmp_path / "rows.jsonl", line))
    assert [(fault.path, fault.problem) for fault in faults] == [(path, "is given twice")]
    assert faults[0].column == column


def test_colons_are_no_members(tmp_path: Path) -> None:
    line = (
        b'{"dialog_id": "a:b", "session": {"n": "http://x:80", "o": {"a:b": [{"c": ":"}]}, '
        b'"p": "\\u003a", "q": [[], "::"]}, "user": {"t": "10:30"}}'
    )
    (row,) = rows_of(written(tmp_path / "rows.jsonl", line))
    assert row.error is None


def test_a_row_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    lines = [b'{"dialog_id": "a", "session": {"n": %s}}' % deep]
    lines += [
        b'{"dialog_id": "a", "session": {"m": NaN, "n": %s}}' % (b"[" * n + b"]" * n)
        for n in (150, 250, 400, 900, 2000)
    ]
    rows = rows_of(written(tmp_path / "rows.jsonl", *lines))
    assert len(rows) == 6
    for row in rows:
        assert row.error is not None
        assert dead_letter(row.line, row.source, FAILURE)
