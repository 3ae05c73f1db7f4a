"""The lock of a SQLite file: whom it keeps out, and for how long."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cognigy_async._utils import database_lock as lock_module
from cognigy_async._utils.database_lock import ATTEMPTS, DatabaseLock, is_locked
from cognigy_async.bulk import JournalRefusedError, read_summary
from cognigy_async.bulk.journal.journal import Journal
from cognigy_async.bulk.journal.reading import JOURNAL, has_wal

OTHER = """
import sys
from pathlib import Path
from cognigy_async._utils.database_lock import DatabaseLock
from cognigy_async.bulk.journal.reading import JOURNAL
print(DatabaseLock.acquire(Path(sys.argv[1]), JOURNAL) is not None, flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(path: Path) -> Iterator[bool]:
    """Whether another process gets the lock. It lives until the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline() == "True\n"
        finally:
            process.kill()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def acquired(path: Path) -> DatabaseLock:
    lock = DatabaseLock.acquire(path, JOURNAL)
    assert lock is not None
    return lock


def test_no_name_of_a_file_leads_around_its_lock(journal: Path) -> None:
    names = [journal.with_name(name) for name in ("symbolic", "hard", "renamed")]
    assert not is_locked(journal)
    lock = acquired(journal)
    names[0].symlink_to(journal)
    names[1].hardlink_to(journal)
    for path in (journal, *names[:2]):
        assert is_locked(path)
        assert DatabaseLock.acquire(path, JOURNAL) is None
    journal.rename(names[2])
    assert is_locked(names[2])
    assert DatabaseLock.acquire(names[2], JOURNAL) is None
    names[2].rename(journal)
    lock.release()
    assert not is_locked(journal)
    for path, problem in (
        (names[0], "it is a symbolic link"),
        (names[1], "is empty and has a second name"),
    ):
        with pytest.raises(JournalRefusedError, match=problem):
            DatabaseLock.acquire(path, JOURNAL)
    assert not journal.stat().st_size
    assert set(journal.parent.iterdir()) == {journal, *names[:2]}


def test_another_process_is_kept_out_also_after_another_descriptor_was_closed(
    journal: Path,
) -> None:
    lock = acquired(journal)
    # This releases all record locks of the process on the file.
    journal.read_bytes()
    with other_process(journal) as got_it:
        assert not got_it
    lock.release()
    with other_process(journal) as got_it:
        assert got_it
        assert is_locked(journal)
        assert DatabaseLock.acquire(journal, JOURNAL) is None
    # The other process was killed.
    assert not is_locked(journal)
    acquired(journal).release()


def test_nothing_in_this_process_takes_the_locks_of_sqlite_away(journal: Path) -> None:
    with Journal(journal) as opened:
        opened.begin_run({"input": "{}"}, same_input=False)
        assert DatabaseLock.acquire(journal, JOURNAL) is None
        assert is_locked(journal)
        assert read_summary(journal).owner
        # A program that reads a database and thinks that it is alone removes the -wal.
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM runs')"
        subprocess.run([sys.executable, "-c", code, journal], check=True)
        assert has_wal(journal)


def test_a_lock_ends_although_a_forked_process_has_it_too(journal: Path) -> None:
    lock = acquired(journal)
    copy = os.dup(lock._descriptor)
    try:
        lock.release()
        acquired(journal).release()
    finally:
        os.close(copy)


def test_a_lock_that_is_only_probed_keeps_no_job_out(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def probed(_: int) -> bool:
        nonlocal attempts
        attempts += 1
        return attempts == ATTEMPTS

    monkeypatch.setattr(lock_module, "try_lock", probed)
    acquired(journal).release()
    assert attempts == ATTEMPTS
    assert DatabaseLock.acquire(journal, JOURNAL) is None


def test_a_file_that_is_replaced_while_it_is_locked_is_not_used(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_lock = lock_module.try_lock
    replaced: list[Path] = []

    def slow(descriptor: int) -> bool:
        if not replaced:
            replaced.append(journal.rename(journal.with_name("old")))
            journal.touch()
        return try_lock(descriptor)

    monkeypatch.setattr(lock_module, "try_lock", slow)
    lock = acquired(journal)
    assert is_locked(journal)
    assert not is_locked(replaced[0])
    lock.release()


def test_where_flock_would_lock_out_sqlite_a_record_lock_takes_its_place(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="only POSIX systems have record locks")
    if not hasattr(fcntl, "F_OFD_SETLK"):
        pytest.skip("the system has no lock that stands for flock on NFS")

    def flock_of_nfs(descriptor: int) -> bool:
        """Lock the whole file, for the descriptor, against all record locks."""
        whole = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)
        except BlockingIOError:
            return False
        return True

    monkeypatch.setattr(lock_module, "try_lock", flock_of_nfs)
    with Journal(journal) as opened:
        opened.begin_run({}, same_input=False)
        assert is_locked(journal)
        # On a real NFS, flock would keep this process out; here the record lock has to.
        with other_process(journal) as got_it:
            assert not got_it
    with Journal(journal):
        pass


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalRefusedError, match="cannot be created or written: No such file"):
        DatabaseLock.acquire(tmp_path / "no" / "journal", JOURNAL)
    with pytest.raises(JournalRefusedError, match="cannot be created or written: Is a directory"):
        DatabaseLock.acquire(tmp_path, JOURNAL)
    with pytest.raises(JournalRefusedError, match="is not a regular file"):
        DatabaseLock.acquire(Path(os.devnull), JOURNAL)
    assert not is_locked(tmp_path / "no" / "journal")
    assert not is_locked(Path(os.devnull))


def test_a_file_system_without_locks_is_refused(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock_module, "try_lock", no_locks)
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    with pytest.raises(JournalRefusedError, match="cannot be locked: No locks available"):
        DatabaseLock.acquire(journal, JOURNAL)
    assert not is_locked(journal)
    after = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    assert len(after) == len(before)
