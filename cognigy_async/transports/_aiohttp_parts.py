"""What both ways through aiohttp share: limits, kinds of errors, how an answer is read."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

import aiohttp
from yarl import URL

from ._response_body import decoded, too_large, validate_length

LONGEST_FIELD = 64 * 1024
"""Bytes of one line of an answer's head; those of httpx are about as long."""

SHORTEST = 0.001
"""Seconds of a timeout; aiohttp takes 0 for none."""

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A method, or the name of a header (RFC 9110, sections 9.1 and 5.6.2)."""

NOT_IN_A_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Controls (RFC 9110, section 5.5), and halves of characters, which UTF-8 cannot say."""

FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Where a request ends is said by the transport and by nobody else."""

NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
)
"""Raised before anything of the request is written."""

CAUSES: tuple[type[Exception], ...] = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientError,
    TimeoutError,
)
"""What may be told as the cause of a failure: kinds that are made of a text, narrow ones first."""


class Lost(Exception):  # noqa: N818
    """The connection of a read was lost; the cause says how."""


class Closed(aiohttp.ClientConnectionError):
    """The connector was closed while a request waited for a connection."""


class Unusable(aiohttp.ClientConnectionError):
    """The connection is not fit for a request, and nothing was sent on it."""


class Sending:
    """How far a request got.

    Attributes:
        begun: whether something of it may have left; None where nobody can tell.
    """

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun: bool | None = False


def validate_names(names: Iterable[str]) -> None:
    """Look at the names of headers of a request.

    Raises:
        ValueError: one is not valid, or says where the request ends.
    """
    for name in names:
        if TOKEN.fullmatch(name) is None or name.lower() in FRAMING:
            raise ValueError


def validate_values(values: Iterable[str]) -> None:
    """Look at the values of headers of a request.

    Raises:
        ValueError: one is not valid, and might be taken for more than a value.
    """
    if NOT_IN_A_VALUE.search("".join(values)) is not None:
        raise ValueError


async def whole_content(
    headers: Mapping[str, str],
    stream: aiohttp.StreamReader,
    read: Callable[[], Awaitable[bytes]],
    limit: int,
) -> bytes:
    """The content of an answer as it was before the server compressed it.

    Args:
        read: reads `stream` to its end, where it is known to be short.

    Raises:
        UnusableAnswer: it is larger than `limit` bytes, or not what the headers say.
    """
    length = headers.get("content-length")
    validate_length(length, limit)
    if length is not None and "transfer-encoding" not in headers:
        content = await read()
    else:
        chunks: list[bytes] = []
        size = 0
        while chunk := await stream.readany():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
        content = b"".join(chunks)
    return decoded(content, headers, limit) if "content-encoding" in headers else content


def parsed_url(url: str) -> URL:
    """The URL as it is: no percent-encoding is added, taken away or put in another way.

    Raises:
        ValueError: it is none.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError
    parsed = URL(url, encoded=True)
    return parsed.with_user(None) if parsed.raw_user else parsed
