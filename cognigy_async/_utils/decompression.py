"""Decompression that a small input cannot use to fill the memory."""

from __future__ import annotations

import re
import zlib

MAX_MEMBERS = 10_000
"""Members of a gzip file that are decompressed, because an empty one takes 20 bytes."""

SLICE = 16 * 1024
"""Bytes given to zlib at a time. It copies what follows the end of a member."""

PADDING = re.compile(rb"\0+")
"""Zeros behind a compressed body, which gzip tools ignore."""

# The `wbits` of zlib.
GZIP = 31
ZLIB = 15
RAW_DEFLATE = -15


def decompressed(content: bytes, limit: int, *, gzip: bool) -> bytes:
    """Decompress a gzip file with all of its members (RFC 1952, section 2.2), or deflate data.

    By RFC 9110 deflate data has the zlib format, but some servers send raw deflate data.

    Returns:
        The data. If it has more than `limit` bytes, its first `limit + 1` bytes.

    Raises:
        ValueError: the data is not valid, or not complete.
    """
    header = int.from_bytes(content[:2])
    is_zlib = header >> 8 & 0x0F == zlib.DEFLATED and not header % 31
    wbits = GZIP if gzip else ZLIB if is_zlib else RAW_DEFLATE
    parts: list[bytes] = []
    size = position = 0
    for _ in range(MAX_MEMBERS):
        machine = zlib.decompressobj(wbits)
        while not machine.eof:
            piece = content[position : position + SLICE]
            if not piece:
                raise ValueError
            try:
                part = machine.decompress(piece, limit + 1 - size)
            except zlib.error:
                raise ValueError from None
            position += len(piece)
            size += len(part)
            parts.append(part)
            if size > limit:
                return b"".join(parts)
        position -= len(machine.unused_data)
        padding = PADDING.match(content, position)
        if padding is not None:
            position = padding.end()
        if position == len(content):
            return b"".join(parts)
        if not gzip:
            break
    raise ValueError
