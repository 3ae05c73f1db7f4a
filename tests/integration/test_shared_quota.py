"""Processes that share one limit by a file, one of which is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tenacity import wait_fixed

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    NoResponseError,
    RateLimit,
    Request,
    Response,
    RetryPolicy,
    ServerError,
    SharedQuotaError,
    UpdateOutcome,
)
from cognigy_async.bulk import BulkJob, JobResult
from cognigy_async.ratelimit.limiter import RateLimits

PER = 1.0
LIMIT = 40
LAG = 0.25
"""Seconds that a process may have to wait for the CPU between a slot and its request."""

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


@pytest.mark.quick("bulk")
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
        time.sleep(6 * PER)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    starts = sorted(float(line) for output in outputs for line in output.read_text().split())
    assert most(starts, PER - LAG) <= LIMIT
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


def client_of(wire: Wire, limit: RateLimits, **options: Any) -> AsyncStateClient:
    return AsyncStateClient(
        "http://localhost", auth=ApiKey("k"), transport=wire, rate_limit=limit, **options
    )


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


# A file that cannot be used.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "quota"


@pytest.fixture
async def client(path: Path) -> AsyncIterator[AsyncStateClient]:
    """A client that has used its file once."""
    path.parent.mkdir()
    wire = Wire()
    async with client_of(wire, RateLimit(100, per=10, shared=path)) as client:
        await client.update("first", session={"n": 1})
        yield client


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"dialog_id": f"d-{n}", "session": {"n": n}, **fields} for n in range(count)]


def overwrite(path: Path) -> None:
    """Replace a file in one step, so that nobody finds it empty or missing."""
    other = path.with_name("other")
    other.write_bytes(b"my notes")
    other.replace(path)


@contextmanager
def spoilt(path: Path, kind: str) -> Iterator[None]:
    """Make a file unusable in one of several ways, and repair it at the end."""
    if kind == "stopped":
        with stopped_holder(path):
            yield
        return
    if kind == "foreign":
        before = path.with_name("before")
        os.link(path, before)
        overwrite(path)
        yield
        assert path.read_bytes() == b"my notes"
        before.replace(path)
        return
    away = path.parent.with_name("away")
    path.parent.rename(away)
    yield
    away.rename(path.parent)


@contextmanager
def stopped_holder(path: Path) -> Iterator[None]:
    """A process that is stopped while it holds the lock of the file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            holder.send_signal(signal.SIGSTOP)
            yield
        finally:
            holder.kill()


HOLDER = """
import sys, time
from cognigy_async._utils.locks import try_lock
from cognigy_async._utils.private_files import open_private
file = open_private(sys.argv[1])
while not try_lock(file):
    pass
print("locked", flush=True)
time.sleep(1000)
"""

KINDS = ["foreign", "no directory", "stopped"]


async def until(condition: Callable[[], object], most: float = 8.0) -> None:
    with anyio.fail_after(most):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


def is_usable_again(caplog: pytest.LogCaptureFixture) -> bool:
    return "can be used again" in caplog.text


@pytest.mark.real_time
@pytest.mark.parametrize("kind", KINDS)
async def test_live_work_goes_on_and_bulk_work_stops_with_a_message(
    client: AsyncStateClient, path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[UpdateOutcome] = []
    error: SharedQuotaError | None = None

    async def bulk() -> None:
        nonlocal error
        endless = ({"dialog_id": f"b-{n}", "session": {"n": n}} for n in itertools.count())
        try:
            async with client.update_many(endless) as stream:
                async for outcome in stream:
                    outcomes.append(outcome)
        except SharedQuotaError as caught:
            error = caught

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bulk)
        await until(lambda: outcomes)
        with spoilt(path, kind):
            await until(lambda: error)
            refused = [outcome for outcome in outcomes if not outcome.ok]
            assert refused
            assert {type(outcome.error) for outcome in refused} == {SharedQuotaError}
            assert str(path) in str(error) == str(refused[-1].error)
            # Also outside of a stream, and at once.
            began = time.monotonic()
            with pytest.raises(SharedQuotaError, match="bulk work stops"):
                await client.update("b", session={"n": 1}, priority="bulk")
            assert time.monotonic() - began < 4
            assert client.metrics.applied == 1 + len(outcomes) - len(refused)
        await until(lambda: is_usable_again(caplog))
        async with client.update_many(rows(1)) as stream:
            assert [outcome.ok async for outcome in stream] == [True]
    assert [problem_of(text) for text in caplog.messages] == [True, False]


