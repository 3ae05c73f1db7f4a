"""Headers and body of a response: header names, size limit, content encoding."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Several times the size of the largest state, which is two contexts of 1.5 MB."""

ACCEPTED_ENCODINGS = "gzip, deflate"
MAX_ENCODINGS = 2
MAX_LENGTH_DIGITS = 18

# The `wbits` of zlib.
GZIP = 31
ZLIB = 15
RAW_DEFLATE = -15


class UnusableResponseError(Exception):
    """There is a response, but its body is too large or malformed."""


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers with lower-case names. Repeated ones are joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def too_large(limit: int) -> UnusableResponseError:
    """Return the error for a body of more than `limit` bytes."""
    return UnusableResponseError(f"the response is larger than max_response_bytes={limit}")


def validate_length(content_length: str | None, limit: int) -> None:
    """Check a Content-Length header, so that a body that is too large is not read.

    Raises:
        UnusableResponseError: the header announces more than `limit` bytes.
    """
    if content_length is None or not content_length.isdecimal():
        return
    if len(content_length) > MAX_LENGTH_DIGITS or int(content_length) > limit:
        raise too_large(limit)


def decoded(content: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the body without its content encoding (RFC 9110, section 8.4).

    Stop decompressing after `limit` bytes, so that a small response cannot fill the memory.

    Raises:
        UnusableResponseError: the body is larger, or not encoded as its headers say.
    """
    encodings = headers.get("content-encoding")
    if encodings is None or not content:
        return content
    names = encodings.lower().split(",")
    if len(names) > MAX_ENCODINGS:
        raise UnusableResponseError("the response is encoded too many times")
    for name in map(str.strip, reversed(names)):
        if name in ("gzip", "x-gzip"):
            content = _decompressed(content, GZIP, limit)
        elif name == "deflate":
            # By RFC 9110 the data has the zlib format, but some servers send raw deflate data.
            is_zlib = content[0] & 0x0F == zlib.DEFLATED and not int.from_bytes(content[:2]) % 31
            content = _decompressed(content, ZLIB if is_zlib else RAW_DEFLATE, limit)
        elif name not in ("", "identity"):
            raise UnusableResponseError("the response is encoded in a way that was not requested")
    return content


BAD_ENCODING = "the response body does not match its Content-Encoding"


def _decompressed(content: bytes, wbits: int, limit: int) -> bytes:
    decompressor = zlib.decompressobj(wbits)
    try:
        plain = decompressor.decompress(content, limit + 1)
    except zlib.error:
        raise UnusableResponseError(BAD_ENCODING) from None
    if len(plain) > limit:
        raise too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise UnusableResponseError(BAD_ENCODING)
    return plain
