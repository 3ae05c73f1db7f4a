"""Parts of an Excel workbook, checked before they are read.

A workbook is a zip archive of XML. Its sheet expands to any size, and is read as a whole, so its
parts are first decompressed piece by piece: this estimates the memory that the sheet takes, finds
what the library does not tell of its cells, and writes the parts that are needed into a clean
archive, whose sizes are known.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import BinaryIO, TypeAlias
from xml.parsers import expat

from ..errors import InputError

MOST_MEMORY = 96 << 20
"""Bytes that a sheet may take, as estimated."""
MOST_XML = 1 << 29
"""Bytes of XML of the sheet and of the shared texts."""
MOST_OTHER_XML = 8 << 20
"""Bytes of XML of each other part."""
MOST_PARTS = 10_000
MOST_OF_TOKEN = 4 << 20
"""Bytes of one tag or comment of XML. A cell has at most 32,767 characters."""
CHUNK = 1 << 18
PER_CELL, PER_PLACE, PER_TEXT, PER_PROBLEM = 64, 32, 48, 300
"""Bytes of a cell with content, of a place in the rectangle that has all cells, of a text besides
its characters, and of a problem. Measured with python-calamine 0.9.1."""

WORKBOOK = "xl/workbook.xml"
RELATIONS = "xl/_rels/workbook.xml.rels"
TEXTS = "xl/sharedStrings.xml"
OTHERS = ("[Content_Types].xml", "_rels/.rels", WORKBOOK, RELATIONS, "xl/styles.xml")
DIRECTORY_ENTRY = b"PK\x01\x02"

PLACE = re.compile(r"\$?([A-Z]{1,3})\$?([0-9]{1,7})").fullmatch

Attributes: TypeAlias = dict[str, str]


class UnusableError(Exception):
    """A workbook that cannot be read; the text says why."""


@dataclass(slots=True)
class SheetFacts:
    """Facts about a sheet that the library does not tell.

    Attributes:
        cells, texts: Number of cells with content, and of those with a text.
        size: Bytes of the texts of all cells.
        rows: Number of rows with content.
        last_row, last_column: Greatest numbers of a cell with content, from 1.
        hidden: Number of hidden rows with content, and the first of them.
        problems: Problems of cells by rows and columns, from 1.
        merged: First and last row of merged cells that cover several rows, and their columns.
    """

    cells: int = 0
    texts: int = 0
    size: int = 0
    rows: int = 0
    last_row: int = 0
    last_column: int = 0
    first_column: int = 1 << 20
    hidden: int = 0
    first_hidden: int = 0
    problems: dict[int, dict[int, str]] = field(default_factory=dict)
    number_of_problems: int = 0
    merged: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def memory(self) -> int:
        """Bytes that the sheet may take."""
        places = self.last_row * max(0, self.last_column - self.first_column + 1)
        return (
            self.cells * PER_CELL
            + places * PER_PLACE
            + self.texts * PER_TEXT
            + self.size
            + (self.number_of_problems + len(self.merged)) * PER_PROBLEM
        )


class _Scanner:
    """Reads XML piece by piece, in bounded memory."""

    def __init__(self) -> None:
        self._fed = 0
        self._parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self.text
        parser.StartDoctypeDeclHandler = _refuse_doctype

    def feed(self, data: bytes, *, is_last: bool) -> None:
        """Read a piece.

        Raises:
            UnusableError: The XML is not what a workbook has.
        """
        self._fed += len(data)
        try:
            self._parser.Parse(data, is_last)
        except expat.ExpatError as error:
            raise UnusableError(f"its XML is damaged: {error}") from error
        if not is_last and self._fed - self._parser.CurrentByteIndex > MOST_OF_TOKEN:
            raise UnusableError("its XML has a tag that is too long; save it as CSV UTF-8")

    def _start(self, name: str, attributes: Attributes) -> None:
        self.start(name.rpartition(" ")[2], attributes)

    def _end(self, name: str) -> None:
        self.end(name.rpartition(" ")[2])

    def start(self, name: str, attributes: Attributes) -> None:
        """Take the begin of an element."""

    def end(self, name: str) -> None:
        """Take the end of an element."""

    def text(self, text: str) -> None:
        """Take a piece of text."""


def _refuse_doctype(*_: object) -> None:
    raise UnusableError(
        "its XML has a document type, which is refused; save it again as .xlsx or CSV UTF-8"
    )


class _Elements(_Scanner):
    """Collects the attributes of the elements with one name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.found: list[Attributes] = []

    def start(self, name: str, attributes: Attributes) -> None:
        if name == self._name and len(self.found) < MOST_PARTS:
            self.found.append({key.rpartition(" ")[2]: text for key, text in attributes.items()})


