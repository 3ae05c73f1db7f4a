"""Workbooks that are damaged, of another kind, or expand to more than memory has."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.workbook import UnusableError, open_parts

from ._rows import dry, rows_of
from ._sheets import MAIN, raw_workbook, sheet_of, text_cell, workbook


def shared(*texts: str) -> dict[str, bytes]:
    items = "".join(f"<si><t>{text}</t></si>" for text in texts)
    return {"xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{items}</sst>'.encode()}


LONG = "x" * 32_000
NUMBERS = "<row><c><v>1</v></c></row>"
BOMBS = {
    "a far cell": (sheet_of('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'), {}),
    "many cells": (sheet_of(*[NUMBERS] * 12_000), {}),
    "a text that many cells share": (
        sheet_of(*['<row><c t="s"><v>0</v></c></row>'] * 40),
        shared(LONG),
    ),
    "many shared texts": (sheet_of(), shared(*[LONG] * 40)),
    "many empty shared texts": (
        sheet_of(),
        {"xl/sharedStrings.xml": b"<sst>" + b"<si/>" * 25_000 + b"</sst>"},
    ),
    "long texts": (sheet_of(*[f"<row>{text_cell(LONG)}</row>"] * 40), {}),
    "many merged cells": (
        sheet_of(after="<mergeCells>" + '<mergeCell ref="A1:A2"/>' * 4_000 + "</mergeCells>"),
        {},
    ),
    "many errors": (sheet_of(*['<row><c t="e"><v>#N/A</v></c></row>'] * 4_000), {}),
    "large styles": (sheet_of(), {"xl/styles.xml": b"<a>" + b" " * 1_100_000 + b"</a>"}),
    "a long tag": (sheet_of(f'<row a="{"x" * 6_000_000}"/>'), {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_workbook_expands_to_is_bounded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are smaller here; `test_input_memory` has the real ones."""
    monkeypatch.setattr("cognigy_async.bulk.input.workbook.MOST_MEMORY", 1 << 20)
    monkeypatch.setattr("cognigy_async.bulk.input.workbook.MOST_OTHER_XML", 1 << 20)
    message = {
        "large styles": "expands to more than 1 MiB",
        "a long tag": "a tag that is too long",
    }.get(name, "its sheet may take")
    sheet, parts = BOMBS[name]
    path = raw_workbook(tmp_path / "rows.xlsx", sheet, parts)
    with path.open("rb") as file, pytest.raises(UnusableError, match=message):
        open_parts(file, None)


def test_a_workbook_with_many_parts_is_refused(tmp_path: Path) -> None:
    parts = {f"xl/media/{n}": b"" for n in range(10_001)}
    path = raw_workbook(tmp_path / "rows.xlsx", sheet_of(), parts)
    with pytest.raises(InputError, match="it has more than 10,000 parts"):
        rows_of(path)


def test_a_size_that_is_a_lie_is_damage(tmp_path: Path) -> None:
    """A part has a smaller size in the directory than it expands to."""
    row = f"<row>{text_cell('d')}<c><v>1</v></c></row>"
    path = raw_workbook(tmp_path / "rows.xlsx", sheet_of(*[row] * 50_000))
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(InputError, match="it is damaged"):
        rows_of(path)


DOCTYPE = b'<!DOCTYPE a [<!ENTITY x "y">]>'
NO_WORKBOOKS = {
    "password": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
        "it has a password, or is an old",
    ),
    "text": (b"dialog_id,session.a\n", "it is damaged: File is not a zip file"),
    "empty": (b"", "it is damaged: File is not a zip file"),
}


@pytest.mark.parametrize("name", NO_WORKBOOKS)
def test_a_file_that_is_no_workbook_is_named(tmp_path: Path, name: str) -> None:
    content, message = NO_WORKBOOKS[name]
    path = tmp_path / "rows.xlsx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot be read as an Excel workbook: {message}"):
        rows_of(path)


def test_a_workbook_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows.xlsx", ("dialog_id", "session.a"), ("d-1", 1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="it is damaged"):
        rows_of(path)


@pytest.mark.parametrize(
    ("sheet", "parts", "message"),
    [
        (sheet_of() + b"<", {}, "its XML is damaged"),
        (DOCTYPE + sheet_of(), {}, "its XML has a document type"),
        (sheet_of(), {"xl/_rels/workbook.xml.rels": b"<a/>"}, "a sheet has no part; save it again"),
        (
            sheet_of(),
            {
                "xl/_rels/workbook.xml.rels": b"<a><Relationship Id='rId1' "
                b"Type='x/worksheet' Target='../../etc/passwd'/></a>"
            },
            "no part for the sheet 'A'",
        ),
        (
            sheet_of(),
            {
                "xl/_rels/workbook.xml.rels": b"<a><Relationship Id='rId1' "
                b"Type='x/chartsheet' Target='worksheets/sheet1.xml'/></a>"
            },
            "its sheet is a chart",
        ),
    ],
)
def test_a_damaged_part_is_named(
    tmp_path: Path, sheet: bytes, parts: dict[str, bytes], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(raw_workbook(tmp_path / "rows.xlsx", sheet, parts))


def test_pictures_and_other_sheets_do_not_count(tmp_path: Path) -> None:
    row = f"<row>{text_cell('d-1')}<c><v>1</v></c></row>"
    parts = {"xl/media/picture.png": bytes(100 << 20), "xl/worksheets/sheet2.xml": bytes(1 << 20)}
    found, faults = dry(raw_workbook(tmp_path / "rows.xlsx", sheet_of(row), parts))
    assert (found.rows, faults) == (1, [])


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows.jsonl", "{}")
    path = tmp_path / "rows.xlsx"
    path.write_bytes(file.getvalue())
    with pytest.raises(InputError, match=r"it has no xl/workbook\.xml"):
        rows_of(path)
