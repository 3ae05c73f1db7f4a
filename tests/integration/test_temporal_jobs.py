"""Jobs on the development server of Temporal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)

from cognigy_async import ApiKey, ConfigurationError
from cognigy_async.bulk import JobOptions, JobResult
from cognigy_async.emulator import Emulator, Faults, Rules, serve
from cognigy_async.temporal import DurableStateClient, job_folder, jobs
from cognigy_async.temporal.bulk_job import BulkJobWorkflow
from cognigy_async.temporal.jobs import (
    dead_letters,
    job_result,
    job_status,
    start_job,
    workflow_id,
)
from cognigy_async.temporal.worker import StateWorker
from tests.integration.conftest import SECRET, Command
from tests.integration.temporal_replay import replay
from tests.integration.temporal_server import TemporalServer
from tests.integration.temporal_worker import WorkerProcess
from tests.simulation.world import BASE_URL, KEY, Wire, status

HISTORIES = Path(__file__).with_name("temporal_job_histories")

pytestmark = [pytest.mark.real_time, pytest.mark.temporal, pytest.mark.timeout(600)]

Row = dict[str, Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def cluster(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A task queue of the test's own."""
    return str(request.node.name)


@asynccontextmanager
async def worker(cluster: Client, queue: str, wire: Wire, **options: Any) -> AsyncIterator[None]:
    async with StateWorker(
        cluster, BASE_URL, task_queue=queue, auth=ApiKey(KEY), transport=wire, **options
    ):
        yield


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(count: int, dialogs: int) -> list[Row]:
    return [{"dialog_id": f"d-{n % dialogs}", "session": {"seq": n}} for n in range(count)]


async def letters_of(handle: WorkflowHandle[Any, Any]) -> list[Row]:
    return [json.loads(line) for line in await dead_letters(handle)]


async def until(condition: Any) -> None:
    with anyio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await anyio.sleep(0.01)


async def events_of(handle: WorkflowHandle[Any, Any]) -> int:
    return len((await handle.fetch_history()).events)


async def test_a_job_applies_each_row_once_and_in_order(
    cluster: Client, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folder, "CHUNK_ROWS", 20)
    wire = Wire(takes=0.001)
    wire.script(status(400), dialog_id="d-7")
    source = write(tmp_path / "rows.jsonl", [*numbered(500, 31), {"dialog_id": 4}])
    async with worker(cluster, queue, wire):
        handle = await start_job(cluster, source, task_queue=queue, partitions=4)
        numbers = await handle.result()
        letters = await letters_of(handle)
    # A chunk of 2,000 rows then costs 0.003 events for each of them.
    assert await events_of(handle) <= 6 * numbers["chunks"] + 20
    result = job_result(numbers)
    assert result.record() | {"elapsed": 0} == {
        "inputs": 501,
        "succeeded": 499,
        "failed": 2,
        "ambiguous": 0,
        "skipped": 0,
        "pending": 0,
        "requests": 500,
        "retries": 0,
        "elapsed": 0,
        "quota_utilisation": None,
        "ended": "complete",
    }
    assert sorted(letter["_error"]["line"] for letter in letters) == [8, 501]
    for dialog in range(31):
        assert [sent.seq for sent in wire.writes(f"d-{dialog}")] == list(range(dialog, 500, 31))
    assert len({sent.key for sent in wire.writes()}) == 500


