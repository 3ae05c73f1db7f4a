"""Text in other encodings, read as UTF-8.

A byte sequence that is no text of the encoding becomes a byte that UTF-8 never has, so that it is
found where UTF-8 is checked: it is a fault of its row.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from ..errors import InputError
from .compression import ByteSource

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Encodings by the marks of files. That of UTF-32 begins as that of UTF-16."""
MARKS_BEGIN = tuple(mark[:1] for mark in BYTE_ORDER_MARKS)
LONGEST_MARK = 4
NEVER_IN_UTF_8 = b"\xff"


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return NEVER_IN_UTF_8 * (error.end - error.start), error.end
    raise error


codecs.register_error("cognigy_async.no_text", _replace)


def as_utf_8(
    head: bytes, source: ByteSource, encoding: str | None, name: str, note: Callable[[str], None]
) -> ByteSource:
    """Return a source of the text in UTF-8, without its byte-order mark.

    Args:
        head: First bytes of the text, which were already read.
        encoding: Encoding of the text; None for UTF-8, or UTF-16 if its mark says so.
        note: Takes remarks for the user.

    Raises:
        InputError: The mark says that the encoding is another one.
        EOFError: The input is compressed and was cut off.
        DamagedError: The input is compressed and cannot be decompressed.
    """
    while len(head) < LONGEST_MARK and any(mark.startswith(head) for mark in BYTE_ORDER_MARKS):
        data = source.read(LONGEST_MARK - len(head))
        if not data:
            break
        head += data
    mark = next(filter(head.startswith, BYTE_ORDER_MARKS), b"")
    marked = BYTE_ORDER_MARKS.get(mark, "utf-8")
    named = encoding or marked
    family = named.removesuffix("-sig").removesuffix("-le").removesuffix("-be")
    if mark and family != marked:
        raise InputError(
            f"{name} begins with the byte-order mark of {marked.upper()}, so that it is not "
            f"{encoding}. Leave --encoding out."
        )
    if mark and (family == "utf-8" or family != named):
        note("The input begins with a byte-order mark, which was skipped.")
        head = head[len(mark) :]
    elif mark and encoding is None:
        note(f"The input is {marked.upper()}, as its byte-order mark says.")
    whole = _Resumed(head, source)
    return whole if family == "utf-8" else _Transcoded(whole, named, note)


class _Resumed:
    """A source whose beginning was already read."""

    def __init__(self, head: bytes, source: ByteSource) -> None:
        self._head = head
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        head, self._head = self._head, b""
        return head or self._source.read(size)


class _Transcoded:
    """A source of text in UTF-8.

    Args:
        note: Takes a remark if the text seems to be UTF-8 already.
    """

    def __init__(self, source: ByteSource, encoding: str, note: Callable[[str], None]) -> None:
        self._source = source
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("cognigy_async.no_text")
        self._note: Callable[[str], None] | None = note
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Return the text of at most `size` bytes of the source; b"" at the end."""
        while not self._ended:
            data = self._source.read(size)
            self._ended = not data
            if self._note is not None and not data.isascii():
                self._compare_with_utf_8(data)
            text = self._decoder.decode(data, final=self._ended)
            if text:
                return text.encode(errors="cognigy_async.no_text")
        return b""

    def _compare_with_utf_8(self, data: bytes) -> None:
        """Note that the first text beyond ASCII is UTF-8, which other encodings hardly resemble."""
        note, self._note = self._note, None
        assert note is not None
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(data)
        except UnicodeDecodeError:
            return
        if not text.isascii() and "\0" not in text:
            note(
                f"The input was read as {self._encoding}, but looks like UTF-8. If letters are "
                "wrong, leave --encoding out."
            )
