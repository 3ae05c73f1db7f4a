"""The lines of a hash chain."""

from __future__ import annotations

import hashlib
import hmac
import json
import re

import pytest
from pydantic import SecretStr

from cognigy_async.audit.hash_chain import (
    START,
    Position,
    format_line,
    is_torn,
    key_bytes,
    parse_line,
    unverified_position,
)
from tests.unit._builders import audit_record

from ._files import CHAIN_ID, KEY, OLD, chained


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
    line, after = format_line(Position(7, "ab" * 32, CHAIN_ID), {"update_id": "u-7"}, key)
    assert parse_line(line, key) == (Position(7, "ab" * 32, CHAIN_ID), after)
    assert (after.seq, after.chain_id) == (8, CHAIN_ID)
    changed = line.replace(b"u-7", b"u-8")
    with pytest.raises(ValueError, match="hash is wrong"):
        parse_line(changed, key)
    assert unverified_position(changed) == after
    assert unverified_position(line[:-1]) is None


def test_a_line_without_an_id_is_that_of_earlier_versions() -> None:
    fields = [{"update_id": f"u-{number}", "status": 200} for number in range(2)]
    assert tuple(chained(fields, start=START)) == OLD
    before, after = parse_line(OLD[1], None)
    assert (before.seq, before.chain_id, after.seq, after.chain_id) == (1, None, 2, None)
    assert unverified_position(OLD[1]) == after


def test_a_chain_without_an_id_gets_one_and_keeps_it() -> None:
    begun = START.with_id()
    assert re.fullmatch("[0-9a-f]{32}", begun.chain_id or "")
    assert begun.with_id() is begun
    assert START.with_id().chain_id != begun.chain_id
    assert begun.at == START.at


def test_a_record_continues_its_own_chain_only() -> None:
    one, other = Position(1, "ab" * 32, CHAIN_ID), Position(1, "ab" * 32, "0" * 32)
    without = Position(1, "ab" * 32)
    assert one.continues(one)
    assert one.continues(without)
    assert without.continues(one)
    assert not one.continues(other)
    assert not one.continues(Position(2, "ab" * 32, CHAIN_ID))
    assert not one.continues(Position(1, "cd" * 32, CHAIN_ID))


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
