"""`verify_audit` finds every changed, missing or moved line; `read_audit` reads records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import AuditError, ConfigurationError
from cognigy_async.audit.hash_chain import parse_line
from cognigy_async.audit.verify import AuditChain, AuditReport, read_audit, verify_audit
from tests.unit._builders import CANARY

from ._files import KEY, OLD, chained, ids, wrote

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
    with pytest.raises(ConfigurationError, match="no audit file"):
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


def test_a_file_given_twice_is_found_and_counts_once(path: Path) -> None:
    head = wrote(path, 0, 1)
    copy, link = path.with_name("copy"), path.with_name("link")
    copy.write_bytes(path.read_bytes())
    link.symlink_to(path)
    for again in (str(path), copy, link):
        report = verify_audit([path, again], heads=[head])
        assert (report.ok, report.records, report.heads) == (False, 2, (head,))
        (fault,) = report.faults
        assert fault.path == Path(again)
        assert str(path) in fault.problem
        assert "given twice" in fault.problem


def test_a_rotated_file_given_twice_is_found(path: Path) -> None:
    for number in range(4):
        head = wrote(path, number, max_bytes=100)
    files = sorted(path.parent.glob("audit*"))
    for again in files:
        copy = path.with_name("copy")
        copy.write_bytes(again.read_bytes())
        report = verify_audit([*files, copy])
        assert [fault.path for fault in report.faults] == [copy]
        assert (report.records, report.heads) == (4, (head,))


@BOTH
def test_an_older_copy_beside_its_file_is_found(path: Path, key: bytes | None) -> None:
    wrote(path, 0, 1, key=key)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    head = wrote(path, 2, key=key)
    for files in ([path, copy], [copy, path]):
        report = verify_audit(files, key=key)
        assert [fault.path for fault in report.faults] == [copy]
        assert "older copy" in report.faults[0].problem
        assert (report.records, report.heads) == (3, (head,))


@BOTH
def test_an_older_copy_in_place_of_its_file_is_found_by_a_head(
    path: Path, key: bytes | None
) -> None:
    old_head = wrote(path, 0, 1, key=key)
    older = path.read_bytes()
    head = wrote(path, 2, key=key)
    path.write_bytes(older)
    report = verify_audit([path], key=key)
    # What cannot be found is said.
    assert report.ok
    assert [chain.confirmed for chain in report.chains] == [False]
    report = verify_audit([path], key=key, heads=[head])
    assert (report.ok, report.missing) == (False, (head,))
    # An old head does not show it, and neither does that of another chain.
    assert verify_audit([path], key=key, heads=[old_head]).ok


def test_each_chain_is_confirmed_by_a_head_of_its_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    first = wrote(one, 0)
    last = wrote(one, 1, max_bytes=100)
    other_head = wrote(other, 0)
    files = [*tmp_path.glob("one*"), other]
    one_id, other_id = (json.loads(path.read_bytes())["chain_id"] for path in (one, other))
    assert one_id != other_id
    for heads, confirmed in (
        ([], (False, False)),
        # Of any file of the chain.
        ([first], (True, False)),
        ([last], (True, False)),
        ([other_head], (False, True)),
        ([first, other_head], (True, True)),
    ):
        report = verify_audit(files, heads=heads)
        assert report.ok
        assert set(report.chains) == {
            AuditChain(one_id, last, confirmed[0]),
            AuditChain(other_id, other_head, confirmed[1]),
        }


def test_the_file_of_another_chain_is_named_with_its_chain(path: Path) -> None:
    wrote(path, 0)
    wrote(path, 1, max_bytes=100)
    chain_id = json.loads(path.read_bytes())["chain_id"]
    Path(f"{path}.1").unlink()
    (fault,) = verify_audit([path]).faults
    assert f"record 1 of chain {chain_id} is the first" in fault.problem


@BOTH
def test_a_record_with_the_id_of_another_chain_is_found(
    verified: Callable[..., AuditReport], path: Path, key: bytes | None
) -> None:
    made = lines(2, key)
    _, after = parse_line(made[1], key)
    (foreign,) = chained([{"update_id": "u-2"}], key, start=replace(after, chain_id="0" * 32))
    report = verified(b"".join([*made, foreign]), key)
    (fault,) = report.faults
    assert (fault.line, fault.problem) == (3, "record 2 has the id of another chain")
    # In a file of its own.
    path.write_bytes(b"".join(made))
    path.with_name("next").write_bytes(foreign)
    report = verify_audit([path, path.with_name("next")], key=key)
    assert [fault.path.name for fault in report.faults] == ["next"]


def test_files_of_earlier_versions_are_valid_and_may_be_continued(
    verified: Callable[..., AuditReport], path: Path
) -> None:
    report = verified(b"".join(OLD), heads=[json.loads(OLD[1])["hash"]])
    assert (report.ok, report.records) == (True, 2)
    assert report.chains == (AuditChain(None, json.loads(OLD[1])["hash"], True),)
    # The next record has an id, and so has the next file.
    wrote(path, 2)
    head = wrote(path, 3, max_bytes=100)
    files = [path, Path(f"{path}.1")]
    (chain,) = verify_audit(files).chains
    assert (chain.head, chain.chain_id) == (head, json.loads(path.read_bytes())["chain_id"])
    assert [b"chain_id" in line for line in files[1].read_bytes().splitlines()] == [0, 0, 1]
    # An earlier version that continues the chain writes none, and the chain is intact.
    _, after = parse_line(path.read_bytes(), None)
    (line,) = chained([{"a": 1}], start=replace(after, chain_id=None))
    path.write_bytes(path.read_bytes() + line)
    assert verify_audit(files).ok
    wrote(path, 5)
    assert verify_audit(files).ok


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
