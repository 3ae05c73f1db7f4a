"""An aiohttp.web service that updates dialogs and synchronizes a CRM.

    pip install 'cognigy-async[aiohttp-web,cli,crm]'
    export CRM_WEBHOOK=https://crm.example/events CRM_SECRET=whsec_...
    python examples/aiohttp_service.py --port 8080

The client reads its settings from the environment, see `cognigy_async.integrations.settings`.
The URL in CRM_WEBHOOK gets a webhook for each update, signed with CRM_SECRET; without the URL no
CRM is used. CRM_OUTBOX is the folder of the events that the CRM does not have yet (default
crm-outbox); it must outlive the process. ANSWER_WITHIN is the time that callers wait, in seconds
(default 6).

The service does not know its callers: put what authenticates them before it, or add a middleware
that does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import asdict

from aiohttp import web

from cognigy_async import AsyncStateClient, RetryPolicy
from cognigy_async.crm import Outbox, Webhook
from cognigy_async.integrations.aiohttp import CLIENT, client_ctx, error_middleware, health
from cognigy_async.integrations.settings import Settings

ANSWER_WITHIN = float(os.environ.get("ANSWER_WITHIN", "6"))
"""Seconds after which nothing is sent for a caller, who may have disconnected by then."""


def make_outbox() -> Outbox | None:
    """Return the outbox of the CRM, which gets failed updates, too; None without a CRM."""
    url = os.environ.get("CRM_WEBHOOK")
    if not url:
        return None
    outbox = Outbox(os.environ.get("CRM_OUTBOX", "crm-outbox"))
    outbox.deliver_to(Webhook(url, os.environ["CRM_SECRET"], timeout=3.0), failures=True)
    return outbox


def make_client(app: web.Application) -> AsyncStateClient:
    # If the server throttles for longer than callers wait, they get an error at once.
    retry = RetryPolicy(max_retry_after=ANSWER_WITHIN)
    return AsyncStateClient(
        **Settings().client_arguments(), retry=retry, timeout=3.0, outbox=make_outbox()
    )


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
    app.cleanup_ctx.append(client_ctx(make_client, drain_timeout=4.0))
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
