"""`cognigy-async audit verify` and `show`: what they print, and their exit status."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import AuditRecord, JsonLinesAudit
from cognigy_async.cli import main

KEY = "canary-key-of-an-audit"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COGNIGY_"):
            monkeypatch.delenv(name)
    logger = logging.getLogger("cognigy_async")
    before = logger.level, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


class Command:
    """The command in this process, with the output of its last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str | Path) -> int:
        argv = ["cognigy-async", "audit", *map(str, arguments)]
        self._monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as exited:
            main()
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        assert KEY not in self.out + self.err
        return exited.value.code if isinstance(exited.value.code, int) else 0


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def record(number: int, **changes: Any) -> AuditRecord:
    fields: dict[str, Any] = {
        "timestamp": datetime(2026, 1, 2, 3, 4, tzinfo=UTC) + timedelta(seconds=number),
        "update_id": f"u-{number}",
        "dialog_id": f"d-{number % 2}",
        "outcome": "applied",
        "payload_sha256": "ab" * 32,
        "payload_bytes": 20,
        "variables": ("session.cart_total", "user.name"),
        "status": 200,
        "attempts": 1,
        "latency_ms": 12.34,
        "etag": '"7"',
        "summary": "applied",
    }
    return AuditRecord(**fields | changes)


def written(path: Path, *records: AuditRecord, **options: Any) -> str:
    sink = JsonLinesAudit(path, **options)
    sink.write(records or [record(number) for number in range(4)])
    sink.close()
    assert sink.head is not None
    return sink.head


def test_intact_files(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = written(path)
    assert audit("verify", path) == 0
    assert audit.out == f"4 records in 1 file: all intact\nhead {head}\n"
    assert audit("verify", path, "--head", head) == 0
    later = written(path, record(9), max_bytes=10)
    assert audit("verify", *tmp_path.glob("audit*"), "--head", head, "--head", later) == 0
    assert audit.out == f"5 records in 2 files: all intact\nhead {later}\n"
    assert audit("verify", path) == 1
    assert "give all files of the chain" in audit.err
    assert audit("verify", path, "--after", head) == 0


def test_what_no_head_shows_is_said(audit: Command, tmp_path: Path) -> None:
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    head, other_head = written(path), written(other)
    chain_id = json.loads(path.read_text("utf-8").splitlines()[0])["chain_id"]
    assert audit("verify", path, other, "--head", other_head) == 0
    assert audit.err == (
        f"No --head is of the chain {chain_id}. Without one nobody can tell whether its last "
        "records are missing, or whether this is an older copy. Keep its head elsewhere.\n"
    )
    assert audit("verify", path, other, "--head", other_head, "--head", head) == 0
    assert audit.err == ""
    assert audit("verify", path, path, "--head", head) == 1
    assert "the file was given twice" in audit.err


def test_the_first_changed_record_is_named(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    path.write_bytes(path.read_bytes().replace(b"u-2", b"u-3"))
    assert audit("verify", path) == 1
    assert audit.err == f"{path}, line 3: its hash is wrong\n"
    assert audit.out == ""


def test_a_missing_end_is_found_with_the_head(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = written(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert audit("verify", path) == 0
    assert audit("verify", path, "--head", head) == 1
    assert head in audit.err
    assert "the end of the chain is missing" in audit.err


def test_a_missing_end_is_not_reported_behind_a_fault(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = written(path)
    path.write_bytes(path.read_bytes().replace(b"u-2", b"u-3"))
    assert audit("verify", path, "--head", head) == 1
    assert head in audit.err
    assert "the end of the chain is missing" not in audit.err


def test_an_incomplete_last_record_is_ignored_with_a_note(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert audit("verify", path) == 0
    assert "3 records" in audit.out
    assert "ends with an incomplete record, as after a crash" in audit.err


def test_the_key_comes_from_a_file_or_the_environment(
    audit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, key=KEY)
    assert audit("verify", path) == 1
    assert "with a key, and none was given" in audit.err
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    assert audit("verify", path, "--key-file", key_file) == 0
    key_file.write_text("other")
    assert audit("verify", path, "--key-file", key_file) == 1
    assert "wrong for this key" in audit.err
    monkeypatch.setenv("COGNIGY_AUDIT_KEY", KEY)
    assert audit("verify", path) == 0
    assert "No --head" in audit.err
    monkeypatch.delenv("COGNIGY_AUDIT_KEY")
    (tmp_path / ".env").write_text(f"COGNIGY_AUDIT_KEY={KEY}\n")
    assert audit("verify", path) == 0
    (tmp_path / ".env").rename(tmp_path / "staging.env")
    assert audit("verify", path) == 1
    assert audit("verify", path, "--env-file", tmp_path / "staging.env") == 0


def test_bad_usage(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    (tmp_path / "empty").write_bytes(b"\n")
    assert audit("verify", path, "--head", "abc") == 2
    assert "64 digits" in audit.err
    assert audit("verify", path, "--key-file", tmp_path / "empty") == 2
    assert "is empty; it must contain the key" in audit.err
    assert audit("verify", tmp_path / "none") == 2
    assert audit("verify", tmp_path) == 2
    assert audit("verify") == 2
    assert audit("show", path) == 2


def test_a_timeline_of_one_dialog(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    failed = record(
        1,
        outcome="failed",
        error="ServerError",
        status=500,
        attempts=5,
        etag=None,
        trace_id="api--7",
        metadata={"actor": "x\n\x1b[31m"},
    )
    unsent = record(3, outcome="not_sent", variables=(), status=None, latency_ms=None, etag=None)
    written(path, unsent, record(0), failed, record(2))
    assert audit("show", path, "--dialog", "d-1") == 0
    first, second = audit.out.splitlines()
    assert first.split(" | ") == [
        "2026-01-02 03:04:01.000+00:00",
        "failed: ServerError",
        "update u-1",
        "session.cart_total, user.name",
        "HTTP 500",
        "attempts 5",
        "12.3 ms",
        "trace id api--7",
        r"'actor=x\n\x1b[31m'",
    ]
    assert "not_sent | update u-3 | no variables | no response | attempts 1" in second
    assert audit("show", path, path, "--dialog", "d-0") == 0
    assert 'version "7"' in audit.out
    assert audit("show", path, "--dialog", "d-9") == 1
    assert (audit.out, audit.err) == ("", "No record of dialog 'd-9'.\n")


def test_a_file_that_is_not_an_audit_file(audit: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("no record\n")
    assert audit("show", path, "--dialog", "d-1") == 1
    assert "line 1" in audit.err
    assert audit("verify", path) == 1
    assert "line 1: it is not a line of an audit file" in audit.err
