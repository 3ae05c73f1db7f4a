"""Opens an input and yields what it has, row by row, in constant memory.

JSON Lines (plain, gzip or zstd), CSV (likewise) and Parquet, from a file or from standard input.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeAlias

from .errors import InputError
from .fingerprint import STRETCH, Fingerprint, HashedFile, Mark, compare_beginning
from .lines import blocks_of_lines
from .tables import Record, csv_records, parquet_records

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]

PARQUET = b"PAR1"
STDIN = "-"


class Reader:
    """The rows of one input, from its beginning to its end, once.

    Attributes:
        name: of the input, for messages.
        format: which kind it is.
        fingerprint: its size and time when it was opened.
        notes: what a user should know of it, and is no fault.
    """

    def __init__(
        self, file: BinaryIO, name: str, kind: Format, texts: Collection[str], known: Sequence[Mark]
    ) -> None:
        self._file = file
        self.name = name
        self.format = kind
        self.notes: list[str] = []
        self.fingerprint = Fingerprint.of(file)
        self._hashed: HashedFile | None = None
        self._marks: list[Mark] = []
        if kind == "parquet":
            self._whole(known)
            self._records = parquet_records(file, name, self.notes.append)
            return
        self._hashed = HashedFile(file, name, known)
        blocks = blocks_of_lines(self._hashed, name, self.notes.append)
        self._records = csv_records(blocks, name, texts) if kind == "csv" else _json_records(blocks)

    def __iter__(self) -> Iterator[list[Record]]:
        return self._records

    def take_marks(self) -> list[Mark]:
        """The marks that were made since the last call."""
        if self._hashed is not None:
            self._marks, self._hashed.marks = self._hashed.marks, []
        taken, self._marks = self._marks, []
        return taken

    @property
    def bytes_read(self) -> int:
        """How much of the file was read; what is compressed counts as it is."""
        return self._hashed.offset if self._hashed is not None else self._file.tell()

    def changed(self) -> str | None:
        """How the file differs from what it was when it was opened, None where it does not."""
        if self.fingerprint.size is None:
            return None
        if self._is_standard_input:
            return self.fingerprint.change(Fingerprint.of(self._file))
        try:
            found = Fingerprint.from_stat(Path(self.name).stat())
        except OSError:
            return "it is no longer there"
        return self.fingerprint.change(found)

    @property
    def _is_standard_input(self) -> bool:
        return self._file is getattr(sys.stdin, "buffer", None)

    def _whole(self, known: Sequence[Mark]) -> None:
        """Parquet is not read from front to back: its hash is taken before."""
        digest = _digest(self._file)
        mark = Mark(self._file.tell(), digest, last=True)
        if known and known[-1] != mark:
            raise InputError(
                f"{self.name} is not the input that this job began with: its content differs. Give "
                "the same input, or start a new job with another journal."
            )
        self._marks.append(mark)
        self._file.seek(0)

    def close(self) -> None:
        """Close the file; a read that waits in another thread ends."""
        if self._hashed is not None:
            self._hashed.stop()
        if not self._is_standard_input:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_input(
    source: str | Path,
    *,
    format: Format | None = None,  # noqa: A002 - it is the user's word for it
    text_columns: Collection[str] = (),
    known: Sequence[Mark] = (),
) -> Reader:
    """Open an input.

    Args:
        source: a path, or ``"-"`` for standard input.
        format: by default what the name and the first bytes of a file tell, else JSON Lines.
        text_columns: columns of CSV whose cells are not taken for JSON.
        known: the marks of an earlier reading, which this one has to agree with.

    Raises:
        InputError: it cannot be opened, or differs from the earlier reading.
    """
    name = "standard input" if source == STDIN else str(source)
    given: Any = sys.stdin
    if source == STDIN:
        if given is None:
            raise InputError("standard input is closed")
        file: BinaryIO = given.buffer
    else:
        try:
            file = Path(source).open("rb")  # noqa: SIM115 - the reader closes it
        except OSError as error:
            raise InputError(f"{name} cannot be opened: {error.strerror}") from error
    try:
        kind = format or _guess(name, file)
        if kind == "parquet" and not file.seekable():
            raise InputError(f"{name}: Parquet is not read in order; give it as a file")
        if text_columns and kind != "csv":
            raise InputError(f"{name} is no CSV file; only its columns can be declared text")
        return Reader(file, name, kind, text_columns, known)
    except BaseException:
        if source != STDIN:
            file.close()
        raise


def compare(source: str | Path, known: Sequence[Mark]) -> None:
    """Compare the beginning of a file with an earlier reading of it.

    Raises:
        InputError: it differs, or cannot be opened.
    """
    try:
        with Path(source).open("rb") as file:
            compare_beginning(file, str(source), known)
    except OSError as error:
        raise InputError(f"{source} cannot be opened: {error.strerror}") from error


def _digest(file: BinaryIO) -> str:
    made = hashlib.sha256()
    while data := file.read(STRETCH):
        made.update(data)
    return made.hexdigest()


def _guess(name: str, file: BinaryIO) -> Format:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst", ".zstd"):
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last == ".csv":
        return "csv"
    if last in (".parquet", ".pq"):
        return "parquet"
    if file.seekable():
        head = file.read(len(PARQUET))
        file.seek(0)
        if head == PARQUET:
            return "parquet"
    return "jsonl"


def _json_records(blocks: Iterator[tuple[int, list[bytes]]]) -> Iterator[list[Record]]:
    for first, lines in blocks:
        yield [
            (number, line, None)
            for number, line in enumerate(lines, first)
            if line and not line.isspace()
        ]
