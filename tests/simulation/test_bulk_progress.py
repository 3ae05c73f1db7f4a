"""What a job shows of itself where stderr is no terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from cognigy_async.bulk import BulkJob
from cognigy_async.cli.bulk_progress import Progress
from tests.simulation.world import Wire, client_of


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
