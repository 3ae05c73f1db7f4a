"""Lines of a byte stream, in blocks: without a byte-order mark, numbered from 1."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from .compression import BLOCK, ByteSource, decompressed
from .errors import InputError

LONGEST_LINE = 1 << 24
"""Bytes. A row that the server accepts is far shorter."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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
