"""Files that have no rows: one message that says what the file is."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.content import refuse_other_content

from ._rows import GOOD, dry, rows_of, written


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name in names:
            zipped.writestr(name, "x" * 100)
    return file.getvalue()


ROWS = [{"dialog_id": "d-1", "session": {"a": 1}}, {"dialog_id": "d-2", "session": {"a": 2}}]
TEXT = '{"dialog_id": "d-1", "session": {"a": 1}}\n'
OTHER_FILES = {
    "workbook": (archive("[Content_Types].xml", "xl/workbook.xml"), "a workbook; save its sheet"),
    "workbook of another office": (
        archive("mimetype", "content.xml").replace(b"xxx", b"vnd.oasis.opendocument", 1),
        "a workbook",
    ),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "a workbook"),
    "zip": (archive("rows.jsonl"), "a zip archive; unpack it"),
    "empty zip": (archive(), "a zip archive"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
    "photograph": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture"),
    "document": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "a document"),
    "database": (b"SQLite format 3\0\x10\0\x01\x01", "a database"),
    "table of Avro": (b"Obj\x01\x04\x16avro.schema", "a binary table"),
    "table of Arrow": (b"ARROW1\0\0\xff\xff\xff\xff", "a binary table"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "HTML or XML"),
    "tar": (b"rows.jsonl" + bytes(90) + b"0000644\0", "no text"),
    "compressed twice": (gzip.compress(gzip.compress(b"x")), "compressed twice"),
    "UTF-16": (TEXT.encode("utf-16-le"), "UTF-16 or UTF-32 without a byte-order mark"),
    "UTF-16, the other order": (TEXT.encode("utf-16-be"), "UTF-16 or UTF-32 without"),
    "UTF-32": (TEXT.encode("utf-32-be"), "UTF-16 or UTF-32 without"),
    "array": (json.dumps(ROWS).encode(), r"a JSON array; .* jq -c '\.\[\]' FILE"),
    "array on lines": (b"[\n" + GOOD + b",\n" + GOOD + b"\n]\n", "a JSON array"),
    "array, indented": (b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(), "a JSON array"),
    "objects, indented": (
        "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        r"a JSON document over several lines; .* jq -c \. FILE",
    ),
    "document of JSON": (b'{"rows": [\n' + TEXT.encode() + b"]}\n", "a JSON document over"),
    "CSV without its name": (b"dialog_id,session.a\nd-1,1\n", "not JSON Lines; if it is CSV, add"),
    "log": (b"12:00 started\n12:01 ended\n", "not JSON Lines: none of its first lines"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_another_kind_is_one_message(tmp_path: Path, kind: str) -> None:
    content, message = OTHER_FILES[kind]
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        dry(path)


@pytest.mark.parametrize("kind", [kind for kind in OTHER_FILES if "CSV" not in kind])
def test_a_file_of_another_kind_is_no_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(OTHER_FILES[kind][0])
    with pytest.raises(InputError):
        dry(path)


@pytest.mark.parametrize("name", ["rows", "rows.csv", "rows.parquet"])
def test_a_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="is a folder; give one of its files"):
        dry(tmp_path / name)


def test_parquet_from_a_pipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is Parquet; give it as a file"):
        rows_of(written(tmp_path / "rows", b"PAR1\x15\x04"), format="jsonl")


@pytest.mark.parametrize(
    "first",
    [
        b"oops",
        b'er": 1}}',
        b'"text"',
        b"\xfd",
        b'{"dialog_id": "d", "session": {"a": "\x00"}}',
        b'{"dialog_id": "d", "session": {',
    ],
)
def test_a_bad_first_row_is_a_fault_of_this_row(tmp_path: Path, first: bytes) -> None:
    found, _ = dry(written(tmp_path / "rows.jsonl", first, GOOD, GOOD))
    assert (found.rows, found.faulty) == (3, 1)


def test_a_file_of_rows_is_not_refused() -> None:
    refuse_other_content([b"", b" ", GOOD], "rows", "jsonl")
    refuse_other_content([b"dialog_id,session.a"], "rows", "csv")
    refuse_other_content([b""], "rows", "jsonl")
