"""Updates through a real Temporal server: order, results, errors, and the ends of workflows."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RetryConfig

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    NoResponseError,
    Request,
    Response,
    RetryPolicy,
    StateConflictError,
    StateUpdate,
    UnsupportedByApiError,
    UpdateEvent,
    UpdateValidationError,
    UpdateWithdrawnError,
)
from cognigy_async.crm.target import DeliveryError, EventRejectedError
from cognigy_async.temporal import (
    DurableStateClient,
    StateWorker,
    dialog_writer,
)
from cognigy_async.temporal import client as client_module
from cognigy_async.temporal.client import workflow_id
from cognigy_async.temporal.codec import data_converter
from cognigy_async.temporal.dialog_writer import DialogWriter
from tests.integration.temporal_replay import replay
from tests.integration.temporal_server import TemporalServer

pytestmark = [pytest.mark.real_time, pytest.mark.temporal, pytest.mark.timeout(600)]
HISTORIES = Path(__file__).with_name("temporal_histories")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on asyncio only, as the SDK of Temporal does."""
    return "asyncio", {}


@pytest.fixture
async def cluster(temporal_server: TemporalServer) -> Client:
    # Recorded histories name no machine.
    return await Client.connect(temporal_server.address, identity="recorder")


@pytest.fixture
def queue() -> str:
    """A task queue of one test, so that its workflows are its own."""
    return f"tenant-{secrets.token_hex(4)}"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process or task."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Tenant:
    """A server of the runtime API: it keeps a version for each dialog, and all requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.versions: dict[str, int] = {}
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.failures: list[Exception] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.delay)
        if self.failures:
            raise self.failures.pop(0)
        dialog = request.url.split("/dialogs/")[-1].split("/")[0]
        version = self.versions.get(dialog, 0)
        wanted = {name.lower(): value for name, value in request.headers.items()}.get("if-match")
        if wanted is not None and wanted != f'"{version}"':
            body = {"version": version}
            return Response(409, {"etag": f'"{version}"'}, json.dumps(body).encode())
        self.versions[dialog] = version = version + 1
        body = {"dialogId": dialog, "version": version}
        return Response(200, {"etag": f'"{version}"'}, json.dumps(body).encode())

    async def aclose(self) -> None: ...

    def sent(self, dialog: str) -> list[Any]:
        """The values of `n` in the requests of a dialog, in order."""
        found = [request for request in self.requests if f"/{dialog}" in request.url]
        return [json.loads(request.content)["session"]["n"] for request in found]

    def keys(self) -> list[str]:
        names = ({k.lower(): v for k, v in each.headers.items()} for each in self.requests)
        return [each["idempotency-key"] for each in names]


@pytest.fixture
def tenant() -> Tenant:
    return Tenant()


def worker_of(cluster: Client, queue: str, tenant: Tenant, **arguments: Any) -> StateWorker:
    return StateWorker(
        cluster,
        "https://tenant.invalid",
        task_queue=queue,
        transport=tenant,
        auth=ApiKey("a-key"),
        **arguments,
    )


@pytest.fixture
async def durable(cluster: Client, queue: str, tenant: Tenant) -> AsyncIterator[DurableStateClient]:
    """A client, with a worker of its task queue."""
    async with worker_of(cluster, queue, tenant), DurableStateClient(cluster, queue) as client:
        yield client


async def test_an_update_has_the_result_of_the_client_of_the_worker(
    durable: DurableStateClient, tenant: Tenant, cluster: Client, queue: str
) -> None:
    result = await durable.update("d-1", session={"n": 1}, update_id="u-1", timeout=3.0)
    assert (result.dialog_id, result.update_id, result.status) == ("d-1", "u-1", 200)
    assert (result.etag, result.version, result.attempts, result.merged) == ('"1"', 1, 1, 1)
    assert result.body == {"dialogId": "d-1", "version": 1}
    assert tenant.keys() == ["u-1"]
    history = await cluster.get_workflow_handle(workflow_id(queue, "d-1")).fetch_history()
    assert len(history.events) <= 13


async def test_a_burst_of_one_process_keeps_its_order_and_costs_few_events(
    durable: DurableStateClient, tenant: Tenant, cluster: Client, queue: str
) -> None:
    await asyncio.gather(*(durable.update("d-1", session={"n": n}) for n in range(50)))
    assert tenant.sent("d-1") == list(range(50))
    history = await cluster.get_workflow_handle(workflow_id(queue, "d-1")).fetch_history()
    assert len(history.events) / 50 <= 0.3


async def test_updates_of_several_processes_are_sent_one_at_a_time(
    durable: DurableStateClient, tenant: Tenant, cluster: Client, queue: str
) -> None:
    tenant.delay = 0.01
    async with DurableStateClient(cluster, queue) as other:
        for start in range(0, 12, 4):
            await asyncio.gather(
                *(durable.update("d-1", session={"n": n}) for n in range(start, start + 4)),
                *(other.update("d-1", session={"n": 100 + n}) for n in range(start, start + 4)),
            )
    sent = tenant.sent("d-1")
    assert [n for n in sent if n < 100] == list(range(12))
    assert [n - 100 for n in sent if n >= 100] == list(range(12))


async def test_waiting_updates_are_merged_as_by_the_client(
    cluster: Client, queue: str, tenant: Tenant
) -> None:
    worker = worker_of(cluster, queue, tenant, coalesce=True)
    async with worker, DurableStateClient(cluster, queue) as client:
        results = await asyncio.gather(
            *(client.update("d-1", session={"n": n}, update_id=f"u-{n}") for n in range(5)),
            client.update("d-1", session={"n": 9}, next_step="pay"),
        )
    assert tenant.sent("d-1") == [4, 9]
    assert [result.merged for result in results] == [5] * 5 + [1]
    assert [result.update_id for result in results[:5]] == [f"u-{n}" for n in range(5)]


async def test_errors_cross_the_server_with_their_data(durable: DurableStateClient) -> None:
    await durable.update("d-1", session={"n": 1})
    with pytest.raises(StateConflictError) as conflict:
        await durable.update("d-1", session={"n": 2}, if_match='"7"', update_id="u-2")
    error = conflict.value
    assert (error.status, error.dialog_id, error.update_id) == (409, "d-1", "u-2")
    assert (error.current_etag, error.current_version, error.attempts) == ('"1"', 1, 1)
    with pytest.raises(UnsupportedByApiError, match="endpoint") as unsupported:
        await durable.update("d-1", inject={"text": "hello"}, user_id="u")
    assert unsupported.value.faults[0].path == "inject"
    with pytest.raises(UpdateValidationError, match="carries nothing"):
        await durable.update("d-1")
    with pytest.raises(DeadlineExceededError):
        await durable.update("d-1", session={"n": 3}, deadline=-1.0)


async def test_the_numbers_of_a_policy_cross_the_server_but_no_function(
    durable: DurableStateClient, tenant: Tenant
) -> None:
    tenant.failures = [NoResponseError("lost")]
    with pytest.raises(AmbiguousUpdateError) as lost:
        await durable.update(
            "d-1", session={"n": 1}, retry=RetryPolicy(ambiguous="raise", max_attempts=1)
        )
    assert isinstance(lost.value.__cause__, NoResponseError)
    with pytest.raises(ValueError, match="wait= and stop="):
        await durable.update("d-1", session={"n": 1}, retry=RetryPolicy(wait=lambda state: 1.0))


async def test_an_update_that_waits_here_can_be_withdrawn(
    durable: DurableStateClient, tenant: Tenant
) -> None:
    tenant.gate = asyncio.Event()
    first = await durable.submit({"dialog_id": "d-1", "session": {"n": 1}})
    await until(lambda: bool(tenant.requests))
    second = await durable.submit(StateUpdate("d-1", session={"n": 2}))
    third = asyncio.create_task(durable.update("d-1", session={"n": 3}))
    await asyncio.sleep(0)
    assert not first.withdraw()
    assert second.withdraw()
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    tenant.gate.set()
    await first
    with pytest.raises(UpdateWithdrawnError):
        await second
    await durable.update("d-1", session={"n": 4})
    assert tenant.sent("d-1") == [1, 4]


async def test_update_many_has_an_outcome_for_each_row(durable: DurableStateClient) -> None:
    rows: list[dict[str, Any]] = [
        {"dialog_id": f"d-{n % 3}", "session": {"n": n}} for n in range(30)
    ]
    rows.insert(7, {"dialog_id": "", "session": {"n": 0}})
    async with durable.update_many(rows) as stream:
        outcomes = {outcome.index: outcome async for outcome in stream}
    assert sorted(outcomes) == list(range(31))
    assert [index for index in outcomes if not outcomes[index].ok] == [7]

    async def generate() -> AsyncIterator[dict[str, Any]]:
        for row in rows:
            yield row

    async with durable.update_many(generate()) as stream:
        report = await stream.drain()
    assert (report.applied, report.failed, report.failures[0].index) == (30, 1, 7)


async def test_a_deadline_of_update_many_holds_for_all_rows_together(
    durable: DurableStateClient, tenant: Tenant
) -> None:
    tenant.delay = 0.1  # so that all rows need 20 s
    rows = ({"dialog_id": "d-1", "session": {"n": n}} for n in range(200))
    async with durable.update_many(rows, deadline=3.0) as stream:
        report = await stream.drain()
    assert report.applied + report.failed == 200
    assert report.applied < 50
    assert {type(failure.error) for failure in report.failures} == {DeadlineExceededError}
    with pytest.raises(TypeError, match="watch"):
        durable.update_many([], watch=None)


async def test_the_environment_names_the_cluster(
    temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("COGNIGY_TASK_QUEUE", "shop")
    monkeypatch.setenv("COGNIGY_TEMPORAL_KEY", new_key())
    async with await DurableStateClient.connect() as client:
        assert client.task_queue == "shop"
    with pytest.raises(ClientClosedError):
        await client.update("d-1", session={"n": 1})
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "none")
    with pytest.raises(ConfigurationError, match="Namespace none is not found"):
        await DurableStateClient.connect()
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"nothing listens .* TEMPORAL_ADDRESS"):
        await DurableStateClient.connect()


async def test_a_client_that_is_closed_returns_what_it_has_not_handed_in(
    durable: DurableStateClient, tenant: Tenant, cluster: Client, queue: str
) -> None:
    tenant.gate = asyncio.Event()
    async with DurableStateClient(cluster, queue) as client:
        first = await client.submit({"dialog_id": "d-1", "session": {"n": 1}})
        await until(lambda: bool(tenant.requests))
        second = await client.submit({"dialog_id": "d-1", "session": {"n": 2}})
        closing = asyncio.create_task(client.aclose(drain=False))
        await asyncio.sleep(0.05)
        tenant.gate.set()
        report = await closing
        assert (await first).status == 200
        with pytest.raises(ClientClosedError):
            await second
    assert (report.applied, report.failed, len(report.unsent)) == (1, 0, 1)


async def test_a_dialog_ends_when_it_is_idle_and_starts_again(
    durable: DurableStateClient,
    tenant: Tenant,
    cluster: Client,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialog_writer, "IDLE", 0.2)
    await durable.update("d-1", session={"n": 1})
    handle = cluster.get_workflow_handle(workflow_id(queue, "d-1"))
    await asyncio.wait_for(handle.result(), 120)
    await durable.update("d-1", session={"n": 2})
    assert tenant.sent("d-1") == [1, 2]


async def test_a_long_dialog_continues_as_new(
    durable: DurableStateClient,
    tenant: Tenant,
    cluster: Client,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialog_writer, "MOST_CALLS", 3)
    handle = cluster.get_workflow_handle(workflow_id(queue, "d-1"))
    runs = set()
    async with DurableStateClient(cluster, queue) as other:
        for n in range(0, 10, 2):
            await asyncio.gather(
                durable.update("d-1", session={"n": n}),
                other.update("d-1", session={"n": n}),
            )
            runs.add((await handle.describe()).run_id)
    assert tenant.sent("d-1") == [n // 2 * 2 for n in range(10)]
    assert len(runs) > 2


async def test_a_worker_that_drains_leaves_the_rest_to_others(
    cluster: Client, queue: str, tenant: Tenant
) -> None:
    tenant.gate = asyncio.Event()
    async with DurableStateClient(cluster, queue) as client:
        async with worker_of(cluster, queue, tenant) as first:
            updates = [
                asyncio.create_task(client.update("d-1", session={"n": n})) for n in range(4)
            ]
            await until(lambda: bool(tenant.requests))
            closing = asyncio.create_task(first.__aexit__(None, None, None))
            await asyncio.sleep(0.2)
            tenant.gate.set()
            await closing
        assert tenant.sent("d-1") == [0]
        async with worker_of(cluster, queue, tenant):
            await asyncio.gather(*updates)
    assert tenant.sent("d-1") == [0, 1, 2, 3]
    assert first.close_report is not None
    assert first.close_report.applied == 1


async def test_an_operator_who_ends_a_workflow_repeats_assignments_only(
    durable: DurableStateClient, tenant: Tenant, cluster: Client, queue: str
) -> None:
    tenant.gate = asyncio.Event()
    moved = await durable.submit({"dialog_id": "d-1", "session": {"n": 1}, "next_step": "pay"})
    assigned = await durable.submit({"dialog_id": "d-2", "session": {"n": 2}})
    await until(lambda: len(tenant.requests) == 2)
    for dialog in ("d-1", "d-2"):
        await cluster.get_workflow_handle(workflow_id(queue, dialog)).terminate()
    with pytest.raises(AmbiguousUpdateError, match="was ended"):
        await moved
    tenant.gate.set()
    await assigned
    assert tenant.sent("d-1") == [1]
    assert set(tenant.sent("d-2")) == {2}


async def test_an_update_that_has_waited_for_long_survives_a_restart_of_the_server(
    tmp_path: Path, queue: str, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [0.0]
    monkeypatch.setattr(client_module, "monotonic", lambda: time.monotonic() + later[0])
    server = TemporalServer(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        cluster = await Client.connect(server.address)
        once = RetryConfig(max_elapsed_time_millis=100, max_retries=1)
        impatient = await Client.connect(server.address, retry_config=once)
        tenant.gate = asyncio.Event()
        async with (
            worker_of(cluster, queue, tenant),
            DurableStateClient(impatient, queue) as client,
        ):
            update = await client.submit({"dialog_id": "d-1", "session": {"n": 1}})
            await until(lambda: bool(tenant.requests))
            later[0] = 1000.0
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            tenant.gate.set()
            assert (await update).status == 200
    finally:
        await asyncio.to_thread(server.stop)


async def test_an_update_waits_for_a_worker(cluster: Client, queue: str, tenant: Tenant) -> None:
    async with DurableStateClient(cluster, queue) as client:
        update = asyncio.create_task(client.update("d-1", session={"n": 1}))
        await asyncio.sleep(0.3)
        assert not update.done()
        async with worker_of(cluster, queue, tenant):
            assert (await update).version == 1


async def test_callbacks_of_the_worker_get_the_events(
    cluster: Client, queue: str, tenant: Tenant
) -> None:
    events: list[UpdateEvent] = []
    worker = worker_of(cluster, queue, tenant)
    worker.state_client.on_state_updated(events.append)
    async with worker, DurableStateClient(cluster, queue) as client:
        await client.update("d-1", session={"n": 1}, metadata={"order": "7"})
    assert [(event.dialog_id, event.metadata) for event in events] == [("d-1", {"order": "7"})]


class Crm:
    """A target that takes events as it is told."""

    name, batch_size, linger, concurrency = "crm", 2, 0.0, 1

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.answers: list[DeliveryError] = []

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        if self.answers:
            raise self.answers.pop(0)
        found: list[DeliveryError | None] = []
        for event in events:
            n = event.payload["session"]["n"]
            if n == 13 and 13 not in self.taken:
                self.taken.append(-13)
                found.append(EventRejectedError("unlucky"))
                continue
            assert event.result is not None
            self.taken.append(n)
            found.append(None)
        return found


async def test_targets_get_the_events_in_order_with_retries_and_dead_letters(
    cluster: Client, queue: str, tenant: Tenant
) -> None:
    crm = Crm()
    crm.answers = [DeliveryError("down")]
    async with (
        worker_of(cluster, queue, tenant, targets=[crm]),
        DurableStateClient(cluster, queue) as client,
    ):
        for n in (1, 13, 2, 3):
            await client.update("d-1", session={"n": n}, update_id=f"u-{n}")
        handle = cluster.get_workflow_handle(workflow_id(queue, "d-1"))
        await until(lambda: len(crm.taken) == 4)
        assert crm.taken == [1, -13, 2, 3]
        shown = await handle.query(DialogWriter.show)
        while shown["events"]:
            shown = await handle.query(DialogWriter.show)
        letter = {"update_id": "u-13", "target": "crm", "error": "EventRejectedError: unlucky"}
        assert shown["dead_letters"] == [letter]
        crm.taken.append(13)
        await handle.signal(DialogWriter.replay)
        await until(lambda: len(crm.taken) == 6)
    assert crm.taken == [1, -13, 2, 3, 13, 13]


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


async def test_operators_of_the_cluster_cannot_read_variables(
    temporal_server: TemporalServer, cluster: Client, queue: str, tenant: Tenant
) -> None:
    old, new = new_key(), new_key()
    first = await Client.connect(temporal_server.address, data_converter=data_converter([old]))
    rotated = data_converter([new, old])
    second = await Client.connect(temporal_server.address, data_converter=rotated)
    async with worker_of(second, queue, tenant):
        async with DurableStateClient(first, queue) as client:
            update = client.update("d-1", session={"n": "four-eyes-only"}, if_match='"0"')
            # The worker encrypts with a key that this client does not have.
            with pytest.raises(Exception, match="COGNIGY_TEMPORAL_KEY") as missing:
                await update
            assert "four-eyes-only" not in str(missing.value)
        async with DurableStateClient(second, queue) as client:
            assert (await client.update("d-1", session={"n": "four-eyes-only"})).version == 2
    history = await cluster.get_workflow_handle(workflow_id(queue, "d-1")).fetch_history()
    assert "four-eyes-only" not in history.to_json()
    assert base64.b64encode(b"four-eyes-only").decode()[4:-4] not in history.to_json()
    assert tenant.sent("d-1") == ["four-eyes-only"] * 2


RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in HISTORIES.glob("*.json")}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_recorded_histories_can_be_replayed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As they were recorded.
    monkeypatch.setattr(dialog_writer, "IDLE", 0.5)
    if name.startswith("continued-as-new"):
        monkeypatch.setattr(dialog_writer, "MOST_CALLS", 2)
    await replay(DialogWriter, "dialog/cognigy/d-1", RECORDED[name])


@pytest.mark.skipif("RECORD_HISTORIES" not in os.environ, reason="writes the recorded histories")
async def test_record_histories(
    cluster: Client, queue: str, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write the histories that later versions have to replay."""
    monkeypatch.setattr(dialog_writer, "IDLE", 0.5)
    crm = Crm()
    HISTORIES.mkdir(exist_ok=True)
    async with (
        worker_of(cluster, queue, tenant, targets=[crm]),
        DurableStateClient(cluster, queue) as client,
    ):
        await asyncio.gather(*(client.update("d-1", session={"n": n}) for n in range(3)))
        await client.update("d-1", session={"n": 3}, next_step="pay")
        handle = cluster.get_workflow_handle(workflow_id(queue, "d-1"))
        await handle.result()
        write(HISTORIES / "ended-when-idle-1.json", await handle.fetch_history())
        for n in (1, 13):
            await client.update("d-2", session={"n": n})
        handle = cluster.get_workflow_handle(workflow_id(queue, "d-2"))
        shown = await handle.query(DialogWriter.show)
        while not shown["dead_letters"]:
            shown = await handle.query(DialogWriter.show)
        crm.taken.append(13)
        await handle.signal(DialogWriter.replay)
        await handle.result()
        write(HISTORIES / "dead-letter-replayed-1.json", await handle.fetch_history())
        monkeypatch.setattr(dialog_writer, "MOST_CALLS", 2)
        for n in (1, 2, 3):
            await client.update("d-3", session={"n": n})
        handle = cluster.get_workflow_handle(workflow_id(queue, "d-3"))
        runs = [
            each.run_id
            async for each in cluster.list_workflows(f"WorkflowId = '{handle.id}'")
            if each.status is not None and each.status.name == "CONTINUED_AS_NEW"
        ]
        old = cluster.get_workflow_handle(handle.id, run_id=runs[0])
        write(HISTORIES / "continued-as-new-1.json", await old.fetch_history())


def write(path: Path, history: Any) -> None:
    path.write_text(history.to_json(), encoding="utf-8")
