"""Random changes of bytes: of single ones, of slices, and of what formats have a meaning for."""

from __future__ import annotations

import random
import re

TOKENS = (
    *(b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\xe2\x80\xae"),
    *(b"\n", b"\r", b"\r\n", b"\r\n\r\n", b"\t", b" ", b'"', b"'", b",", b";", b":", b"=", b"#"),
    *(b"{", b"}", b"[", b"]", b"[" * 3000, b'{"a":' * 3000, b"x" * 70_000),
    *(b"null", b"NaN", b"-0", b"1e999", b"1" * 400, b"9" * 25, b"\\ud800", b"\\u0000", b"\x1b[2J"),
    *(b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/0.9", b" 429 "),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Content-Encoding: br\r\n", b"Content-Type: text/html\r\n"),
    *(b"Retry-After: 1e9\r\n", b"RateLimit-Reset: 9999999999\r\n", b"Date: yesterday\r\n"),
    *(b'ETag: W/"x"\r\n', b"Location: http://192.0.2.1/\r\n", b"Set-Cookie: a=b\r\n"),
    *(b"dialog_id", b"update_id", b"session.a", b"_error", b'"dialog_id": "d-2", ', b"PAR1"),
)
NUMBER = re.compile(rb"\d+")


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to eight changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        data = chance.choice(CHANGES)(data, chance)
    return data


def _slice(data: bytes, chance: random.Random) -> tuple[int, int]:
    begin = chance.randrange(len(data) + 1)
    return begin, min(len(data), begin + chance.choice((1, 2, 4, 16, 64, 1000)))


def flip(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    flipped = bytes(byte ^ 1 << chance.randrange(8) for byte in data[begin : begin + 1])
    return data[:begin] + flipped + data[begin + 1 :]


def overwrite(data: bytes, chance: random.Random) -> bytes:
    begin, end = _slice(data, chance)
    return data[:begin] + chance.randbytes(end - begin) + data[end:]


def remove(data: bytes, chance: random.Random) -> bytes:
    begin, end = _slice(data, chance)
    return data[:begin] + data[end:]


def repeat(data: bytes, chance: random.Random) -> bytes:
    begin, end = _slice(data, chance)
    return data[:end] + data[begin:end] * chance.choice((1, 1, 2, 50)) + data[end:]


def move(data: bytes, chance: random.Random) -> bytes:
    begin, end = _slice(data, chance)
    rest = data[:begin] + data[end:]
    to = chance.randrange(len(rest) + 1)
    return rest[:to] + data[begin:end] + rest[to:]


def insert(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    return data[:begin] + chance.choice(TOKENS) + data[begin:]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def renumber(data: bytes, chance: random.Random) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    one = chance.choice(found)
    other = chance.choice((b"0", b"-1", b"1", b"4294967296", b"9" * 20, b"1e9", b"007"))
    return data[: one.start()] + other + data[one.end() :]


CHANGES = (flip, flip, overwrite, remove, repeat, move, insert, insert, cut, renumber)
