"""The lines of an audit file, each of which holds the hash of the line before it.

A line is JSON. Its last member is the hash over all bytes before that member, among them the hash
of the previous line. So any changed byte is found, even one that JSON ignores. With a key the hash
is an HMAC, which cannot be computed without the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_core import to_json

from ..errors import ConfigurationError

LINE = re.compile(
    rb'(\{"seq":(0|[1-9][0-9]{0,17}),"chain":"(sha256|hmac-sha256)","prev":"([0-9a-f]{64})",.*)'
    rb',"hash":"([0-9a-f]{64})"\}\n'
)
LINE_START = b'{"seq":'
HASH = re.compile(r"[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a chain: the number of the next record and the hash of the last one."""

    seq: int
    head: str


START = Position(0, "0" * 64)


def key_bytes(key: str | bytes | SecretStr | None) -> bytes | None:
    """Return the key of an HMAC, or None for a plain hash.

    Raises:
        ConfigurationError: the key is empty or of another type.
    """
    if isinstance(key, SecretStr):
        key = key.get_secret_value()
    if isinstance(key, str):
        key = key.encode()
    if key is not None and not isinstance(key, bytes):
        raise ConfigurationError(f"key must be str, bytes or SecretStr, not {type(key).__name__}")
    if key == b"":
        raise ConfigurationError("key is empty; omit it for a chain without a key")
    return key


def format_line(
    position: Position, fields: Mapping[str, Any], key: bytes | None
) -> tuple[bytes, Position]:
    """Return the line of a record at `position`, and the position after it."""
    kind = "sha256" if key is None else "hmac-sha256"
    hashed = to_json({"seq": position.seq, "chain": kind, "prev": position.head, **fields})[:-1]
    digest = _digest(hashed, key)
    return b'%b,"hash":"%b"}\n' % (hashed, digest.encode()), Position(position.seq + 1, digest)


def parse_line(line: bytes, key: bytes | None) -> tuple[Position, Position]:
    """Check a complete line. Return the positions of the chain before and after it.

    Raises:
        ValueError: the line is invalid; the message says why.
    """
    found = LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is not a line of an audit file")
    hashed, seq, kind, prev, digest = found.groups()
    if kind == b"sha256" and key is not None:
        raise ValueError("it was written without a key, and a key was given")
    if kind == b"hmac-sha256" and key is None:
        raise ValueError("it was written with a key, and none was given")
    if not hmac.compare_digest(_digest(hashed, key).encode(), digest):
        raise ValueError("its hash is wrong" if key is None else "its hash is wrong for this key")
    number = int(seq)
    return Position(number, prev.decode()), Position(number + 1, digest.decode())


def unverified_position(line: bytes) -> Position | None:
    """Return the position after a line without checking its hash, or None if it is no line."""
    found = LINE.fullmatch(line)
    return Position(int(found[2]) + 1, found[5].decode()) if found is not None else None


def is_torn(tail: bytes) -> bool:
    """Return whether the bytes after the last complete line can be a record cut off by a crash."""
    # A file that grew before its data was written ends in zeros after a power failure.
    begun = tail.rstrip(b"\0")
    return b"\n" not in tail and (begun.startswith(LINE_START) or LINE_START.startswith(begun))


def _digest(hashed: bytes, key: bytes | None) -> str:
    if key is None:
        return hashlib.sha256(hashed).hexdigest()
    return hmac.digest(key, hashed, "sha256").hex()
