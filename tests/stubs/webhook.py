"""A receiver of Standard Webhooks.

It follows
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: it
verifies the signature over id, timestamp and body with the package of that project, and takes each
id once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from standardwebhooks import Webhook as Verifier

from tests.stubs.transport import Reply


class Receiver:
    """Keeps what it received.

    Attributes:
        replies: responses to the next requests, before the event counts as received.
        attempts: id of each verified request, with repetitions.
        bodies: body of each event, by id.
    """

    def __init__(self, secret: str) -> None:
        self._verifier = Verifier(secret)
        self.replies: list[Reply] = []
        self.attempts: list[str] = []
        self.bodies: dict[str, dict[str, Any]] = {}

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        assert (method, headers["content-type"]) == ("POST", "application/json")
        self._verifier.verify(body, dict(headers))
        self.attempts.append(headers["webhook-id"])
        if self.replies:
            reply = self.replies.pop(0)
            if not 200 <= reply.status <= 299:
                return reply
        self.bodies.setdefault(headers["webhook-id"], json.loads(body))
        return Reply(204)

    def sequence(self, dialog_id: str) -> list[str]:
        """Return the ids of the events of a dialog, in order of their first arrival."""
        return [
            each for each, body in self.bodies.items() if body["data"].get("dialog_id") == dialog_id
        ]
