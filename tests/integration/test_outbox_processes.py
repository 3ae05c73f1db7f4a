"""Processes with outboxes in one folder that are killed at random moments."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .commands import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it sends SIGKILL")


def start(base: Path, name: str, run: int, seconds: float) -> subprocess.Popen[str]:
    arguments = ["-m", "tests.integration.outbox_process", str(base), name, str(run), str(seconds)]
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_until_open(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "open\n":
        raise AssertionError(process.communicate()[1])


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def finish(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors


def check(base: Path, *, across_runs: bool) -> None:
    """Check that the CRM has each applied update, in the order of each dialog, and no other.

    Args:
        across_runs: check the order of a dialog also between the runs. Several processes that live
            at once may take over the events of an earlier run.
    """
    crm = (base / "crm").read_text().split()
    server = (base / "server").read_text().split()
    reported = set((base / "reported").read_text().split())
    assert reported <= set(server)
    assert set(crm) == set(server)

    def dialog_of(key: str) -> str:
        return key.rsplit(":", 2 if across_runs else 1)[0]

    by_dialog: dict[str, list[str]] = {}
    for key in server:
        by_dialog.setdefault(dialog_of(key), []).append(key)
    arrived: dict[str, dict[str, None]] = {}
    for key in reversed(crm):
        arrived.setdefault(dialog_of(key), {}).setdefault(key)
    assert {dialog: list(keys)[::-1] for dialog, keys in arrived.items()} == by_dialog
    left = {path.name for path in (base / "outbox").iterdir()}
    assert left == {"adoption.lock"}


@pytest.mark.parametrize("kills", [4])
def test_a_process_that_is_killed_loses_nothing(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    for run in range(kills):
        process = start(tmp_path, "d", run, 60)
        # Some are killed while they take over the file of the one before.
        if chance.random() < 0.8:
            wait_until_open(process)
        else:
            time.sleep(0.3 * chance.random())
        time.sleep(0.5 * chance.random())
        kill(process)
    finish(start(tmp_path, "last", kills, 0))
    check(tmp_path, across_runs=True)


@pytest.mark.parametrize("count", [2, 4])
def test_workers_that_start_at_once_share_a_folder(tmp_path: Path, count: int) -> None:
    first = [start(tmp_path, f"w{number}", 0, 60) for number in range(count)]
    for process in first:
        wait_until_open(process)
    time.sleep(0.5)
    for process in first:
        kill(process)
    workers = [start(tmp_path, f"w{number}", 1, 7) for number in range(count)]
    for process in workers:
        wait_until_open(process)
    time.sleep(1)
    for process in workers[: count // 2]:
        kill(process)
    for process in workers[count // 2 :]:
        finish(process)
    finish(start(tmp_path, "last", 0, 0))
    check(tmp_path, across_runs=False)
