"""The audit of a client: one record for each completed update, whatever the sinks do."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    AuditError,
    AuditRecord,
    AuditSink,
    ConfigurationError,
    DialogState,
    JsonLinesAudit,
    LoggingAudit,
    MemoryAudit,
    Request,
    Response,
    StateUpdate,
    UpdateEvent,
    read_audit,
    verify_audit,
)
from cognigy_async.audit.completed_update import CompletedUpdate
from tests.simulation.world import (
    DROPPED,
    KEY,
    Wire,
    at_once,
    client_of,
    every,
    never,
    outcome_of,
    state,
    status,
    turns,
    until,
)

CANARY = "canary-value-5f0e"
METADATA = {"actor": "agent-7"}


class Sink(AuditSink):
    """Keeps records, and fails or waits on demand."""

    def __init__(self, *, strict: bool = False, max_queue: int = 10_000) -> None:
        self.strict = strict
        self.max_queue = max_queue
        self.records: list[AuditRecord] = []
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.calls: list[str] = []
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()

    def open(self) -> None:
        self.calls.append("open")
        self._act()

    def write(self, records: Sequence[AuditRecord], /) -> None:
        self.calls.append("write")
        self.waits.set()
        self.gate.wait()
        self._act()
        self.batches.append(len(records))
        self.threads.add(threading.current_thread().name)
        self.records.extend(records)

    def close(self) -> None:
        self.calls.append("close")

    def _act(self) -> None:
        if self.error is not None:
            raise self.error

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome for record in self.records]


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.gate.set()


def wall(condition: Callable[[], object]) -> None:
    """Wait for a state that another thread brings about."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the state was not reached"
        time.sleep(0.001)


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("audit*"))


def counts(client: AsyncStateClient) -> tuple[int, int, int]:
    metrics = client.metrics
    return metrics.audit_written, metrics.audit_failed, metrics.audit_dropped


# Records.


async def test_a_record_of_an_update_that_was_applied(sink: Sink) -> None:
    wire = Wire(takes=0.5)
    async with client_of(wire, audit=sink) as client:
        began = datetime.now(UTC)
        result = await client.update(
            "d-1",
            session={"b": {"y": 1, "x": CANARY}, "a": 1.0},
            user={"c": [True, None]},
            next_step="s",
            metadata=METADATA,
        )
        await client.flush()
    (record,) = sink.records
    payload = (
        '{"session":{"a":1.0,"b":{"x":"canary-value-5f0e","y":1}},'
        '"transition":{"nextStep":"s"},"user":{"c":[true,null]}}'
    )
    assert record.payload_sha256 == hashlib.sha256(payload.encode()).hexdigest()
    assert record.payload_bytes == len(payload)
    assert record.encoder.startswith("pydantic_core ")
    assert record.variables == ("session.b", "session.a", "user.c")
    assert (record.outcome, record.status, record.error) == ("applied", 200, None)
    assert (record.dialog_id, record.update_id) == ("d-1", result.update_id)
    assert (record.attempts, record.etag, record.version) == (1, '"1"', None)
    assert record.latency_ms == pytest.approx(500)
    assert record.queue_ms == pytest.approx(0, abs=1)
    assert record.metadata == METADATA
    assert began - timedelta(seconds=5) < record.timestamp <= datetime.now(UTC)
    assert record.timestamp.utcoffset() == timedelta()
    assert CANARY not in repr(record)


async def test_the_hash_does_not_depend_on_the_order_of_names(sink: Sink) -> None:
    async with client_of(Wire(), audit=sink) as client:
        await client.update("d-1", session={"a": 1, "b": {"x": 1, "y": 2}})
        await client.update("d-2", session={"b": {"y": 2, "x": 1}, "a": 1})
        await client.update("d-3", session={"b": {"y": 2, "x": 1}, "a": 1.0})
    first, second, third = sink.records
    assert first.payload_sha256 == second.payload_sha256 != third.payload_sha256


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-trace-id": "api--1"}, "api--1"),
        ({"x-request-id": "r-2"}, "r-2"),
        ({"x-trace-id": "two words"}, None),
        ({"x-trace-id": "x" * 129}, None),
        ({"x-trace-id": KEY}, None),
        ({"x-request-id": f"r-{CANARY}"}, None),
        ({}, None),
    ],
)
async def test_the_trace_id_of_a_success_comes_from_its_headers(
    sink: Sink, headers: dict[str, str], expected: str | None
) -> None:
    wire = Wire()
    wire.script(status(200, headers, version=9))
    async with client_of(wire, audit=sink) as client:
        await client.update("d-1", session={"a": CANARY})
    (record,) = sink.records
    assert (record.trace_id, record.etag, record.version) == (expected, None, 9)


