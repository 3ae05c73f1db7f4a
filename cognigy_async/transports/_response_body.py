"""Headers and body of a response: header names, framing, size limit, content encoding."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterable, Iterable, Mapping

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Several times the size of the largest state, which is two contexts of 1.5 MB."""

ACCEPTED_ENCODINGS = "gzip, deflate"
MAX_ENCODINGS = 2
MAX_LENGTH_DIGITS = 18
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

WITHOUT_BODY = frozenset({204, 205, 304})
CUT_OFF = "the body is cut off, or not valid in HTTP"
NOT_IN_TIME = "the body was not complete in time"
BAD_ENCODING = "the body does not match its Content-Encoding"


class BodyError(Exception):
    """The head of a response is complete, and its body cannot be used; the text says why."""


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers with lower-case names. Repeated ones are joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def has_unclear_end(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the server may see the end of the body in another place than the client.

    That is so with two lengths, and with a length of a body that the status does not allow
    (RFC 9112, section 6.3). What follows may then be a part of this response.
    """
    if status in WITHOUT_BODY:
        return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    return "transfer-encoding" in headers and "content-length" in headers


def too_large(limit: int) -> BodyError:
    """Return the error for a body of more than `limit` bytes."""
    return BodyError(f"the body is larger than max_response_bytes={limit}")


async def read_body(chunks: AsyncIterable[bytes], headers: Mapping[str, str], limit: int) -> bytes:
    """Return the decoded body of a response. Do not read more than `limit` bytes.

    Raises:
        BodyError: the body is larger, or not encoded as its headers say.
    """
    validate_length(headers.get("content-length"), limit)
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        parts.append(chunk)
    return decoded(b"".join(parts), headers, limit)


def problem_of(error: Exception) -> str:
    """Return the text about a body that could not be read."""
    if isinstance(error, BodyError):
        return str(error)
    return NOT_IN_TIME if isinstance(error, TimeoutError) else CUT_OFF


def validate_length(content_length: str | None, limit: int) -> None:
    """Check a Content-Length header, so that a body that is too large is not read.

    Raises:
        BodyError: the header announces more than `limit` bytes.
    """
    if content_length is None or not content_length.isdecimal():
        return
    if len(content_length) > MAX_LENGTH_DIGITS or int(content_length) > limit:
        raise too_large(limit)


def decoded(content: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the body without its content encoding (RFC 9110, section 8.4).

    Stop decompressing after `limit` bytes, so that a small response cannot fill the memory.

    Raises:
        BodyError: the body is larger, or not encoded as its headers say.
    """
    encodings = headers.get("content-encoding")
    if encodings is None or not content:
        return content
    names = [name.strip() for name in encodings.lower().split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_ENCODINGS:
        raise BodyError("the body is encoded too many times")
    for name in reversed(names):
        if name in ("gzip", "x-gzip"):
            content = _decompressed(content, GZIP, limit)
        elif name == "deflate":
            # By RFC 9110 the data has the zlib format, but some servers send raw deflate data.
            header = int.from_bytes(content[:2])
            is_zlib = header >> 8 & 0x0F == zlib.DEFLATED and not header % 31
            content = _decompressed(content, ZLIB if is_zlib else RAW_DEFLATE, limit)
        else:
            raise BodyError("the body is encoded in a way that was not requested")
    return content


def _decompressed(content: bytes, wbits: int, limit: int) -> bytes:
    """Decompress one stream, or all members of a gzip file (RFC 1952, section 2.2)."""
    parts: list[bytes] = []
    size = position = 0
    for _ in range(MAX_MEMBERS):
        machine = zlib.decompressobj(wbits)
        while not machine.eof:
            piece = content[position : position + SLICE]
            if not piece:
                raise BodyError(BAD_ENCODING)
            try:
                part = machine.decompress(piece, limit + 1 - size)
            except zlib.error:
                raise BodyError(BAD_ENCODING) from None
            position += len(piece)
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
        position -= len(machine.unused_data)
        padding = PADDING.match(content, position)
        if padding is not None:
            position = padding.end()
        if position == len(content):
            return b"".join(parts)
        if wbits != GZIP:
            break
    raise BodyError(BAD_ENCODING)
