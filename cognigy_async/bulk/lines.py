"""Lines of a byte stream, in blocks: decompressed, without a byte-order mark, numbered from 1."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast

from .errors import InputError

__all__ = ["ByteSource", "blocks_of_lines", "decompressed"]

BLOCK = 1 << 18
LONGEST_LINE = 1 << 26
"""Bytes. A row that the server accepts is far shorter."""

GZIP = b"\x1f\x8b"
ZSTANDARD = b"\x28\xb5\x2f\xfd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class ByteSource(Protocol):
    """What can be read in pieces."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class _Peeked:
    """A source of which the first bytes were looked at."""

    def __init__(self, source: ByteSource, head: bytes) -> None:
        self._source = source
        self._head = head

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            if size < 0:
                size = BLOCK
            taken, self._head = self._head[:size], self._head[size:]
            return taken
        return self._source.read(size)


def decompressed(source: ByteSource, name: str) -> ByteSource:
    """The source itself, or what gzip or zstd made of it: its first bytes tell, not its name.

    Raises:
        InputError: zstd, and nothing that reads it is installed.
    """
    head = b""
    while len(head) < len(ZSTANDARD) and (more := source.read(len(ZSTANDARD) - len(head))):
        head += more
    peeked = _Peeked(source, head)
    if head.startswith(GZIP):
        return cast("ByteSource", gzip.GzipFile(fileobj=cast("BinaryIO", peeked)))
    if head.startswith(ZSTANDARD):
        return _zstandard(peeked, name)
    return peeked


def _zstandard(source: ByteSource, name: str) -> ByteSource:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return cast("ByteSource", zstd.ZstdFile(cast("BinaryIO", source)))
    try:
        import zstandard
    except ImportError as error:
        raise InputError(
            f"{name} is compressed with zstd, which needs an extra: "
            "pip install 'cognigy-async[zstd]'"
        ) from error
    reader = zstandard.ZstdDecompressor().stream_reader(
        cast("BinaryIO", source), read_across_frames=True
    )
    return cast("ByteSource", reader)


def blocks_of_lines(
    source: ByteSource, name: str, note: Callable[[str], None]
) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of whole lines without their ends, each with the number of its first line.

    Nothing is read before the first is asked for: a pipe may keep its reader waiting.

    Raises:
        InputError: it cannot be decompressed, is UTF-16, or is not made of lines.
    """
    source = decompressed(source, name)
    line = 1
    rest = b""
    first = True
    while data := _read(source, name, line):
        data = rest + data
        if first and (len(data) >= len(BYTE_ORDER_MARK) or not BYTE_ORDER_MARK.startswith(data)):
            first = False
            data = _without_mark(data, name, note)
        lines = data.split(b"\n")
        rest = lines.pop()
        if len(rest) > LONGEST_LINE:
            raise InputError(
                f"{name}: line {line + len(lines)} is longer than {LONGEST_LINE:,} bytes; this is "
                "no file of rows"
            )
        if lines:
            yield line, lines
            line += len(lines)
    if rest:
        note(
            f"The last line, {line}, has no newline at its end; it was taken as it is. If the file "
            "was cut off, so may be this line."
        )
        yield line, [rest]


def _without_mark(data: bytes, name: str, note: Callable[[str], None]) -> bytes:
    if data.startswith(UTF_16_MARKS):
        raise InputError(f"{name} is UTF-16; save it as UTF-8")
    if not data.startswith(BYTE_ORDER_MARK):
        return data
    note("The input begins with a byte-order mark, which was left out.")
    return data[len(BYTE_ORDER_MARK) :]


def _read(source: ByteSource, name: str, line: int) -> bytes:
    try:
        return source.read(BLOCK)
    except EOFError as error:
        raise InputError(
            f"{name} was cut off: the compressed file ends early, at about line {line}. What was "
            "before that has been used."
        ) from error
    except (OSError, zlib.error) as error:
        raise InputError(f"{name} cannot be decompressed after line {line}: {error}") from error
    except Exception as error:
        # zstandard has an exception of its own, which is there only where it is installed.
        if type(error).__name__ != "ZstdError":
            raise
        raise InputError(f"{name} cannot be decompressed after line {line}: {error}") from error
