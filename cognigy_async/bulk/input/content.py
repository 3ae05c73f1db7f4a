"""Recognition of files that have no rows: workbooks, archives, pictures, whole JSON documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic_core import from_json

from ..errors import InputError

TextFormat: TypeAlias = Literal["jsonl", "csv"]

FIRST_LINES = 100
"""Lines of which one must be a row."""

WORKBOOK = (
    "a workbook; save its sheet as CSV UTF-8, or, if it is an .xlsx without a password, name it so "
    "or add --format excel"
)
MAGIC = {
    rb"PK[\x03\x05]": "a zip archive; unpack it, and give the file that it has",
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": WORKBOOK,
    rb"PAR1": "Parquet; give it as a file, with --format parquet",
    rb"Obj\x01|ORC|ARROW1|SQLite format 3\0": (
        "a database or a binary table; export its rows as JSON Lines, CSV or Parquet"
    ),
    rb"%PDF|\{\\rtf": "a document; export its rows as CSV",
    rb"\x89PNG|GIF8|\xff\xd8\xff|RIFF....WEBP": "a picture",
    rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd": "compressed twice; decompress it once",
    rb"<": "HTML or XML; the download may have answered with an error page",
}
"""First bytes of files by regular expressions, and what the files are."""

IN_WORKBOOKS = re.compile(rb"\[Content_Types\]\.xml|xl/|opendocument")


def refuse_other_content(lines: Sequence[bytes], name: str, kind: TextFormat) -> None:
    """Refuse a file whose first lines show that it has no rows of this format.

    Args:
        lines: The first lines, in full or as far as they were read; at least one.

    Raises:
        InputError: The file is of another kind, which the message names.
    """
    what = _other_kind(lines[0], lines) or (_no_rows(lines) if kind == "jsonl" else None)
    if what is not None:
        raise InputError(f"{name} is {what}")


def _other_kind(head: bytes, lines: Sequence[bytes]) -> str | None:
    for magic, what in MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            is_workbook = head[:2] == b"PK" and any(map(IN_WORKBOOKS.search, lines))
            return WORKBOOK if is_workbook else what
    if b"\0" in head[:4]:
        return (
            "UTF-16 or UTF-32 without a byte-order mark, or no text; save it as UTF-8, or add "
            "--encoding utf-16"
        )
    if b"\0" in head and head[:1] != b"{":
        return "no text; rows are JSON Lines, CSV, Parquet or Excel"
    return None


def _no_rows(lines: Sequence[bytes]) -> str | None:
    rows = [row for line in lines[:FIRST_LINES] if (row := line.strip())]
    if not rows:
        return None
    if rows[0][:1] == b"[":
        return (
            "a JSON array; write each object on a line of its own, as this command does: "
            "jq -c '.[]' FILE"
        )
    follows = len(rows) > 1 and (rows[1][:1] != b"{" or rows[0][-1:] == b"[")
    if follows and _is_incomplete(rows[0]):
        return (
            "a JSON document over several lines; write each object on a line of its own, as this "
            "command does: jq -c . FILE"
        )
    if any(row[:1] == b"{" for row in rows):
        return None
    if b"dialog_id" in rows[0]:
        return "not JSON Lines; if it is CSV, add --format csv"
    return "not JSON Lines: none of its first lines is an object. For CSV, add --format csv"


def _is_incomplete(row: bytes) -> bool:
    try:
        from_json(row)
    except ValueError as error:
        return row[:1] == b"{" and "EOF while parsing" in str(error)
    return False
