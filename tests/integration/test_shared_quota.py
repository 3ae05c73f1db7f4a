"""Processes that share one limit by a file, one of which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from bisect import bisect_left
from pathlib import Path

import anyio
import pytest

from cognigy_async import ApiKey, AsyncStateClient, ConfigurationError, RateLimit, Request, Response

PER = 1.0
LIMIT = 40

PROGRAM = """
import sys, time
import anyio
from cognigy_async import ApiKey, AsyncStateClient, RateLimit, Response

class Wire:
    async def send(self, request, *, timeout):
        print(time.monotonic(), flush=True)
        return Response(200, {"etag": "1"}, b"{}")
    async def aclose(self):
        pass

async def main(path, priority):
    limit = RateLimit(40, per=1, shared=path)
    options = {"auth": ApiKey("k"), "transport": Wire(), "rate_limit": limit}
    client = AsyncStateClient("http://localhost", **options)
    rows = ({"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(10**6))
    async with client, client.update_many(rows, priority=priority) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok, outcome.error

anyio.run(main, *sys.argv[1:], backend="asyncio")
"""


@pytest.mark.real_time
@pytest.mark.parametrize("priority", ["live", "bulk"])
def test_four_processes_share_one_limit_and_one_of_them_is_killed(
    tmp_path: Path, priority: str
) -> None:
    path = tmp_path / "quota"
    outputs = [tmp_path / f"out-{number}" for number in range(4)]
    processes = []
    try:
        for output in outputs:
            command = [sys.executable, "-c", PROGRAM, str(path), priority]
            with output.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file))
        deadline = time.monotonic() + 30
        while not all(output.stat().st_size for output in outputs):
            assert time.monotonic() < deadline, "not all of them send"
            time.sleep(0.05)
        processes[0].kill()
        killed = time.monotonic()
        time.sleep(8 * PER)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    starts = sorted(float(line) for output in outputs for line in output.read_text().split())
    assert most(starts, PER) <= LIMIT
    # What the dead one held is back after a window; from then on the others use everything, if the
    # machine lets them.
    after = [at for at in starts if at >= killed + 1.5 * PER]
    assert most(after, 3 * PER) >= 0.9 * 3 * LIMIT
    last = {output: float(output.read_text().split()[-1]) for output in outputs}
    assert last[outputs[0]] <= killed
    assert sum(at > killed + PER for at in last.values()) == 3


def most(starts: list[float], per: float) -> int:
    return max(bisect_left(starts, at + per) - index for index, at in enumerate(starts))


class Wire:
    """Answers at once."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.starts.append(time.monotonic())
        return Response(200, {"etag": "1"}, b"{}")

    async def aclose(self) -> None: ...


def client_of(wire: Wire, limit: RateLimit) -> AsyncStateClient:
    return AsyncStateClient("http://localhost", auth=ApiKey("k"), transport=wire, rate_limit=limit)


@pytest.mark.real_time
async def test_the_file_remembers_across_clients_and_what_was_not_used_is_given_back(
    tmp_path: Path,
) -> None:
    limit = RateLimit(40, per=1.5, shared=tmp_path / "quota")
    wire = Wire()
    async with client_of(wire, limit) as client:
        for number in range(10):
            await client.update(f"d-{number}", session={"n": 1})
        assert client.metrics.quota[0].used >= 10
        assert client.quota_state()["starts"] == []
    kept = json.loads((tmp_path / "quota").read_bytes())["batches"].values()
    assert sum(count for count, _, _ in kept) == 10
    async with client_of(wire, limit) as client, anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(write, client, number)
    assert most(wire.starts, 1.5) <= 40
    assert wire.starts[39] - wire.starts[10] < 1.4


async def write(client: AsyncStateClient, number: int) -> None:
    await client.update(f"e-{number}", session={"n": 1})


@pytest.mark.real_time
async def test_a_live_update_beside_bulk_work_finds_a_place_soon(tmp_path: Path) -> None:
    wire = Wire()
    limit = RateLimit(40, per=2, shared=tmp_path / "quota")
    async with client_of(wire, limit) as client, anyio.create_task_group() as tasks:
        rows = ({"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(10_000))

        async def bulk() -> None:
            async with client.update_many(rows) as outcomes:
                async for _ in outcomes:
                    pass

        tasks.start_soon(bulk)
        await anyio.sleep(0.3)
        with anyio.fail_after(1.4):
            await client.update("live", session={"n": 1})
        tasks.cancel_scope.cancel()


def test_a_file_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    limit = RateLimit(40, per=1, shared=tmp_path / "nowhere" / "quota")
    with pytest.raises(ConfigurationError, match="its directory must exist"):
        client_of(Wire(), limit)


@pytest.mark.real_time
async def test_a_file_that_is_taken_away_only_delays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cognigy_async.ratelimit.shared_file.RETRY_INTERVAL", 0.05)
    folder = tmp_path / "folder"
    folder.mkdir()
    client = client_of(Wire(), RateLimit(40, per=1, shared=folder / "quota"))
    (folder / "quota").unlink()
    folder.rmdir()
    async with client:
        handle = await client.submit({"dialog_id": "d", "session": {"n": 1}})
        while "shared quota file cannot be used" not in caplog.text:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        folder.mkdir()
        await handle
