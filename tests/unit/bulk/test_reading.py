"""Reading a journal: cut off, in use, damaged, or made by somebody else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cognigy_async.bulk import JournalRefusedError, explain_dialog, read_summary
from cognigy_async.bulk.journal import reading
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.reading import connect, has_wal, open_to_read, parse_object, refusal
from cognigy_async.bulk.report.figures import read_figures

from ._journals import cut_off, main_file_only, outcome, wal

ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*), x FROM n"
)

WORDS = [a + b for a in "abcdefghij" for b in "abcdefghij"]

READERS: list[Callable[[Path], object]] = [
    read_summary,
    lambda path: explain_dialog(path, "d"),
    read_figures,
    Journal,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def names(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def files(path: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in path.parent.iterdir() if "-shm" not in file.name
    }


def ended(path: Path) -> Path:
    with Journal(path) as journal:
        journal.begin_run({"input": "{}"}, same_input=False)
        journal.write(
            Batch(
                outcomes=[outcome(1), outcome(2)],
                failures=[(2, "E", "m", 400)],
                sends=[(3, "d", 1.0, None, 1, None)],
                events=[(1, "d", 1.0, "fault", 1.0)],
                run=(1, 0.0, 5.0, 5.0, 9, '{"fault": 2}', "complete"),
            )
        )
    return path


def refused(path: Path) -> set[str]:
    """Return the messages of all commands about a journal that none of them uses."""
    messages = set()
    before = files(path)
    for read in READERS:
        with pytest.raises(JournalRefusedError) as caught:
            read(path)
        assert files(path) == before
        messages.add(str(caught.value).replace(str(path), "J"))
    return messages


def test_a_journal_that_was_cut_off_is_read_with_its_wal_and_left_as_it_is(path: Path) -> None:
    before = wal(cut_off(path)).read_bytes()
    assert read_summary(path).totals.succeeded == 2
    assert len(explain_dialog(path, "d")) == 6
    assert wal(path).read_bytes() == before
    with Journal(path) as journal:
        assert journal.resumed
        assert journal.last_line() == 2


def test_a_journal_without_its_wal_is_refused_by_all_and_stays_one_file(path: Path) -> None:
    main_file_only(path)
    (message,) = refused(path)
    assert "they are in J-wal, which is missing" in message
    assert "--force" in message
    # What a reader leaves that was killed, and what a disk may make of the file.
    for content in (b"", bytes(4096)):
        wal(path).write_bytes(content)
        assert refused(path) == {message}
        wal(path).unlink()
    wal(path).write_bytes(b"no log of SQLite")
    with pytest.raises(JournalRefusedError, match="-wal: it has content of something else"):
        Journal(path, force=True)
    assert wal(path).read_bytes() == b"no log of SQLite"


def test_a_journal_without_its_wal_is_read_where_another_program_merged_them(path: Path) -> None:
    cut_off(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM runs").fetchall()
    assert not wal(path).exists()
    with pytest.raises(JournalRefusedError, match="lacks its newest records"):
        Journal(path)
    with Journal(path, force=True) as journal:
        assert journal.last_line() == 2
        # A run that does not begin proves nothing.
    with pytest.raises(JournalRefusedError, match="lacks its newest records"):
        read_summary(path)
    with Journal(path, force=True) as journal:
        journal.begin_run({}, same_input=False)
    assert read_summary(path).totals.succeeded == 2


def test_a_reader_leaves_nothing_beside_a_journal_whose_run_ended(path: Path) -> None:
    ended(path)
    modified = path.parent.stat().st_mtime_ns
    with open_to_read(path) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (2,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM meta")
    assert names(path) == {"journal"}
    assert path.parent.stat().st_mtime_ns == modified


def test_a_journal_in_use_is_read_with_what_is_only_in_its_wal(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin_run({"input": "{}"}, same_input=False)
        for line in (1, 2):
            journal.write(Batch(outcomes=[outcome(line)]))
            summary = read_summary(path)
            assert summary.totals.succeeded == line
            assert summary.owner is not None
        with pytest.raises(JournalRefusedError, match=r"in use by process \d+ on host \S+ since"):
            Journal(path)
    assert read_summary(path).owner is None


def test_a_file_that_is_no_journal_is_named(path: Path) -> None:
    with pytest.raises(JournalRefusedError, match="there is no journal"):
        read_summary(path)
    path.write_text('{"dialog_id": "d"}\n' * 100)
    (message,) = refused(path)
    assert message.startswith("journal J is damaged: file is not a database")
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    (message,) = refused(path)
    assert message.startswith("J is no journal of a job")
    path.write_bytes(b"")
    with pytest.raises(JournalRefusedError, match="is no journal of a job: it is empty"):
        read_summary(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM outcomes; END",
            "the trigger 't'",
        ),
        (f"DROP TABLE events; CREATE VIEW events AS {ENDLESS}", "no table events like that of"),
        (f"CREATE VIEW v AS {ENDLESS}", "the view 'v', which no journal has"),
        ("CREATE INDEX i ON outcomes (dialog)", "the index 'i'"),
        ('CREATE TABLE "\x1b[31m\u202e" (x)', r"the table '\x1b[31m\u202e', which no journal"),
        ("ALTER TABLE runs ADD COLUMN more", "no table runs like that of a journal"),
        ("ALTER TABLE meta RENAME COLUMN value TO content", "no table meta like that of a journal"),
        ("DROP TABLE sends", "no table sends like that of a journal"),
    ],
)
def test_other_tables_are_named(path: Path, change: str, problem: str) -> None:
    ended(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(change)
    (message,) = refused(path)
    assert message.startswith("journal J is damaged: it has ")
    assert problem in message


@pytest.mark.parametrize(
    ("table", "assignment"),
    [
        ("meta", "value = x'00ff'"),
        ("outcomes", "status = 5"),
        ("outcomes", "status = 'x'"),
        ("outcomes", "line = -line"),
        ("outcomes", "dialog = x'ff'"),
        ("outcomes", "settled = 'never'"),
        ("outcomes", "settled = 9e999"),
        ("outcomes", "sent = -1e30"),
        ("outcomes", "attempts = 1.5"),
        ("failures", "http = 'teapot'"),
        ("failures", "message = x'00'"),
        ("sends", "open = 2"),
        ("events", "seconds = 1e300"),
        ("events", "what = x'00'"),
        ("runs", "requests = -1"),
        ("runs", "retries = x'7b7d'"),
        ("runs", "ended = x'00'"),
        ("runs", "run = 9223372036854775807"),
    ],
)
def test_values_that_no_job_writes_are_named(path: Path, table: str, assignment: str) -> None:
    ended(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {assignment}")
    (message,) = refused(path)
    assert f"damaged: its table {table} has inconsistent rows" in message


@pytest.mark.parametrize(
    "retries",
    [
        *("[7]", "7", "{", "[" * 100_000, '[["fault", 1]]'),
        *('{"fault": "many"}', '{"fault": -1}', '{"fault": 1.5}', f'{{"fault": 1{"0" * 400}}}'),
        *('{"$\\\\foo$": 1}', '{"a\\u0000b": 1}', '{"\\ud800": 1}'),
        json.dumps(dict.fromkeys(map("_".__mul__, range(1, 33)), 1) | dict.fromkeys(WORDS, 1)),
    ],
)
def test_strange_counts_are_refused(path: Path, retries: str) -> None:
    ended(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET retries = ?", (retries,))
    for read in (read_summary, Journal):
        with pytest.raises(JournalRefusedError, match="is damaged: "):
            read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input", "[]"),
        ("input", '{"size": "large"}'),
        ("options", "[" * 100_000),
        ("options", "7"),
        ("job", None),
    ],
)
def test_a_summary_of_strange_texts_is_refused(path: Path, key: str, value: str | None) -> None:
    ended(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        if value is None:
            connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
            connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
    with pytest.raises(JournalRefusedError, match="is damaged: "):
        read_summary(path)


@pytest.mark.parametrize(
    ("at", "content"),
    [
        (4096, b"\xa5" * 8),  # The begin of the page of the first table.
        (36, b"\x00\x00\x00\x07"),  # The number of unused pages, which no query needs.
    ],
)
def test_a_damaged_page_is_found(path: Path, at: int, content: bytes) -> None:
    ended(path)
    file = bytearray(path.read_bytes())
    file[at : at + len(content)] = content
    path.write_bytes(file)
    (message,) = refused(path)
    assert message.startswith("journal J is damaged: ")
    assert "***" not in message


def test_a_query_that_does_not_end_is_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    ended(path)
    with (
        pytest.raises(JournalRefusedError, match="is damaged: a query did not end in time"),
        open_to_read(path) as connection,
    ):
        connection.execute(ENDLESS).fetchone()


def test_a_value_that_is_too_long_is_not_read_into_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST", 10_000)
    ended(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = printf('%.*c', 20000, 'x') WHERE key = 'pass'")
    for read in (read_summary, Journal):
        with pytest.raises(JournalRefusedError, match="is damaged: string or blob too big"):
            read(path)


def test_a_job_that_was_killed_while_it_made_its_journal_is_no_obstacle(path: Path) -> None:
    origin = path.with_name("origin")
    with closing(sqlite3.connect(origin, isolation_level=None)) as connection:
        # A small cache makes SQLite write pages before the transaction ends.
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        for suffix in ("", "-journal"):
            source = path.with_name(f"origin{suffix}")
            path.with_name(f"journal{suffix}").write_bytes(source.read_bytes())
    assert path.stat().st_size
    with pytest.raises(JournalRefusedError, match="Run the job again: that repairs it"):
        read_summary(path)
    with Journal(path) as journal:
        assert not journal.resumed
    assert names(path) == {"journal", "origin"}


def test_errors_of_the_system_name_the_journal(path: Path) -> None:
    ended(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(path, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError) as caught:
                other.execute("SELECT * FROM runs")
            assert "is in use by another program" in str(refusal(path, caught.value))
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(path.with_name("no") / "journal")
    assert "cannot be read or written: unable to open" in str(refusal(path, caught.value))
    with pytest.raises(OSError, match="No such file") as gone:
        connect(path.with_name("none"), "ro")
    assert "cannot be read or written: No such file or directory." in str(refusal(path, gone.value))


def test_the_begin_of_a_log_is_recognized(path: Path) -> None:
    assert not has_wal(path)
    assert has_wal(cut_off(path))


def test_only_an_object_is_an_object() -> None:
    assert parse_object('{"a": [1]}') == {"a": [1]}
    for text in ("[]", "null", "{", "7"):
        with pytest.raises(ValueError, match=r".+"):
            parse_object(text)
