"""The tutorial's approach, written anew: a synchronous client, one request after the other.

It checks its token before each request, and afterwards writes an audit record with a hash of the
payload and calls a callback.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx

from .work import HEADERS, Meter, Work

EARLY = 300
"""Seconds before its expiry at which a token is renewed."""
GRANT = {"grant_type": "client_credentials", "scope": "runtime:write"}


async def one_at_a_time(work: Work, meter: Meter) -> None:
    """Block the event loop, as such a script does."""
    token, expires = "", 0.0
    audit: list[dict[str, Any]] = []
    versions: list[int] = []

    def update(client: httpx.Client, number: int) -> None:
        nonlocal token, expires
        if time.time() >= expires - EARLY:
            url = f"{work.url}/oauth/token"
            response = client.post(url, data=GRANT, auth=("client", "secret"))
            answer = response.raise_for_status().json()
            token, expires = answer["access_token"], time.time() + answer["expires_in"]
        payload = {"session": work.load.session(number)}
        headers = {**HEADERS, "Authorization": f"Bearer {token}"}
        began = time.time()
        response = client.patch(work.url_of(number), json=payload, headers=headers)
        response.raise_for_status()
        text = json.dumps(payload, sort_keys=True)
        audit.append(
            {
                "dialog_id": work.load.dialog(number),
                "timestamp": began,
                "status": response.status_code,
                "latency": time.time() - began,
                "payload_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
        callback(response.json())

    def callback(answer: dict[str, Any]) -> None:
        versions.append(answer["version"])

    with httpx.Client() as client:

        async def run(numbers: range) -> None:
            for number in numbers:
                update(client, number)

        await meter.measure(run)
