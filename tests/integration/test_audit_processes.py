"""Audit files of real processes: killed, forked, several at a time, and out of room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cognigy_async import read_audit, verify_audit

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.real_time

Process = subprocess.Popen[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a writer, which ends with the test."""
    with ExitStack() as stack:

        def writer(count: int, how: str = "plain") -> Process:
            arguments = ["-m", "tests.integration.audit_writer", str(path), str(count), how]
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            stack.callback(end, process)
            return process

        yield writer


def end(process: Process) -> None:
    process.kill()
    process.wait(timeout=20)
    assert process.stdout is not None
    process.stdout.close()


def lines_of(process: Process) -> list[str]:
    out, _ = process.communicate(timeout=25)
    assert process.returncode == 0
    return out.split("\n")[:-1]


def files_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit*"))


def ids(*paths: Path) -> list[str]:
    return [record.update_id for file in paths for record in read_audit(file)]


def test_a_killed_process_leaves_a_valid_file_that_is_continued(
    path: Path, start: Callable[..., Process]
) -> None:
    count = 0
    for _ in range(3):
        process = start(1_000_000)
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(400)]
        process.kill()
        process.wait(timeout=20)
        report = verify_audit([path])
        assert report.faults == ()
        written = ids(path)
        assert report.records == len(written) > count
        # In order and without a gap; records that were not written yet are lost.
        assert written[count:] == [f"plain-{n}" for n in range(len(written) - count)]
        assert printed[0] == written[count]
        count = len(written)
    lines_of(start(5))
    assert files_of(path) == [path]
    assert verify_audit([path]).records == count + 5


def test_concurrent_processes_have_their_own_files(
    path: Path, start: Callable[..., Process]
) -> None:
    first = start(1_000_000)
    assert first.stdout is not None
    first.stdout.readline()
    others = [start(50) for _ in range(2)]
    for other in others:
        assert len(lines_of(other)) == 50
    first.kill()
    first.wait(timeout=20)
    files = files_of(path)
    assert path in files
    assert set(files) <= {path, *(path.with_name(f"audit.{n}.jsonl") for n in (2, 3))}
    assert verify_audit(files).ok
    assert len(ids(*files[:-1])) == 100, "those that were not killed wrote all"
    # The first file is free again.
    before = verify_audit([path]).records
    lines_of(start(3))
    assert verify_audit([path]).records == before + 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_workers_have_their_own_files(path: Path, start: Callable[..., Process]) -> None:
    assert len(lines_of(start(30, "fork"))) == 120
    files = files_of(path)
    assert len(files) >= 2
    report = verify_audit(files)
    assert (report.faults, report.torn, report.records) == ((), (), 120)
    assert len(set(ids(*files))) == 120
    # A late child may have continued the file of the parent.
    assert ids(path)[:30] == [f"parent-{number}" for number in range(30)]
    # All files are free again.
    lines_of(start(3))
    assert ids(path)[-1] == "plain-2"


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit to a file's size")
def test_a_full_disk_fails_no_update_and_leaves_complete_records(
    path: Path, start: Callable[..., Process]
) -> None:
    *applied, counts = lines_of(start(300, "full"))
    assert len(applied) == 300
    report = verify_audit([path])
    assert (report.faults, report.torn) == ((), ())
    assert 0 < report.records < 300
    assert counts == f"written {report.records} failed {300 - report.records}"
    assert path.stat().st_size <= 60_000
