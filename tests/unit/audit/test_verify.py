"""`verify_audit` finds every changed, missing or moved line; `read_audit` reads records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import AuditError, ConfigurationError
from cognigy_async.audit.verify import AuditReport, read_audit, verify_audit
from tests.unit._builders import CANARY

from ._files import KEY, chained, ids, wrote

BOTH = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])


def lines(count: int, key: bytes | None = None, *, status: int = 200) -> list[bytes]:
    """Return short lines; their fields do not matter."""
    return chained(
        [{"update_id": f"u-{n}", "ms": 1.5, "status": status} for n in range(count)], key
    )


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., AuditReport]:
    """Return a function that verifies a file with the given content."""

    def verify(content: bytes, key: bytes | None = None, **options: Any) -> AuditReport:
        path = tmp_path / "audit.jsonl"
        path.write_bytes(content)
        return verify_audit([path], key=key, **options)

    return verify


@BOTH
def test_written_records_are_valid(verified: Callable[..., AuditReport], key: bytes | None) -> None:
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


def test_every_removed_or_inserted_byte_is_found(
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
def test_every_removed_moved_or_repeated_line_is_found(
    verified: Callable[..., AuditReport], key: bytes | None
) -> None:
    made = lines(5, key)
    for at in range(5):
        removed = made[:at] + made[at + 1 :]
        report = verified(b"".join(removed), key)
        # Only a cut end goes unnoticed; see the next test.
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


def test_a_cut_end_is_found_by_a_saved_head(verified: Callable[..., AuditReport]) -> None:
    made = lines(5)
    head = json.loads(made[-1])["hash"]
    assert verified(b"".join(made), heads=[head]).ok
    for left in range(5):
        report = verified(b"".join(made[:left]), heads=[head])
        assert not report.ok
        assert report.missing == (head,)
    # Records written since then are no fault.
    assert verified(b"".join(lines(9)), heads=[head, json.loads(made[0])["hash"]]).ok


def test_a_recomputed_chain_is_found_by_a_key_or_a_head(
    verified: Callable[..., AuditReport],
) -> None:
    forged = b"".join(lines(5)).replace(b"200", b"500")
    anew = b"".join(lines(5, status=500))
    head = json.loads(lines(5)[-1])["hash"]
    assert not verified(forged).ok
    assert verified(anew).ok
    assert verified(anew, heads=[head]).missing == (head,)
    # Another key is refused, and so is a chain without a key.
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
def test_a_change_that_json_ignores_is_found(
    verified: Callable[..., AuditReport], change: Callable[[bytes], bytes]
) -> None:
    content = b"".join(lines(2))
    assert change(content) != content
    assert not verified(change(content)).ok


def test_a_torn_file_is_valid_up_to_its_last_complete_line(
    verified: Callable[..., AuditReport],
) -> None:
    made = lines(3)
    whole = len(made[0]) + len(made[1])
    content = b"".join(made)
    for length in range(whole + 1, len(content)):
        report = verified(content[:length])
        assert (report.ok, report.records, len(report.torn)) == (True, 2, 1), length
        # A file system that grew the file before a power failure leaves zeros.
        zeros = verified(content[:length] + b"\0\0")
        assert (zeros.ok, zeros.records, len(zeros.torn)) == (True, 2, 1), length
    assert verified(b"").records == 0


@pytest.mark.parametrize("key", ["", b"", SecretStr("")], ids=["text", "bytes", "secret"])
def test_an_empty_key_is_refused(verified: Callable[..., AuditReport], key: bytes) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        verified(b"", key)


def test_invalid_keys_and_heads_are_refused(verified: Callable[..., AuditReport]) -> None:
    with pytest.raises(ConfigurationError, match="not int"):
        verified(b"", 7)
    with pytest.raises(ConfigurationError, match="64 digits"):
        verified(b"", heads=["abc"])
    with pytest.raises(ConfigurationError, match="64 digits"):
        verified(b"", after="A" * 64)
    with pytest.raises(ConfigurationError, match="no file"):
        verify_audit([])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_a_missing_file_in_the_middle_is_found(path: Path) -> None:
    for number in range(6):
        wrote(path, number, max_bytes=700)
    files = sorted(path.parent.glob("audit*"))
    assert verify_audit(files).ok
    for missing in files:
        report = verify_audit([file for file in files if file != missing])
        # Only a saved head shows that the last file is missing.
        assert report.ok is (missing == path)


def test_older_files_may_be_missing_if_their_last_hash_is_given(path: Path) -> None:
    head = wrote(path, 0)
    wrote(path, 1, max_bytes=100)
    assert verify_audit([path], after=head).ok
    assert not verify_audit([path]).ok
    assert not verify_audit([path], after="0" * 64).ok
    assert "give all files" in str(verify_audit([path]).faults[0])


def test_two_files_cannot_continue_the_same_one(path: Path) -> None:
    wrote(path, 0)
    wrote(path, 1, max_bytes=100)
    path.with_name("copy").write_bytes(path.read_bytes())
    report = verify_audit([path, path.with_name("copy"), f"{path}.1"])
    assert [fault.path.name for fault in report.faults] == ["copy"]


def test_a_fault_in_one_file_is_not_a_fault_of_the_next(path: Path) -> None:
    wrote(path, 0, 1, 2)
    wrote(path, 3, max_bytes=100)
    old = Path(f"{path}.1")
    old.write_bytes(old.read_bytes().replace(b"u-1", b"u-7"))
    report = verify_audit([path, old])
    assert [(fault.path, fault.line) for fault in report.faults] == [(old, 2)]
    assert str(report.faults[0]) == f"{old}, line 2: its hash is wrong"


def test_a_file_given_twice_counts_once(path: Path) -> None:
    wrote(path, 0, 1)
    assert verify_audit([path, str(path)]).records == 2


def test_reading_stops_at_a_line_that_is_not_a_record(path: Path) -> None:
    wrote(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert ids(path) == ["u-0"]
    path.write_bytes(whole + json.dumps({"text": CANARY}).encode() + b"\n")
    records = read_audit(path)
    assert next(records).update_id == "u-0"
    with pytest.raises(AuditError, match="line 2") as caught:
        next(records)
    assert CANARY not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        list(read_audit(path.with_name("none")))
