"""The lines of a hash chain."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from pydantic import SecretStr

from cognigy_async.audit.hash_chain import (
    Position,
    format_line,
    is_torn,
    key_bytes,
    parse_line,
    unverified_position,
)
from tests.unit._builders import audit_record

from ._files import KEY, chained


def test_a_line_is_json_with_a_hash_over_the_bytes_before() -> None:
    first, second = chained(audit_record(number).fields() for number in range(2))
    record = json.loads(second)
    sealed, _, _ = second.rpartition(b',"hash":')
    assert record["hash"] == hashlib.sha256(sealed).hexdigest()
    assert record["prev"] == json.loads(first)["hash"]
    assert (record["seq"], record["update_id"], record["metadata"]) == (1, "u-1", {"who": "me"})
    assert record["timestamp"] == "2026-01-02T03:04:05.000001Z"


def test_with_a_key_the_hash_is_an_hmac_and_the_key_is_nowhere() -> None:
    (line,) = chained([{"update_id": "u-0"}], KEY)
    sealed, _, _ = line.rpartition(b',"hash":')
    assert json.loads(line)["hash"] == hmac.digest(KEY, sealed, "sha256").hex()
    assert KEY not in line


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
def test_a_line_is_parsed_to_its_positions(key: bytes | None) -> None:
    line, after = format_line(Position(7, "ab" * 32), {"update_id": "u-7"}, key)
    assert parse_line(line, key) == (Position(7, "ab" * 32), after)
    assert after.seq == 8
    changed = line.replace(b"u-7", b"u-8")
    with pytest.raises(ValueError, match="hash is wrong"):
        parse_line(changed, key)
    assert unverified_position(changed) == after
    assert unverified_position(line[:-1]) is None


@pytest.mark.parametrize(
    ("tail", "torn"),
    [
        (b'{"se', True),
        (b'{"seq":1,"chain":"sha', True),
        (b'{"seq":1,"chain\0\0\0', True),
        (b"\0\0", True),
        (b'{"a":1', False),
        (b'{"seq":1}\n{"seq', False),
    ],
)
def test_only_the_begin_of_a_line_is_torn(tail: bytes, torn: bool) -> None:
    assert is_torn(tail) is torn


def test_a_key_is_text_bytes_or_a_secret() -> None:
    assert key_bytes("k") == key_bytes(b"k") == key_bytes(SecretStr("k")) == b"k"
    assert key_bytes(None) is None
