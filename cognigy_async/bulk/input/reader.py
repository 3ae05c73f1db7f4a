"""Records of an input, in bounded memory.

JSON Lines and CSV (plain, bzip2, gzip, xz or zstd) from a file or from standard input, and Parquet
and Excel from a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from . import row
from .columns import Findings, Record
from .compression import ByteSource, DamagedError, decompressed
from .content import TextFormat, refuse_other_content
from .encoding import MARKS_BEGIN, as_utf_8
from .excel import excel_records
from .fingerprint import Fingerprint, HashedFile, Mark
from .parquet import parquet_records, validate_footer
from .row import TextRow, too_long
from .table_options import NO_OPTIONS, Format, TableOptions
from .tables import KEPT, LineBlock, csv_records

STDIN = "-"
PARQUET = b"PAR1"
BLOCK = 1 << 18
"""Bytes read at a time."""
DOS_END_OF_FILE = b"\x1a"
COMPRESSED = (".bz2", ".gz", ".xz", ".zst", ".zstd")


class InputReader:
    """The records of one input, read once from its beginning to its end.

    Attributes:
        name: Name of the input, for messages.
        fingerprint: Size and modification time of the input when it was opened.
        findings: Remarks for the user, and facts that reading brings to light.
        notes: The remarks. They are not faults.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        kind: Format,
        table: TableOptions,
        known: Sequence[Mark],
    ) -> None:
        self._file = file
        self._is_standard_input = file is getattr(sys.stdin, "buffer", None)
        self.name = name
        self.findings = Findings()
        self.notes = self.findings.notes
        self._hashed: HashedFile | None = None
        if kind in ("excel", "parquet"):
            if kind == "parquet":
                validate_footer(file, name)
                file.seek(0)
            # These are not read sequentially, so hash the whole file first.
            whole = HashedFile(file, name, known)
            self.fingerprint = whole.fingerprint
            while whole.read(BLOCK):
                pass
            self._marks = whole.marks
            file.seek(0)
            if kind == "excel":
                self._records = excel_records(file, name, table, self.findings)
            else:
                self.findings.records = _count_of_parquet(file)
                self._records = parquet_records(file, name, table, self.findings)
            return
        self._hashed = HashedFile(file, name, known)
        self.fingerprint = self._hashed.fingerprint
        self._marks = self._hashed.marks
        is_csv = kind == "csv"
        lines = _LineReader(
            self._hashed, name, "csv" if is_csv else "jsonl", table.encoding, self.notes.append
        )
        blocks = lines.blocks()
        self._records = (
            csv_records(blocks, name, table, self.findings) if is_csv else _json_records(blocks)
        )

    def __iter__(self) -> Iterator[list[Record]]:
        return self._records

    def take_marks(self) -> list[Mark]:
        """Return the marks computed since the last call."""
        taken = self._marks.copy()
        self._marks.clear()
        return taken

    @property
    def bytes_read(self) -> int:
        """Number of bytes read, before decompression."""
        return self._hashed.offset if self._hashed is not None else self._file.tell()

    def changed(self) -> str | None:
        """Describe how the file changed since it was opened. Return None if it did not."""
        if self.fingerprint.size is None:
            return None
        if self._is_standard_input:
            return self.fingerprint.change(Fingerprint.of(self._file))
        try:
            found = Fingerprint.from_stat(Path(self.name).stat())
        except OSError:
            return "it is no longer there"
        return self.fingerprint.change(found)

    def close(self) -> None:
        """Close the file, and end a read that is waiting in another thread."""
        if self._hashed is not None:
            self._hashed.stop()
        if not self._is_standard_input:
            self._file.close()


def open_input(
    source: str | Path,
    *,
    format: Format | None = None,  # noqa: A002 - the name of the option
    table: TableOptions = NO_OPTIONS,
    known: Sequence[Mark] = (),
) -> InputReader:
    """Open an input.

    Args:
        source: A path, or ``"-"`` for standard input.
        format: By default taken from the name and the first bytes of a file, else JSON Lines.
        table: Options of tables.
        known: Marks of an earlier reading. The content must match them.

    Raises:
        InputError: The input cannot be opened, or differs from the earlier reading.
    """
    name = "standard input" if source == STDIN else str(source)
    given: Any = sys.stdin
    if source == STDIN:
        if given is None:
            raise InputError("standard input is closed")
        file: BinaryIO = given.buffer
    else:
        file = _opened(source)
    try:
        kind = format or _guess_format(name, file)
        if table is not NO_OPTIONS:
            table.refuse_unused(kind, name)
        if kind in ("excel", "parquet") and not file.seekable():
            what = "Excel" if kind == "excel" else "Parquet"
            raise InputError(f"{name}: {what} cannot be read from a pipe; give it as a file")
        return InputReader(file, name, kind, table, known)
    except BaseException:
        if source != STDIN:
            file.close()
        raise


