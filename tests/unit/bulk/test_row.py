"""Rows: places of faults in JSON, and dead letters."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import pytest

from cognigy_async.bulk.input.row import column_of, dead_letter
from cognigy_async.bulk.journal.schema import Failure

from ._rows import rows_of, written

FAILURE = Failure("X", "m", None)


def test_the_column_is_that_of_the_innermost_part_that_exists() -> None:
    line = b'{"a": {"b.c": [10, {"d": "\\"}"}]}, "b": 1}'
    assert column_of(line, "a.b.c[1].d") == line.index(b'"d"') + 1
    assert column_of(line, "b") == line.index(b'"b":') + 1
    assert column_of(line, "a.missing") == line.index(b'{"b.c"') + 1
    assert column_of(b"not json", "a") == 1


def test_a_dead_letter_can_be_run_again(tmp_path: Path) -> None:
    row = b'{"dialog_id": "d", "session": {"n": 1.0}, "_error": {"type": "old"}, "_note": [1]}'
    letter = dead_letter(7, row, Failure("BadRequestError", "m", 400))
    assert json.loads(letter) == {
        "dialog_id": "d",
        "session": {"n": 1.0},
        "_note": [1],
        "_error": {"type": "BadRequestError", "message": "m", "status": 400, "line": 7},
    }
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.update is not None
    assert again.update.session == {"n": 1.0}


def test_a_dead_letter_keeps_a_line_that_is_no_object() -> None:
    assert json.loads(dead_letter(3, b"no \xff JSON\r", FAILURE))["_raw"] == "no \\xff JSON"
    assert json.loads(dead_letter(3, b"[1]", FAILURE))["_raw"] == "[1]"


def test_a_dead_letter_of_a_table_is_json_for_all_kinds_of_cells() -> None:
    cells = {"when": date(2024, 2, 3), "bytes": b"\xff\xfe", "number": math.nan, "most": math.inf}
    letter = dead_letter(3, {"dialog_id": "d", "session": cells}, Failure("X", "m", None))
    fields = json.loads(letter, parse_constant=lambda name: pytest.fail(name))
    assert fields["session"] == {
        "when": "2024-02-03",
        "bytes": "__4=",
        "number": None,
        "most": None,
    }