def problem_of(message: str) -> bool:
    """Whether a message tells that the file cannot be used, and not that it can be again."""
    assert message.startswith("shared quota file ")
    return "Bulk work stops; live work goes on with" in message


@pytest.mark.real_time
@pytest.mark.parametrize("kind", KINDS)
async def test_no_live_update_waits_for_the_file(
    client: AsyncStateClient, path: Path, kind: str
) -> None:
    with spoilt(path, kind):
        for number in range(9):
            began = time.monotonic()
            await client.update(f"d-{number}", session={"n": number})
            assert time.monotonic() - began < 4
            # The leases of before end.
            await anyio.sleep(0.1)
        began = time.monotonic()
        await client.aclose(timeout=2)
        assert time.monotonic() - began < 4


@pytest.mark.real_time
async def test_a_client_that_begins_with_a_stopped_lock_holder_serves_live_work(
    path: Path,
) -> None:
    path.parent.mkdir()
    limit = RateLimit(100, per=10, shared=path)
    with stopped_holder(path):
        began = time.monotonic()
        async with client_of(Wire(), limit) as client:
            await client.update("d", session={"n": 1})
            assert time.monotonic() - began < 4
            assert client.metrics.quota[0].n == 10
    assert time.monotonic() - began < 8


INTERRUPTED = """
import sys
import anyio
from cognigy_async import ApiKey, AsyncStateClient, RateLimit, Response

class Wire:
    async def send(self, request, *, timeout):
        return Response(200, {"etag": "1"}, b"{}")
    async def aclose(self):
        pass

async def main(path, backend):
    limit = RateLimit(10, per=100, shared=path)
    async with AsyncStateClient(
        "http://localhost", auth=ApiKey("k"), transport=Wire(), rate_limit=limit
    ) as client:
        print("open", flush=True)
        # Nine more than a tenth of the limit wait until they are interrupted.
        for number in range(10):
            client.submit_nowait({"dialog_id": f"d-{number}", "session": {"n": 1}})
        await client.flush()

try:
    anyio.run(main, *sys.argv[1:], backend=sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.quick("0.0-asyncio", "1.5-trio")
@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_one_interrupt_ends_a_process_whose_lock_is_held_by_a_stopped_one(
    path: Path, backend: str, pause: float
) -> None:
    path.parent.mkdir()
    with stopped_holder(path):
        command = [sys.executable, "-c", INTERRUPTED, str(path), backend]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
                time.sleep(pause)
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                assert process.wait(10) == 0
                assert process.stdout.read() == "interrupted\n"
                # Most of it is the end of the interpreter.
                assert time.monotonic() - began < 8
            finally:
                process.kill()


FULL_DISK = """
import resource, sys
import anyio
from cognigy_async import ApiKey, AsyncStateClient, RateLimit, Response, SharedQuotaError

class Wire:
    async def send(self, request, *, timeout):
        return Response(200, {"etag": "1"}, b"{}")
    async def aclose(self):
        pass

async def main(path):
    limit = RateLimit(100, per=10, shared=path)
    async with AsyncStateClient(
        "http://localhost", auth=ApiKey("k"), transport=Wire(), rate_limit=limit
    ) as client:
        await client.update("first", session={"n": 1})
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
        for number in range(10):
            await client.update(f"d-{number}", session={"n": 1})
            await anyio.sleep(0.1)
        try:
            await client.update("b", session={"n": 1}, priority="bulk")
        except SharedQuotaError as error:
            print(error.problem)
        print(client.metrics.quota[0].n, client.metrics.applied)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        while True:
            try:
                await client.update("d", session={"n": 1}, priority="bulk")
            except SharedQuotaError:
                await anyio.sleep(0.1)
            else:
                print("applied")
                break