async def test_a_paused_job_sends_nothing_until_it_is_resumed(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    wire = Wire(takes=0.02)
    source = write(tmp_path / "rows.jsonl", numbered(400, 400))
    async with worker(cluster, queue, wire, max_in_flight=4):
        handle = await start_job(cluster, source, task_queue=queue, partitions=2)
        await until(lambda: len(wire.sent) > 20)
        await handle.signal(BulkJobWorkflow.pause)
        with anyio.fail_after(120):
            while (sent := len(wire.sent)) != await later(wire, 0.5):
                pass
        found = await job_status(cluster, handle)
        assert (found["succeeded"], found["pending"]) == (sent, 400 - sent)
        assert 0 < sent < 400
        await handle.signal(BulkJobWorkflow.resume)
        result = job_result(await handle.result())
    assert result.ok
    assert len(wire.sent) == result.requests == 400


async def later(wire: Wire, seconds: float) -> int:
    await anyio.sleep(seconds)
    return len(wire.sent)


async def test_a_cancelled_job_says_what_is_left(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    wire = Wire(takes=0.02)
    source = write(tmp_path / "rows.jsonl", numbered(400, 400))
    async with worker(cluster, queue, wire, max_in_flight=4):
        handle = await start_job(cluster, source, task_queue=queue, partitions=2)
        await until(lambda: len(wire.sent) > 20)
        await handle.signal(BulkJobWorkflow.cancel)
        result = job_result(await handle.result())
    assert result.ended == "interrupted"
    assert result.succeeded == len(wire.sent) == 400 - result.pending < 400


async def test_a_worker_that_shuts_down_leaves_its_chunks_to_another(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    first, second = Wire(takes=0.02), Wire()
    source = write(tmp_path / "rows.jsonl", numbered(400, 40))
    async with worker(cluster, queue, first, max_in_flight=4):
        handle = await start_job(cluster, source, task_queue=queue, partitions=2)
        await until(lambda: len(first.sent) > 20)
    async with worker(cluster, queue, second):
        result = job_result(await handle.result())
    assert result.ok
    assert len(first.sent) + len(second.sent) == 400
    for dialog in range(40):
        sent = first.writes(f"d-{dialog}") + second.writes(f"d-{dialog}")
        assert [one.seq for one in sent] == list(range(dialog, 400, 40))


async def test_a_worker_whose_chunks_drain_takes_no_live_updates(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    first, second = Wire(takes=3.0), Wire()
    source = write(tmp_path / "rows.jsonl", numbered(1, 1))
    async with DurableStateClient(cluster, queue) as client:

        async def update() -> None:
            await anyio.sleep(1.0)
            await client.update("live", session={"seq": 1})

        async with worker(cluster, queue, first):
            await start_job(cluster, source, task_queue=queue)
            await until(lambda: first.sent)
            updating = asyncio.create_task(update())
        assert first.writes("live") == []
        async with worker(cluster, queue, second):
            await updating
    assert len(second.writes("live")) == 1


async def test_a_missing_input_fails_the_job(cluster: Client, queue: str, tmp_path: Path) -> None:
    async with worker(cluster, queue, Wire()):
        handle = await start_job(cluster, tmp_path / "none.jsonl", task_queue=queue)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert "none.jsonl cannot be opened: No such file" in str(failed.value.cause.__cause__)


async def test_a_job_id_is_used_once(cluster: Client, queue: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", numbered(1, 1))
    async with worker(cluster, queue, Wire()):
        handle = await start_job(cluster, source, task_queue=queue, job_id="nightly")
        assert handle.id == workflow_id("nightly", queue)
        await handle.result()
        with pytest.raises(ConfigurationError, match="'nightly' already"):
            await start_job(cluster, source, task_queue=queue, job_id="nightly")


async def test_a_job_is_found_by_its_search_attribute(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", numbered(1, 1))
    job_id = f"{queue}-{'x' * 300}"
    handle = await start_job(cluster, source, task_queue=queue, job_id=job_id)
    found: list[str] = []
    with anyio.fail_after(120):
        while not found:
            query = f"CognigyJob = '{job_id[:255]}'"
            found = [each.id async for each in cluster.list_workflows(query)]
    assert found == [handle.id]


async def test_a_cluster_without_the_search_attribute_takes_jobs(
    queue: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = TemporalServer(tmp_path, attributes=())
    server.start()
    try:
        cluster = await Client.connect(server.address)
        source = write(tmp_path / "rows.jsonl", numbered(1, 1))
        async with worker(cluster, queue, Wire()):
            handle = await start_job(cluster, source, task_queue=queue)
            assert job_result(await handle.result()).ok
    finally:
        server.stop()
    assert "search-attribute create --name CognigyJob" in caplog.text


async def test_a_job_has_no_option_that_needs_all_rows_in_one_process(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", numbered(1, 1))
    with pytest.raises(ConfigurationError, match="canary: a job on a cluster has no such option"):
        await start_job(cluster, source, task_queue=queue, options=JobOptions(canary=1))


async def test_a_long_job_continues_as_new(
    queue: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_folder, "CHUNK_ROWS", 2)
    setting = "limit.historyCount.suggestContinueAsNew=50"
    server = TemporalServer(tmp_path_factory.mktemp("own"), ["--dynamic-config-value", setting])
    server.start()
    try:
        cluster = await Client.connect(server.address)
        wire = Wire()
        wire.script(status(400), dialog_id="d-7")
        source = write(tmp_path / "rows.jsonl", numbered(100, 20))
        async with worker(cluster, queue, wire):
            handle = await start_job(cluster, source, task_queue=queue, partitions=4)
            result = job_result(await handle.result())
            letters = await letters_of(handle)
        assert (result.succeeded, result.failed, len(letters)) == (99, 1, 1)
        assert len(wire.sent) == len({sent.key for sent in wire.sent}) == 100
        first = cluster.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        assert (await first.describe()).status is WorkflowExecutionStatus.CONTINUED_AS_NEW
        assert await events_of(first) < 100
    finally:
        server.stop()


RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in HISTORIES.glob("*.json")}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_recorded_histories_can_be_replayed(name: str) -> None:
    await replay(BulkJobWorkflow, "cognigy-job-recorded", RECORDED[name])


@pytest.mark.skipif("RECORD_HISTORIES" not in os.environ, reason="writes the recorded histories")
async def test_record_histories(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write the histories that later versions have to replay."""
    monkeypatch.setattr(job_folder, "CHUNK_ROWS", 10)
    HISTORIES.mkdir(exist_ok=True)
    setting = "limit.historyCount.suggestContinueAsNew=50"
    server = TemporalServer(tmp_path_factory.mktemp("own"), ["--dynamic-config-value", setting])
    server.start()
    try:
        # Recorded histories name no machine.
        cluster = await Client.connect(server.address, identity="recorder")
        monkeypatch.chdir(tmp_path)
        wire = Wire(takes=0.05)
        source = f"file://{write(tmp_path / 'rows.jsonl', numbered(300, 60))}"
        async with worker(cluster, "cognigy", wire, max_in_flight=4):
            handle = await start_job(cluster, source, job_id="recorded", partitions=4)
            await until(lambda: len(wire.sent) > 20)
            await handle.signal(BulkJobWorkflow.pause)
            await anyio.sleep(3)
            await handle.signal(BulkJobWorkflow.resume)
            await until(lambda: len(wire.sent) > 200)
            await handle.signal(BulkJobWorkflow.cancel)
            await handle.result()
        first = cluster.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        last = cluster.get_workflow_handle(handle.id)
        for name, recorded in (("paused-and-continued-as-new-1", first), ("cancelled-1", last)):
            text = (await recorded.fetch_history()).to_json()
            (HISTORIES / f"{name}.json").write_text(text, encoding="utf-8")
    finally:
        server.stop()


async def test_refused_credentials_are_a_problem_that_the_status_shows(
    cluster: Client, queue: str, tmp_path: Path
) -> None:
    wire = Wire(answer=status(401))
    source = write(tmp_path / "rows.jsonl", numbered(5, 5))
    async with worker(cluster, queue, wire):
        handle = await start_job(cluster, source, task_queue=queue, partitions=1)
        found = await job_status(cluster, handle)
        with anyio.fail_after(120):
            while not found["problems"]:
                await anyio.sleep(0.1)
                found = await job_status(cluster, handle)
        assert "401" in found["problems"][0]
        wire.answers(None)
        assert job_result(await handle.result()).ok


@pytest.fixture
def forgetful(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Serve an emulator that does not know keys, in the place of the usual one."""
    server = Emulator(client_secret=SECRET, rules=Rules(honour_idempotency_keys=False))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(server)) as base_url,
    ):
        monkeypatch.setenv("COGNIGY_BASE_URL", base_url)
        yield server


@pytest.fixture
def processes(
    temporal_server: TemporalServer, queue: str, forgetful: Emulator
) -> Iterator[Callable[[int], list[WorkerProcess]]]:
    """Start workers as processes, which send to the emulator."""
    started: list[WorkerProcess] = []

    def start(count: int) -> list[WorkerProcess]:
        new = [WorkerProcess(temporal_server.address, queue) for _ in range(count)]
        started.extend(new)
        return new

    yield start
    for process in started:
        process.end()


def written(emulator: Emulator) -> int:
    return sum(len(dialog.history) for dialog in list(emulator.dialogs.values()))


def mixed(count: int, dialogs: int) -> list[Row]:
    """Rows of which every fifth has a transition, and some are not valid."""
    rows: list[Row] = []
    for n in range(count):
        row: Row = {"dialog_id": f"d-{n % dialogs}", "session": {"seq": n}}
        if n % 5 == 0:
            row["next_step"] = f"s{n}"
        rows.append(row if n % 100 else {"dialog_id": f"d-{n}", "session": {"_user": n}})
    return rows


async def check(
    handle: WorkflowHandle[Any, Any], emulator: Emulator, count: int, dialogs: int
) -> JobResult:
    """Check that a job with a killed worker is complete, in order, and has its dead letters."""
    result = job_result(await handle.result())
    letters = {letter["_error"]["line"]: letter for letter in await letters_of(handle)}
    faulty = {n + 1 for n in range(0, count, 100)}
    assert result.inputs == result.succeeded + result.failed + result.ambiguous == count
    assert (result.failed, len(letters)) == (len(faulty), len(faulty) + result.ambiguous)
    assert {line for line, letter in letters.items() if "crc32" in letter["_error"]} >= faulty
    doubtful = letters.keys() - faulty
    assert all(line % 5 == 1 for line in doubtful)
    missing = set(range(count))
    for number in range(dialogs):
        history = emulator.dialogs[f"d-{number}"].history
        steps = [entry.body["transition"] for entry in history if "transition" in entry.body]
        assert len(steps) == len({step["nextStep"] for step in steps})
        seqs = [entry.seq for entry in history if entry.seq is not None]
        # What was sent again after the kill came in order as well.
        assert list(dict.fromkeys(seqs)) == sorted(set(seqs))
        missing -= set(seqs)
    assert {n + 1 for n in missing} - faulty <= doubtful
    assert emulator.stats.double_applies == emulator.stats.reused_keys == 0
    return result


@pytest.mark.parametrize(
    ("workers", "count"),
    [(3, 1500), pytest.param(4, 20_000, marks=[pytest.mark.thorough, pytest.mark.timeout(600)])],
)
async def test_a_job_survives_the_death_of_a_worker(
    cluster: Client,
    queue: str,
    tmp_path: Path,
    forgetful: Emulator,
    processes: Callable[[int], list[WorkerProcess]],
    workers: int,
    count: int,
) -> None:
    emulator = forgetful
    emulator.faults = Faults(latency=0.01)
    source = write(tmp_path / "rows.jsonl", mixed(count, 150))
    started = processes(workers)
    handle = await start_job(cluster, source, task_queue=queue, partitions=8)
    await until(lambda: written(emulator) > count // 3)
    started[0].end()
    result = await check(handle, emulator, count, 150)
    # Those that were in flight, or recorded and about to be sent.
    assert result.ambiguous <= 16
    assert started[1].stop() == 0


@pytest.mark.thorough
async def test_a_worker_that_was_frozen_sends_nothing_that_others_have_sent(
    cluster: Client,
    queue: str,
    tmp_path: Path,
    forgetful: Emulator,
    processes: Callable[[int], list[WorkerProcess]],
) -> None:
    count = 4000
    forgetful.faults = Faults(latency=0.02)
    source = write(tmp_path / "rows.jsonl", mixed(count, 150))
    frozen, *_ = processes(2)
    handle = await start_job(cluster, source, task_queue=queue, partitions=8)
    await until(lambda: written(forgetful) > count // 4)
    frozen.send_signal(signal.SIGSTOP)
    await anyio.sleep(16)
    frozen.send_signal(signal.SIGCONT)
    result = await check(handle, forgetful, count, 150)
    assert result.ambiguous <= 16
    assert frozen.stop() == 0


@pytest.fixture
def cluster_of_command(
    temporal_server: TemporalServer,
    queue: str,
    forgetful: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let the settings of the process name the server and the task queue."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("COGNIGY_TASK_QUEUE", queue)


@pytest.mark.usefixtures("cluster_of_command")
def test_the_command_ends_as_bulk_run_does(
    command: Command,
    forgetful: Emulator,
    processes: Callable[[int], list[WorkerProcess]],
    tmp_path: Path,
) -> None:
    processes(1)
    write(tmp_path / "good.jsonl", numbered(30, 3))
    write(tmp_path / "bad.jsonl", [*numbered(30, 3), {"dialog_id": 4}])
    (tmp_path / "damaged.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 no gzip")
    for name, ended in (("good.jsonl", 0), ("bad.jsonl", 1), ("damaged.jsonl.gz", 2)):
        assert command("job", "start", name, "--wait", "--json", "--id", name) == ended
        if ended < 2:
            found = command.json
            folder = tmp_path / "alone"
            folder.mkdir(exist_ok=True)
            journal = str(folder / f"{name}.journal")
            assert command("bulk", "run", name, "--json", "--journal", journal) == ended
            # How long it took differs.
            assert found | {"elapsed": 0} == command.json | {"elapsed": 0}
            assert list(found) == list(command.json)
        else:
            assert "damaged.jsonl.gz was cut off" in command.messages
            assert "The rows before that are not applied." in command.messages
    assert command("job", "dead-letters", "bad.jsonl") == 0
    assert command.out == (folder / "bad.jsonl.dead.jsonl").read_text()
    assert command("job", "status", "bad.jsonl") == 0
    assert (command.json["failed"], command.json["ended"]) == (1, "complete")


@pytest.mark.usefixtures("cluster_of_command")
def test_the_command_reads_a_table_as_bulk_run_does(
    command: Command,
    forgetful: Emulator,
    processes: Callable[[int], list[WorkerProcess]],
    tmp_path: Path,
) -> None:
    processes(1)
    rows = "".join(f"d-{n};1,5;00{n};x\n" for n in range(6))
    (tmp_path / "rows.txt").write_text(f"Customer;Price;Code;Remark\n{rows}d-9;cheap;1;x\n")
    options = ["--format", "csv", "--map", "Customer=dialog_id", "--map", "Price=session.price"]
    options += ["--map", "Code=session.code", "--map", "Remark=_", "--decimal", ","]
    options += ["--type", "session.price=number", "--text-column", "session.code"]
    options += ["--delimiter", "semicolon"]
    for more, ended in ((["--limit", "3"], 0), (["--only-dialog", "d-4"], 0), ([], 1)):
        assert command("job", "start", "rows.txt", "--wait", "--json", *options, *more) == ended
        found = command.json
        history = {name: dict(one.session) for name, one in forgetful.dialogs.items()}
        journal = str(tmp_path / f"{len(more)}{''.join(more)}.journal")
        assert (
            command("bulk", "run", "rows.txt", "--json", "--journal", journal, *options, *more)
            == ended
        )
        assert found | {"elapsed": 0} == command.json | {"elapsed": 0}
        assert history == {name: one.session for name, one in forgetful.dialogs.items()}
    assert forgetful.dialogs["d-4"].session == {"price": 1.5, "code": "004"}


@pytest.mark.usefixtures("cluster_of_command")
def test_the_command_pauses_and_cancels_a_job(
    command: Command,
    forgetful: Emulator,
    processes: Callable[[int], list[WorkerProcess]],
    tmp_path: Path,
) -> None:
    forgetful.faults = Faults(latency=0.2)
    processes(1)
    write(tmp_path / "rows.jsonl", numbered(1000, 1000))
    assert command("job", "start", "rows.jsonl") == 0
    job_id = command.out.strip()
    while written(forgetful) < 20:
        time.sleep(0.05)
    assert command("job", "pause", job_id) == 0
    assert command("job", "status", job_id) == 0
    assert command.json["is_paused"] is True
    assert command("job", "resume", job_id) == 0
    assert command("job", "cancel", job_id) == 0
    while command("job", "status", job_id) or command.json["ended"] != "interrupted":
        time.sleep(0.05)
    assert 0 < command.json["succeeded"] < 1000


@pytest.mark.usefixtures("cluster_of_command")
def test_the_command_tells_that_no_worker_answers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", timedelta(seconds=1))
    write(tmp_path / "rows.jsonl", numbered(1, 1))
    assert command("job", "start", "rows.jsonl", "--id", "alone") == 0
    assert command("job", "status", "alone") == 1
    assert "a worker has to run to answer for it" in command.messages


@pytest.mark.usefixtures("cluster_of_command")
def test_the_command_knows_no_such_job(command: Command) -> None:
    for name in ("status", "pause", "resume", "cancel", "dead-letters"):
        assert command("job", name, "other") == 1
        assert "the cluster answered NOT_FOUND" in command.messages
