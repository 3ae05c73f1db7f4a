"""The journal: what is written, what earlier runs left, and files that cannot be used."""

from __future__ import annotations

import itertools
import sqlite3
import sys
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from cognigy_async.bulk import JournalError, JournalRefusedError
from cognigy_async.bulk.input.fingerprint import Mark
from cognigy_async.bulk.journal import journal as journal_module
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.reading import has_wal, open_to_read
from cognigy_async.bulk.journal.schema import CompletedRow, Failure, OpenSend, Status

from ._journals import copied, cut_off, wal

COLUMNS = {
    "meta": ["key", "value"],
    "marks": ["offset", "last", "digest"],
    "outcomes": [
        *["line", "dialog", "status", "pass", "queued", "sent", "settled", "attempts", "refers"]
    ],
    "failures": ["line", "type", "message", "http"],
    "sends": ["line", "dialog", "at", "etag", "open", "carrier"],
    "events": ["line", "dialog", "at", "what", "seconds"],
    "runs": ["run", "began", "latest", "elapsed", "requests", "retries", "ended"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_the_format_is_that_of_earlier_versions(path: Path) -> None:
    Journal(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (0x636F676A,)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        found = {
            name: [column[1] for column in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in tables.fetchall()
        }
        assert found == COLUMNS
        assert [status.value for status in Status] == [1, 2, 3, 4]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such modes")
def test_a_journal_of_an_earlier_version_is_closed_to_other_users(path: Path) -> None:
    cut_off(path)
    files = [path, wal(path)]
    for file in files:
        file.chmod(0o644)
    with Journal(path) as journal:
        files.append(path.with_name(f"{path.name}-shm"))
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert journal.last_line() == 2


def outcome(line: int, status: Status, refers: int | None = None) -> tuple[object, ...]:
    return (line, "d", int(status), 1, None, None, 0.0, 1, refers)


def test_what_earlier_runs_left(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin_run({"input": "{}", "quota": "saved"}, same_input=False)
        journal.write(
            Batch(
                outcomes=[
                    outcome(1, Status.SUCCEEDED),
                    outcome(2, Status.FAILED),
                    outcome(3, Status.REPEATED, 2),
                    outcome(4, Status.AMBIGUOUS),
                ],
                failures=[(2, "E", "m", 400), (4, "A", "n", None)],
                sends=[
                    (4, "d", 0.0, '"1"', 1, None),
                    (5, "d", 0.0, '"2"', 1, None),
                    (6, "d", 0.0, None, 0, None),
                    (7, "d", 0.0, None, 0, "key"),
                ],
                marks=[Mark(4096, "x", last=False)],
                run=(1, 0.0, 5.0, 5.0, 9, '{"fault": 2}', None),
            )
        )
        job_id = journal.job_id
    with Journal(path) as journal:
        assert (journal.job_id, journal.run, journal.resumed) == (job_id, 2, True)
        assert (journal.current_pass, journal.last_line()) == (1, 4)
        earlier = journal.earlier_runs()
        assert earlier.sends == [OpenSend(5, "d", '"2"')]
        assert (earlier.groups, earlier.quota) == ({7: "key"}, "saved")
        totals = earlier.totals
        assert (totals.succeeded, totals.failed, totals.ambiguous) == (1, 2, 1)
        assert (totals.completed, totals.requests, totals.elapsed) == (4, 9, 5.0)
        assert totals.retries == {"fault": 2}
        assert journal.completed(2, 3) == {
            2: CompletedRow("d", True, Failure("E", "m", 400)),
            3: CompletedRow("d", True, None),
        }
        assert journal.marks() == [Mark(4096, "x", last=False)]
        journal.begin_run({}, same_input=True)
        assert journal.marks()
        journal.begin_run({}, same_input=False)
        assert journal.marks() == []


def test_a_batch_is_written_as_a_whole_or_not_at_all(path: Path) -> None:
    with Journal(path) as journal:
        wrong = Batch(outcomes=[outcome(1, Status.SUCCEEDED)], events=[(1, "d", None, "x", 0.0)])
        with pytest.raises(JournalError, match="cannot be written: NOT NULL"):
            journal.write(wrong)
        assert journal.last_line() == 0
        wrong.events.clear()
        wrong.durable = True
        journal.write(wrong)
        assert journal.last_line() == 1


# Files.


def names(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_a_copy_of_the_main_file_knows_of_a_run_from_its_begin_to_its_end(path: Path) -> None:
    def copy(*, with_wal: bool = False) -> Path:
        for file in path.parent.glob("copy*"):
            file.unlink()
        return copied(path, "copy", with_wal=with_wal)

    for run in (1, 2):
        with Journal(path) as journal:
            # Nothing can be sent yet, so the copy lacks nothing.
            with Journal(copy()) as other:
                assert (other.job_id, other.run) == (journal.job_id, run)
            journal.begin_run({"input": "{}"}, same_input=True)
            journal.write(Batch(outcomes=[outcome(run, Status.SUCCEEDED)]))
            with pytest.raises(JournalRefusedError, match="lacks its newest records"):
                Journal(copy())
            with Journal(copy(with_wal=True)) as other:
                assert (other.job_id, other.last_line()) == (journal.job_id, run)
        assert names(path) - {"copy"} == {"journal"}
        with Journal(copy()) as other:
            assert (other.job_id, other.last_line()) == (journal.job_id, run)


def test_each_moment_of_the_end_leaves_a_journal_that_can_be_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the files before each step that ends a journal, as if a kill came then."""
    moments: list[Path] = []

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if watching:
                moments.append(copied(path, f"moment{len(moments)}", with_wal=True))
            return super().execute(sql, *values)

    watching = False
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    with Journal(path) as journal:
        journal.begin_run({"input": "{}"}, same_input=False)
        journal.write(Batch(outcomes=[outcome(1, Status.SUCCEEDED)]))
        watching = True
    watching = False
    # In a step, pages of the main file are written one after the other.
    contents = [moment.read_bytes() for moment in moments]
    main_files = dict.fromkeys(contents)
    for before, after in itertools.pairwise([*contents, path.read_bytes()]):
        for end in range(0, len(after) + 1, 4096):
            main_files[after[:end] + before[end:]] = None
    for moment in moments:
        with Journal(moment) as other:
            assert other.last_line() == 1
    alone = path.with_name("alone")
    used = 0
    for content in main_files:
        alone.write_bytes(content)
        with suppress(JournalRefusedError), Journal(alone) as other:
            assert other.last_line() == 1
            used += 1
    assert len(moments) >= 4
    assert 0 < used < len(main_files)


def test_a_refused_journal_keeps_its_wal(path: Path) -> None:
    cut_off(path)
    content = wal(path).read_bytes()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 9")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        other = copied(path, "other", with_wal=True)
    content = wal(other).read_bytes()
    with pytest.raises(JournalRefusedError, match="another version"):
        Journal(other)
    assert wal(other).read_bytes() == content


def test_a_journal_that_is_gone_and_its_wal_is_not_is_no_new_job(path: Path) -> None:
    cut_off(path).unlink()
    for _ in range(2):
        with pytest.raises(
            JournalRefusedError, match=r"is missing, but .*journal-wal, with the newest records"
        ):
            Journal(path)
        assert has_wal(path)
    wal(path).unlink()
    with Journal(path) as journal:
        assert not journal.resumed


def test_the_end_waits_for_readers_and_leaves_one_file(path: Path) -> None:
    journal = Journal(path)
    with open_to_read(path) as connection:
        journal.begin_run({}, same_input=False)
        closer = Timer(0.2, connection.close)
        closer.start()
        journal.close()
        closer.join()
    assert names(path) == {"journal"}


def test_a_reader_that_stays_does_not_keep_the_end_from_coming(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CLOSING", 0.05)
    journal = Journal(path)
    journal.begin_run({"input": "{}"}, same_input=False)
    with open_to_read(path) as connection:
        journal.close()
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert has_wal(path)
    with Journal(path):
        pass
    assert names(path) == {"journal"}


def test_a_reader_that_keeps_a_run_from_beginning_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path) as journal:
        journal._connection.execute("PRAGMA busy_timeout = 50")
        with open_to_read(path) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM runs").fetchall()
            with pytest.raises(JournalRefusedError, match="being read by another program"):
                journal.begin_run({}, same_input=False)


@pytest.mark.parametrize("with_wal", [False, True])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_journal_that_loses_its_name_is_noticed(path: Path, how: str, with_wal: bool) -> None:
    with Journal(path) as journal:
        journal.begin_run({"input": "{}"}, same_input=False)
        journal.write(Batch(outcomes=[outcome(1, Status.SUCCEEDED)]))
        if how == "deleted":
            path.unlink()
            if with_wal:
                wal(path).unlink()
        else:
            path.rename(path.with_name("moved"))
            if with_wal:
                wal(path).rename(path.with_name("moved-wal"))
        if how == "replaced":
            path.touch()
        message = "was deleted while" if how == "deleted" else "was moved or replaced while"
        for _ in range(2):
            with pytest.raises(JournalError, match=message):
                journal.write(Batch(outcomes=[outcome(2, Status.SUCCEEDED)]))
    if how != "deleted":
        path.with_name("moved").rename(path)
        if with_wal:
            path.with_name("moved-wal").rename(wal(path))
        with Journal(path) as journal:
            assert (journal.resumed, journal.last_line()) == (True, 1)


def test_a_journal_that_is_damaged_while_it_is_used_is_named(path: Path) -> None:
    with Journal(path) as journal:
        journal.write(Batch(outcomes=[outcome(1, Status.SUCCEEDED)]))
        journal._connection.execute("UPDATE outcomes SET dialog = CAST(x'ff' AS TEXT)")
        journal._connection.execute("INSERT INTO runs VALUES (1, 0, 0, 0, 0, '{', NULL)")
        for read in (lambda: journal.completed(1, 1), journal.totals, journal.earlier_runs):
            with pytest.raises(JournalRefusedError, match="is damaged"):
                read()


def test_of_the_ends_of_a_pipe_the_newest_is_kept(path: Path) -> None:
    offsets = [*range(0, 5000, 500), 4096, 5500, 262_144, 262_500, 263_000, 263_500]
    with Journal(path) as journal:
        for offset in offsets:
            journal.write(Batch(marks=[Mark(offset, "x", last=False)]))
        kept = [0, 4096, 5500, 262_144, 263_500]
        assert [mark.offset for mark in journal.marks()] == kept
        journal.write(Batch(marks=[Mark(264_000, "x", last=True)]))
        assert [mark.offset for mark in journal.marks()] == [*kept[:-1], 264_000]


def test_a_program_that_holds_the_lock_does_not_delay_a_journal_for_long(path: Path) -> None:
    with Journal(path) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(JournalError, match="database is locked"):
            journal.write(Batch(meta={"a": "1"}))
        assert time.monotonic() - began < 4
        other.execute("COMMIT")
        journal.write(Batch(meta={"a": "1"}))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(JournalRefusedError):
            Journal(path)
        with pytest.raises(JournalRefusedError), open_to_read(path):
            pass
        assert time.monotonic() - began < 4
