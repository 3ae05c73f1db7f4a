"""Decompression of gzip and zstd, recognised by their first bytes."""

from __future__ import annotations

import gzip
import sys
from typing import Any, BinaryIO, Protocol, cast

from ..errors import InputError
from .fingerprint import HashedFile

CHUNK = 1 << 14
"""Bytes of zstd to decompress at a time. The result may be hundreds of times longer."""

GZIP = b"\x1f\x8b"
ZSTANDARD = b"\x28\xb5\x2f\xfd"


class ByteSource(Protocol):
    """A binary source read in pieces."""

    def read(self, size: int = -1, /) -> bytes:
        """Return about `size` bytes; b"" at the end."""
        ...


class _ZstandardReader:
    """A zstd reader that detects a truncated frame. The reader of `zstandard` does not."""

    def __init__(self, source: ByteSource, decompressor: Any) -> None:
        self._source = source
        self._decompressor = decompressor
        self._frame: Any = None
        self._unused = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return the decompressed content of the next bytes. Its length has no limit.

        Raises:
            EOFError: The last frame is truncated.
        """
        while data := self._unused or self._source.read(CHUNK):
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            content: bytes = self._frame.decompress(data)
            self._unused = b""
            if self._frame.eof:
                self._unused = self._frame.unused_data
                self._frame = None
            if content:
                return content
        if self._frame is not None:
            raise EOFError
        return b""


def decompressed(source: HashedFile, name: str) -> ByteSource:
    """Return a source of the decompressed content, or `source` itself if it is not compressed.

    Raises:
        InputError: The input is zstd and no library for it is installed.
    """
    head = source.peek(len(ZSTANDARD))
    if head.startswith(GZIP):
        return cast("ByteSource", gzip.GzipFile(fileobj=cast("BinaryIO", source)))
    if not head.startswith(ZSTANDARD):
        return source
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
    return _ZstandardReader(source, zstandard.ZstdDecompressor())
