"""Headers and body of a response: header names, framing, size limit, content encoding."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping

from .._utils.decompression import decompressed

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Several times the size of the largest state, which is two contexts of 1.5 MB."""

ACCEPTED_ENCODINGS = "gzip, deflate"
MAX_ENCODINGS = 2
MAX_LENGTH_DIGITS = 18
WITHOUT_BODY = frozenset({204, 205, 304})
CUT_OFF = "the body is cut off, or not valid in HTTP"
NOT_IN_TIME = "the body was not complete in time"


class BodyError(Exception):
    """The head of a response is complete, and its body cannot be used; the text says why."""


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers with lower-case names. Repeated ones are joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = str(raw_name, "latin-1").lower(), str(raw_value, "latin-1")
        if name in headers:
            value = f"{headers[name]}, {value}"
        headers[name] = value
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


async def read_body(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """Return a body as it was sent. Raise BodyError after more than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        parts.append(chunk)
    return b"".join(parts)


def problem_of(error: Exception, timeouts: type[Exception] = TimeoutError) -> str:
    """Return the text about a body that could not be read."""
    if isinstance(error, BodyError):
        return str(error)
    return NOT_IN_TIME if isinstance(error, timeouts) else CUT_OFF


def validate_length(content_length: str | None, limit: int) -> None:
    """Raise BodyError if a Content-Length announces more than `limit` bytes."""
    if content_length is None or not content_length.isdecimal():
        return
    if len(content_length) > MAX_LENGTH_DIGITS or int(content_length) > limit:
        raise too_large(limit)


def decoded(content: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the body without its content encoding (RFC 9110, section 8.4), or raise BodyError.

    Stop decompressing after `limit` bytes, so that a small response cannot fill the memory.
    """
    encodings = headers.get("content-encoding")
    if encodings is None or not content:
        return content
    names = [name.strip() for name in encodings.lower().split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_ENCODINGS:
        raise BodyError("the body is encoded too many times: its Content-Encoding names too many")
    for name in reversed(names):
        if name not in ("gzip", "x-gzip", "deflate"):
            raise BodyError("the body has a Content-Encoding that was not requested")
        try:
            content = decompressed(content, limit, gzip=name != "deflate")
        except ValueError:
            raise BodyError("the body does not match its Content-Encoding") from None
        if len(content) > limit:
            raise too_large(limit)
    return content
