"""The journal: what is written, what earlier runs left, and files that cannot be used."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from cognigy_async.bulk import JournalError, JournalRefusedError
from cognigy_async.bulk.input.fingerprint import Mark
from cognigy_async.bulk.journal.journal import Batch, Journal, connect_read_only
from cognigy_async.bulk.journal.schema import CompletedRow, Failure, OpenSend, Status

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


def test_a_program_that_holds_the_lock_delays_a_journal_by_a_second_at_most(path: Path) -> None:
    with Journal(path) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(JournalError, match="database is locked"):
            journal.write(Batch(meta={"a": "1"}))
        assert time.monotonic() - began < 1.5
        other.execute("COMMIT")
        journal.write(Batch(meta={"a": "1"}))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        for use in (Journal, connect_read_only):
            with pytest.raises(JournalRefusedError, match="in use by another program"):
                use(path)
        assert time.monotonic() - began < 2.5


def test_a_reader_changes_nothing(path: Path) -> None:
    with (
        Journal(path),
        closing(connect_read_only(path)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM meta")
    with pytest.raises(JournalRefusedError, match="there is no journal"):
        connect_read_only(path.with_name("none"))