class _SharedTexts(_Scanner):
    """Measures the texts that cells share."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = array("L")
        self.size = 0
        self._current = 0

    def text(self, text: str) -> None:
        self._current += len(text.encode(errors="replace"))

    def end(self, name: str) -> None:
        if name != "si":
            return
        self.sizes.append(self._current)
        self.size += self._current + PER_TEXT
        self._current = 0
        _check_memory(self.size)


class _Sheet(_Scanner):
    """Collects the facts about a sheet."""

    def __init__(self, texts: _SharedTexts) -> None:
        super().__init__()
        self.facts = SheetFacts()
        self._texts = texts
        self._row = self._column = 0
        self._row_has_content = self._is_hidden = False
        self._kind = ""
        self._has_formula = False
        self._within = ""
        self._value = ""
        self._size = 0

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "c":
            self._column += 1
            if found := PLACE(attributes.get("r", "")):
                self._column = _number(found[1])
                self._row = int(found[2])
            self._kind = attributes.get("t", "n")
            self._has_formula = False
            self._value, self._size = "", 0
        elif name == "row":
            number = attributes.get("r", "")
            self._row = int(number) if number.isdecimal() and len(number) < 8 else self._row + 1
            self._column = 0
            self._row_has_content = False
            self._is_hidden = attributes.get("hidden", "") in ("1", "true")
        elif name == "f":
            self._has_formula = True
        elif name == "mergeCell":
            self._merge(attributes.get("ref", ""))
        if name in ("v", "t"):
            self._within = name

    def text(self, text: str) -> None:
        if self._within:
            self._size += len(text.encode(errors="replace"))
            if len(self._value) < 64:
                self._value += text[:64]

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            self._within = ""
        elif name == "c":
            self._end_of_cell()
        elif name == "row" and self._row_has_content:
            self.facts.rows += 1
            if self._is_hidden:
                self.facts.hidden += 1
                self.facts.first_hidden = self.facts.first_hidden or self._row

    def _end_of_cell(self) -> None:
        facts = self.facts
        kind, value = self._kind, self._value.strip()
        if kind == "e":
            known = value if value[:1] == "#" and value.isprintable() else "an error"
            self._add_problem(f"is {known}, which stands for no value")
        elif not self._size:
            if not self._has_formula or kind == "str":
                return
            self._add_problem("is a formula whose value was not saved")
        self._row_has_content = True
        facts.cells += 1
        facts.last_row = max(facts.last_row, self._row)
        facts.last_column = max(facts.last_column, self._column)
        facts.first_column = min(facts.first_column, self._column)
        if kind == "s":
            facts.texts += 1
            with suppress(ValueError, IndexError):
                facts.size += self._texts.sizes[int(value)]
        elif kind in ("str", "inlineStr"):
            facts.texts += 1
            facts.size += self._size
        if facts.cells % 1024 == 0 or self._size > CHUNK:
            _check_memory(facts.memory)

    def _add_problem(self, problem: str) -> None:
        self.facts.number_of_problems += 1
        self.facts.problems.setdefault(self._row, {})[self._column] = problem

    def _merge(self, reference: str) -> None:
        first, _, last = reference.partition(":")
        begin, end = PLACE(first), PLACE(last)
        if begin is not None and end is not None and int(begin[2]) < int(end[2]):
            rows, columns = (int(begin[2]), int(end[2])), (_number(begin[1]), _number(end[1]))
            self.facts.merged.append((*rows, *columns))
            if len(self.facts.merged) % 1024 == 0:
                _check_memory(self.facts.memory)


def _number(letters: str) -> int:
    """Return the number of a column from its letters."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number


def _check_memory(estimate: int) -> None:
    if estimate > MOST_MEMORY:
        raise UnusableError(
            f"its sheet may take {estimate >> 20:,} MiB to read, and the limit is "
            f"{MOST_MEMORY >> 20} MiB; save it as CSV UTF-8"
        )