def compare_input(source: str | Path, known: Sequence[Mark]) -> None:
    """Compare a file with an earlier reading, up to the end of that reading.

    Raises:
        InputError: The file differs, or cannot be opened.
    """
    with _opened(source) as file:
        HashedFile(file, str(source), known).compare()


def _opened(source: str | Path) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        if Path(source).is_dir():
            raise InputError(f"{source} is a folder; give one of its files") from error
        raise InputError(f"{source} cannot be opened: {error.strerror}") from error


def _count_of_parquet(file: BinaryIO) -> int | None:
    """Return the number of rows that a footer tells; None if it cannot be read, now or later."""
    try:
        from pyarrow import parquet

        count: int = parquet.ParquetFile(file).metadata.num_rows
    except Exception:
        return None
    finally:
        file.seek(0)
    return count


def _guess_format(name: str, file: BinaryIO) -> Format:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in (".csv", ".tsv"):
        return "csv"
    if last in (".xlsx", ".xlsm"):
        return "excel"
    if last in (".parquet", ".pq"):
        return "parquet"
    if file.seekable():
        head = file.read(len(PARQUET))
        file.seek(0)
        if head == PARQUET:
            return "parquet"
    return "jsonl"


def _json_records(blocks: Iterator[LineBlock]) -> Iterator[list[Record]]:
    for block in blocks:
        if block.quotes is not None:
            fault = too_long()
            yield [(block.first, TextRow(block.lines[0]), fault)]
            continue
        yield [
            (number, line, None)
            for number, line in enumerate(block.lines, block.first)
            if line and not line.isspace()
        ]


@dataclass(slots=True)
class _LineReader:
    """The lines of one file."""

    _file: HashedFile
    _name: str
    _kind: TextFormat
    _encoding: str | None
    _note: Callable[[str], None]
    _unread: bytes = b""
    _line: int = 1
    """Number of the next line."""

    def blocks(self) -> Iterator[LineBlock]:
        """Yield the lines. Begin to read only then, because a pipe may block its reader.

        Raises:
            InputError: The input cannot be decompressed, or has no rows of its format.
        """
        source = decompressed(self._file, self._name)
        head = self._read(source)
        if self._encoding is None and head[:1] not in MARKS_BEGIN:
            self._unread = head
        else:
            try:
                source = as_utf_8(head, source, self._encoding, self._name, self._note)
            except (EOFError, DamagedError) as error:
                raise self._damage(error) from error
        rest = b""
        while data := self._read(source):
            data = rest + data
            lines = data.split(b"\n")
            rest = lines.pop()
            if lines:
                yield from self._numbered(lines)
            if len(rest) > row.LONGEST_ROW:
                yield self._long_line(source, rest)
                rest = b""
        rest = rest.rstrip(DOS_END_OF_FILE)
        if rest:
            self._note(
                f"The last line, {self._line}, has no newline at its end; it was used as it is. If "
                "the file was truncated, this line may be incomplete."
            )
            yield from self._numbered([rest])

    def _numbered(self, lines: list[bytes]) -> Iterator[LineBlock]:
        if self._line == 1:
            self._refuse_other_content(lines)
        if len(lines[0]) > row.LONGEST_ROW:
            # A block is shorter than this, so only its first line can be so long.
            line = lines.pop(0)
            yield LineBlock(self._line, [line[:KEPT]], line.count(b'"'))
            self._line += 1
        if lines:
            yield LineBlock(self._line, lines)
            self._line += len(lines)

    def _long_line(self, source: ByteSource, beginning: bytes) -> LineBlock:
        """Read to the end of a line that is too long, and keep its beginning."""
        if self._line == 1:
            self._refuse_other_content([beginning])
        quotes = beginning.count(b'"')
        newline = b""
        while not newline and (data := self._read(source)):
            part, newline, self._unread = data.partition(b"\n")
            quotes += part.count(b'"')
        self._line += 1
        return LineBlock(self._line - 1, [beginning[:KEPT]], quotes)

    def _refuse_other_content(self, lines: list[bytes]) -> None:
        if self._kind == "csv" or not (lines[0][:1] == b"{" and lines[0].rstrip()[-1:] == b"}"):
            refuse_other_content(lines, self._name, self._kind)

    def _read(self, source: ByteSource) -> bytes:
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            return source.read(BLOCK)
        except (EOFError, DamagedError) as error:
            raise self._damage(error) from error

    def _damage(self, error: EOFError | DamagedError) -> InputError:
        """Return the error for the user of compressed content that is damaged."""
        if isinstance(error, EOFError):
            return InputError(
                f"{self._name} was cut off: the compressed file ends early, at about line "
                f"{self._line}. The rows before that have been used."
            )
        return InputError(
            f"{self._name} cannot be decompressed further at about line {self._line}: {error}. "
            "The rows before that have been used. If the file is intact, decompress it with "
            "another program and start a new job with the content."
        )
