"""The lines of an audit file, each of which holds the hash of the one before it.

A line is JSON. Its last member is the hash over all the bytes before that member, one of which
is the hash of the line before; so every change of a byte shows, also of one that means nothing in
JSON. With a key the hash is an HMAC, which nobody can compute who does not have the key.
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
BEGINNING = b'{"seq":'
HASH = re.compile(r"[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chain has got to: the number of the next record and the hash of the last one."""

    seq: int
    head: str


START = Position(0, "0" * 64)


@dataclass(frozen=True, slots=True)
class Link:
    """What a line says of its place in the chain."""

    seq: int
    prev: str
    hash: str

    @property
    def before(self) -> Position:
        """Where the chain was before this line."""
        return Position(self.seq, self.prev)

    @property
    def after(self) -> Position:
        """Where it is after it."""
        return Position(self.seq + 1, self.hash)


def key_bytes(key: str | bytes | SecretStr | None) -> bytes | None:
    """The key of an HMAC; None for a plain hash.

    Raises:
        ConfigurationError: there is nothing in it, or it is no key.
    """
    if isinstance(key, SecretStr):
        key = key.get_secret_value()
    if isinstance(key, str):
        key = key.encode()
    if key is not None and not isinstance(key, bytes):
        raise ConfigurationError(f"key must be str, bytes or SecretStr, not {type(key).__name__}")
    if key == b"":
        raise ConfigurationError("key is empty; leave it out for a chain without a key")
    return key


def link(at: Position, fields: Mapping[str, Any], key: bytes | None) -> tuple[bytes, Position]:
    """The line of a record, and where the chain is after it."""
    kind = "sha256" if key is None else "hmac-sha256"
    sealed = to_json({"seq": at.seq, "chain": kind, "prev": at.head, **fields})[:-1]
    digest = _digest(sealed, key)
    return b'%b,"hash":"%b"}\n' % (sealed, digest.encode()), Position(at.seq + 1, digest)


def read_line(line: bytes, key: bytes | None) -> Link:
    """What a whole line says, if its hash is right.

    Raises:
        ValueError: what is wrong with it.
    """
    found = LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is not a line that an audit writes")
    sealed, seq, kind, prev, digest = found.groups()
    if kind == b"sha256" and key is not None:
        raise ValueError("it was written without a key, and a key was given")
    if kind == b"hmac-sha256" and key is None:
        raise ValueError("it was written with a key, and none was given")
    if not hmac.compare_digest(_digest(sealed, key).encode(), digest):
        raise ValueError("its hash is wrong" if key is None else "its hash is wrong for this key")
    return Link(int(seq), prev.decode(), digest.decode())


def claimed(line: bytes) -> Position | None:
    """Where a chain is after a line, if the line is believed."""
    found = LINE.fullmatch(line)
    return Position(int(found[2]) + 1, found[5].decode()) if found is not None else None


def is_torn(tail: bytes) -> bool:
    """Whether what stands after the last whole line can be a record that a crash cut short."""
    # A file that grew before its data was written ends in zeros after a power failure.
    begun = tail.rstrip(b"\0")
    return b"\n" not in tail and (begun.startswith(BEGINNING) or BEGINNING.startswith(begun))


def _digest(sealed: bytes, key: bytes | None) -> str:
    if key is None:
        return hashlib.sha256(sealed).hexdigest()
    return hmac.digest(key, sealed, "sha256").hex()
