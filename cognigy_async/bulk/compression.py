"""What a compressed byte stream holds: gzip or zstd, told by its first bytes."""

from __future__ import annotations

import gzip
import sys
from typing import Any, BinaryIO, Protocol, cast

from .errors import InputError

BLOCK = 1 << 18
"""Bytes that are asked for at a time."""
PIECE = 1 << 14
"""Bytes of zstd at a time: what becomes of them may be hundreds of times as much."""

GZIP = b"\x1f\x8b"
ZSTANDARD = b"\x28\xb5\x2f\xfd"


class ByteSource(Protocol):
    """What can be read in pieces."""

    def read(self, size: int = -1, /) -> bytes:
        """About `size` bytes; none at the end."""
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


class _Zstandard:
    """The frames of zstd, one after the other; the library's own reader passes over a cut."""

    def __init__(self, source: ByteSource, decompressor: Any) -> None:
        self._source = source
        self._decompressor = decompressor
        self._frame: Any = None
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        """What the next pieces hold, whatever `size` says.

        Raises:
            EOFError: the last frame is not complete.
        """
        while data := self._left or self._source.read(PIECE):
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            out: bytes = self._frame.decompress(data)
            self._left = b""
            if self._frame.eof:
                self._left = self._frame.unused_data
                self._frame = None
            if out:
                return out
        if self._frame is not None:
            raise EOFError
        return b""


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
    return _Zstandard(source, zstandard.ZstdDecompressor())
