"""A FastAPI service that updates dialogs and synchronizes a CRM.

    pip install 'cognigy-async[cli,fastapi,otel]' opentelemetry-exporter-prometheus uvicorn
    CRM_URL=https://crm.example uvicorn examples.fastapi_service:app --timeout-graceful-shutdown 10

The client reads its settings from the environment, see `cognigy_async.integrations.settings`.
Without CRM_URL no CRM is used. Dialogs that the CRM may have missed are written to CRM_MISSED
(default crm-missed.jsonl). ANSWER_WITHIN is the time that callers wait, in seconds (default 6).
Metrics for Prometheus are at /metrics.

The service does not know its callers: put what authenticates them before it, or add a dependency
that does.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict
from urllib.parse import quote

import httpx
from fastapi import FastAPI, Header, HTTPException, Response
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    DeadLetter,
    RetryPolicy,
    UpdateEvent,
)
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

CRM_MISSED = Path(os.environ.get("CRM_MISSED", "crm-missed.jsonl"))

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
    crm: httpx.AsyncClient
    meters: MeterProvider


@asynccontextmanager
async def resources(app: FastAPI) -> AsyncIterator[Resources]:
    """Keep the resources of the client open until the last callback has run."""
    meters = MeterProvider([PrometheusMetricReader()])
    try:
        async with httpx.AsyncClient(base_url=os.environ.get("CRM_URL", ""), timeout=3.0) as crm:
            yield {"crm": crm, "meters": meters}
    finally:
        meters.shutdown()


def crm_path(dialog_id: str) -> str:
    """Return the path of a dialog. Clients would resolve the dots of an id like ".."."""
    return f"/dialogs/{quote(dialog_id, safe='').replace('.', '%2E')}"


def remember(event: UpdateEvent) -> None:
    """Remember a dialog whose state the CRM may not have."""
    missed = {"dialog_id": event.dialog_id, "update_id": event.update_id}
    with CRM_MISSED.open("a", encoding="utf-8") as file:
        file.write(json.dumps(missed) + "\n")


async def keep_missed(letter: DeadLetter) -> None:
    remember(letter.event)


async def keep_unknown(event: UpdateEvent) -> None:
    if isinstance(event.error, AmbiguousUpdateError):
        remember(event)


def make_client(state: Mapping[str, Any]) -> AsyncStateClient:
    # If the server throttles for longer than callers wait, they get an error at once.
    retry = RetryPolicy(max_retry_after=ANSWER_WITHIN)
    client = AsyncStateClient(**Settings().client_arguments(), retry=retry, timeout=3.0)
    instrument(client, meter_provider=state["meters"])
    crm: httpx.AsyncClient = state["crm"]

    async def sync_crm(event: UpdateEvent) -> None:
        response = await crm.put(
            crm_path(event.dialog_id),
            json=event.payload,
            headers={"Idempotency-Key": event.update_id},
        )
        response.raise_for_status()

    if crm.base_url.host:
        # Less than the drain, so that a call that hangs can still become a dead letter.
        client.on_state_updated(sync_crm, timeout=3.0, on_dead_letter=keep_missed)
        client.on_update_failed(keep_unknown, on_dead_letter=keep_missed)
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
