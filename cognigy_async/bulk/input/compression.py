"""Decompression of bzip2, gzip, xz and zstd, recognised by their first bytes.

Each read returns a bounded number of bytes, however far the content expands.
"""

from __future__ import annotations

import bz2
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from ..errors import InputError
from .fingerprint import HashedFile

CHUNK = 1 << 14
"""Compressed bytes to read at a time."""
PIECE = 1 << 8
"""Bytes of zstd to decompress at a time. They become at most 8 MiB."""
MOST_MEMORY = 72 << 20
"""Bytes that xz may take. `xz -9` needs 65 MiB."""
LARGEST_WINDOW = 1 << 26
"""Bytes of content that zstd may refer back to. Only `zstd --long` and `--ultra` need more."""
LONGEST_MAGIC = 6


class ByteSource(Protocol):
    """A binary source read in pieces."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; b"" at the end."""
        ...


class DamagedError(Exception):
    """Compressed content that cannot be decompressed; the text says why."""


class Decompressor(Protocol):
    """A decompressor of one member of a file, with the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool:
        """Return whether the end of the member was reached."""
        ...

    @property
    def needs_input(self) -> bool:
        """Return whether nothing more is returned without new data."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Return the data after the end of the member."""
        ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most `max_length` bytes of content."""
        ...


class _Gzip:
    """A decompressor of gzip."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._member.decompress(self._member.unconsumed_tail + data, max_length)


class _Zstandard:
    """A decompressor of zstd. The output of `zstandard` is bounded by its input only."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._input = memoryview(b"")
        self._output = bytearray()

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof) and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._output and not self._input

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + bytes(self._input)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if data:
            self._input = memoryview(data)
        while self._input and len(self._output) < max_length and not self._frame.eof:
            self._output += self._frame.decompress(self._input[:PIECE])
            self._input = self._input[PIECE:]
        content = bytes(self._output[:max_length])
        del self._output[:max_length]
        return content


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)


def _zstd() -> Decompressor:
    if sys.version_info >= (3, 14):
        from compression import zstd

        window = zstd.DecompressionParameter.window_log_max
        limit = {window: LARGEST_WINDOW.bit_length() - 1}
        return cast("Decompressor", zstd.ZstdDecompressor(options=limit))
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    return _Zstandard(decompressor.decompressobj())


Format: TypeAlias = "tuple[str, Callable[[], Decompressor]]"

FORMATS: dict[re.Pattern[bytes], Format] = {
    re.compile(rb"\x1f\x8b"): ("gzip", _Gzip),
    re.compile(rb"BZh[1-9][1\x17]"): ("bzip2", bz2.BZ2Decompressor),
    re.compile(rb"\xfd7zXZ\0"): ("xz", _xz),
    # A skippable frame may come before the first frame with content.
    re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"): ("zstd", _zstd),
}


def decompressed(source: HashedFile, name: str) -> ByteSource:
    """Return a source of the decompressed content, or `source` itself if it is not compressed.

    Raises:
        InputError: The input is zstd and no library for it is installed.
    """
    head = source.peek(LONGEST_MAGIC)
    for magic, compression in FORMATS.items():
        if not magic.match(head):
            continue
        try:
            return Decompressed(source, compression)
        except ImportError as error:
            raise InputError(
                f"{name} is compressed with zstd, which needs an extra: "
                "pip install 'cognigy-async[zstd]'"
            ) from error
    return source


class Decompressed:
    """The content of a compressed source, which consists of members one after the other.

    Raises:
        ImportError: The compression is zstd, and no library for it is installed.
    """

    def __init__(self, source: ByteSource, compression: Format) -> None:
        self._source = source
        self._name, self._new_member = compression
        self._member: Decompressor | None = self._new_member()
        self._has_begun = False
        self._is_first = True
        self._unused = b""

    def read(self, size: int = CHUNK) -> bytes:
        """Return at most `size` bytes of the content; b"" at the end.

        Raises:
            EOFError: The last member is truncated.
            DamagedError: The content cannot be decompressed further.
        """
        while True:
            data = b""
            if self._member is None or self._member.needs_input:
                data, self._unused = self._unused or self._source.read(CHUNK), b""
                if not data and self._member is None:
                    return b""
                is_end = not data
            else:
                is_end = False
            if self._member is None:
                self._member, self._has_begun, self._is_first = self._new_member(), False, False
            content = self._decompressed(self._member, data, size)
            self._has_begun = True
            if self._member.eof:
                self._unused, self._member = self._member.unused_data, None
            elif is_end and not content:
                raise EOFError
            if content:
                return content

    def _decompressed(self, member: Decompressor, data: bytes, size: int) -> bytes:
        try:
            return member.decompress(data, size)
        except Exception as error:
            # Compare by name: the exception can be imported only if zstandard is installed.
            known = isinstance(error, OSError | zlib.error | lzma.LZMAError)
            if not known and type(error).__name__ != "ZstdError":
                raise
            reason = str(error)
            if "memory" in reason.lower():
                reason = "its compression needs too much memory"
            elif not (self._has_begun or self._is_first):
                reason = f"there are bytes after its end that are not {self._name}"
            raise DamagedError(reason) from error
