"""The tutorial's approach, written anew: a synchronous client, one request after the other.

Before each request it looks whether its token is still valid; after each it writes an audit
record with a hash of the payload, and calls a callback.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx

from .measuring import Meter
from .work import HEADERS, Work

__all__ = ["one_at_a_time"]

EARLY = 300
"""Seconds before its end at which a token is renewed."""


class Script:
    """Everything that such a script has."""

    def __init__(self, work: Work, client: httpx.Client) -> None:
        self._work = work
        self._client = client
        self._token = ""
        self._expires = 0.0
        self.audit: list[dict[str, Any]] = []
        self.told = 0

    def token(self) -> str:
        if time.time() >= self._expires - EARLY:
            response = self._client.post(
                f"{self._work.url}/oauth/token",
                data={"grant_type": "client_credentials", "scope": "runtime:write"},
                auth=("client", "secret"),
            )
            response.raise_for_status()
            answer = response.json()
            self._token = answer["access_token"]
            self._expires = time.time() + answer["expires_in"]
        return self._token

    def update(self, number: int) -> None:
        payload = {"session": self._work.session(number)}
        began = time.time()
        response = self._client.patch(
            self._work.url_of(number),
            json=payload,
            headers={**HEADERS, "Authorization": f"Bearer {self.token()}"},
        )
        response.raise_for_status()
        text = json.dumps(payload, sort_keys=True)
        self.audit.append(
            {
                "dialog_id": self._work.dialog(number),
                "timestamp": began,
                "status": response.status_code,
                "latency": time.time() - began,
                "payload_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
        self.callback(response.json())

    def callback(self, answer: dict[str, Any]) -> None:
        self.told += answer["version"]


async def one_at_a_time(work: Work, measure: Meter) -> None:
    """That it blocks the event loop is the point."""
    with httpx.Client() as client:
        script = Script(work, client)

        async def run(start: int, end: int) -> None:
            for number in range(start, end):
                script.update(number)

        await measure(run)
