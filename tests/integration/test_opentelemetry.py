"""Spans and metrics, as exported to memory by the SDK."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import generate_latest

from cognigy_async import (
    AsyncStateClient,
    MemoryAudit,
    RateLimit,
    UpdateError,
    UpdateEvent,
    UpdateWithdrawnError,
)
from cognigy_async.crm import EventRejectedError, Outbox
from cognigy_async.integrations.opentelemetry import METRICS, instrument
from cognigy_async.testing.virtual_time import run
from tests.simulation.world import (
    DROPPED,
    URL_TOKEN,
    Wire,
    client_of,
    eventually,
    every,
    outcome_of,
    status,
    throttled,
)

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
CANARY = "canary-value"


@dataclass
class Sdk:
    """An SDK for one test; the global one is not changed."""

    tracers: TracerProvider
    meters: MeterProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def instrument(self, client: AsyncStateClient, **options: Any) -> AsyncStateClient:
        instrument(client, tracer_provider=self.tracers, meter_provider=self.meters, **options)
        return client

    def spans(self) -> list[ReadableSpan]:
        """Return ended spans, in the order of their start."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def points(self) -> dict[str, dict[frozenset[tuple[str, object]], Any]]:
        """Return the data points of each metric by their attributes."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: {
                frozenset((point.attributes or {}).items()): point
                for point in metric.data.data_points
            }
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    yield Sdk(tracers, meters, exporter, reader)
    tracers.shutdown()
    meters.shutdown()


def facts(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def labels(points: Mapping[frozenset[tuple[str, object]], Any]) -> list[dict[str, object]]:
    return [dict(point) for point in points]


async def test_an_update_is_a_span_with_a_child_for_each_request(sdk: Sdk) -> None:
    wire = Wire()
    wire.script(503)
    async with sdk.instrument(client_of(wire, retry=every(1))) as client:
        with sdk.tracers.get_tracer("app").start_as_current_span("handler"):
            await client.update("d", session={"a": CANARY}, update_id="u-1")
    handler, update, first, second = sdk.spans()
    assert [span.name for span in (handler, update, first, second)] == [
        "handler",
        "cognigy update",
        "PATCH",
        "PATCH",
    ]
    assert update.parent is not None
    assert update.parent.span_id == handler.context.span_id
    assert update.kind is SpanKind.INTERNAL
    assert facts(update) == {
        "cognigy.operation": "update",
        "cognigy.dialog_id": "d",
        "cognigy.update_id": "u-1",
        "cognigy.outcome": "applied",
        "cognigy.requests": 2,
    }
    for span in (first, second):
        assert span.parent is not None
        assert span.parent.span_id == update.context.span_id
        assert span.kind is SpanKind.CLIENT
    assert facts(first) == {
        "http.request.method": "PATCH",
        "url.full": "http://127.0.0.1/runtime/v2/dialogs/d/state",
        "server.address": "127.0.0.1",
        "server.port": 80,
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert facts(second)["http.request.resend_count"] == 1
    assert facts(second)["http.response.status_code"] == 200
    assert "error.type" not in facts(second)
    assert second.status.status_code is StatusCode.UNSET
    # Each request carries its own span to the server.
    sent = [write.headers["traceparent"] for write in wire.writes()]
    expected = [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-"
        f"{span.context.trace_flags:02x}"
        for span in (first, second)
    ]
    assert sent == expected
    assert CANARY not in str([span.to_json() for span in sdk.spans()])


@pytest.mark.parametrize("way", ["inject", "notify"])
async def test_a_message_is_an_operation_without_the_url_token(sdk: Sdk, way: str) -> None:
    wire = Wire()
    wire.script(503)
    async with sdk.instrument(client_of(wire, retry=every(1))) as client:
        await getattr(client, way)("d", text=CANARY, data={"a": CANARY}, user_id="u-1")
    message, first, second = sdk.spans()
    assert message.name == f"cognigy {way}"
    assert facts(message)["cognigy.operation"] == way
    for span in (first, second):
        assert span.name == "POST"
        assert facts(span)["url.full"] == f"http://127.0.0.1/{way}/REDACTED"
    assert facts(second)["http.request.resend_count"] == 1
    assert [sent.headers["traceparent"].split("-")[2] for sent in wire.sent] == [
        f"{span.context.span_id:016x}" for span in (first, second)
    ]
    assert URL_TOKEN in wire.sent[1].url
    told = str([span.to_json() for span in sdk.spans()])
    told += str([labels(points) for points in sdk.points().values()])
    assert URL_TOKEN not in told
    assert CANARY not in told


async def test_reads_and_modifies_are_operations_too(sdk: Sdk) -> None:
    async with sdk.instrument(client_of(Wire())) as client:
        await client.get_state("d")
        await client.modify("d", lambda _: {"session": {"a": 1}})
    assert [span.name for span in sdk.spans()] == [
        "cognigy read",
        "GET",
        "cognigy modify",
        "GET",
        "PATCH",
    ]
    assert not any("http.request.resend_count" in facts(span) for span in sdk.spans())


@pytest.mark.parametrize(
    ("reply", "kind", "outcome"),
    [(400, "BadRequestError", "failed"), (DROPPED, "AmbiguousUpdateError", "ambiguous")],
)
async def test_a_failure_has_its_error_type(sdk: Sdk, reply: Any, kind: str, outcome: str) -> None:
    wire = Wire(answer=reply)
    async with sdk.instrument(client_of(wire, retry=every(1, max_attempts=1))) as client:
        error = await outcome_of(client.update("d", session={"a": CANARY}))
    assert isinstance(error, UpdateError)
    update, request = sdk.spans()
    assert facts(update)["cognigy.outcome"] == outcome
    assert facts(update)["error.type"] == kind
    assert update.status.status_code is StatusCode.ERROR
    assert facts(request)["error.type"] == ("400" if reply == 400 else "NoResponseError")
    assert update.events == request.events == ()


async def test_a_withdrawn_update_is_not_an_error(sdk: Sdk) -> None:
    wire = Wire()
    wire.script(throttled("60"))
    async with sdk.instrument(client_of(wire, max_in_flight=1)) as client:
        first = await client.submit({"dialog_id": "a", "session": {"n": 1}})
        behind = await client.submit({"dialog_id": "a", "session": {"n": 2}})
        assert behind.withdraw()
        assert isinstance(await outcome_of(behind), UpdateWithdrawnError)
        await first
    by_outcome = {facts(span).get("cognigy.outcome"): span for span in sdk.spans()}
    assert by_outcome["withdrawn"].status.status_code is StatusCode.UNSET


async def test_spans_of_a_stream_belong_to_its_reader(sdk: Sdk) -> None:
    rows = [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(3)]
    async with sdk.instrument(client_of(Wire())) as client:
        with sdk.tracers.get_tracer("app").start_as_current_span("job") as job:
            async with client.update_many(rows) as outcomes:
                assert [outcome.ok async for outcome in outcomes] == [True] * 3
    updates = [span for span in sdk.spans() if span.name == "cognigy update"]
    parents = {span.parent.span_id for span in updates if span.parent}
    assert len(updates) == 3
    assert parents == {job.get_span_context().span_id}


async def test_a_callback_runs_in_the_context_of_its_caller(sdk: Sdk) -> None:
    seen: list[int] = []
    client = sdk.instrument(client_of(Wire()))

    @client.on_state_updated
    async def look(_: UpdateEvent) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    async with client:
        with sdk.tracers.get_tracer("app").start_as_current_span("handler") as handler:
            await client.update("d", session={"a": 1})
        await client.flush()
    assert seen == [handler.get_span_context().span_id]


def outbox_of(folder: Path) -> Outbox:
    """Return an outbox whose target refuses the events of even numbers."""

    async def take(event: UpdateEvent) -> None:
        if event.dialog_id[-1] in "02468":
            raise EventRejectedError("an even number")

    outbox = Outbox(folder)
    outbox.deliver_to(take, name="crm")
    return outbox


@pytest.mark.real_time
async def test_metrics_have_fixed_labels_and_never_ids(sdk: Sdk, tmp_path: Path) -> None:
    wire = Wire()
    wire.script(503, status(409))
    limits = [RateLimit(1000, per=300), RateLimit(50, per=60)]
    outbox = outbox_of(tmp_path / "outbox")
    client = client_of(wire, retry=every(1), rate_limit=limits, audit=MemoryAudit(), outbox=outbox)
    async with sdk.instrument(client, name="shop"):
        for number in range(20):
            await client.update(f"dialog-{number}", session={"a": CANARY}, update_id=f"u-{number}")
        await outcome_of(client.update("", session={"a": 1}))
        await eventually(lambda: client.metrics.targets[0].depth == 0)
        points = sdk.points()
    assert set(points) == set(METRICS)
    crm = ("cognigy.target", "crm")
    deliveries = points["cognigy.client.outbox.deliveries"]
    assert {dict(key)["cognigy.outcome"]: point.value for key, point in deliveries.items()} == {
        "delivered": 10,
        "failed": 10,
    }
    for metric, value in {"depth": 0, "oldest_age": 0.0, "dead_letters": 10}.items():
        gauge = points[f"cognigy.client.outbox.{metric}"]
        assert {key: point.value for key, point in gauge.items()} == {
            frozenset({crm, ("cognigy.client.name", "shop")}): value
        }
    for metric, values in {"used": [23, 23], "limit": [1000, 50]}.items():
        quota = points[f"cognigy.client.quota.{metric}"]
        by_index = {dict(key)["cognigy.quota.index"]: point.value for key, point in quota.items()}
        assert by_index == dict(enumerate(values))
    records = points["cognigy.client.audit.records"]
    assert {dict(key)["cognigy.outcome"] for key in records} == {"written", "failed", "dropped"}
    name = ("cognigy.client.name", "shop")
    applied = points["cognigy.client.updates"][frozenset({name, ("cognigy.outcome", "applied")})]
    assert applied.value == 20
    retries = points["cognigy.client.retries"]
    assert {dict(key)["cognigy.reason"]: point.value for key, point in retries.items()} == {
        "unavailable": 1,
        "conflict": 1,
    }
    assert sum(point.count for point in points["http.client.request.duration"].values()) == 23
    (operations,) = points["cognigy.client.operation.duration"].values()
    assert operations.count == 20
    allowed = {
        "cognigy.client.name",
        "cognigy.operation",
        "cognigy.outcome",
        "cognigy.quota.index",
        "cognigy.reason",
        "cognigy.target",
        "error.type",
        "http.request.method",
        "http.response.status_code",
        "server.address",
        "server.port",
    }
    for metric, by_labels in points.items():
        for label in labels(by_labels):
            assert label.keys() <= allowed, metric
            assert not re.search(rf"dialog-|u-\d|{CANARY}", str(label)), metric


@pytest.mark.real_time
async def test_an_exporter_may_collect_in_a_thread(
    sdk: Sdk, anyio_backend_name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    outbox = outbox_of(tmp_path / "outbox")
    client = client_of(Wire(), rate_limit=RateLimit(10, per=1), outbox=outbox)
    async with sdk.instrument(client):
        await client.update("d", session={"a": 1})
        with ThreadPoolExecutor(1) as threads:
            points = threads.submit(sdk.points).result()
    # The clock of trio works in its event loop only.
    assert ("cognigy.client.quota.used" in points) == (anyio_backend_name == "asyncio")
    assert {"cognigy.client.updates", "cognigy.client.outbox.depth"} <= points.keys()
    assert caplog.records == []


async def test_the_callers_trace_context_is_sent_without_an_sdk() -> None:
    wire = Wire()
    client = client_of(wire)
    instrument(client)
    parent = trace.SpanContext(0x1234, 0x5678, is_remote=True, trace_flags=trace.TraceFlags(1))

    async with client:
        await client.update("a", session={"n": 1})
        mark = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
        try:
            await client.update("b", session={"n": 1})
        finally:
            context.detach(mark)
    alone, traced = wire.writes()
    assert "traceparent" not in alone.headers
    assert traced.headers["traceparent"] == f"00-{0x1234:032x}-{0x5678:016x}-01"


@contextmanager
def carrying(**entries: str) -> Iterator[None]:
    """Give the block these entries of baggage and no others."""
    carried = baggage.clear()
    for name, value in entries.items():
        carried = baggage.set_baggage(name, value, carried)
    mark = context.attach(carried)
    try:
        yield
    finally:
        context.detach(mark)


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF, None])
async def test_the_callers_baggage_is_sent(sampler: Sampler | None) -> None:
    """None stands for a process without an SDK."""
    wire = Wire()
    wire.script(503)
    tracers = trace.NoOpTracerProvider() if sampler is None else TracerProvider(sampler=sampler)
    client = client_of(wire, retry=every(1))
    instrument(client, tracer_provider=tracers)
    with carrying(tenant="of-the-opener"):
        async with client:
            with carrying(tenant="t-7"), tracers.get_tracer("app").start_as_current_span("handler"):
                await client.update("a", session={"n": 1})
                await client.modify("a", lambda _: {"session": {"n": 2}})
            with carrying():
                await client.update("b", session={"n": 1})
    *carried, alone = wire.sent
    assert [request.headers.get("baggage") for request in carried] == ["tenant=t-7"] * 4
    assert all(("traceparent" in request.headers) == bool(sampler) for request in carried)
    assert "baggage" not in alone.headers


async def test_a_shared_request_carries_the_context_of_the_first_update_alone(sdk: Sdk) -> None:
    wire = Wire()
    wire.script(throttled("1"))
    async with sdk.instrument(client_of(wire, max_in_flight=1, coalesce=True)) as client:
        waiting = [await client.submit({"dialog_id": "other", "session": {"n": 1}})]
        with sdk.tracers.get_tracer("app").start_as_current_span("first") as first:
            waiting.append(await client.submit({"dialog_id": "a", "session": {"n": 1}}))
        with carrying(tenant="t-7"):
            waiting.append(await client.submit({"dialog_id": "a", "session": {"m": 2}}))
        for update in waiting:
            await update
    (shared,) = wire.writes("a")
    assert f"{first.get_span_context().trace_id:032x}" in shared.headers["traceparent"]
    assert "baggage" not in shared.headers


async def test_an_observer_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def accepted(self, *_: object) -> Broken:
            return self

        def request_starts(self, *_: object) -> None:
            raise RuntimeError(CANARY)

        request_ends = settled = request_starts

    class Worse:
        def accepted(self, *_: object) -> None:
            raise RuntimeError(CANARY)

    client = client_of(Wire())
    client.add_observer(Broken())
    client.add_observer(Worse())
    async with client:
        assert (await client.update("d", session={"a": 1})).attempts == 1
    assert "observer" in caplog.text
    assert CANARY not in caplog.text


def test_the_missing_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import cognigy_async\n"
        "cognigy_async.AsyncStateClient\n"
        "import cognigy_async.integrations.opentelemetry"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "opentelemetry" in done.stderr.splitlines()[-1]


def test_the_dashboard_uses_existing_metrics(tmp_path: Path) -> None:
    """Check names as the Prometheus exporter writes them."""
    reader = PrometheusMetricReader()
    meters = MeterProvider([reader])
    exposed: list[str] = []
    try:
        wire = Wire()
        wire.script(503)

        async def work() -> None:
            outbox = outbox_of(tmp_path / "outbox")
            limit = RateLimit(10, per=1)
            client = client_of(wire, retry=every(1), rate_limit=limit, outbox=outbox)
            instrument(client, meter_provider=meters)
            async with client:
                await client.update("d", session={"a": 1})
                # The outbox has metrics while the client is open.
                exposed.append(generate_latest().decode())

        run(work, backend="asyncio")
    finally:
        meters.shutdown()
    there = set(re.findall(r"^((?:cognigy|http)_\w+)[{ ]", exposed[0], re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:cognigy_client|http_client)_\w+", target["expr"])
    }
    assert asked <= there
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in there}
    assert {re.sub(r"_(total|bucket|count)$", "", name) for name in asked} == families
    assert len(families) == len(METRICS)


def test_structlog_gets_the_fields_of_log_lines() -> None:
    import structlog

    lines: list[dict[str, Any]] = []

    def keep(_: object, __: str, event: Any) -> str:
        lines.append(dict(event))
        return ""

    handler = logging.NullHandler()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processors=[keep]
    )
    handler.handle = lambda record: bool(formatter.format(record)) or True  # type: ignore[method-assign]
    logger = logging.getLogger("cognigy_async")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        wire = Wire()
        wire.script(400)

        async def work() -> None:
            async with client_of(wire) as client:
                await outcome_of(client.update("d", session={"a": CANARY}, update_id="u-1"))

        run(work, backend="asyncio")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    (failed,) = [line for line in lines if "update failed" in line["event"]]
    fields = {name: failed[name] for name in ("dialog_id", "update_id", "error", "status")}
    assert fields == {
        "dialog_id": "d",
        "update_id": "u-1",
        "error": "BadRequestError",
        "status": "400",
    }
    assert CANARY not in str(lines)
