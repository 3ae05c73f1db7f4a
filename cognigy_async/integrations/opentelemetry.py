"""Traces and metrics by OpenTelemetry. Needs the extra ``otel``, which is the API only.

`instrument` creates a span for each update, a child span for each of its requests, and metrics of
the client's counters::

    client = AsyncStateClient(...)
    instrument(client)

The span of an update is a child of the span that is current when the update is accepted. Requests
carry their span and the caller's baggage to the server by the configured propagators, by default
W3C Trace Context and W3C Baggage, whether the trace is sampled or not. Spans and attributes follow
the semantic conventions for HTTP clients (https://opentelemetry.io/docs/specs/semconv/http/).
Dialog and update ids are attributes of spans and never of metrics. Variables, tokens and keys are
attributes of neither.

Without an SDK the API does nothing, at almost no cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from opentelemetry import propagate
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
    "cognigy.client.audit.records": "counter",
    "cognigy.client.requests.in_flight": "gauge",
    "cognigy.client.updates.pending": "gauge",
    "cognigy.client.dialogs.paused": "gauge",
    "cognigy.client.quota.used": "gauge",
    "cognigy.client.quota.limit": "gauge",
    "cognigy.client.outbox.deliveries": "counter",
    "cognigy.client.outbox.depth": "gauge",
    "cognigy.client.outbox.oldest_age": "gauge",
    "cognigy.client.outbox.dead_letters": "gauge",
}
"""Names and kinds of all metrics."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds, as the semantic conventions advise for HTTP."""

LONG_BUCKETS = (*BUCKETS, 30.0, 60.0, 300.0, 900.0)
"""Seconds. An update may wait for a throttled tenant, and bulk work for a quota."""

SPAN_NAMES: Mapping[Operation, str] = {
    "update": "cognigy update",
    "modify": "cognigy modify",
    "read": "cognigy read",
    "reset": "cognigy reset",
    "create_profile": "cognigy create_profile",
    "update_profile": "cognigy update_profile",
    "inject": "cognigy inject",
    "notify": "cognigy notify",
}


def instrument(
    client: AsyncStateClient,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    name: str | None = None,
) -> None:
    """Trace and measure all updates that `client` accepts from now on.

    Args:
        client: Client, open or not.
        tracer_provider, meter_provider: Providers; None for the global providers.
        name: Attribute ``cognigy.client.name`` of all metrics. Several clients of a process need
            different names, or their counters overwrite each other.
    """
    tracer = get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=SCHEMA)
    meter = get_meter(SCOPE, meter_provider=meter_provider, schema_url=SCHEMA)
    label = {} if name is None else {"cognigy.client.name": name}
    _create_observables(client.metrics, meter, label)
    client.add_observer(_Instrumentation(tracer, meter, label))


class _Instrumentation:
    """Observer of a client, which starts the span of each update."""

    def __init__(self, tracer: Tracer, meter: Meter, label: Mapping[str, str]) -> None:
        self.tracer = tracer
        self.label = label
        self._hosts: dict[str, tuple[str, int]] = {}
        self.operations = _durations(meter, "cognigy.client.operation.duration", LONG_BUCKETS)
        self.requests = _durations(meter, "http.client.request.duration", BUCKETS)

    def accepted(self, operation: Operation, dialog_id: str, update_id: str) -> _UpdateTrace:
        return _UpdateTrace(self, operation, dialog_id, update_id)

    def attributes_of(self, request: Request) -> dict[str, AttributeValue]:
        """Return the attributes of a request, for spans and metrics."""
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