@pytest.mark.parametrize("answer", [200, 400])
async def test_the_trace_id_of_a_shared_request_is_recorded_for_each_update(
    sink: Sink, answer: int
) -> None:
    wire = Wire()
    wire.script(status(answer, {"x-trace-id": "api--1"}))
    async with client_of(wire, audit=sink, coalesce=True, retry=at_once()) as client:
        for number in range(3):
            client.submit_nowait({"dialog_id": "d", "session": {f"v{number}": number}})
    assert len(wire.sent) == 1
    assert [record.trace_id for record in sink.records] == ["api--1"] * 3


async def test_a_failure_is_recorded_without_the_text_of_the_server(sink: Sink) -> None:
    wire = Wire(takes=1.0)
    wire.script(status(400, {"x-trace-id": "api--7"}, message=f"no {CANARY} " * 9))
    async with client_of(wire, audit=sink) as client:
        await outcome_of(client.update("d-1", session={"a": CANARY}))
    (record,) = sink.records
    assert (record.outcome, record.error, record.status) == ("failed", "BadRequestError", 400)
    assert (record.attempts, record.trace_id) == (1, "api--7")
    assert record.latency_ms == pytest.approx(1000)
    assert record.summary == "The server rejected the payload"
    assert CANARY not in repr(record)


async def test_retry_waits_count_as_latency_and_waiting_for_the_dialog_as_queue_time(
    sink: Sink,
) -> None:
    wire = Wire(takes=1.0)
    wire.script(503, 503, 200, dialog_id="d-1")
    async with client_of(wire, audit=sink, retry=every(10)) as client:
        first = await client.submit({"dialog_id": "d-1", "session": {"a": 1}})
        second = await client.submit({"dialog_id": "d-1", "session": {"a": 2}})
        await first
        await second
    one, two = sink.records
    assert (one.attempts, two.attempts) == (3, 1)
    assert one.latency_ms == pytest.approx(23_000)
    assert two.queue_ms == pytest.approx(23_000)
    assert two.latency_ms == pytest.approx(1_000)


async def test_every_outcome_is_recorded(sink: Sink) -> None:
    wire = Wire()
    wire.script(DROPPED, dialog_id="ambiguous")
    wire.script(never, dialog_id="cut")
    async with client_of(wire, audit=sink, retry=at_once(ambiguous="raise")) as client:
        await client.update("applied", session={"a": 1}, update_id="u-applied")
        lost = await outcome_of(client.update("ambiguous", next_step="s"))
        assert isinstance(lost, AmbiguousUpdateError)
        await client.submit({"dialog_id": "cut", "session": {"a": 1}})
        behind = await client.submit({"dialog_id": "cut", "session": {"a": 2}})
        unsent = await client.submit(
            {"dialog_id": "cut", "session": {"a": 3}, "metadata": METADATA, "update_id": "u-unsent"}
        )
        await until(lambda: wire.in_flight)
        assert behind.withdraw()
        await client.aclose(drain=False, timeout=1.0)
        assert not unsent.withdraw()
    by_outcome = {(record.dialog_id, record.outcome): record for record in sink.records}
    assert len(by_outcome) == len(sink.records) == 5
    assert by_outcome["applied", "applied"].update_id == "u-applied"
    assert by_outcome["ambiguous", "ambiguous"].error == "AmbiguousUpdateError"
    assert by_outcome["cut", "ambiguous"].status is None
    assert by_outcome["cut", "withdrawn"].error == "UpdateWithdrawnError"
    left = by_outcome["cut", "not_sent"]
    assert (left.error, left.latency_ms, left.attempts) == ("ClientClosedError", None, 0)
    assert (left.update_id, left.metadata, left.variables) == ("u-unsent", METADATA, ("session.a",))
    assert counts(client) == (5, 0, 0)


