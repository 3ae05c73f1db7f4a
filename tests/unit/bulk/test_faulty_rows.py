"""The file of faulty rows: what is in it, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cognigy_async.bulk.faulty_rows import FaultyRows
from cognigy_async.bulk.input.columns import Findings

MARK = b"\xef\xbb\xbf"


def letter(raw: str, message: str = "x") -> bytes:
    fields = {"_raw": raw, "_error": {"message": message}}
    return json.dumps(fields, separators=(",", ":")).encode()


def write(path: Path, *letters: bytes, header: bytes | None = b"a;b") -> tuple[FaultyRows, int]:
    """Return what wrote the rows of dead letters, and the number of the other dead letters."""
    rows = FaultyRows(path, Findings(header=header))
    others = rows.take([*letters[:1]]) + rows.take([*letters[1:]])
    return rows, len(others)


def test_only_whole_rows_are_taken(tmp_path: Path) -> None:
    others = [
        b'{"dialog_id":"d","_error":{}}',
        letter("d-2;\\xfc", "row: is not UTF-8; save the file as UTF-8, or name its encoding"),
        letter("d-3;x", "row: is longer than 2,621,440 bytes; shorten it"),
        b'{"_raw":"a column","dialog_id":"d","_error":{"message":"x"}}',
    ]
    path = tmp_path / "faulty.csv"
    rows = FaultyRows(path, Findings(header=b"a;b\r"))
    assert rows.take([*others[:2], letter("d-1;ü"), *others[2:]]) == others
    assert (rows.count, rows.notes) == (1, [])
    assert path.read_bytes() == MARK + "a;b\nd-1;ü\n".encode()


def test_the_file_of_an_earlier_run_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    assert write(path, letter("d-1"))[0].count == 1
    path.write_bytes(path.read_bytes()[:-2])  # The earlier run was cut off.
    rows, others = write(path, letter("d-1"), letter("d-2"))
    assert (rows.count, others, rows.notes) == (2, 0, [])
    assert path.read_bytes() == MARK + b"a;b\nd-1\nd-2\n"


@pytest.mark.parametrize("content", [b"a;b\nd-1\n", MARK + b"a;b\nd-1;corrected\n", b"x"])
def test_other_content_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "faulty.csv"
    path.write_bytes(content)
    rows, others = write(path, letter("d-1"), letter("d-2"))
    assert (rows.count, others) == (2, 0)
    assert rows.notes == [
        f"The file of faulty rows {path}: it has other content than this job would write, perhaps "
        "your corrections, and was left as it is. To write it anew, move it away and run the job "
        "again."
    ]
    assert path.read_bytes() == content


def test_no_file_is_made_without_rows_or_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    assert write(path, b'{"dialog_id":"d"}')[1] == 1
    assert write(path, letter("no table"), header=None)[1] == 1
    assert not path.exists()
    os.symlink(tmp_path / "other", path)
    rows, others = write(path, letter("d-1"), letter("d-2"))
    assert (rows.count, others) == (0, 2)
    assert "link; remove it" in rows.notes[0]
    assert "are among the dead letters." in rows.notes[0]
    assert not (tmp_path / "other").exists()


def test_a_file_that_was_moved_while_the_job_runs_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    rows = FaultyRows(path, Findings(header=b"a;b"))
    assert rows.take([letter("d-1")]) == []
    path.unlink()
    assert rows.take([letter("d-2")]) == [letter("d-2")]
    assert "it was moved or cut off while the job ran" in rows.notes[0]
    assert b"\0" not in path.read_bytes()
