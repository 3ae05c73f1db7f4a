"""`JsonLinesAudit`: one chain through restarts, rotation, crashes and foreign changes."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import AuditError, ConfigurationError, read_audit, verify_audit
from cognigy_async.audit import json_lines
from cognigy_async.audit.json_lines import JsonLinesAudit
from tests.unit._builders import audit_record

from ._files import ids, wrote


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_records_are_read_as_they_were_written(path: Path) -> None:
    head = wrote(path, 1, 2)
    assert list(read_audit(path)) == [audit_record(1), audit_record(2)]
    report = verify_audit([path])
    assert (report.ok, report.records, report.heads) == (True, 2, (head,))
    assert path.stat().st_mode & 0o077 == 0, "readable by its owner only"


NOTES = b"my notes"


def planted(path: Path, kind: str) -> Path:
    """Put something in the place of a file. Return what must stay as it is."""
    victim = path.with_name("victim")
    victim.write_bytes(NOTES)
    if kind == "symbolic":
        path.symlink_to(victim)
    elif kind == "hard":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    return victim


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such files")
@pytest.mark.parametrize("kind", ["symbolic", "hard", "dangling", "pipe"])
@pytest.mark.parametrize("name", ["audit.jsonl", ".audit.jsonl.lock", "audit.jsonl.7"])
def test_links_and_pipes_are_refused(path: Path, kind: str, name: str) -> None:
    victim = planted(path.with_name(name), kind)
    sink = JsonLinesAudit(path)
    with pytest.raises(OSError, match=r"symbolic link|hard link|not a regular file"):
        sink.open()
    assert victim.read_bytes() == NOTES
    assert not path.with_name("nowhere").exists()
    path.with_name(name).unlink()
    sink.write([audit_record()])
    sink.close()
    assert ids(path) == ["u-0"]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such files")
@pytest.mark.parametrize("kind", ["symbolic", "hard", "pipe", "content"])
def test_what_takes_the_place_of_an_open_file_is_refused_until_it_is_gone(
    path: Path, kind: str
) -> None:
    sink = JsonLinesAudit(path)
    sink.write([audit_record(0)])
    path.unlink()
    if kind == "content":
        path.write_bytes(NOTES)
        victim = path
    else:
        victim = planted(path, kind)
    for _ in range(2):
        with pytest.raises((OSError, AuditError), match=r"link|regular|content of another program"):
            sink.write([audit_record(1)])
    assert victim.read_bytes() == NOTES
    path.unlink()
    sink.write([audit_record(2)])
    sink.close()
    assert ids(path) == ["u-2"]


def test_an_existing_file_keeps_the_mode_that_somebody_gave_it(path: Path) -> None:
    wrote(path, 1)
    path.chmod(0o640)
    wrote(path, 2)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = JsonLinesAudit("audit.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink.write([audit_record()])
    sink.close()
    assert ids(tmp_path / "audit.jsonl") == ["u-0"]


def test_a_chain_continues_after_a_restart(path: Path) -> None:
    for number in range(4):
        head = wrote(path, number)
    report = verify_audit([path], heads=[head])
    assert (report.ok, report.records, report.heads) == (True, 4, (head,))


def test_each_chain_has_an_id_in_its_records(path: Path) -> None:
    sink = JsonLinesAudit(path, max_bytes=700)
    assert sink.chain_id is None
    for number in range(5):
        sink.write([audit_record(number)])
    sink.close()
    wrote(path, 5)
    files = sorted(path.parent.glob("audit*"))
    records = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert len(files) > 1
    assert [record["chain_id"] for record in records] == [sink.chain_id] * 6
    (chain,) = verify_audit(files).chains
    assert chain.chain_id == sink.chain_id
    other = JsonLinesAudit(path.with_name("other.jsonl"))
    other.open()
    assert other.chain_id not in (None, sink.chain_id)
    other.close()


def test_the_key_is_not_in_the_vars_of_a_sink(path: Path) -> None:
    for key in ("canary-key", b"canary-key", SecretStr("canary-key")):
        assert "canary" not in repr(vars(JsonLinesAudit(path, key=key)))


def test_a_sink_that_was_closed_writes_again(path: Path) -> None:
    sink = JsonLinesAudit(path)
    for number in range(3):
        sink.write([audit_record(number)])
        sink.close()
    assert verify_audit([path]).records == 3


def test_writing_nothing_makes_no_file(path: Path) -> None:
    JsonLinesAudit(path).write([])
    assert not path.exists()


@pytest.mark.parametrize("key", ["canary-key", b"canary-key", SecretStr("canary-key")])
def test_a_key_is_used_and_not_shown(path: Path, key: Any) -> None:
    sink = JsonLinesAudit(path, key=key)
    sink.write([audit_record()])
    sink.close()
    assert verify_audit([path], key="canary-key").ok
    assert not verify_audit([path]).ok
    assert b"canary-key" not in path.read_bytes()
    assert "canary-key" not in repr(sink)


@pytest.mark.parametrize(("first", "then"), [(None, "k"), ("k", None), ("k", "other")])
def test_a_chain_is_not_continued_with_another_key(
    path: Path, first: str | None, then: str | None
) -> None:
    wrote(path, 1, key=first)
    before = path.read_bytes()
    with pytest.raises(AuditError, match="Check the key") as caught:
        JsonLinesAudit(path, key=then).write([audit_record()])
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [{"key": ""}, {"key": 7}, {"max_bytes": 0}, {"max_queue": 0}, {"max_bytes": "1 MB"}],
    ids=str,
)
def test_invalid_arguments_are_refused(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        JsonLinesAudit(path, **options)


def test_a_path_without_a_file_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must name a file"):
        JsonLinesAudit("/")


def test_full_files_are_renamed_and_the_chain_continues(path: Path) -> None:
    for number in range(12):
        wrote(path, number, max_bytes=1500)
    files = [Path(f"{path}.{number}") for number in range(1, 6)] + [path]
    assert sorted(path.parent.glob("audit*")) == sorted(files)
    assert ids(*files) == [f"u-{number}" for number in range(12)]
    assert all(file.stat().st_size <= 1500 for file in files)
    # In the order of a shell pattern.
    report = verify_audit(sorted(files))
    assert (report.ok, report.records, len(report.heads)) == (True, 12, 1)


def test_a_batch_is_not_divided(path: Path) -> None:
    wrote(path, 1, max_bytes=100)
    wrote(path, 2, 3, max_bytes=100)
    assert (ids(Path(f"{path}.1")), ids(path)) == (["u-1"], ["u-2", "u-3"])


def test_a_crash_between_two_files_does_not_break_the_chain(path: Path) -> None:
    for number in range(11):
        wrote(path, number, max_bytes=700)
    path.rename(f"{path}.11")
    wrote(path, 11)
    assert ids(path) == ["u-11"]
    assert verify_audit(path.parent.glob("audit*")).records == 12


def test_an_incomplete_record_is_removed_and_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrote(path, 0, 1)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        caplog.clear()
        wrote(path, 2)
        assert ids(path) == ["u-0", "u-2"], length
        assert verify_audit([path]).ok
        assert f"{length - first} bytes" in caplog.text


def test_a_record_that_lacks_only_its_line_end_is_kept(path: Path) -> None:
    wrote(path, 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    wrote(path, 2)
    assert ids(path) == ["u-0", "u-1", "u-2"]
    assert verify_audit([path]).ok


def test_an_incomplete_first_record_leaves_an_empty_chain(path: Path) -> None:
    wrote(path, 0)
    path.write_bytes(path.read_bytes()[:100])
    wrote(path, 1)
    assert ids(path) == ["u-1"]
    assert verify_audit([path]).ok


def test_the_last_line_is_found_however_long_it_is(path: Path) -> None:
    sink = JsonLinesAudit(path)
    names = tuple(f"session.{'n' * 60}{n}" for n in range(9000))
    sink.write([audit_record(0), audit_record(1, variables=names)])
    sink.close()
    wrote(path, 2)
    assert verify_audit([path]).records == 3


@pytest.mark.parametrize(
    "content",
    [b"name,value\na,1\n", b"no line at all", b'{"seq": 1}\n', b"\n", b'{"a":1}\n{"seq":'],
    ids=["csv", "text", "json", "empty line", "torn"],
)
def test_a_file_that_is_not_an_audit_is_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sink = JsonLinesAudit(path)
    for _ in range(2):
        with pytest.raises(AuditError, match="move the file away"):
            sink.open()
    assert path.read_bytes() == content
    path.unlink()
    sink.write([audit_record()])
    assert ids(path) == ["u-0"]
    sink.close()


def test_a_removed_file_is_created_again_and_the_gap_is_found(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JsonLinesAudit(path)
    sink.write([audit_record(0)])
    first = sink.head
    path.unlink()
    sink.write([audit_record(1)])
    sink.close()
    assert ids(path) == ["u-1"]
    assert not verify_audit([path]).ok
    assert verify_audit([path], after=first).ok
    assert "is gone; continuing its chain" in caplog.text


def test_a_renamed_file_is_followed_by_a_new_one(path: Path) -> None:
    sink = JsonLinesAudit(path)
    sink.write([audit_record(0)])
    moved = path.rename(path.with_name("moved"))
    sink.write([audit_record(1)])
    sink.close()
    assert verify_audit([path, moved]).records == 2


def test_a_restored_directory_is_written_to_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    sink = JsonLinesAudit(path)
    with pytest.raises(FileNotFoundError):
        sink.write([audit_record(0)])
    path.parent.mkdir()
    sink.write([audit_record(1)])
    first = sink.head
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        sink.write([audit_record(2)])
    path.parent.mkdir()
    sink.write([audit_record(3)])
    sink.close()
    assert ids(path) == ["u-3"]
    assert verify_audit([path], after=first).ok


def test_a_foreign_line_is_logged_and_found(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = JsonLinesAudit(path)
    sink.write([audit_record(0)])
    with path.open("ab") as file:
        file.write(b"{}\n")
    sink.write([audit_record(1)])
    sink.close()
    assert "changed by another program" in caplog.text
    assert verify_audit([path]).faults[0].line == 2


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        JsonLinesAudit(tmp_path).open()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_created_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def read_only(name: Path, *args: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(name))

    sink = JsonLinesAudit(path)
    monkeypatch.setattr(os, "open", read_only)
    for _ in range(2):
        with pytest.raises(OSError, match="Read-only"):
            sink.write([audit_record(0)])
    # Now the lock file can be created, but not the audit file.
    monkeypatch.setattr(
        os,
        "open",
        lambda name, *args: (read_only if name == path else open_file)(name, *args),
    )
    with pytest.raises(OSError, match="Read-only"):
        sink.write([audit_record(0)])
    monkeypatch.undo()
    sink.write([audit_record(0)])
    assert sink.path == path
    sink.close()
    assert ids(path) == ["u-0"]


def test_a_batch_cut_off_by_a_full_disk_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLinesAudit(path)
    sink.write([audit_record(0)])
    write = os.write
    room = [100, 200, 0]

    def full(descriptor: int, data: memoryview) -> int:
        if not room:
            return write(descriptor, data)
        taken = room.pop(0)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:taken])

    monkeypatch.setattr(os, "write", full)
    batch = [audit_record(1), audit_record(2)]
    with pytest.raises(OSError, match="No space"):
        sink.write(batch)
    assert ids(path) == ["u-0"]
    assert verify_audit([path]).torn == ()
    sink.write(batch)
    sink.close()
    assert verify_audit([path]).ok
    assert ids(path) == ["u-0", "u-1", "u-2"]


def test_fsync_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    wrote(path, 0)
    assert synced == []
    wrote(path, 1, fsync=True)
    assert len(synced) == 1


def test_each_sink_has_its_own_file_and_continues_the_free_one(path: Path) -> None:
    sinks = [JsonLinesAudit(path) for _ in range(3)]
    for number, sink in enumerate(sinks):
        sink.write([audit_record(number)])
    names = ["audit.jsonl", "audit.2.jsonl", "audit.3.jsonl"]
    assert [sink.path.name for sink in sinks] == names
    assert [ids(sink.path) for sink in sinks] == [["u-0"], ["u-1"], ["u-2"]]
    sinks[1].close()
    wrote(path, 7)
    assert ids(path.with_name("audit.2.jsonl")) == ["u-1", "u-7"]
    for sink in sinks:
        sink.close()
    report = verify_audit(path.parent.glob("audit*"))
    assert (report.ok, report.records, len(report.heads)) == (True, 4, 3)


def test_there_is_a_limit_to_the_files_of_one_path(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "MAX_FILES", 2)
    sinks = [JsonLinesAudit(path) for _ in range(2)]
    for sink in sinks:
        sink.open()
    with pytest.raises(AuditError, match="2 processes already write"):
        JsonLinesAudit(path).open()
    sinks[1].close()
    wrote(path, 1)
    assert ids(path.with_name("audit.2.jsonl")) == ["u-1"]
    sinks[0].close()