async def test_a_modify_is_recorded_by_its_write(sink: Sink) -> None:
    def broken(_: DialogState) -> None:
        raise RuntimeError(CANARY)

    async with client_of(Wire(), audit=sink) as client:
        await client.modify("d", lambda _: {"session": {"n": 1}}, metadata=METADATA)
        await client.modify("d", lambda _: None, metadata=METADATA)
        assert isinstance(await outcome_of(client.modify("d", broken)), RuntimeError)
        await client.get_state("d")
    wrote, nothing, raised = sink.records
    assert (wrote.outcome, wrote.variables, wrote.metadata) == ("applied", ("session.n",), METADATA)
    assert (nothing.outcome, nothing.payload_sha256, nothing.metadata) == (
        "unchanged",
        None,
        METADATA,
    )
    assert (raised.outcome, raised.error) == ("failed", "RuntimeError")
    assert CANARY not in repr(raised)


async def test_rows_of_update_many_carry_metadata(sink: Sink) -> None:
    rows: list[Any] = [
        {"dialog_id": f"d-{n}", "session": {"a": 1}, "metadata": {"row": str(n)}}
        for n in range(200)
    ]
    rows.append(StateUpdate("d-x", session={"a": 1}, metadata={"row": "x"}))
    rows.append({"dialog_id": "d-y", "metadata": {"row": 1}})
    async with client_of(Wire(), audit=sink) as client, client.update_many(rows) as outcomes:
        assert sum([outcome.ok async for outcome in outcomes]) == 201
    assert {record.metadata["row"] for record in sink.records} == {*map(str, range(200)), "x"}


async def test_callbacks_get_the_metadata() -> None:
    events: list[UpdateEvent] = []

    async def note(event: UpdateEvent) -> None:
        events.append(event)

    wire = Wire()
    wire.script(400, dialog_id="bad")
    async with client_of(wire) as client:
        client.on_state_updated(note)
        client.on_update_failed(note)
        await client.update("good", session={"a": 1}, metadata=METADATA)
        await outcome_of(client.update("bad", session={"a": 1}, metadata=METADATA))
        await outcome_of(client.modify("good", lambda _: {"oops": 1}, metadata=METADATA))
        await client.update("plain", session={"a": 1})
        await client.flush()
    assert {(event.dialog_id, event.metadata.get("actor")) for event in events} == {
        ("good", "agent-7"),
        ("bad", "agent-7"),
        ("plain", None),
    }


async def test_metadata_is_checked_before_anything_is_sent() -> None:
    wire = Wire()
    wrong: Any = {"actor": 7}
    async with client_of(wire) as client:
        for call in (
            client.update("d", session={"a": 1}, metadata=wrong),
            client.modify("d", lambda _: None, metadata=wrong),
        ):
            assert "metadata.actor" in str(await outcome_of(call))
    assert wire.sent == []


# Sinks.


async def test_records_go_to_every_sink_off_the_event_loop_in_batches_and_in_order() -> None:
    sinks = [Sink(), Sink()]
    async with client_of(Wire(), audit=sinks) as client:
        rows = ({"dialog_id": "d", "session": {"n": n}, "update_id": f"u-{n}"} for n in range(500))
        async with client.update_many(rows) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
    for sink in sinks:
        assert [record.update_id for record in sink.records] == [f"u-{n}" for n in range(500)]
        assert max(sink.batches) <= 64
        assert threading.current_thread().name not in sink.threads
        assert (sink.calls[0], sink.calls[-1]) == ("open", "close")
    assert counts(client) == (1000, 0, 0)
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("cognigy_async audit")
    ]


async def test_a_memory_audit_is_bounded_and_flush_waits_for_it() -> None:
    memory = MemoryAudit(3)
    async with client_of(Wire(), audit=memory) as client:
        for number in range(5):
            await client.update("d", session={"n": number}, update_id=f"u-{number}")
        await client.flush()
        assert [record.update_id for record in memory.records] == ["u-2", "u-3", "u-4"]
    assert "3 records" in repr(memory)
    with pytest.raises(ConfigurationError, match="max_records"):
        MemoryAudit(0)


