"""An answer as it comes: its headers as text, how large it may be, what it is without encoding."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from .._utils.arguments import validate_count

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Several times what the largest state takes: two contexts of 1.5 MB."""

ACCEPTED_ENCODINGS = "gzip, deflate"
MOST_ENCODINGS = 2
LONGEST_LENGTH = 18

GZIP = 31
ZLIB = 15
RAW = -15
"""What `zlib` calls them."""


class UnusableAnswer(Exception):  # noqa: N818
    """There is an answer, and its content cannot be had."""


def validate_limit(max_response_bytes: int) -> int:
    """The argument of that name.

    Raises:
        ConfigurationError: it is no whole number above 0.
    """
    return validate_count("max_response_bytes", max_response_bytes)


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of an answer, with names in lower case; those that are repeated are joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def too_large(limit: int) -> UnusableAnswer:
    """What is raised for more than `limit` bytes."""
    return UnusableAnswer(f"the answer is larger than max_response_bytes={limit}")


def validate_length(announced: str | None, limit: int) -> None:
    """Look at a ``Content-Length``, so that what is too large is not even read.

    Raises:
        UnusableAnswer: it announces more than `limit` bytes.
    """
    if announced is None or not announced.isdecimal():
        return
    if len(announced) > LONGEST_LENGTH or int(announced) > limit:
        raise too_large(limit)


def decoded(content: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """The content as it was before the server compressed it; at most `limit` bytes.

    No more is unpacked than is allowed, however little it takes on the wire.

    Raises:
        UnusableAnswer: it is larger, or not what `headers`, with names in lower case, say it is.
    """
    encodings = headers.get("content-encoding")
    if encodings is None or not content:
        return content
    names = encodings.lower().split(",")
    if len(names) > MOST_ENCODINGS:
        raise UnusableAnswer("the answer is encoded too many times")
    for name in map(str.strip, reversed(names)):
        if name in ("gzip", "x-gzip"):
            content = _inflated(content, GZIP, limit)
        elif name == "deflate":
            # Meant to be in the format of zlib; some servers leave out its frame.
            is_zlib = content[0] & 0x0F == zlib.DEFLATED and not int.from_bytes(content[:2]) % 31
            content = _inflated(content, ZLIB if is_zlib else RAW, limit)
        elif name not in ("", "identity"):
            raise UnusableAnswer("the answer is encoded in a way that was not asked for")
    return content


def _inflated(content: bytes, window: int, limit: int) -> bytes:
    machine = zlib.decompressobj(window)
    try:
        plain = machine.decompress(content, limit + 1)
    except zlib.error:
        raise UnusableAnswer("the answer is not encoded as it says") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not machine.eof or machine.unused_data:
        raise UnusableAnswer("the answer is not encoded as it says")
    return plain