def open_parts(file: BinaryIO, sheet: str | None) -> tuple[BinaryIO, str, SheetFacts]:
    """Return an archive of the parts of a sheet, its name, and facts about it.

    Args:
        sheet: Name of the sheet; None for the only visible one.

    Raises:
        UnusableError: The workbook or its sheet cannot be read.
    """
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as source:
            return _copy(source, sheet)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UnusableError(f"it is damaged: {error}") from error
    except RuntimeError as error:
        raise UnusableError(f"it cannot be decompressed: {error}") from error


def _check_directory(file: BinaryIO) -> None:
    """Refuse an archive with so many entries that their names alone take much memory."""
    file.seek(0)
    entries = 0
    rest = b""
    while data := file.read(CHUNK):
        data = rest + data
        entries += data.count(DIRECTORY_ENTRY)
        rest = data[-len(DIRECTORY_ENTRY) + 1 :]
        if entries > MOST_PARTS:
            raise UnusableError(f"it has more than {MOST_PARTS:,} parts; save it as CSV UTF-8")
    file.seek(0)


def _copy(source: zipfile.ZipFile, sheet: str | None) -> tuple[BinaryIO, str, SheetFacts]:
    names = set(source.namelist())
    if WORKBOOK not in names:
        raise UnusableError("it has no xl/workbook.xml; save it as .xlsx or as CSV UTF-8")
    sheets, relations, texts = _Elements("sheet"), _Elements("Relationship"), _SharedTexts()
    scanners: dict[str, _Scanner] = {WORKBOOK: sheets, RELATIONS: relations}
    # The archive is closed by its owner, or when it is collected.
    file = TemporaryFile()  # noqa: SIM115
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
            for part in OTHERS:
                if part in names:
                    _copy_part(source, target, part, MOST_OTHER_XML, scanners.get(part))
            name, relation = _chosen(sheets.found, sheet)
            path = _path_of(relations.found, relation)
            if path not in names:
                raise UnusableError(
                    f"it is damaged: it has no part for the sheet {name!r}; save it again as .xlsx"
                )
            if TEXTS in names:
                _copy_part(source, target, TEXTS, MOST_XML, texts)
            scanner = _Sheet(texts)
            _copy_part(source, target, path, MOST_XML, scanner)
            _check_memory(scanner.facts.memory + texts.size)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, name, scanner.facts


def _copy_part(
    source: zipfile.ZipFile,
    target: zipfile.ZipFile,
    path: str,
    most: int,
    scanner: _Scanner | None,
) -> None:
    copied = 0
    with source.open(path) as part, target.open(path, "w") as copy:
        while data := part.read(CHUNK):
            copied += len(data)
            if copied > most:
                raise UnusableError(
                    f"its {path} expands to more than {most >> 20} MiB; save it as CSV UTF-8"
                )
            copy.write(data)
            if scanner is not None:
                scanner.feed(data, is_last=False)
        if scanner is not None:
            scanner.feed(b"", is_last=True)


def _chosen(sheets: list[Attributes], sheet: str | None) -> tuple[str, str]:
    """Return the name and the relation of a sheet."""
    visible = [one for one in sheets if one.get("state", "visible") == "visible"]
    names = ", ".join(repr(one.get("name", "")) for one in visible[:20]) or "none"
    if sheet is not None:
        found = [one for one in sheets if one.get("name") == sheet]
        if not found:
            raise UnusableError(f"it has no sheet {sheet!r}; its sheets are {names}")
    elif len(visible) != 1:
        raise UnusableError(f"it has several sheets; name one of them with --sheet: {names}")
    else:
        found = visible
    return found[0].get("name", ""), found[0].get("id", "")


def _path_of(relations: list[Attributes], relation: str) -> str:
    for one in relations:
        if one.get("Id") == relation:
            if not one.get("Type", "").endswith("/worksheet"):
                raise UnusableError(
                    "its sheet is a chart or a macro and has no rows; name another with --sheet"
                )
            # A path that begins with a slash is one from the root of the archive.
            return posixpath.normpath(posixpath.join("/xl", one.get("Target", ""))).lstrip("/")
    raise UnusableError("it is damaged: a sheet has no part; save it again as .xlsx or CSV UTF-8")


def as_input_error(name: str, error: UnusableError) -> InputError:
    """Return the error for the user."""
    return InputError(f"{name} cannot be read as an Excel workbook: {error}")
