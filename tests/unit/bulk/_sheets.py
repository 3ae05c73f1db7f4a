"""Workbooks for the tests, made where they are used."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl

CONTENT_TYPES = b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(
    path: Path, *rows: Sequence[Any], change: Callable[[Any], object] | None = None
) -> Path:
    """Write a workbook with the sheet ``Daten``; `change` gets the sheet before it is saved."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Daten"
    for row in rows:
        sheet.append(row)
    if change is not None:
        change(sheet)
    book.save(path)
    return path


def raw_workbook(path: Path, sheet: bytes, parts: Mapping[str, bytes] | None = None) -> Path:
    """Write a workbook whose sheet is this XML, with other parts changed or added."""
    contents = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": (
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="rId1" '
            f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
        ).encode(),
        "xl/workbook.xml": (
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>'
            '<sheet name="A" sheetId="1" r:id="rId1"/></sheets></workbook>'
        ).encode(),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="rId1" '
            f'Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
        ).encode(),
        "xl/worksheets/sheet1.xml": sheet,
        **(parts or {}),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def sheet_of(*rows: str, after: str = "") -> bytes:
    """Return the XML of a sheet whose first row is a header of `dialog_id` and `session.a`."""
    header = "<row>" + text_cell("dialog_id") + text_cell("session.a") + "</row>"
    data = f"<sheetData>{header}{''.join(rows)}</sheetData>"
    return f'<worksheet xmlns="{MAIN}">{data}{after}</worksheet>'.encode()


def text_cell(text: str) -> str:
    return f'<c t="inlineStr"><is><t>{text}</t></is></c>'
