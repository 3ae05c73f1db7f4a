"""A bridge from a CRM to Cognigy.AI: each webhook of the CRM updates a dialog.

    WEBHOOK_SECRET=... uvicorn examples.webhook_bridge:app --timeout-graceful-shutdown 5

The CRM signs the body: `X-Signature` is its HMAC-SHA-256 in hexadecimal. The event id is the id of
the update, so that a repeated event has the same `Idempotency-Key`. The webhook is answered when
the update is applied; after 429 or 5xx the CRM repeats it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, SecretStr

from cognigy_async import AsyncStateClient, RetryPolicy
from cognigy_async.integrations.fastapi import StateClient, add_error_handlers, client_lifespan
from cognigy_async.integrations.settings import Settings

ANSWER_WITHIN = 10.0
"""Seconds after which nothing is sent, because the CRM has given up and will repeat the event."""

# uvicorn configures its own loggers only. Updates that fail are logged under `cognigy_async`.
logging.basicConfig(level=logging.WARNING)


class CrmEvent(BaseModel):
    event_id: str
    dialog_id: str
    contact: dict[str, Any]
    next_step: str | None = None


def webhook_secret() -> SecretStr:
    secret = os.environ.get("WEBHOOK_SECRET")
    if not secret:
        raise RuntimeError("set WEBHOOK_SECRET to the secret with which the CRM signs")
    return SecretStr(secret)


def make_client(_: Mapping[str, Any]) -> AsyncStateClient:
    webhook_secret()
    retry = RetryPolicy(max_retry_after=ANSWER_WITHIN)
    return AsyncStateClient(**Settings().client_arguments(), retry=retry, timeout=3.0)


async def signed(request: Request, x_signature: Annotated[str, Header()]) -> None:
    """Refuse requests that the CRM has not signed."""
    key = webhook_secret().get_secret_value().encode()
    expected = hmac.new(key, await request.body(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), x_signature.encode()):
        raise HTTPException(401, "the signature does not match the body")


app = FastAPI(title="CRM bridge", lifespan=client_lifespan(make_client, drain_timeout=4.0))
add_error_handlers(app)


@app.post("/webhooks/crm", dependencies=[Depends(signed)])
async def contact_changed(event: CrmEvent, client: StateClient) -> dict[str, str]:
    result = await client.update(
        event.dialog_id,
        user={"crm_contact": event.contact},
        next_step=event.next_step,
        update_id=event.event_id,
        deadline=ANSWER_WITHIN,
    )
    return {"update_id": result.update_id}
