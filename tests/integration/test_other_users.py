"""A folder that several users of the machine write to, and what one of them plants there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from .commands import ROOT, command_environment
from .job_of_user import ROWS

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user"
)

VICTIM, ATTACKER = 12345, 12346
FILES = ["job", "job.dead.jsonl", "audit.jsonl", ".audit.jsonl.lock", "quota"]
WITH_REPORT = find_spec("matplotlib") is not None
if WITH_REPORT:
    FILES.append("report.html")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder like /tmp; the folders of pytest are closed to other users."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o1777)
    (made / "rows.jsonl").write_bytes(ROWS)
    (made / "rows.jsonl").chmod(0o644)
    yield made
    shutil.rmtree(made)


def write_all(folder: Path) -> dict[str, str | None]:
    """Write files of each kind as the victim, and return the problem of each kind."""
    command = [sys.executable, "-m", "tests.integration.job_of_user", str(VICTIM), str(folder)]
    done = subprocess.run(
        command + ["--report"] * WITH_REPORT,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=command_environment(),
    )
    assert not done.returncode, done.stderr
    problems: dict[str, str | None] = json.loads(done.stdout)
    return problems


def as_attacker(code: str, *arguments: str | Path) -> str:
    """Run a program as the attacker and return what it prints."""
    become = f"import os, sys\nos.setgroups([]); os.setgid({ATTACKER}); os.setuid({ATTACKER})\n"
    command = [sys.executable, "-c", become + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    return done.stdout


READ = """
for path in sys.argv[1:]:
    try:
        open(path).close()
        print("read", path)
    except PermissionError:
        pass
"""

OPEN_TO_ALL = """
os.umask(0)
for path in sys.argv[1:]:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
"""

LINKS = """
for path in sys.argv[2:]:
    os.symlink(sys.argv[1], path)
"""

PIPES = """
os.umask(0)
for path in sys.argv[1:]:
    os.mkfifo(path, 0o666)
"""


def is_untouched(path: Path) -> bool:
    """Return whether a file that was planted is still there, and empty."""
    found = os.lstat(path)
    return found.st_uid == ATTACKER and (stat.S_ISLNK(found.st_mode) or not found.st_size)


def test_no_other_user_reads_what_was_written(folder: Path) -> None:
    problems = write_all(folder)
    assert set(problems.values()) == {None}
    assert {path.name for path in folder.iterdir()} == {"rows.jsonl", *FILES}
    for name in FILES:
        found = (folder / name).stat()
        assert (name, found.st_uid, stat.S_IMODE(found.st_mode)) == (name, VICTIM, 0o600)
    assert as_attacker(READ, *(folder / name for name in FILES)) == ""
    # All of them are the victim's own the next time.
    assert set(write_all(folder).values()) == {None}


PROBLEMS = {OPEN_TO_ALL: "another user", LINKS: "symbolic link", PIPES: "not a regular file"}


@pytest.mark.quick("links")
@pytest.mark.parametrize("plant", PROBLEMS, ids=["files", "links", "pipes"])
def test_what_another_user_planted_is_named_and_left_alone(folder: Path, plant: str) -> None:
    victim = folder / "victim"
    victim.write_bytes(b"notes of the victim")
    os.chown(victim, VICTIM, VICTIM)
    assert set(write_all(folder).values()) == {None}
    for name in FILES[1:]:
        (folder / name).unlink()
    names = [name for name in FILES[1:] if not name.startswith(".")]
    link = [victim] if plant == LINKS else []
    as_attacker(plant, *link, *(folder / name for name in names))
    problems = write_all(folder)
    for kind, problem in problems.items():
        assert PROBLEMS[plant] in str(problem), kind
    assert victim.read_bytes() == b"notes of the victim"
    assert all(is_untouched(folder / name) for name in names)
    (folder / "job").unlink()
    (folder / "job.dead.jsonl").unlink()
    as_attacker(plant, *link, folder / "job")
    assert PROBLEMS[plant] in str(write_all(folder)["job"])
    assert victim.read_bytes() == b"notes of the victim"


@pytest.mark.quick("job-wal")
@pytest.mark.parametrize("name", ["job.dead.jsonl", "job-wal", "job-shm", "job-journal"])
def test_a_single_file_that_another_user_planted(folder: Path, name: str) -> None:
    as_attacker(OPEN_TO_ALL, folder / name)
    problem = write_all(folder)["job"]
    assert f"{folder / name}" in str(problem)
    assert f"another user, with the id {ATTACKER}; remove it" in str(problem)
    assert not (folder / name).read_bytes()


def test_a_file_that_is_planted_while_sqlite_opens_its_own(folder: Path) -> None:
    assert write_all(folder)["job"] is None
    # The hook is called after the first look at the files beside the journal.
    code = f"""
import os, sys, tempfile
from pathlib import Path
from cognigy_async.bulk import JournalRefusedError
from cognigy_async.bulk.journal.journal import Journal
path = Path(sys.argv[1])
Journal(Path(tempfile.mkdtemp(dir=path.parent)) / "first").close()
def plant(event, arguments):
    if event == "sqlite3.connect" and not os.path.exists(f"{{path}}-wal"):
        os.seteuid(0)
        os.close(os.open(f"{{path}}-wal", os.O_CREAT | os.O_RDWR))
        os.chmod(f"{{path}}-wal", 0o666)
        os.chown(f"{{path}}-wal", {ATTACKER}, {ATTACKER})
        os.seteuid({VICTIM})
sys.addaudithook(plant)
os.setgroups([])
os.setegid({VICTIM})
os.seteuid({VICTIM})
try:
    Journal(path)
except JournalRefusedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "job"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert f"because of {folder}/job-wal: it belongs to another user" in done.stdout
