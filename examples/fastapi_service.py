"""A FastAPI service that updates dialogs and synchronizes a CRM.

    pip install 'cognigy-async[cli,crm,fastapi,otel]' opentelemetry-exporter-prometheus uvicorn
    export CRM_WEBHOOK=https://crm.example/events CRM_SECRET=whsec_...
    uvicorn examples.fastapi_service:app --timeout-graceful-shutdown 10

The client reads its settings from the environment, see `cognigy_async.integrations.settings`.
The URL in CRM_WEBHOOK gets a webhook for each update, signed with CRM_SECRET; without the URL no
CRM is used. CRM_OUTBOX is the folder of the events that the CRM does not have yet (default
crm-outbox); it must outlive the process. ANSWER_WITHIN is the time that callers wait, in seconds
(default 6).
Metrics for Prometheus are at /metrics.

The service does not know its callers: put what authenticates them before it, or add a dependency
that does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from fastapi import FastAPI, Header, HTTPException, Response
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cognigy_async import AsyncStateClient, RetryPolicy
from cognigy_async.crm import Outbox, Webhook
from cognigy_async.integrations.fastapi import (
    Health,
    StateClient,
    add_error_handlers,
    client_lifespan,
    health,
)
from cognigy_async.integrations.opentelemetry import instrument
from cognigy_async.integrations.settings import Settings

ANSWER_WITHIN = float(os.environ.get("ANSWER_WITHIN", "6"))
"""Seconds after which nothing is sent for a caller, who may have disconnected by then."""

MAX_BODY_BYTES = 2 * 1024 * 1024

# uvicorn configures its own loggers only.
logging.basicConfig(level=logging.WARNING)
# Also log retries and failed updates.
logging.getLogger("cognigy_async").setLevel(logging.INFO)


class Change(BaseModel):
    session: dict[str, Any] = {}
    user: dict[str, Any] = {}
    next_step: str | None = None


class Applied(BaseModel):
    update_id: str
    etag: str | None
    version: int | None


class BodyLimit:
    """Refuse a larger body, and read no more of it. Servers of ASGI set no limit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
            return message

        await self.app(scope, receive_bounded if scope["type"] == "http" else receive, send)


class Resources(TypedDict):
    meters: MeterProvider


@asynccontextmanager
async def resources(app: FastAPI) -> AsyncIterator[Resources]:
    """Keep the meters until the client is closed."""
    meters = MeterProvider([PrometheusMetricReader()])
    try:
        yield {"meters": meters}
    finally:
        meters.shutdown()


def make_outbox() -> Outbox | None:
    """Return the outbox of the CRM, which gets failed updates, too; None without a CRM."""
    url = os.environ.get("CRM_WEBHOOK")
    if not url:
        return None
    outbox = Outbox(os.environ.get("CRM_OUTBOX", "crm-outbox"))
    outbox.deliver_to(Webhook(url, os.environ["CRM_SECRET"], timeout=3.0), failures=True)
    return outbox


def make_client(state: Mapping[str, Any]) -> AsyncStateClient:
    # If the server throttles for longer than callers wait, they get an error at once.
    retry = RetryPolicy(max_retry_after=ANSWER_WITHIN)
    client = AsyncStateClient(
        **Settings().client_arguments(), retry=retry, timeout=3.0, outbox=make_outbox()
    )
    instrument(client, meter_provider=state["meters"])
    return client


app = FastAPI(
    title="Dialogs",
    lifespan=client_lifespan(make_client, lifespan=resources, drain_timeout=4.0),
)
add_error_handlers(app)
app.add_middleware(BodyLimit)


@app.post("/dialogs/{dialog_id}")
async def change_dialog(
    dialog_id: str,
    change: Change,
    client: StateClient,
    if_match: Annotated[str | None, Header()] = None,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Applied:
    result = await client.update(
        dialog_id,
        session=change.session,
        user=change.user,
        next_step=change.next_step,
        if_match=if_match,
        update_id=idempotency_key,
        deadline=ANSWER_WITHIN,
    )
    return Applied(update_id=result.update_id, etag=result.etag, version=result.version)


@app.get("/health/live")
async def live(client: StateClient, response: Response) -> Health:
    status = health(client)
    response.status_code = 200 if status.alive else 503
    return status


@app.get("/health/ready")
async def ready(client: StateClient, response: Response) -> Health:
    status = health(client)
    response.status_code = 200 if status.ready else 503
    return status


@app.get("/metrics")
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
