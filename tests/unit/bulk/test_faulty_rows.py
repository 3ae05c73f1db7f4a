"""The file of faulty rows: what is in it, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cognigy_async.bulk.faulty_rows import write_faulty_rows

MARK = b"\xef\xbb\xbf"


def letters(path: Path, *rows: tuple[str, str]) -> Path:
    lines = [
        json.dumps({"_raw": raw, "_error": {"message": message}}, separators=(",", ":"))
        for raw, message in rows
    ]
    path.write_text("\n".join(['{"dialog_id":"d","_error":{}}', *lines, ""]))
    return path


def test_rows_that_a_dead_letter_has_only_in_part_are_left_out(tmp_path: Path) -> None:
    dead = letters(
        tmp_path / "dead",
        ("d-1;ü", "row: has 2 cells"),
        ("d-2;\\xfc", "row: is not UTF-8; save the file as UTF-8, or name its encoding"),
        ("d-3;x", "row: is longer than 2,621,440 bytes; shorten it"),
    )
    path = tmp_path / "faulty.csv"
    assert write_faulty_rows(path, b"a;b\r", dead) == 1
    assert path.read_bytes() == MARK + "a;b\nd-1;ü\n".encode()


def test_the_file_of_an_earlier_run_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    assert write_faulty_rows(path, b"a;b", letters(tmp_path / "1", ("d-1", "x"))) == 1
    assert write_faulty_rows(path, b"a;b", letters(tmp_path / "2", ("d-1", "x"), ("d-2", "x"))) == 2
    assert path.read_bytes() == MARK + b"a;b\nd-1\nd-2\n"


@pytest.mark.parametrize("content", [b"a;b\nd-1\n", MARK + b"a;b\nd-1;corrected\n", b"x"])
def test_other_content_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "faulty.csv"
    path.write_bytes(content)
    with pytest.raises(OSError, match="it has other content than this job would write"):
        write_faulty_rows(path, b"a;b", letters(tmp_path / "1", ("d-1", "x"), ("d-2", "x")))
    assert path.read_bytes() == content


def test_no_file_is_made_without_rows_or_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    assert write_faulty_rows(path, b"a;b", letters(tmp_path / "1")) == 0
    assert not path.exists()
    os.symlink(tmp_path / "other", path)
    with pytest.raises(OSError, match="link"):
        write_faulty_rows(path, b"a;b", letters(tmp_path / "2", ("d-1", "x")))
    assert not (tmp_path / "other").exists()
