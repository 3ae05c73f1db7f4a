"""Text in other encodings."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError, TableOptions

from ._rows import dry, rows_of

ROWS = "dialog_id,session.a\nd-1,Müller €\nd-2,Groß\n"


def written_as(path: Path, text: str, encoding: str) -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def sessions_of(path: Path, encoding: str | None = None) -> list[object]:
    rows = rows_of(path, table=TableOptions(encoding=encoding))
    return [row.update.session["a"] if row.update is not None else None for row in rows]


@pytest.mark.parametrize(
    "encoding", ["cp1252", "iso8859-15", "utf-16-le", "utf-16", "utf-32", "utf-8-sig"]
)
def test_an_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = written_as(tmp_path / "rows.csv", ROWS, encoding)
    assert sessions_of(path, encoding) == ["Müller €", "Groß"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_an_encoding_is_recognised_by_its_mark(tmp_path: Path, encoding: str) -> None:
    path = written_as(tmp_path / "rows.csv", ROWS, encoding)
    found, faults = dry(path)
    assert (found.rows, faults) == (2, [])
    assert found.notes == (f"The input is {encoding.upper()}, as its byte-order mark says.",)
    big = tmp_path / "big.csv"
    big.write_bytes(b"\xfe\xff" + ROWS.encode("utf-16-be"))
    assert sessions_of(big) == ["Müller €", "Groß"]


def test_a_compressed_file_of_lines_has_an_encoding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    text = '{"dialog_id": "d", "session": {"a": "ä"}}\n' * 100_000
    path.write_bytes(gzip.compress(text.encode("cp1252")))
    assert sessions_of(path, "cp1252") == ["ä"] * 100_000


@pytest.mark.parametrize(
    ("content", "encoding", "bad"),
    [
        (b"dialog_id,session.a\nd-1,M\xfcller\nd-2,x\n", None, 2),
        (b"dialog_id,session.a\nd-1,x\nd-2,\x81\n", "cp1252", 3),
        ("dialog_id,session.a\nd-1,\ud800\nd-2,x\n".encode("utf-16", "surrogatepass"), "utf-16", 2),
        ("dialog_id,session.a\nd-1,x\nd-2,x".encode("utf-16-le") + b"y", "utf-16-le", 3),
        (b"dialog_id,session.a\nd-1,\x81\x20\nd-2,x\n", "shift_jis", 2),
    ],
)
def test_bytes_that_are_no_text_are_a_fault_of_their_row(
    tmp_path: Path, content: bytes, encoding: str | None, bad: int
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    found, faults = dry(path, TableOptions(encoding=encoding))
    assert (found.rows, found.faulty) == (2, 1)
    (fault,) = faults
    assert (fault.line, fault.column, fault.path) == (bad, 2, "session.a")
    known = {None: "UTF-8", "shift_jis": "shift_jis"}.get(encoding, encoding)
    assert fault.problem == f"is not {known}"
    assert "--encoding cp1252" in fault.remedy


def test_a_header_in_another_encoding_names_the_option(tmp_path: Path) -> None:
    path = written_as(tmp_path / "rows.csv", "dialog_id,Größe\n", "cp1252")
    with pytest.raises(InputError, match=r"the header, line 1, is not UTF-8; .*--encoding cp1252"):
        rows_of(path)


@pytest.mark.parametrize("mark", ["utf-16", "utf-8-sig"])
def test_a_mark_of_another_encoding_is_refused(tmp_path: Path, mark: str) -> None:
    path = written_as(tmp_path / "rows.csv", ROWS, mark)
    name = mark.removesuffix("-sig").upper()
    with pytest.raises(InputError, match=f"byte-order mark of {name}, so that it is not cp1252"):
        rows_of(path, table=TableOptions(encoding="cp1252"))


def test_text_that_is_utf_8_already_is_noted(tmp_path: Path) -> None:
    table = TableOptions(encoding="cp1252")
    found, _ = dry(written_as(tmp_path / "utf-8.csv", ROWS, "utf-8"), table)
    assert found.notes == (
        "The input was read as cp1252, but looks like UTF-8. If letters are wrong, leave "
        "--encoding out.",
    )
    assert dry(written_as(tmp_path / "right.csv", ROWS, "cp1252"), table)[0].notes == ()
