"""What a job shows of itself where stderr is no terminal."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from cognigy_async import Request, Response
from cognigy_async.bulk import BulkJob
from cognigy_async.cli.bulk.progress import Progress
from tests.simulation.world import DROPPED, Wire, client_of, status


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
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Progress(job, client).run)
            tasks.start_soon(job.run, client)
            while not client.metrics.requests:  # noqa: ASYNC110 - threads open the files
                await anyio.sleep(0.01)
            await anyio.sleep(300)
            away = False
            while job.progress.done < len(rows):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
    lines = [line for line in capsys.readouterr().err.splitlines() if "retries" in line]
    assert sum(line.endswith(", waiting: no response") for line in lines) >= 8, lines
