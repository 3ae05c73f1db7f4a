"""The lock of a journal."""

from __future__ import annotations

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
