"""The lines of an audit file, each of which holds the hash of the line before it.

Each line also has the id of its chain. Chains of earlier versions have none; they get one when they
are continued.

A line is JSON. Its last member is the hash over all bytes before that member, among them the hash
of the previous line. So any changed byte is found, even one that JSON ignores. With a key the hash
is an HMAC, which cannot be computed without the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr
from pydantic_core import to_json

from ..errors import ConfigurationError

LINE = re.compile(
    rb'(\{"seq":(0|[1-9][0-9]{0,17}),"chain":"(sha256|hmac-sha256)","prev":"([0-9a-f]{64})"'
    rb'(?:,"chain_id":"([0-9a-f]{32})")?,.*)'
    rb',"hash":"([0-9a-f]{64})"\}\n'
)
LINE_START = b'{"seq":'
HASH = re.compile(r"[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a chain.

    Attributes:
        seq: number of the next record.
        head: hash of the last record.
        chain_id: id of the chain; None if the record beside it has none.
    """

    seq: int
    head: str
    chain_id: str | None = None

    def continues(self, other: Position) -> bool:
        """Return whether a record that follows this position may follow the other one."""
        return self.at == other.at and (
            self.chain_id == other.chain_id or None in (self.chain_id, other.chain_id)
        )

    @property
    def at(self) -> tuple[int, str]:
        """The position without the id of the chain."""
        return self.seq, self.head

    def with_id(self) -> Position:
        """Return the position in a chain with an id, a new one if it has none."""
        return self if self.chain_id else replace(self, chain_id=secrets.token_hex(16))


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
        raise ConfigurationError(
            f"audit key: must be str, bytes or SecretStr, not {type(key).__name__}"
        )
    if key == b"":
        raise ConfigurationError(
            "audit key: is empty; pass a key, or None for hashes without a key"
        )
    return key


def format_line(
    position: Position, fields: Mapping[str, Any], key: bytes | None
) -> tuple[bytes, Position]:
    """Return the line of a record at `position`, and the position after it."""
    kind = "sha256" if key is None else "hmac-sha256"
    begin: dict[str, Any] = {"seq": position.seq, "chain": kind, "prev": position.head}
    if position.chain_id is not None:
        begin["chain_id"] = position.chain_id
    hashed = to_json(begin | dict(fields))[:-1]
    digest = _digest(hashed, key)
    line = b'%b,"hash":"%b"}\n' % (hashed, digest.encode())
    return line, Position(position.seq + 1, digest, position.chain_id)


def parse_line(line: bytes, key: bytes | None) -> tuple[Position, Position]:
    """Check a complete line. Return the positions of the chain before and after it.

    Raises:
        ValueError: the line is invalid; the message says why.
    """
    found = LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is not a line of an audit file")
    hashed, seq, kind, prev, _, digest = found.groups()
    if kind == b"sha256" and key is not None:
        raise ValueError("it was written without a key, and a key was given")
    if kind == b"hmac-sha256" and key is None:
        raise ValueError("it was written with a key, and none was given")
    if not hmac.compare_digest(_digest(hashed, key).encode(), digest):
        raise ValueError("its hash is wrong" if key is None else "its hash is wrong for this key")
    after = _position_after(found)
    return Position(int(seq), prev.decode(), after.chain_id), after


def unverified_position(line: bytes) -> Position | None:
    """Return the position after a line without checking its hash, or None if it is no line."""
    found = LINE.fullmatch(line)
    return _position_after(found) if found is not None else None


def is_torn(tail: bytes) -> bool:
    """Return whether the bytes after the last complete line can be a record cut off by a crash."""
    # A file that grew before its data was written ends in zeros after a power failure.
    begun = tail.rstrip(b"\0")
    return b"\n" not in tail and (begun.startswith(LINE_START) or LINE_START.startswith(begun))


def _position_after(found: re.Match[bytes]) -> Position:
    chain_id = found[5].decode() if found[5] is not None else None
    return Position(int(found[2]) + 1, found[6].decode(), chain_id)


def _digest(hashed: bytes, key: bytes | None) -> str:
    if key is None:
        return hashlib.sha256(hashed).hexdigest()
    return hmac.digest(key, hashed, "sha256").hex()