anyio.run(main, sys.argv[1], backend=sys.argv[2])
"""


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_a_full_disk_live_work_goes_on_and_the_ledger_is_kept(
    tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "quota"
    command = [sys.executable, "-c", FULL_DISK, str(path), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=40)
    assert done.stdout.splitlines() == ["cannot be used: File too large", "100 11", "applied"]
    broken, repaired = done.stderr.splitlines()
    assert f"{path} cannot be used: File too large. Bulk work stops" in broken
    assert repaired == f"shared quota file {path} can be used again"
    batches = json.loads(path.read_bytes())["batches"]
    # It was not made anew, and has all requests.
    assert "full" not in batches
    assert sum(count for count, _, _ in batches.values()) == 12


def job_of(source: Path) -> BulkJob:
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(150)), encoding="utf-8")
    return BulkJob(source)


@pytest.mark.thorough
@pytest.mark.real_time
async def test_a_job_stops_and_goes_on_when_its_file_is_repaired(
    client: AsyncStateClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(path.parent.with_name("rows.jsonl"))
    results: list[JobResult] = []

    async def run() -> None:
        results.append(await job.run(client))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: job.progress.done)
        with spoilt(path, "foreign"):
            await until(lambda: results)
    [stopped] = results
    assert stopped.ended == "stopped"
    assert isinstance(stopped.fault, SharedQuotaError)
    assert stopped.reason == str(stopped.fault)
    assert stopped.failed == stopped.ambiguous == 0
    assert 0 < stopped.succeeded < 150
    assert not job.dead_letters.exists()
    await until(lambda: is_usable_again(caplog))
    result = await job.run(client)
    assert (result.succeeded, result.ok) == (150, True)
    assert client.metrics.applied == 151


@pytest.mark.real_time
async def test_an_update_that_was_sent_keeps_its_failure(path: Path) -> None:
    path.parent.mkdir()
    limit = RateLimit(100, per=10, shared=path)

    class Failing(Wire):
        async def send(self, request: Request, *, timeout: float) -> Response:
            await super().send(request, timeout=timeout)
            if len(self.starts) == 2:
                overwrite(path)
            if "lost" in request.url:
                raise NoResponseError("the connection was closed")
            return Response(503, {}, b"{}")

    retry = RetryPolicy(wait=wait_fixed(2.5))
    async with client_of(Failing(), limit, retry=retry) as client:
        updates = [{"dialog_id": name, "session": {"n": 1}} for name in ("lost", "refused")]
        found: dict[str, Any] = {}
        with pytest.raises(SharedQuotaError):
            async with client.update_many(updates) as stream:
                async for outcome in stream:
                    assert outcome.update is not None
                    found[outcome.update.dialog_id] = outcome.error
    lost, refused = found["lost"], found["refused"]
    # It may have been applied, and that matters more.
    assert isinstance(lost, AmbiguousUpdateError)
    assert isinstance(lost.__cause__, SharedQuotaError)
    assert isinstance(refused, SharedQuotaError)
    assert isinstance(refused.__cause__, ServerError)


@pytest.mark.thorough
@pytest.mark.real_time
def test_a_file_that_is_removed_below_four_processes_is_full_for_a_window(tmp_path: Path) -> None:
    path = tmp_path / "quota"
    outputs = [tmp_path / f"out-{number}" for number in range(4)]
    processes = []
    try:
        for output in outputs:
            command = [sys.executable, "-c", PROGRAM, str(path), "live"]
            with output.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file))
        deadline = time.monotonic() + 30
        while not all(output.stat().st_size for output in outputs):
            assert time.monotonic() < deadline, "not all of them send"
            time.sleep(0.05)
        time.sleep(1.5 * PER)
        path.unlink()
        removed = time.monotonic()
        time.sleep(4 * PER)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    sent = [[float(line) for line in output.read_text().split()] for output in outputs]
    # All go on, also while the file counts as full.
    for starts in sent:
        assert any(removed + 0.2 * PER < at < removed + 1.2 * PER for at in starts)
    starts = sorted(at for each in sent for at in each)
    assert most([at for at in starts if at < removed], PER - LAG) <= LIMIT
    assert most([at for at in starts if at > removed + 2.5 * PER], PER - LAG) <= LIMIT
    # In between, each has a quarter of the limit, and may have used more of it before.
    assert most(starts, PER - LAG) <= 1.75 * LIMIT


@pytest.mark.real_time
async def test_an_input_that_waits_is_closed_when_bulk_work_stops(path: Path) -> None:
    path.parent.mkdir()
    limit = RateLimit(100, per=10, shared=path)
    overwrite(path)
    closed = False

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        nonlocal closed
        try:
            yield rows(1)[0]
            await anyio.sleep_forever()
        finally:
            closed = True

    async with client_of(Wire(), limit) as client:
        outcomes = []
        with anyio.fail_after(5), pytest.raises(SharedQuotaError):
            async for outcome in client.update_many(slowly()):
                outcomes.append(outcome)
        assert [type(outcome.error) for outcome in outcomes] == [SharedQuotaError]
    assert closed


async def test_two_limits_cannot_share_a_file(path: Path) -> None:
    path.parent.mkdir()
    limits = [RateLimit(20, per=1, shared=path), RateLimit(1000, per=300, shared=str(path))]
    with pytest.raises(ConfigurationError, match="needs a file of its own"):
        client_of(Wire(), limits)
