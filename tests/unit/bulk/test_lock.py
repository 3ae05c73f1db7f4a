"""The lock of a journal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cognigy_async.bulk import JournalRefusedError
from cognigy_async.bulk.journal.lock import JournalLock, lock_owner


def test_a_lock_names_its_owner_and_is_gone_after_it(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    link = tmp_path / "link"
    link.symlink_to(journal)
    assert lock_owner(journal) is None
    lock = JournalLock(journal)
    for path in (journal, link):
        owner = lock_owner(path)
        assert owner is not None
        assert owner["pid"] == os.getpid()
        with pytest.raises(JournalRefusedError, match=f"in use by process {os.getpid()} on host"):
            JournalLock(path)
    lock.release()
    assert lock_owner(journal) is None
    assert list(tmp_path.iterdir()) == [link]


def test_a_lock_file_left_by_a_process_that_died_is_taken_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.with_name("journal.lock").write_text("no JSON")
    assert lock_owner(journal) is None
    JournalLock(journal).release()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalRefusedError, match="cannot be created or written: No such file"):
        JournalLock(tmp_path / "no" / "journal")


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("cognigy_async.bulk.journal.lock.try_lock", no_locks)
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    with pytest.raises(JournalRefusedError, match="cannot be locked: No locks available"):
        JournalLock(tmp_path / "job")
    after = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    assert len(after) == len(before)
