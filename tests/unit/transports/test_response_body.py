"""Headers, framing, size and encoding of a response."""

from __future__ import annotations

import gzip
import zlib

import pytest

from cognigy_async.transports._response_body import (
    BodyError,
    decoded,
    has_unclear_end,
    headers_of,
    validate_length,
)

CONTENT = b'{"version": 3}'


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def raw_deflate(content: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(content) + machine.flush()


def test_headers_are_in_lower_case_and_repeated_ones_are_joined() -> None:
    raw = [(b"X-Note", b"a"), (b"ETag", b'"\xe4"'), (b"x-note", b"b")]
    assert headers_of(raw) == {"x-note": "a, b", "etag": '"ä"'}


@pytest.mark.parametrize("length", [None, "100", "0", "-5", "1e9", "٣٣٣٣", ""])
def test_a_length_within_the_limit_or_without_sense_is_not_refused(length: str | None) -> None:
    validate_length(length, 100 if length != "٣٣٣٣" else 10_000)


@pytest.mark.parametrize("length", ["101", "9" * 400])
def test_a_length_beyond_the_limit_is_refused(length: str) -> None:
    with pytest.raises(BodyError, match="max_response_bytes=100"):
        validate_length(length, 100)


@pytest.mark.parametrize(
    ("status", "headers", "unclear"),
    [
        (200, {"content-length": "2"}, False),
        (200, {"transfer-encoding": "chunked"}, False),
        (200, {}, False),
        (200, {"transfer-encoding": "chunked", "content-length": "2"}, True),
        (500, {"transfer-encoding": "chunked", "content-length": "0"}, True),
        (204, {}, False),
        (204, {"content-length": "0"}, False),
        (204, {"content-length": "2"}, True),
        (204, {"transfer-encoding": "chunked"}, True),
        (205, {"content-length": "2"}, True),
        (304, {"content-length": "120"}, True),
    ],
)
def test_a_response_whose_end_is_unclear(
    status: int, headers: dict[str, str], unclear: bool
) -> None:
    assert has_unclear_end(status, headers) is unclear


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzipped(CONTENT)),
        ("X-GZIP", gzipped(CONTENT)),
        ("deflate", zlib.compress(CONTENT)),
        ("deflate", raw_deflate(CONTENT)),
        ("identity", CONTENT),
        ("deflate, gzip", gzipped(zlib.compress(CONTENT))),
        ("gzip, identity", gzipped(CONTENT)),
        (", identity, gzip,, identity", gzipped(CONTENT)),
        ("gzip", gzipped(CONTENT[:5]) + gzipped(b"") + gzipped(CONTENT[5:])),
        ("gzip", b"".join(gzipped(CONTENT[at : at + 1]) for at in range(len(CONTENT)))),
        ("gzip", gzipped(CONTENT) + bytes(512)),
        ("gzip", gzipped(CONTENT[:5]) + bytes(7) + gzipped(CONTENT[5:])),
        ("deflate", zlib.compress(CONTENT) + bytes(1)),
    ],
)
def test_encodings(encoding: str, content: bytes) -> None:
    assert decoded(content, {"content-encoding": encoding}, 100) == CONTENT
    assert decoded(CONTENT, {}, 1) == CONTENT
    assert decoded(b"", {"content-encoding": encoding}, 100) == b""


@pytest.mark.parametrize(
    ("encoding", "content", "problem"),
    [
        ("br", CONTENT, "not requested"),
        ("gzip, gzip, gzip", CONTENT, "too many times"),
        ("gzip", gzipped(CONTENT)[:-4], "does not match its Content-Encoding"),
        ("gzip", gzipped(CONTENT) + b"more", "does not match its Content-Encoding"),
        ("deflate", b"\x78\x9c nonsense", "does not match its Content-Encoding"),
        ("deflate", zlib.compress(CONTENT)[:-1], "does not match its Content-Encoding"),
        ("deflate", zlib.compress(CONTENT) * 2, "does not match its Content-Encoding"),
        ("deflate, gzip", gzipped(b""), "does not match its Content-Encoding"),
        ("gzip", gzipped(CONTENT) + gzipped(CONTENT)[:-4], "does not match its Content-Encoding"),
        ("gzip, br", CONTENT, "not requested"),
        ("utf-8", CONTENT, "not requested"),
        ("gzip", gzipped(bytes(101)), "larger than max_response_bytes=100"),
        ("gzip", gzipped(bytes(60)) * 2, "larger than max_response_bytes=100"),
        ("gzip, gzip", gzipped(gzipped(bytes(101))), "larger than"),
    ],
)
def test_a_body_that_cannot_be_decoded(encoding: str, content: bytes, problem: str) -> None:
    with pytest.raises(BodyError, match=problem):
        decoded(content, {"content-encoding": encoding}, 100)