async def test_a_logging_audit_logs_each_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit = LoggingAudit("audit.of.test", level=logging.WARNING)
    async with client_of(Wire(), audit=audit) as client:
        await client.update("d\n1", session={"a": CANARY}, update_id="u-1", metadata=METADATA)
    (logged,) = [record for record in caplog.records if record.name == "audit.of.test"]
    assert logged.levelno == logging.WARNING
    assert logged.getMessage().startswith(r"applied: update u-1 of dialog 'd\n1'")
    assert (logged.dialog_id, logged.update_id) == ("d\n1", "u-1")
    assert logged.audit["metadata"] == METADATA
    assert CANARY not in f"{logged.__dict__}"


@pytest.mark.real_time
async def test_an_event_loop_that_is_never_idle_does_not_starve_a_sink() -> None:
    class AtOnce:
        async def send(self, request: Request, *, timeout: float) -> Response:
            return state(1)

        async def aclose(self) -> None:
            pass

    sink = Sink(max_queue=2000)
    async with client_of(Wire(), transport=AtOnce(), audit=sink) as client:
        rows = ({"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(20_000))
        async with client.update_many(rows) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
    assert client.metrics.audit_dropped < 2000
    assert len(sink.records) == client.metrics.audit_written > 18_000


async def test_a_file_is_valid_after_the_client_was_closed(tmp_path: Path) -> None:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl", key="k", max_bytes=20_000)
    for _ in range(2):
        async with client_of(Wire(), audit=audit) as client:
            rows = ({"dialog_id": f"d-{n}", "session": {"n": CANARY}} for n in range(150))
            async with client.update_many(rows) as outcomes:
                async for outcome in outcomes:
                    assert outcome.ok
        assert counts(client) == (150, 0, 0)
    files = files_in(tmp_path)
    assert len(files) > 3
    report = verify_audit(files, key="k", heads=[audit.head or ""])
    assert (report.ok, report.records, report.heads) == (True, 300, (audit.head,))
    assert CANARY.encode() not in b"".join(file.read_bytes() for file in files)


async def test_two_clients_may_share_a_sink(tmp_path: Path) -> None:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    async with client_of(Wire(), audit=audit) as first:
        async with client_of(Wire(), audit=audit) as second:
            await first.update("d-1", session={"a": 1})
            await second.update("d-2", session={"a": 1})
        await first.update("d-3", session={"a": 1})
    assert {record.dialog_id for record in read_audit(audit.path)} == {"d-1", "d-2", "d-3"}
    assert verify_audit([audit.path]).ok


async def test_a_client_that_was_never_opened_has_no_threads(sink: Sink) -> None:
    await client_of(Wire(), audit=sink).aclose()
    assert sink.calls == []


async def test_an_empty_list_of_sinks_is_no_audit() -> None:
    async with client_of(Wire(), audit=[]) as client:
        assert (await client.update("d", session={"a": 1})).status == 200
    assert counts(client) == (0, 0, 0)


# Sinks that fail.


async def write_some(client: AsyncStateClient, count: int) -> None:
    for number in range(count):
        await client.update("d", session={"n": number})


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError(CANARY), SystemExit(3)], ids=repr
)
async def test_a_sink_that_fails_fails_no_update_and_is_logged_once(
    sink: Sink, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    sink.error = error
    async with client_of(Wire(), audit=sink) as client:
        await write_some(client, 3)
        wall(lambda: sink.calls.count("write") > 1)
        await write_some(client, 3)
    assert client.metrics.applied == 6
    assert counts(client) == (0, 6, 0)
    logged = [record for record in caplog.records if "audit sink" in record.getMessage()]
    assert [record.levelname for record in logged] == ["ERROR"]
    assert CANARY not in caplog.text
    expected = "No space left" if isinstance(error, OSError) else f"raised {type(error).__name__}"
    assert expected in caplog.text


async def test_a_sink_that_recovers_gets_what_it_missed(sink: Sink) -> None:
    async with client_of(Wire(), audit=sink) as client:
        sink.error = OSError(28, "No space left")
        await write_some(client, 3)
        wall(lambda: sink.calls.count("write") > 1)
        sink.error = None
        wall(lambda: len(sink.records) == 3)
        await write_some(client, 2)
    assert len(sink.records) == 5
    assert counts(client) == (5, 0, 0)


async def test_one_sink_that_fails_leaves_the_other_alone(sink: Sink) -> None:
    sink.error = RuntimeError()
    memory = MemoryAudit()
    async with client_of(Wire(), audit=[sink, memory]) as client:
        await write_some(client, 4)
    assert len(memory.records) == 4
    assert counts(client) == (4, 4, 0)


async def test_a_hanging_sink_delays_nothing_and_records_beyond_its_queue_are_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink(max_queue=5)
    sink.gate.clear()
    async with client_of(Wire(), audit=sink) as client:
        await write_some(client, 1)
        wall(sink.waits.is_set)
        await write_some(client, 20)
        assert client.metrics.applied == 21
        assert counts(client) == (0, 0, 15)
        sink.gate.set()
    assert counts(client) == (6, 0, 15)
    assert [record.outcome for record in sink.records] == ["applied"] * 6
    assert caplog.text.count("its queue is full") == 1


async def test_a_hanging_sink_does_not_delay_the_close(
    sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(Wire(), audit=sink) as client:
        sink.gate.clear()
        await write_some(client, 4)
        began = time.monotonic()
        await client.aclose(timeout=0.1)
        assert time.monotonic() - began < 15
    assert counts(client) == (0, 0, 4)
    assert "4 records are lost" in caplog.text
    sink.gate.set()
    wall(lambda: sink.calls[-1] == "close")
    assert counts(client) == (0, 0, 4), "late records are not counted twice"


async def test_flush_has_a_time_limit(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cognigy_async.audit.trail.FLUSH_TIMEOUT", 0.05)
    async with client_of(Wire(), audit=sink) as client:
        sink.gate.clear()
        await write_some(client, 1)
        await client.flush()
        assert sink.records == []
        sink.gate.set()
    assert len(sink.records) == 1


async def test_a_record_that_cannot_be_made_does_not_affect_others(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cognigy_async.audit import sink_queue

    record_of = sink_queue.record_of

    def fails(update: CompletedUpdate) -> AuditRecord:
        if update.dialog_id == "bad":
            raise ValueError(CANARY)
        return record_of(update)

    monkeypatch.setattr(sink_queue, "record_of", fails)
    async with client_of(Wire(), audit=sink) as client:
        for dialog_id in ("good", "bad", "good"):
            await client.update(dialog_id, session={"a": 1})
    assert counts(client) == (2, 1, 0)
    assert "could not be made" in caplog.text
    assert CANARY not in caplog.text


# Strict sinks.


@pytest.fixture
def strict() -> Iterator[Sink]:
    made = Sink(strict=True)
    yield made
    made.gate.set()


def ways(client: AsyncStateClient) -> list[Callable[[], Awaitable[object]]]:
    """Return all ways to write."""

    async def nowait() -> None:
        client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})

    async def many() -> None:
        async with client.update_many([{"dialog_id": "d", "session": {"a": 1}}]) as outcomes:
            async for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error

    return [
        lambda: client.update("d", session={"a": 1}),
        lambda: client.submit({"dialog_id": "d", "session": {"a": 1}}),
        lambda: client.modify("d", lambda _: {"session": {"a": 1}}),
        nowait,
        many,
    ]


async def test_a_failing_strict_sink_refuses_every_update_until_it_works(
    strict: Sink,
) -> None:
    wire = Wire()
    async with client_of(wire, audit=strict, max_pending=2) as client:
        await client.update("d", session={"a": 1})
        strict.error = OSError(28, "No space left")
        # The failure shows at the next record.
        await client.update("d", session={"a": 2})
        wall(lambda: strict.calls.count("write") > 1)
        for _ in range(3):
            for way in ways(client):
                error = await outcome_of(way())
                assert isinstance(error, AuditError)
                assert "No space left" in str(error)
                assert "Repair the sink" in str(error)
        assert len(wire.sent) == 2
        assert (await client.get_state("d")).version == 2
        strict.error = None
        wall(lambda: len(strict.records) == 2)
        for way in ways(client):
            assert not isinstance(await outcome_of(way()), Exception)
    assert client.metrics.applied == len(strict.records) == 7
    assert counts(client) == (7, 0, 0)
    assert client.metrics.pending == 0


async def test_a_client_whose_strict_sink_does_not_open_does_not_open(strict: Sink) -> None:
    strict.error = PermissionError(13, "Permission denied", "audit.jsonl")
    wire = Wire()
    client = client_of(wire, audit=strict)
    with pytest.raises(AuditError, match=r"Permission denied: audit\.jsonl"):
        await client.__aenter__()
    assert (wire.closed, wire.sent) == (1, [])
    wall(lambda: strict.calls[-1] == "close")


async def test_a_strict_file_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    audit = JsonLinesAudit(tmp_path / "none" / "audit.jsonl", strict=True)
    with pytest.raises(AuditError, match="No such file"):
        async with client_of(Wire(), audit=audit):
            raise AssertionError("it must not open")


async def test_a_strict_sink_loses_no_accepted_update_and_refuses_further_ones() -> None:
    strict = Sink(strict=True, max_queue=3)
    wire = Wire(takes=1.0)
    async with client_of(wire, audit=strict) as client:
        strict.gate.clear()
        await client.update("d", session={"n": 0})
        wall(strict.waits.is_set)
        for number in range(10):
            await client.submit({"dialog_id": f"d-{number}", "session": {"n": number}})
        await until_applied(client, 11)
        error = await outcome_of(client.update("d", session={"n": 2}))
        assert isinstance(error, AuditError)
        assert "its queue is full" in str(error)
        strict.gate.set()
    assert len(strict.records) == client.metrics.applied == 11
    assert counts(client) == (11, 0, 0)


async def until_applied(client: AsyncStateClient, count: int) -> None:
    for _ in range(100):
        if client.metrics.applied == count:
            return
        await anyio.sleep(0.1)
    raise AssertionError("the updates were not completed")


@pytest.mark.real_time
@pytest.mark.parametrize("arriving", [False, True], ids=["iterable", "async iterable"])
async def test_bulk_work_waits_for_a_slow_strict_sink(arriving: bool) -> None:
    strict = Sink(strict=True, max_queue=4)
    rows = [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(60)]

    async def arrive() -> Any:
        for row in rows:
            yield row

    async with client_of(Wire(), audit=strict, max_in_flight=2) as client:
        strict.gate.clear()
        source = arrive() if arriving else rows
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def release() -> None:
                for _ in range(100):
                    await anyio.sleep(0.002)
                strict.gate.set()

            async with client.update_many(source) as outcomes:
                assert [outcome.error async for outcome in outcomes] == [None] * 60
    assert len(strict.records) == 60


@pytest.mark.real_time
async def test_bulk_work_of_a_callback_needs_no_slot_after_waiting_for_a_strict_sink() -> None:
    strict = Sink(strict=True, max_queue=1)
    go, ended = anyio.Event(), anyio.Event()
    async with client_of(Wire(), audit=strict, max_pending=3) as client:

        @client.on_state_updated(timeout=5.0, retries=0, max_queue=1)
        async def write_more(event: UpdateEvent) -> None:
            if event.dialog_id == "first":
                await go.wait()
                row = {"dialog_id": "inner", "session": {"a": 1}}
                async with client.update_many([row]) as outcomes:
                    assert [outcome.ok async for outcome in outcomes] == [True]
                ended.set()

        strict.gate.clear()
        await client.update("zero", session={"a": 1})
        wall(strict.waits.is_set)
        await client.update("first", session={"a": 1})
        go.set()
        await turns(9)
        strict.gate.set()
        wall(lambda: client.metrics.audit_written == 2)
        # They take all slots, and are not sent before the callback has ended.
        waits_when_paused = [
            client.submit_nowait({"dialog_id": d, "session": {"a": 1}}) for d in "xyz"
        ]
        for pending in waits_when_paused:
            await pending
        await ended.wait()
    assert client.metrics.events_failed == 0


async def test_closing_a_client_in_the_middle_of_a_stream_records_every_update(
    sink: Sink,
) -> None:
    async with (
        client_of(Wire(takes=1.0), audit=sink) as client,
        client.update_many(
            {"dialog_id": f"d-{n}", "session": {"n": state(n).status}} for n in range(40)
        ) as outcomes,
    ):
        await turns(20)
        await anext(outcomes)
        await client.aclose(drain=False, timeout=5.0)
    report = client.close_report
    assert report is not None
    assert sink.outcomes.count("applied") == report.applied
    assert sink.outcomes.count("not_sent") == len(report.unsent)
    assert len(sink.records) == counts(client)[0]
