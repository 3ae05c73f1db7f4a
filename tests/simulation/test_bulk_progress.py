"""What a job shows of itself: lines, and on a terminal a screen that is drawn anew."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from cognigy_async import Request, Response
from cognigy_async.bulk import BulkJob
from cognigy_async.cli.bulk.progress import Progress
from tests.simulation.world import DROPPED, Reply, Wire, client_of, status
from tests.terminal import Screen

IN_FLIGHT = 10
"""Requests of a screen, of one second each."""


async def test_the_first_line_has_the_rate_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"dialog_id": f"d{n}", "session": {"n": n}} for n in range(700)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with client_of(Wire(takes=1.0), max_in_flight=10) as client:
        job = BulkJob(path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Progress(job, client).run)
            await job.run(client)
            tasks.cancel_scope.cancel()
    # Virtual time does not wait for the thread that opens the files.
    lines = capsys.readouterr().err.splitlines()
    first = next(line for line in lines if not line.startswith("0 done"))
    found = re.match(r"(\d+) done, 0 failed, (\d+\.\d) rows/s, ", first)
    assert found, first
    assert int(found[1]) <= 300
    assert 0 < float(found[2]) <= 12


async def test_a_server_that_is_away_is_told_as_long_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Virtual time runs ahead of the clock of the machine: here each moment is in the past.
    late = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr("cognigy_async.cli.bulk.progress.time", late)
    path = tmp_path / "rows.jsonl"
    rows = [{"dialog_id": f"d{n % 50}", "session": {"n": n}} for n in range(500)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    away = True

    async def answer(request: Request) -> Response:
        if away:
            await anyio.sleep(0.1)
            raise DROPPED
        return status(200, version=1)

    async with client_of(Wire(answer=answer), max_in_flight=10) as client:
        job = BulkJob(path)
        ended = anyio.Event()

        async def run() -> None:
            await job.run(client)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Progress(job, client).run)
            tasks.start_soon(run)
            while not client.metrics.requests:  # noqa: ASYNC110 - threads open the files
                await anyio.sleep(0.01)
            await anyio.sleep(300)
            away = False
            await ended.wait()
            tasks.cancel_scope.cancel()
    lines = [line for line in capsys.readouterr().err.splitlines() if "retries" in line]
    assert sum(line.endswith(", waiting: no response") for line in lines) >= 8, lines


async def screens_of(
    path: Path,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: Reply | None = None,
    seconds: float = 20.0,
    **options: Any,
) -> list[list[str]]:
    """Return the screens of a job on a terminal, one for each second of it, and the last one."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen(columns)
    monkeypatch.setattr("sys.stderr", screen)
    screens = []
    async with client_of(Wire(takes=1.0, answer=answer), max_in_flight=IN_FLIGHT) as client:
        job = BulkJob(path, journal=path.with_suffix(f".{columns}"), **options)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Progress(job, client).run)
            tasks.start_soon(job.run, client)
            for _ in range(int(seconds)):
                # Virtual time does not wait for the threads that open and write the files.
                while client.metrics.in_flight < IN_FLIGHT:
                    await anyio.lowlevel.checkpoint()
                await anyio.sleep(1)
                screens.append(screen.lines)
            job.stop()
            while client.metrics.in_flight:  # noqa: ASYNC110
                await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
    return [*screens, screen.lines]


@pytest.mark.parametrize("columns", [60, 100, 160])
async def test_a_terminal_shows_rows_applied_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"dialog_id": f"d{n}", "session": {"n": n}} for n in range(1000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    *screens, last = await screens_of(path, columns, monkeypatch)
    assert last == [], "it is gone at the end"
    bar, line, *details = screens[-1]
    assert len(bar) == columns
    found = re.fullmatch(r"━*[╸╺]?━* (\d+)% done", bar)
    assert found, bar
    told = re.fullmatch(
        r"(\d+) of 1,000 applied, 0 failed, (\d+\.\d) rows/s, (\d+) min (\d+) s left", line
    )
    assert told, line
    applied, rate, left = int(told[1]), float(told[2]), 60 * int(told[3]) + int(told[4])
    # All of the input is read, and ten requests of a second are sent at a time.
    assert 20 <= applied <= 200
    assert int(found[1]) == applied // 10
    assert left == pytest.approx((1000 - applied) / rate, rel=0.05)
    [detail] = details
    found = re.fullmatch(r"(\d+) in flight, 0 retries", detail)
    assert found, detail
    assert int(found[1]) <= IN_FLIGHT
    # Each screen is drawn over the one before.
    assert {len(screen) for screen in screens} == {3}


async def test_a_narrow_terminal_wraps_what_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"dialog_id": f"d{n % 50}", "session": {"n": n}} for n in range(12_345)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = iter(range(1_000))

    async def answer(request: Request) -> Response:
        await anyio.sleep(1)
        return status(400 if next(refused) % 2 else 200, version=1)

    *screens, _ = await screens_of(path, 40, monkeypatch, answer=answer)
    bar, *lines = screens[-1]
    assert re.fullmatch(r"[━╸╺]+ [01]% done", bar), bar
    assert max(map(len, screens[-1])) <= 40
    text = " ".join(lines)
    assert re.match(
        r"\d+ of (about )?12,\d{3} applied, \d+ failed, \d+\.\d rows/s, \d+ min \d+ s left \d+ in ",
        text,
    ), text


async def test_a_terminal_without_a_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # With both ends open nobody waits for the other.
    pipe = os.open(path, os.O_RDWR)
    try:
        for number in range(30):
            os.write(pipe, b'{"dialog_id": "d%d", "session": {"n": 1}}\n' % number)
        *screens, _ = await screens_of(path, 60, monkeypatch, seconds=2)
    finally:
        os.close(pipe)
    bar, line, _ = screens[-1]
    assert re.fullmatch(r"━* \d\d done", bar), bar
    assert re.fullmatch(r"\d\d applied, 0 failed, \d+\.\d rows/s", line), line
