"""An aiohttp.web service that updates dialogs and synchronizes a CRM.

    CRM_URL=https://crm.example python examples/aiohttp_service.py --port 8080

The client reads its settings from the environment, see `cognigy_async.integrations.settings`.
Without CRM_URL no CRM is used. Dialogs that the CRM may have missed are written to CRM_MISSED
(default crm-missed.jsonl). ANSWER_WITHIN is the time that callers wait, in seconds (default 6).

The service does not know its callers: put what authenticates them before it, or add a middleware
that does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    DeadLetter,
    RetryPolicy,
    UpdateEvent,
)
from cognigy_async.integrations.aiohttp import CLIENT, client_ctx, error_middleware, health
from cognigy_async.integrations.settings import Settings

ANSWER_WITHIN = float(os.environ.get("ANSWER_WITHIN", "6"))
"""Seconds after which nothing is sent for a caller, who may have disconnected by then."""

CRM_MISSED = Path(os.environ.get("CRM_MISSED", "crm-missed.jsonl"))

CRM = web.AppKey("crm", aiohttp.ClientSession)


async def crm_session(app: web.Application) -> AsyncIterator[None]:
    """Keep a session to the CRM open until the last callback has run."""
    async with aiohttp.ClientSession(
        os.environ.get("CRM_URL"),
        timeout=aiohttp.ClientTimeout(total=3.0),
    ) as session:
        app[CRM] = session
        yield


def crm_url(dialog_id: str) -> URL:
    """Return the URL of a dialog. Clients would resolve the dots of an id like ".."."""
    segment = quote(dialog_id, safe="").replace(".", "%2E")
    return URL(f"/dialogs/{segment}", encoded=True)


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


def make_client(app: web.Application) -> AsyncStateClient:
    # If the server throttles for longer than callers wait, they get an error at once.
    retry = RetryPolicy(max_retry_after=ANSWER_WITHIN)
    client = AsyncStateClient(**Settings().client_arguments(), retry=retry, timeout=3.0)

    async def sync_crm(event: UpdateEvent) -> None:
        async with app[CRM].put(
            crm_url(event.dialog_id),
            json=event.payload,
            headers={"Idempotency-Key": event.update_id},
        ) as response:
            response.raise_for_status()

    if os.environ.get("CRM_URL"):
        # Less than the drain, so that a call that hangs can still become a dead letter.
        client.on_state_updated(sync_crm, timeout=3.0, on_dead_letter=keep_missed)
        client.on_update_failed(keep_unknown, on_dead_letter=keep_missed)
    return client


async def change_dialog(request: web.Request) -> web.Response:
    # A page of another site can have a browser send other types without asking.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the body must be application/json")
    try:
        change = json.loads(await request.read())
    except (RecursionError, ValueError):
        raise web.HTTPBadRequest(text="the body is not JSON") from None
    if not isinstance(change, dict):
        raise web.HTTPBadRequest(text="the body is not an object")
    result = await request.config_dict[CLIENT].update(
        request.match_info["dialog_id"],
        session=change.get("session"),
        user=change.get("user"),
        next_step=change.get("next_step"),
        if_match=request.headers.get("If-Match"),
        update_id=request.headers.get("Idempotency-Key"),
        deadline=ANSWER_WITHIN,
    )
    applied = {"update_id": result.update_id, "etag": result.etag, "version": result.version}
    return web.json_response(applied)


async def live(request: web.Request) -> web.Response:
    status = health(request.config_dict[CLIENT])
    return web.json_response(asdict(status), status=200 if status.alive else 503)


async def ready(request: web.Request) -> web.Response:
    status = health(request.config_dict[CLIENT])
    return web.json_response(asdict(status), status=200 if status.ready else 503)


async def metrics(request: web.Request) -> web.Response:
    return web.json_response(asdict(request.config_dict[CLIENT].metrics.snapshot()))


def make_app() -> web.Application:
    app = web.Application(middlewares=[error_middleware])
    # Contexts end in reverse: first the client, then the session that its callbacks use.
    app.cleanup_ctx.extend([crm_session, client_ctx(make_client, drain_timeout=4.0)])
    app.router.add_post("/dialogs/{dialog_id}", change_dialog)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Update dialogs and synchronize a CRM.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--reuse-port", action="store_true", help="share the port with other workers"
    )
    parser.add_argument(
        "--shutdown-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="time of the handlers at the end; more than callers wait",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    # Also log retries and failed updates.
    logging.getLogger("cognigy_async").setLevel(logging.INFO)
    web.run_app(
        make_app(),
        host=options.host,
        port=options.port,
        reuse_port=options.reuse_port,
        # aiohttp waits twice: before it cancels handlers, and after.
        shutdown_timeout=options.shutdown_timeout,
    )


if __name__ == "__main__":
    main()
