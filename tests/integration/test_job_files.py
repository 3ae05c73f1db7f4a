"""Files of a job: who may read them, and what lay in their place before."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cognigy_async.bulk.input.row import dead_letter
from cognigy_async.bulk.journal.schema import Failure
from cognigy_async.emulator import Emulator, Faults

from .commands import ROOT
from .conftest import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the system has no such files")

RUN = ["bulk", "run", "rows.jsonl"]
DEAD = "rows.jsonl.dead.jsonl"
NOTES = b"my notes\n"


@pytest.fixture
def umask_0() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def with_reports() -> None:
    pytest.importorskip("matplotlib", reason="reports need the extra report")


def write_rows(failing: int = 1) -> None:
    """Write rows, the first ones of which fail."""
    rows = [
        {"dialog_id": f"d{n}", "session": {"a-b" if n < failing else "seq": n}} for n in range(10)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def modes() -> dict[str, int]:
    """Return the modes of all files of the job."""
    return {
        found.name: stat.S_IMODE(found.stat().st_mode)
        for found in Path().iterdir()
        if found.name != "rows.jsonl" and found.is_file()
    }


def as_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with pipes as its standard streams."""
    return subprocess.run(
        [sys.executable, "-m", "cognigy_async", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.usefixtures("umask_0", "with_reports")
def test_only_the_owner_may_read_what_a_job_writes(emulator: Emulator, command: Command) -> None:
    write_rows()
    assert command(*RUN, "--report", "report.html") == 1
    names = {"rows.jsonl.journal", DEAD, "report.html"}
    assert modes() == dict.fromkeys(names, 0o600)
    # Earlier versions left it to the umask.
    for name in names:
        Path(name).chmod(0o644)
    assert command(*RUN, "--report", "report.html") == 1
    assert modes() == dict.fromkeys(names, 0o600)


@pytest.mark.real_time
@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read_the_files_of_a_run(emulator: Emulator, command: Command) -> None:
    write_rows()
    seen: dict[str, int] = {}
    emulator.faults = Faults(latency=0.3)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            seen.update(modes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert command(*RUN) == 1
    finally:
        over.set()
        thread.join()
    names = [f"rows.jsonl.journal{end}" for end in ("", "-wal", "-shm")]
    assert {name: seen[name] for name in (*names, DEAD)} == dict.fromkeys((*names, DEAD), 0o600)


def symbolic(path: Path) -> None:
    path.symlink_to("victim")


def hard(path: Path) -> None:
    path.hardlink_to("victim")


def copied(path: Path) -> None:
    path.write_bytes(Path("victim").read_bytes())


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


PLANTED: dict[Callable[[Path], object], str] = {
    symbolic: "it is a symbolic link",
    hard: "it has another name, a hard link",
    dangling: "it is a symbolic link",
    copied: "it has content ",
    os.mkfifo: "it is not a regular file",
}


NAMES = [DEAD, "named.jsonl", "report.html", "rows.jsonl.journal"]
CASES = [(name, plant) for name in NAMES for plant in PLANTED]
# A pipe that is named is a stream.
CASES.remove(("named.jsonl", os.mkfifo))
CASES.remove(("report.html", os.mkfifo))
CASES += [(f"rows.jsonl.journal{end}", copied) for end in ("-wal", "-shm", "-journal")]


@pytest.mark.quick("*-symbolic", "*-copied", "*-mkfifo")
@pytest.mark.parametrize(("name", "plant"), CASES)
@pytest.mark.usefixtures("with_reports")
def test_a_file_that_was_planted_is_named_and_nothing_is_sent(
    emulator: Emulator, command: Command, name: str, plant: Callable[[Path], object]
) -> None:
    options = {"named.jsonl": ["--dead-letters", name], "report.html": ["--report", name]}
    problem = PLANTED[plant]
    is_journal = name == "rows.jsonl.journal"
    if is_journal and plant in (hard, copied):
        problem = "is damaged: file is not a database"
    write_rows()
    victim = Path("victim")
    victim.write_bytes(NOTES)
    victim.chmod(0o644)
    plant(Path(name))
    before = os.lstat(name)
    assert command(*RUN, *options.get(name, [])) == 2
    assert problem in command.messages
    assert name in command.messages
    assert emulator.stats.requests == 0
    assert victim.read_bytes() == NOTES
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert os.path.samestat(os.lstat(name), before)
    assert stat.S_IMODE(os.lstat(name).st_mode) == stat.S_IMODE(before.st_mode)
    assert not Path("nowhere").exists()
    # The message names the remedy.
    Path(name).unlink()
    assert command(*RUN, *options.get(name, [])) == 1
    assert emulator.stats.writes == 9


def test_an_empty_file_of_somebody_does_not_become_a_journal(
    emulator: Emulator, command: Command
) -> None:
    write_rows()
    Path("victim").touch()
    Path("rows.jsonl.journal").hardlink_to("victim")
    assert command(*RUN) == 2
    assert "is empty and has a second name (a hard link)" in command.messages
    assert not Path("victim").stat().st_size


def test_a_database_of_another_program_stays_as_that_left_it(
    emulator: Emulator, command: Command
) -> None:
    write_rows()
    # It is killed in a transaction, which the next program that opens the database rolls back.
    code = (
        "import os, sqlite3\n"
        "db = sqlite3.connect('app.db', isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('CREATE TABLE mine (x)')\n"
        "db.execute('BEGIN')\n"
        "db.executemany('INSERT INTO mine VALUES (?)', [('x' * 4000,)] * 100)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    files = [Path("app.db"), Path("app.db-journal")]
    before = [file.read_bytes() for file in files]
    assert before[1]
    assert command(*RUN, "--journal", "app.db") == 2
    assert "app.db is no journal of a job" in command.messages
    assert [file.read_bytes() for file in files] == before


LETTER = dead_letter(1, b'{"dialog_id":"d"}', Failure("E", "m", None))


@pytest.mark.parametrize(
    ("content", "is_own"),
    [
        (b"", True),
        (LETTER, True),
        (json.dumps(json.loads(LETTER)).encode() + b"\n", True),
        (LETTER.replace(b'"d"', b'"corrected"'), False),
        (LETTER + LETTER.replace(b'"d"', b'"corrected"').rstrip(), False),
        (LETTER * 3 + LETTER[:30], True),
        (LETTER * 3 + LETTER[:30] + bytes(50), True),
        (bytes(4096), True),
        (LETTER[:30], False),
        (bytes(100) + NOTES, False),
        (LETTER * 3 + b'{"dialog_id": "d"}\n', False),
        (LETTER + b'{"dialog_id"\n' + LETTER, False),
        (b'{"dialog_id": "d"}', False),
        (LETTER + NOTES.strip(), False),
        (b'["_error":{"type":"' + LETTER, False),
        (b'{"dialog_id":"\\"_error\\":{\\"type\\":\\"E"}\n', False),
    ],
)
def test_only_dead_letters_give_way_to_dead_letters(
    emulator: Emulator, command: Command, content: bytes, is_own: bool
) -> None:
    write_rows()
    Path(DEAD).write_bytes(content)
    assert command(*RUN) == (1 if is_own else 2)
    if is_own:
        (letter,) = map(json.loads, Path(DEAD).read_text().splitlines())
        assert letter["_error"]["line"] == 1
    else:
        assert Path(DEAD).read_bytes() == content
        assert f"the dead letters {DEAD} cannot be written: it has content" in command.messages


def test_dead_letters_of_dead_letters_are_known(emulator: Emulator, command: Command) -> None:
    write_rows(failing=3)
    assert command(*RUN) == 1
    for _ in range(2):
        arguments = ["bulk", "run", DEAD, "--dead-letters", "again.jsonl", "--journal", "j"]
        assert command(*arguments) == 1
    assert len(Path("again.jsonl").read_text().splitlines()) == 3


def test_dead_letters_go_to_streams(emulator: Emulator, command: Command) -> None:
    write_rows(failing=2)
    ended = as_process(*RUN, "--dead-letters", "/dev/stdout")
    assert ended.returncode == 1, ended.stderr
    *letters, summary = ended.stdout.splitlines()
    assert [json.loads(letter)["_error"]["line"] for letter in letters] == [1, 2]
    assert summary.startswith("8 of 10 rows applied")
    assert command(*RUN, "--dead-letters", "/dev/null") == 1
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert command(*RUN, "--dead-letters", "pipe") == 1
    reader.join()
    assert len(read[0].splitlines()) == 2
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


def test_what_standard_output_has_already_stays(emulator: Emulator) -> None:
    write_rows(failing=2)
    with Path("out").open("ab") as out:
        out.write(NOTES)
        out.flush()
        subprocess.run(
            [sys.executable, "-m", "cognigy_async", *RUN, "--dead-letters", "/dev/stdout"],
            stdout=out,
            stderr=subprocess.DEVNULL,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    notes, *letters, _ = Path("out").read_bytes().splitlines(keepends=True)
    assert notes == NOTES
    assert len(letters) == 2


@pytest.mark.usefixtures("with_reports")
def test_a_report_replaces_a_report_and_nothing_else(emulator: Emulator, command: Command) -> None:
    write_rows(failing=0)
    assert command(*RUN, "--report", "report.html") == 0
    first = Path("report.html").read_bytes()
    with Path("report.html").open("rb") as reader:
        assert command(*RUN, "--report", "report.html") == 0
        assert reader.read() == first, "readers keep the page that they opened"
    assert Path("report.html").read_bytes() != first
    page = first.replace(b"cognigy_async bulk report", b"something else")
    Path("report.html").write_bytes(page)
    assert command(*RUN, "--report", "report.html") == 2
    assert "--report report.html cannot be written: it has content" in command.messages
    assert Path("report.html").read_bytes() == page
    assert sorted(path.name for path in Path().iterdir()) == [
        "report.html",
        "rows.jsonl",
        "rows.jsonl.journal",
    ]


@pytest.mark.usefixtures("with_reports")
def test_a_report_that_was_replaced_while_the_job_ran_is_kept(
    emulator: Emulator, command: Command
) -> None:
    write_rows(failing=0)
    over = threading.Event()

    def plant() -> None:
        while not emulator.stats.requests and not over.wait(0.01):
            pass
        Path("report.html").write_bytes(NOTES)

    emulator.faults = Faults(latency=0.2)
    thread = threading.Thread(target=plant)
    thread.start()
    try:
        assert command(*RUN, "--report", "report.html") == 1
    finally:
        over.set()
        thread.join()
    assert "the report report.html cannot be written: it has content" in command.messages
    assert Path("report.html").read_bytes() == NOTES
    assert command("bulk", "status", "rows.jsonl.journal") == 0
    assert "10 applied" in command.out


@pytest.mark.usefixtures("with_reports")
def test_a_report_goes_to_streams(emulator: Emulator, command: Command) -> None:
    write_rows(failing=0)
    ended = as_process(*RUN, "--report", "/dev/stdout")
    assert ended.returncode == 0, ended.stderr
    assert "<!doctype html>" in ended.stdout
    assert ended.stdout.rstrip().endswith("</html>")
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert command(*RUN, "--report", "pipe") == 0
    reader.join()
    assert read[0].startswith(b"<!doctype html>")
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


def test_no_file_beside_a_journal_leads_a_reader_elsewhere(
    emulator: Emulator, command: Command
) -> None:
    write_rows(failing=0)
    assert command(*RUN) == 0
    Path("victim").write_bytes(NOTES)
    for end in ("-wal", "-shm", "-journal"):
        for plant in (symbolic, hard, dangling, os.mkfifo):
            planted = Path(f"rows.jsonl.journal{end}")
            plant(planted)
            for arguments in (["status"], ["explain"]):
                more = ["d1"] if arguments == ["explain"] else []
                assert command("bulk", *arguments, "rows.jsonl.journal", *more) == 2
                assert f"journal{end}: it " in command.messages
            assert command(*RUN) == 2
            planted.unlink()
            assert Path("victim").read_bytes() == NOTES
            assert not Path("nowhere").exists()
    assert command("bulk", "status", "rows.jsonl.journal") == 0
