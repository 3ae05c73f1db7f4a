"""Traces and metrics by OpenTelemetry (extra ``otel``: the API only).

`instrument` makes a span for each update, a child span for each of its requests, and instruments
for what the client counts::

    client = AsyncStateClient(...)
    instrument(client)

The span of an update is a child of what was current where it was accepted. Requests carry their
span to the server by the configured propagator, which is W3C Trace Context by default. Spans and
attributes follow the semantic conventions for HTTP clients
(https://opentelemetry.io/docs/specs/semconv/http/). Dialog and update ids are attributes of spans
and never of metrics; no variable, token or key is either.

Without an SDK the API does nothing, and costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter,
)
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    Metrics,
    Operation,
    Request,
    Response,
    UpdateWithdrawnError,
)

SCOPE = "cognigy_async"
SCHEMA = "https://opentelemetry.io/schemas/1.36.0"

METRICS: Mapping[str, str] = {
    "cognigy.client.operation.duration": "histogram",
    "http.client.request.duration": "histogram",
    "cognigy.client.updates": "counter",
    "cognigy.client.retries": "counter",
    "cognigy.client.requests": "counter",
    "cognigy.client.token.refreshes": "counter",
    "cognigy.client.events": "counter",
    "cognigy.client.requests.in_flight": "gauge",
    "cognigy.client.updates.pending": "gauge",
    "cognigy.client.dialogs.paused": "gauge",
}
"""The names of all instruments and their kinds."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; what the semantic conventions advise for HTTP."""

LONG_BUCKETS = (*BUCKETS, 30.0, 60.0, 300.0, 900.0)
"""An update may wait for a throttled tenant, and bulk work for a quota."""

SPAN_NAMES: Mapping[Operation, str] = {
    "update": "cognigy update",
    "modify": "cognigy modify",
    "read": "cognigy read",
    "reset": "cognigy reset",
}


def instrument(
    client: AsyncStateClient,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    name: str | None = None,
) -> None:
    """Trace and measure what `client` does from now on.

    Args:
        client: open or not yet.
        tracer_provider, meter_provider: the global ones by default.
        name: the attribute ``cognigy.client.name`` of all metrics; give each of several clients of
            a process its own, or their counts hide each other.
    """
    tracer = get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=SCHEMA)
    meter = get_meter(SCOPE, meter_provider=meter_provider, schema_url=SCHEMA)
    label = {} if name is None else {"cognigy.client.name": name}
    _watch_counts(client.metrics, meter, label)
    client.add_observer(_Tracing(tracer, meter, label))


class _Tracing:
    """The observer: begins the span of each update."""

    def __init__(self, tracer: Tracer, meter: Meter, label: Mapping[str, str]) -> None:
        self.tracer = tracer
        self.label = label
        self._hosts: dict[str, tuple[str, int]] = {}
        self.operations = _durations(meter, "cognigy.client.operation.duration", LONG_BUCKETS)
        self.requests = _durations(meter, "http.client.request.duration", BUCKETS)

    def accepted(self, operation: Operation, dialog_id: str, update_id: str) -> _Traced:
        return _Traced(self, operation, dialog_id, update_id)

    def facts_of(self, request: Request) -> dict[str, AttributeValue]:
        """What is said of a request in spans and metrics alike."""
        origin = request.url[: request.url.find("/", len("https://"))]
        host = self._hosts.get(origin)
        if host is None:
            parts = urlsplit(origin)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            host = self._hosts[origin] = (parts.hostname or "", port)
        return {
            "http.request.method": request.method,
            "server.address": host[0],
            "server.port": host[1],
        }


