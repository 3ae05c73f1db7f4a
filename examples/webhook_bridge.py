"""A bridge from a CRM to Cognigy.AI: each webhook of the CRM updates a dialog.

    WEBHOOK_SECRET=... uvicorn examples.webhook_bridge:app --timeout-graceful-shutdown 15

The CRM sends `X-Timestamp`, the seconds since the epoch, and `X-Signature`, the HMAC-SHA-256 in
hexadecimal of the timestamp, a dot and the body. The bridge refuses a request that somebody has
recorded once its timestamp is old. The event id is the id of the update, so that a repeated event
has the same `Idempotency-Key`: a server that honours this key applies the event once, another
server applies it again. The bridge answers a webhook when its update is applied. After 429 or 5xx,
the CRM repeats the webhook with a new timestamp.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, SecretStr, ValidationError

from cognigy_async import AsyncStateClient, RetryPolicy, StateUpdate, UpdateValidationError
from cognigy_async.integrations.fastapi import StateClient, add_error_handlers, client_lifespan
from cognigy_async.integrations.settings import Settings

ANSWER_WITHIN = 10.0
"""Seconds after which nothing is sent, because the CRM has given up and will repeat the event."""

TOLERANCE = 300.0
"""Seconds that a timestamp may differ from the clock of this machine."""

MAX_BODY_BYTES = 256 * 1024

# uvicorn configures its own loggers only.
logging.basicConfig(level=logging.WARNING)
# Also log retries and failed updates.
logging.getLogger("cognigy_async").setLevel(logging.INFO)


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


async def signed_body(
    request: Request,
    x_timestamp: Annotated[str, Header(pattern="^[0-9]{1,12}$")],
    x_signature: Annotated[str, Header()],
) -> bytes:
    """Return the body of a request that the CRM has signed. It is not parsed before."""
    if abs(time.time() - int(x_timestamp)) > TOLERANCE:
        raise HTTPException(401, "the timestamp is too far from the time of this server")
    key = webhook_secret().get_secret_value().encode()
    body = await read_body(request)
    expected = hmac.new(key, b"%b.%b" % (x_timestamp.encode(), body), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), x_signature.encode()):
        raise HTTPException(401, "the signature does not match timestamp and body")
    return body


async def read_body(request: Request) -> bytes:
    """Return a body, and read no more than `MAX_BODY_BYTES` of a larger one."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


app = FastAPI(title="CRM bridge", lifespan=client_lifespan(make_client, drain_timeout=4.0))
add_error_handlers(app)


@app.post("/webhooks/crm")
async def contact_changed(
    body: Annotated[bytes, Depends(signed_body)], client: StateClient
) -> dict[str, str]:
    try:
        event = CrmEvent.model_validate_json(body)
        update = StateUpdate(
            event.dialog_id,
            user={"crm_contact": event.contact},
            next_step=event.next_step,
            update_id=event.event_id,
        )
    except ValidationError:
        raise HTTPException(422, "the body is not an event") from None
    except UpdateValidationError as error:
        raise HTTPException(422, [fault.path for fault in error.faults]) from None
    pending = await client.submit(update, deadline=ANSWER_WITHIN)
    return {"update_id": (await pending).update_id}
