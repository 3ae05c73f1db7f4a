"""The file of a baseline: what it holds, and which files it refuses."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cognigy_async.bulk import JournalRefusedError, forget_dialogs
from cognigy_async.bulk.baseline import Baseline

SERVER = "https://x (RuntimeApi)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nightly.baseline"


def filled(path: Path, **variables: object) -> Path:
    baseline = Baseline.open(path, SERVER)
    with baseline.transaction():
        digests = {name: baseline.digest("d", None, name, variables[name]) for name in variables}
        baseline.add("d", digests)
    baseline.close()
    return path


def names(path: Path, dialog_id: str = "d", max_age: float | None = None) -> set[str]:
    baseline = Baseline.open(path)
    try:
        return set(baseline.known(dialog_id, max_age))
    finally:
        baseline.close()


def test_it_is_private_and_holds_no_value(path: Path) -> None:
    filled(path, secret="canary-7d21", other=1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"canary-7d21" not in path.read_bytes()
    assert names(path) == {"secret", "other"}
    # SQLite leaves nothing beside it.
    assert list(path.parent.iterdir()) == [path]


def test_a_hash_depends_on_the_key_and_on_the_place_of_a_value(path: Path) -> None:
    digests = []
    for file in (path, path.with_name("other")):
        baseline = Baseline.open(file)
        digests += [
            baseline.digest(dialog_id, user_id, name, value)
            for dialog_id, user_id, name, value in [
                ("d", None, "a", {"x": 1, "y": 2}),
                ("e", None, "a", {"x": 1, "y": 2}),
                ("d", "u", "a", {"x": 1, "y": 2}),
                ("d", None, "b", {"x": 1, "y": 2}),
                ("d", None, "a", {"x": 1, "y": True}),
            ]
        ]
        again = baseline.digest("d", None, "a", {"y": 2, "x": 1})
        assert again == digests[-5]
        baseline.close()
    assert len(set(digests)) == len(digests)


def test_what_is_older_than_the_limit_does_not_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("cognigy_async.bulk.baseline.time.time", lambda: clock[0])
    filled(path, a=1)
    clock[0] = 1060.0
    assert names(path, max_age=60) == {"a"}
    assert names(path, max_age=59) == set()
    assert names(path) == {"a"}
    # The clock was set back, so that nothing is known of the age.
    clock[0] = 900.0
    assert names(path, max_age=60) == set()


def test_one_job_at_a_time_uses_it(path: Path) -> None:
    baseline = Baseline.open(path, SERVER)
    uses: list[Callable[[Path], object]] = [Baseline.open, Baseline.scratch]
    uses.append(lambda found: forget_dialogs(found, ["d"]))
    for use in uses:
        with pytest.raises(JournalRefusedError, match=r"baseline .* is in use by another job"):
            use(path)
    baseline.close()
    Baseline.open(path, SERVER).close()


def test_the_baseline_of_another_server_is_refused(path: Path) -> None:
    filled(path, a=1)
    with pytest.raises(JournalRefusedError, match=r"https://x \(RuntimeApi\) then, https://y"):
        Baseline.open(path, "https://y (RuntimeApi)")
    assert names(path) == {"a"}


def test_a_scratch_copy_changes_nothing(path: Path) -> None:
    copy = Baseline.scratch(path)
    with copy.transaction():
        assert copy.forget("d") == 0
    copy.close()
    assert not path.exists()
    filled(path, a=1)
    copy = Baseline.scratch(path)
    with copy.transaction():
        assert copy.forget("d") == 1
    copy.close()
    assert names(path) == {"a"}


def test_dialogs_are_forgotten(path: Path) -> None:
    with pytest.raises(JournalRefusedError, match="there is no baseline"):
        forget_dialogs(path, ["d"])
    assert not path.exists()
    filled(path, a=1, b=2)
    assert forget_dialogs(path, ["e"]) == 0
    assert forget_dialogs(str(path), ["e", "d"]) == 2
    assert names(path) == set()


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")


def changed(path: Path, *statements: str) -> None:
    filled(path, a=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def cut(path: Path) -> None:
    filled(path, **{f"name_{n}": n for n in range(500)})
    path.write_bytes(path.read_bytes()[:-6000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_program, "no baseline of a job"),
        (lambda path: path.write_text("no database " * 99), "cannot be used: file is not a data"),
        (lambda path: changed(path, "CREATE VIEW v AS SELECT 1"), "tables are not those"),
        (lambda path: changed(path, "PRAGMA user_version = 9"), "another version"),
        (lambda path: changed(path, "DELETE FROM meta WHERE key = 'key'"), "it has no key"),
        (lambda path: changed(path, f"UPDATE meta SET value = '{'ab' * 65}'"), "it has no key"),
        (lambda path: changed(path, "UPDATE applied SET at = 'x'"), "inconsistent rows"),
        (lambda path: changed(path, "UPDATE applied SET name = x'00'"), "inconsistent rows"),
        (cut, "cannot be used: "),
        (lambda path: path.symlink_to(filled(path.with_name("other"))), "symbolic link"),
        (lambda path: path.with_name("other").hardlink_to(filled(path)), "a hard link"),
        (lambda path: path.mkdir(), "directory"),
    ],
)
def test_other_files_are_refused(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    uses: list[Callable[[Path], object]] = [Baseline.open, Baseline.scratch]
    for use in uses:
        with pytest.raises(JournalRefusedError, match=message):
            use(path)
    path.with_name("free").write_bytes(b"")
    Baseline.open(path.with_name("free")).close()


def test_it_is_refused_if_somebody_put_a_link_beside_it(path: Path) -> None:
    filled(path, a=1)
    beside = path.with_name(f"{path.name}-journal")
    beside.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(JournalRefusedError, match=r"because of .*-journal: it is a symbolic link"):
        Baseline.open(path)
