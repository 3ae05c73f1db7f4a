"""Lines of a text input, read in blocks in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InputError
from .compression import ByteSource, DamagedError, decompressed
from .content import TextFormat, refuse_other_content
from .fingerprint import HashedFile

BLOCK = 1 << 18
"""Bytes read at a time."""
LONGEST_LINE = 5 << 19
"""Bytes of a line of JSON or of a row of CSV. A row that may be sent has less than 2 MiB."""
KEPT = 1000
"""Bytes kept of a line that is too long."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
DOS_END_OF_FILE = b"\x1a"


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Consecutive lines without newlines.

    Attributes:
        first: Number of the first line, from 1.
        lines: The lines.
        quotes: For the beginning of one line that is too long, the number of all quotes in it.
    """

    first: int
    lines: list[bytes]
    quotes: int | None = None


class LineReader:
    """The lines of one file."""

    def __init__(
        self, file: HashedFile, name: str, kind: TextFormat, note: Callable[[str], None]
    ) -> None:
        self._file = file
        self._name = name
        self._kind: TextFormat = kind
        self._note = note
        self._unread = b""
        self._line = 1
        """Number of the next line."""

    def blocks(self) -> Iterator[LineBlock]:
        """Yield the lines. Begin to read only then, because a pipe may block its reader.

        Raises:
            InputError: The input cannot be decompressed, or has no rows of its format.
        """
        source = decompressed(self._file, self._name)
        rest = b""
        is_first = True
        while data := self._read(source):
            data = rest + data
            if is_first and (len(data) >= 3 or not BYTE_ORDER_MARK.startswith(data)):
                is_first = False
                data = self._without_mark(data)
            lines = data.split(b"\n")
            rest = lines.pop()
            if lines:
                yield from self._numbered(lines)
            if len(rest) > LONGEST_LINE:
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
        if len(lines[0]) > LONGEST_LINE:
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
        refuse_other_content(lines, self._name, self._kind)

    def _without_mark(self, data: bytes) -> bytes:
        if data.startswith(UTF_16_MARKS):
            raise InputError(f"{self._name} is UTF-16; save it as UTF-8")
        if not data.startswith(BYTE_ORDER_MARK):
            return data
        self._note("The input begins with a byte-order mark, which was skipped.")
        return data[len(BYTE_ORDER_MARK) :]

    def _read(self, source: ByteSource) -> bytes:
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            return source.read(BLOCK)
        except EOFError as error:
            raise InputError(
                f"{self._name} was cut off: the compressed file ends early, at about line "
                f"{self._line}. The rows before that have been used."
            ) from error
        except DamagedError as error:
            raise InputError(
                f"{self._name} cannot be decompressed further at about line {self._line}: {error}. "
                "The rows before that have been used. If the file is intact, decompress it with "
                "another program and start a new job with the content."
            ) from error
