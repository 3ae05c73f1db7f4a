"""The endpoint service: ``POST /inject/{URLToken}`` and ``POST /notify/{URLToken}``.

A message gets an entry in the history of its dialog, so that it has its place among the writes.
There is no flow: a message changes nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import anyio

from .endpoint import ApiEndpoint, Backend, Call
from .faults import Fault
from .responses import HttpResponse, json_response
from .server.asgi import HttpRequest, decode_segment

MEMBERS = {
    "inject": frozenset(("userId", "sessionId", "text", "data")),
    "notify": frozenset(("userId", "sessionId", "text", "data", "attachments")),
}
ANSWERS = {"inject": "sent to the flow", "notify": "sent to the user"}


class MessageEndpoint(ApiEndpoint):
    """Messages to the flow and to the user of a session.

    Args:
        url_token: URL token to accept.
    """

    methods: ClassVar = {"inject": ("POST",), "notify": ("POST",)}
    has_tokens: ClassVar = False

    def __init__(self, backend: Backend, max_bytes: int, url_token: str) -> None:
        super().__init__(backend, max_bytes)
        # Only a hash of it is kept, as of other credentials.
        self._url_token = _hash(url_token.encode())

    def _error_body(self, status: int, message: str, number: int) -> dict[str, object]:
        return {"message": message, "traceId": f"emulator-{number}"}

    async def _serve(self, request: HttpRequest, call: Call) -> None:
        # The path has the URL token, and the body the session that the message is for.
        session_id = call.body.get("sessionId")
        call.subject = session_id if isinstance(session_id, str) else ""
        call.dialog_id = call.subject or None
        await super()._serve(request, call)

    def _check_credentials(
        self, request: HttpRequest, call: Call, now: float
    ) -> HttpResponse | None:
        token = decode_segment(request.path.rpartition(b"/")[2]) or ""
        is_known = _hash(token.encode()) == self._url_token
        return None if is_known else self._error(404, "no such endpoint")

    def _apply(self, call: Call, fault: Fault | None) -> HttpResponse:
        body, kind = call.body, call.operation
        if problem := _find_problem(kind, body):
            return self._invalid(problem)
        dialog = self._find_dialog(call.subject)
        if dialog is None:
            return self._error(404, "no such session")
        self._dialogs[dialog.dialog_id] = dialog
        dialog.user_id = body["userId"]
        message = {name: value for name, value in body.items() if name != "sessionId"}
        earlier = dialog.find_earlier(None, call.seq)
        entry = dialog.assign(
            {kind: message},
            merge=self._rules.merge,
            at=anyio.current_time(),
            history_limit=self._rules.history_limit,
        )
        self._recorder.record_applied(entry, earlier)
        return json_response(200, ANSWERS[kind])


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _find_problem(kind: str, body: dict[str, Any]) -> str | None:
    """Return what is wrong with the body of a message, or None."""
    if not body.keys() <= MEMBERS[kind]:
        return f"unknown member {', '.join(sorted(body.keys() - MEMBERS[kind]))[:200]}"
    for name in ("userId", "sessionId"):
        if not isinstance(body.get(name), str) or not body[name]:
            return f"{name} must be a string that is not empty"
    if not isinstance(body.get("text"), str):
        return "text must be a string"
    if not isinstance(body.get("data"), dict):
        return "data must be an object"
    attachments = body.get("attachments", [])
    if not isinstance(attachments, list) or not all(isinstance(one, dict) for one in attachments):
        return "attachments must be a list of objects"
    return None