class _UpdateTrace:
    """Spans and durations of one update."""

    __slots__ = (
        "_context",
        "_instrumentation",
        "_operation",
        "_recording",
        "_request_span",
        "_request_started",
        "_sends",
        "_span",
        "_started",
    )

    def __init__(
        self, parent: _Instrumentation, operation: Operation, dialog_id: str, update_id: str
    ) -> None:
        self._instrumentation = parent
        self._started = time.perf_counter()
        self._request_started = 0.0
        self._request_span: Span | None = None
        self._operation = operation
        self._span = span = parent.tracer.start_span(SPAN_NAMES[operation])
        # The caller's whole context: workers have one of their own, without the caller's baggage.
        self._context = set_span_in_context(span)
        self._recording = span.is_recording()
        if self._recording:
            self._sends: dict[tuple[str, str], int] = {}
            span.set_attributes(
                {
                    "cognigy.operation": operation,
                    "cognigy.dialog_id": dialog_id,
                    "cognigy.update_id": update_id,
                }
            )

    def request_starts(self, request: Request, attempt: int) -> None:
        self._request_started = time.perf_counter()
        context = self._context
        if self._recording:
            attributes = self._instrumentation.attributes_of(request)
            # Counted by target, because an update may consist of several requests.
            target = (request.method, request.url)
            resends = self._sends.get(target, 0)
            self._sends[target] = resends + 1
            if resends:
                attributes["http.request.resend_count"] = resends
            attributes["url.full"] = request.url
            self._request_span = self._instrumentation.tracer.start_span(
                request.method, context, SpanKind.CLIENT, attributes
            )
            context = set_span_in_context(self._request_span, context)
        # Updates that share a request write the same headers: leave none of another context.
        for name in propagate.get_global_textmap().fields:
            request.headers.pop(name, None)
        propagate.inject(request.headers, context)

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        attributes = self._instrumentation.attributes_of(request)
        error_type: str | None = None
        if response is not None:
            attributes["http.response.status_code"] = response.status
            error_type = str(response.status) if response.status >= 400 else None
        elif error is not None:
            error_type = type(error).__name__
        if error_type is not None:
            attributes["error.type"] = error_type
        self._instrumentation.requests.record(
            time.perf_counter() - self._request_started,
            {**attributes, **self._instrumentation.label},
            self._context,
        )
        span, self._request_span = self._request_span, None
        if span is not None:
            span.set_attributes(attributes)
            if error_type is not None:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def settled(self, error: BaseException | None, attempts: int) -> None:
        attributes: dict[str, AttributeValue] = {
            **self._instrumentation.label,
            "cognigy.operation": self._operation,
            "cognigy.outcome": _outcome(error),
        }
        if error is not None:
            attributes["error.type"] = type(error).__name__
        duration = time.perf_counter() - self._started
        self._instrumentation.operations.record(duration, attributes, self._context)
        if self._recording:
            self._span.set_attributes({**attributes, "cognigy.requests": attempts})
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


def _create_observables(metrics: Metrics, meter: Meter, label: Mapping[str, str]) -> None:
    """Create instruments that read the client's counters when they are collected."""

    def create(name: str, unit: str, attribute: str | None, fields: Mapping[str, str]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for value, field in fields.items():
                count = getattr(metrics, field)
                yield Observation(count, {**label, attribute: value} if attribute else label)

        gauge = METRICS[name] == "gauge"
        factory = meter.create_observable_gauge if gauge else meter.create_observable_counter
        factory(name, callbacks=[observe], unit=unit)

    def observe_retries(_: CallbackOptions) -> Iterable[Observation]:
        for reason, number in metrics.retries.items():
            yield Observation(number, {**label, "cognigy.reason": reason})

    def observe_quota(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            try:
                limits = metrics.quota
            except RuntimeError:
                # The clock of trio cannot be read in the thread of an exporter.
                return
            for index, use in enumerate(limits):
                yield Observation(getattr(use, field), {**label, "cognigy.quota.index": index})

        return observe

    def observe_deliveries(_: CallbackOptions) -> Iterable[Observation]:
        for target in metrics.targets:
            for outcome in ("delivered", "failed"):
                named = {"cognigy.target": target.name, "cognigy.outcome": outcome}
                yield Observation(getattr(target, outcome), {**label, **named})

    def observe_targets(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for target in metrics.targets:
                yield Observation(getattr(target, field), {**label, "cognigy.target": target.name})

        return observe

    outcomes = ("applied", "failed", "ambiguous", "withdrawn")
    events = {name: f"events_{name}" for name in ("delivered", "failed", "dropped")}
    create("cognigy.client.updates", "{update}", "cognigy.outcome", {n: n for n in outcomes})
    create("cognigy.client.events", "{event}", "cognigy.outcome", events)
    records = {name: f"audit_{name}" for name in ("written", "failed", "dropped")}
    create("cognigy.client.audit.records", "{record}", "cognigy.outcome", records)
    create("cognigy.client.requests", "{request}", None, {"": "requests"})
    create("cognigy.client.token.refreshes", "{token}", None, {"": "token_refreshes"})
    create("cognigy.client.requests.in_flight", "{request}", None, {"": "in_flight"})
    create("cognigy.client.updates.pending", "{update}", None, {"": "pending"})
    create("cognigy.client.dialogs.paused", "{dialog}", None, {"": "paused"})
    meter.create_observable_counter(
        "cognigy.client.retries", callbacks=[observe_retries], unit="{request}"
    )
    for name, field in (("used", "used"), ("limit", "n")):
        meter.create_observable_gauge(
            f"cognigy.client.quota.{name}", callbacks=[observe_quota(field)], unit="{request}"
        )
    meter.create_observable_counter(
        "cognigy.client.outbox.deliveries", callbacks=[observe_deliveries], unit="{event}"
    )
    for field, unit in (("depth", "{event}"), ("oldest_age", "s"), ("dead_letters", "{event}")):
        meter.create_observable_gauge(
            f"cognigy.client.outbox.{field}", callbacks=[observe_targets(field)], unit=unit
        )
