"""`bulk status --watch` beside a job, and the command that a job prints to be resumed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest

from cognigy_async.emulator import Emulator, Faults
from tests.terminal import read_screens

from .test_cli_processes import Commands, Process, commands, emulator, wait_for

__all__ = ["commands", "emulator"]

ROWS = 60
JOURNAL = "rows.jsonl.journal"


def start_job(commands: Commands, emulator: Emulator, *options: str) -> Process:
    """Start a job of some seconds; return it when its journal can be read."""
    emulator.faults = Faults(latency=0.1)
    rows = (f'{{"dialog_id": "d-{n}", "session": {{"a": 1}}}}\n' for n in range(ROWS))
    (commands.directory / "rows.jsonl").write_text("".join(rows))
    process = commands.start("bulk", "run", "rows.jsonl", "--max-in-flight", "1", *options)
    wait_for(lambda: emulator.stats.writes > 2)
    return process


@pytest.mark.thorough
def test_in_a_pipe_it_prints_lines_and_ends_with_the_job(
    commands: Commands, emulator: Emulator
) -> None:
    job = start_job(commands, emulator)
    status, out, err = commands.run("bulk", "status", "--watch", JOURNAL)
    assert (status, err) == (0, "")
    assert job.wait(timeout=1) == 0, "it ended with the job"
    first, *lines = out.splitlines()
    assert re.fullmatch(r"\d+ applied, 0 failed, 0\.0 rows/s.*, \d+ requests?, 0 retries", first)
    assert lines[-1] == "not running; the last run ended: complete"
    assert f"{ROWS} applied, 0 failed, 0 ambiguous" in lines


def test_with_json_each_line_is_an_object(commands: Commands, emulator: Emulator) -> None:
    start_job(commands, emulator)
    process = commands.start("bulk", "status", "--watch", "--json", JOURNAL)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    emulator.faults = Faults()
    out, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")
    (last,) = map(json.loads, out.splitlines())
    assert (first["running"], last["running"]) == (True, False)
    assert (last["succeeded"], last["ended"]) == (ROWS, "complete")


def test_on_a_terminal_it_is_live(commands: Commands, emulator: Emulator) -> None:
    start_job(commands, emulator)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = commands.start(
        *("bulk", "status", "--watch", JOURNAL), stdout=slave, variables={"TERM": "xterm-256color"}
    )
    os.close(slave)
    screen, screens = read_screens(master, 60)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    line = r"^(\d+) applied, 0 failed, \d+\.\d rows/s$"
    seen = [found[1] for each in screens if (found := re.search(line, each, re.MULTILINE))]
    assert len(set(seen)) >= 3
    assert screen.lines[-1] == "not running; the last run ended: complete"
    assert not any("rows/s" in line for line in screen.lines), "the panel is gone"


def test_a_job_that_does_not_run_is_printed_once(commands: Commands, emulator: Emulator) -> None:
    job = start_job(commands, emulator)
    emulator.faults = Faults()
    job.wait(timeout=40)
    plain = commands.run("bulk", "status", JOURNAL)
    assert plain[0] == 0
    assert commands.run("bulk", "status", "--watch", JOURNAL) == plain


def test_an_interrupt_ends_the_watch_and_not_the_job(
    commands: Commands, emulator: Emulator
) -> None:
    job = start_job(commands, emulator)
    process = commands.start("bulk", "status", "--watch", JOURNAL)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "Interrupted.\n")
    assert process.returncode == 130
    emulator.faults = Faults()
    assert job.wait(timeout=40) == 0


def test_a_reader_that_leaves_ends_the_watch(commands: Commands, emulator: Emulator) -> None:
    start_job(commands, emulator)
    read, write = os.pipe()
    os.close(read)
    process = commands.start("bulk", "status", "--watch", JOURNAL, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert emulator.stats.writes < ROWS, "the job still runs"


@pytest.mark.quick("1")
@pytest.mark.parametrize("interrupts", [1, 2])
def test_the_command_after_an_interrupt_resumes_the_job_as_it_was(
    commands: Commands, emulator: Emulator, interrupts: int
) -> None:
    options = ["--journal", "a b.journal", "--coalesce", "--max-failures", "7", "--json"]
    job = start_job(commands, emulator, *options)
    for _ in range(interrupts):
        job.send_signal(signal.SIGINT)
        # Two signals that are not yet taken count as one.
        with suppress(subprocess.TimeoutExpired):
            job.wait(timeout=0.05)
    _, err = job.communicate(timeout=20)
    assert job.returncode == 130
    lines = [line for line in err.splitlines() if "To resume: " in line]
    assert len(lines) == 1
    name, *words = shlex.split(lines[0].partition("To resume: ")[2])
    assert (name, words[:3]) == ("cognigy-async", ["bulk", "run", "rows.jsonl"])
    assert words[3:] == ["--max-in-flight", "1", *options]
    emulator.faults = Faults()
    status, out, err = commands.run(*words)
    assert (status, err) == (0, "")
    assert json.loads(out)["succeeded"] == ROWS


def test_the_command_for_a_pipe_says_that_it_needs_the_same_input(
    commands: Commands, emulator: Emulator
) -> None:
    emulator.faults = Faults(latency=0.1)
    rows = "".join(f'{{"dialog_id": "d-{n}", "session": {{"a": 1}}}}\n' for n in range(ROWS))
    process = subprocess.Popen(
        [sys.executable, "-m", "cognigy_async", "bulk", "run", "-", "--max-in-flight", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=commands.directory,
        env=commands.environment,
    )
    assert process.stdin is not None
    process.stdin.write(rows)
    process.stdin.close()
    process.stdin = None
    wait_for(lambda: emulator.stats.writes > 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "To resume, with the same input: cognigy-async bulk run - --max-in-flight 1\n" in err