class _Traced:
    """The spans and times of one update."""

    __slots__ = (
        "_began",
        "_context",
        "_of",
        "_operation",
        "_recording",
        "_request",
        "_sent",
        "_span",
        "_times",
    )

    def __init__(self, of: _Tracing, operation: Operation, dialog_id: str, update_id: str) -> None:
        self._of = of
        self._began = time.perf_counter()
        self._sent = 0.0
        self._request: Span | None = None
        self._operation = operation
        self._span = span = of.tracer.start_span(SPAN_NAMES[operation])
        self._recording = span.is_recording()
        self._context: Context | None = None
        if self._recording:
            self._times: dict[tuple[str, str], int] = {}
            span.set_attributes(
                {
                    "cognigy.operation": operation,
                    "cognigy.dialog_id": dialog_id,
                    "cognigy.update_id": update_id,
                }
            )
            self._context = set_span_in_context(span)
        elif span.get_span_context().is_valid:
            # There is no SDK here, or this trace is not sampled; whoever called us is still told.
            self._context = set_span_in_context(span)

    def request_starts(self, request: Request, attempt: int) -> None:
        self._sent = time.perf_counter()
        if self._context is None:
            return
        context = self._context
        if self._recording:
            facts = self._of.facts_of(request)
            # An update may be several requests, of which each is sent for the first time.
            what = (request.method, request.url)
            sent_before = self._times.get(what, 0)
            self._times[what] = sent_before + 1
            if sent_before:
                facts["http.request.resend_count"] = sent_before
            facts["url.full"] = request.url
            self._request = self._of.tracer.start_span(
                request.method, context, SpanKind.CLIENT, facts
            )
            context = set_span_in_context(self._request)
        propagate.inject(request.headers, context)

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        facts = self._of.facts_of(request)
        failed: str | None = None
        if response is not None:
            facts["http.response.status_code"] = response.status
            failed = str(response.status) if response.status >= 400 else None
        elif error is not None:
            failed = type(error).__name__
        if failed is not None:
            facts["error.type"] = failed
        took = time.perf_counter() - self._sent
        self._of.requests.record(took, {**facts, **self._of.label}, self._context)
        span, self._request = self._request, None
        if span is not None:
            span.set_attributes(facts)
            if failed is not None:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def settled(self, error: BaseException | None, attempts: int) -> None:
        facts: dict[str, AttributeValue] = {
            **self._of.label,
            "cognigy.operation": self._operation,
            "cognigy.outcome": _outcome(error),
        }
        if error is not None:
            facts["error.type"] = type(error).__name__
        self._of.operations.record(time.perf_counter() - self._began, facts, self._context)
        if self._recording:
            self._span.set_attributes({**facts, "cognigy.requests": attempts})
            if error is not None and not isinstance(error, UpdateWithdrawnError):
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "applied"
    if isinstance(error, AmbiguousUpdateError):
        return "ambiguous"
    return "withdrawn" if isinstance(error, UpdateWithdrawnError) else "failed"


def _durations(meter: Meter, name: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, unit="s", explicit_bucket_boundaries_advisory=buckets)


def _watch_counts(metrics: Metrics, meter: Meter, label: Mapping[str, str]) -> None:
    """Instruments that read the client's own counters when they are asked."""

    def watch(
        create: Callable[..., object],
        name: str,
        unit: str,
        key: str | None,
        read: Callable[[Metrics], Mapping[str, int]],
    ) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for value, count in read(metrics).items():
                yield Observation(count, {**label, key: value} if key else label)

        create(name, callbacks=[observe], unit=unit)

    def single(create: Callable[..., object], name: str, unit: str, attribute: str) -> None:
        watch(create, name, unit, None, lambda metrics: {"": getattr(metrics, attribute)})

    counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
    watch(counter, "cognigy.client.updates", "{update}", "cognigy.outcome", _by_outcome)
    watch(counter, "cognigy.client.retries", "{request}", "cognigy.reason", lambda m: m.retries)
    watch(counter, "cognigy.client.events", "{event}", "cognigy.outcome", _events)
    single(counter, "cognigy.client.requests", "{request}", "requests")
    single(counter, "cognigy.client.token.refreshes", "{token}", "token_refreshes")
    single(gauge, "cognigy.client.requests.in_flight", "{request}", "in_flight")
    single(gauge, "cognigy.client.updates.pending", "{update}", "pending")
    single(gauge, "cognigy.client.dialogs.paused", "{dialog}", "paused")


def _by_outcome(metrics: Metrics) -> Mapping[str, int]:
    return {
        "applied": metrics.applied,
        "failed": metrics.failed,
        "ambiguous": metrics.ambiguous,
        "withdrawn": metrics.withdrawn,
    }


def _events(metrics: Metrics) -> Mapping[str, int]:
    return {
        "delivered": metrics.events_delivered,
        "failed": metrics.events_failed,
        "dropped": metrics.events_dropped,
    }
