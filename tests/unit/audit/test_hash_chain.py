"""A chain of lines: every change of a byte, and every line that is missing or moved, shows."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import AuditReport, ConfigurationError, verify_audit
from cognigy_async.audit.hash_chain import START, format_line
from tests.unit._builders import audit_record

KEY = b"canary-key-of-an-audit"
BOTH = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])


def lines(count: int, key: bytes | None = None, *, status: int = 200) -> list[bytes]:
    """Short ones: what stands in them makes no difference."""
    return chained(
        [{"update_id": f"u-{n}", "ms": 1.5, "status": status} for n in range(count)], key
    )


def chained(records: Iterable[Mapping[str, Any]], key: bytes | None = None) -> list[bytes]:
    made = []
    position = START
    for fields in records:
        line, position = format_line(position, fields, key)
        made.append(line)
    return made


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., AuditReport]:
    """What is said of a file with this content."""

    def verify(content: bytes, key: bytes | None = None, **options: Any) -> AuditReport:
        path = tmp_path / "audit.jsonl"
        path.write_bytes(content)
        return verify_audit([path], key=key, **options)

    return verify


def test_a_line_is_json_and_its_hash_is_over_the_bytes_before_it() -> None:
    first, second = chained(audit_record(number).fields() for number in range(2))
    record = json.loads(second)
    sealed, _, _ = second.rpartition(b',"hash":')
    assert record["hash"] == hashlib.sha256(sealed).hexdigest()
    assert record["prev"] == json.loads(first)["hash"]
    assert (record["seq"], record["update_id"], record["metadata"]) == (1, "u-1", {"who": "me"})
    assert record["timestamp"] == "2026-01-02T03:04:05.000001Z"


def test_with_a_key_the_hash_is_an_hmac_and_the_key_is_nowhere() -> None:
    (line,) = lines(1, KEY)
    sealed, _, _ = line.rpartition(b',"hash":')
    assert json.loads(line)["hash"] == hmac.digest(KEY, sealed, "sha256").hex()
    assert KEY not in line


@BOTH
def test_what_was_written_fits(verified: Callable[..., AuditReport], key: bytes | None) -> None:
    made = lines(5, key)
    report = verified(b"".join(made), key)
    assert (report.ok, report.records, report.faults, report.torn) == (True, 5, (), ())
    assert report.heads == (json.loads(made[-1])["hash"],)


@BOTH
def test_every_changed_byte_is_found(
    verified: Callable[..., AuditReport], key: bytes | None
) -> None:
    content = b"".join(lines(3, key))
    ends = [at for at, byte in enumerate(content) if byte == 0x0A]
    for at, byte in enumerate(content):
        number = sum(end < at for end in ends) + 1
        for other in {byte ^ 0x01, byte ^ 0x20, 0x00, 0x0A} - {byte}:
            report = verified(content[:at] + bytes([other]) + content[at + 1 :], key)
            assert not report.ok, f"byte {at} as {other:#x}"
            assert report.faults[0].line == number


def test_every_byte_that_is_removed_or_added_is_found_before_the_end(
    verified: Callable[..., AuditReport],
) -> None:
    content = b"".join(lines(3))
    for at in range(len(content) - 1):
        assert not verified(content[:at] + content[at + 1 :]).ok, f"byte {at} removed"
    for at in range(len(content) + 1):
        for added in (b" ", b"\n"):
            report = verified(content[:at] + added + content[at:])
            assert not report.ok, f"{added!r} at {at}"


@BOTH
def test_every_line_that_is_removed_moved_or_repeated_is_found(
    verified: Callable[..., AuditReport], key: bytes | None
) -> None:
    made = lines(5, key)
    for at in range(5):
        removed = made[:at] + made[at + 1 :]
        report = verified(b"".join(removed), key)
        # The end alone can be cut without a trace, see the next test.
        assert report.ok is (at == 4)
        repeated = made[: at + 1] + made[at:]
        assert not verified(b"".join(repeated), key).ok
        if not report.ok:
            assert report.faults[0].line == at + 1
    for at in range(4):
        swapped = [*made[:at], made[at + 1], made[at], *made[at + 2 :]]
        report = verified(b"".join(swapped), key)
        assert not report.ok
        assert report.faults[0].line == at + 1
    for first in range(5):
        for after in range(first + 2, 5):
            assert not verified(b"".join(made[:first] + made[after:]), key).ok


def test_a_cut_end_is_found_where_the_head_was_kept(verified: Callable[..., AuditReport]) -> None:
    made = lines(5)
    head = json.loads(made[-1])["hash"]
    assert verified(b"".join(made), heads=[head]).ok
    for left in range(5):
        report = verified(b"".join(made[:left]), heads=[head])
        assert not report.ok
        assert report.missing == (head,)
    # What was written since then is no fault.
    assert verified(b"".join(lines(9)), heads=[head, json.loads(made[0])["hash"]]).ok


def test_a_chain_that_was_computed_anew_is_found_with_a_key_or_a_head(
    verified: Callable[..., AuditReport],
) -> None:
    forged = b"".join(lines(5)).replace(b"200", b"500")
    anew = b"".join(lines(5, status=500))
    head = json.loads(lines(5)[-1])["hash"]
    assert not verified(forged).ok
    assert verified(anew).ok
    assert verified(anew, heads=[head]).missing == (head,)
    # Neither another key nor a chain without one passes for the right one.
    assert "without a key" in verified(anew, KEY).faults[0].problem
    assert "for this key" in verified(b"".join(lines(5, b"other")), KEY).faults[0].problem
    assert "with a key" in verified(b"".join(lines(5, KEY))).faults[0].problem


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(lambda text: text.replace(b'":', b'": '), id="spaces"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, id="byte order mark"),
        pytest.param(lambda text: text.replace(b"u-1", rb"u\u002d1"), id="escapes"),
        pytest.param(lambda text: text.replace(b"{", b'{"seq":0,', 1), id="a member twice"),
        pytest.param(lambda text: text + b"\n", id="an empty line"),
        pytest.param(lambda text: text + b"more", id="text at the end"),
        pytest.param(lambda text: text.upper(), id="upper case"),
        pytest.param(lambda text: text.replace(b"1.5", b"1.50"), id="a number's form"),
    ],
)
def test_what_means_the_same_to_json_is_found(
    verified: Callable[..., AuditReport], change: Callable[[bytes], bytes]
) -> None:
    content = b"".join(lines(2))
    assert change(content) != content
    assert not verified(change(content)).ok


def test_a_file_that_was_cut_short_fits_up_to_its_last_whole_line(
    verified: Callable[..., AuditReport],
) -> None:
    made = lines(3)
    whole = len(made[0]) + len(made[1])
    content = b"".join(made)
    for length in range(whole + 1, len(content)):
        report = verified(content[:length])
        assert (report.ok, report.records, len(report.torn)) == (True, 2, 1), length
        # What a file system leaves that had made room before the power failed.
        zeros = verified(content[:length] + b"\0\0")
        assert (zeros.ok, zeros.records, len(zeros.torn)) == (True, 2, 1), length
    assert verified(b"").records == 0


@pytest.mark.parametrize("key", ["", b"", SecretStr("")], ids=["text", "bytes", "secret"])
def test_an_empty_key_is_refused(verified: Callable[..., AuditReport], key: bytes) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        verified(b"", key)


def test_what_is_no_key_and_no_head_is_refused(verified: Callable[..., AuditReport]) -> None:
    with pytest.raises(ConfigurationError, match="not int"):
        verified(b"", 7)
    with pytest.raises(ConfigurationError, match="64 digits"):
        verified(b"", heads=["abc"])
    with pytest.raises(ConfigurationError, match="64 digits"):
        verified(b"", after="A" * 64)
    with pytest.raises(ConfigurationError, match="no file"):
        verify_audit([])
