"""The runtime API: ``GET`` and ``PATCH /runtime/v2/dialogs/{id}/state``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import anyio

from .answers import Answer, answer_json
from .asgi import Request
from .endpoint import Call, Endpoint
from .faults import Fault
from .payload import fault_in, parse
from .state import Dialog, holds, sequence_number


class Write(Call):
    """A GET, or a PATCH: its body, or why there is none, and the headers that matter."""

    __slots__ = ("body", "if_match", "problem", "too_large")

    def __init__(self, request: Request, dialog_id: str, content: bytes | None) -> None:
        super().__init__(dialog_id, writes=request.method == "PATCH", dialog_id=dialog_id)
        self.body: dict[str, Any] = {}
        self.problem: str | None = None
        self.if_match: str | None = None
        self.too_large = content is None
        if not self.writes:
            return
        self.key = request.header(b"idempotency-key")
        self.if_match = request.header(b"if-match")
        if content is not None:
            try:
                self.body = parse(content)
                self.seq = sequence_number(self.body)
            except ValueError as error:
                self.problem = str(error)


class RuntimeEndpoint(Endpoint[Write]):
    """The state of a dialog."""

    async def handle(self, request: Request, dialog_id: str) -> None:
        """Answer one GET or PATCH, or drop it, or never answer it."""
        content = await request.read(self._rules.max_body_bytes)
        await self.serve(request, Write(request, dialog_id, content))

    def _not_allowed(self, call: Write, scopes: Collection[str]) -> Answer | None:
        if "runtime:write" in scopes or (not call.writes and "dialog:read" in scopes):
            return None
        needed = "runtime:write" if call.writes else "dialog:read or runtime:write"
        return self._error(403, f"this needs the scope {needed}")

    def _carry_out(self, call: Write, fault: Fault | None) -> Answer:
        if call.writes:
            return self._written(call.subject, call, fault)
        return self._read(call.subject)

    def _read(self, dialog_id: str) -> Answer:
        dialog = self._dialog(dialog_id)
        if dialog is None:
            return self._error(404, "there is no such dialog")
        return answer_json(200, dialog.as_dict(), (b"etag", dialog.etag.encode()))

    def _written(self, dialog_id: str, write: Write, fault: Fault | None) -> Answer:
        """One step without an await: nothing comes between the check of a version and the write."""
        rules = self._rules
        if write.too_large:
            return self._error(413, f"the body has more than {rules.max_body_bytes} bytes")
        dialog = self._dialog(dialog_id)
        if dialog is None:
            return self._error(404, "there is no such dialog")
        problem = write.problem or fault_in(dialog_id, write.body, rules.limits, rules.flow_nodes)
        if problem is not None:
            return self._error(400, problem)
        if fault == "competitor":
            self._dialogs[dialog_id] = dialog
            dialog.compete(anyio.current_time(), rules.history_limit)
        refusal = self._known(dialog, write) or self._conflict(dialog, write, fault)
        if refusal is not None:
            return refusal
        self._dialogs[dialog_id] = dialog
        before = dialog.applied_before(write.key, write.seq)
        entry = dialog.assign(
            write.body,
            merge=rules.merge,
            at=anyio.current_time(),
            key=write.key,
            if_match=write.if_match,
            history_limit=rules.history_limit,
        )
        self._watch.applied(entry, before)
        return self._success(dialog, entry.version)

    def _known(self, dialog: Dialog, write: Write) -> Answer | None:
        """The answer to a key that was applied before: the same one again, or a refusal."""
        entry = dialog.identities.get(write.key) if write.key is not None else None
        if entry is None:
            return None
        if entry.body != write.body:
            self._watch.stats.reused_keys += 1
            if self._rules.honour_idempotency_keys:
                return self._error(422, "the Idempotency-Key was used for another body")
        if not self._rules.honour_idempotency_keys:
            return None
        self._watch.stats.replayed += 1
        return self._success(dialog, entry.version)

    def _conflict(self, dialog: Dialog, write: Write, fault: Fault | None) -> Answer | None:
        version, etag = dialog.version, (b"etag", dialog.etag.encode())
        said = {"dialogId": dialog.dialog_id, "version": version}
        if fault == "conflict":
            return self._error(409, "somebody else is writing the state", etag, members=said)
        if write.if_match is None:
            return None
        try:
            if holds(write.if_match, version):
                return None
        except ValueError as error:
            return self._error(400, str(error))
        status = self._rules.conflict_status
        return self._error(status, f"the state has version {version}", etag, members=said)

    def _success(self, dialog: Dialog, version: int) -> Answer:
        body = {"dialogId": dialog.dialog_id, "version": version, "message": "state updated"}
        return answer_json(200, body, (b"etag", b'"%d"' % version))
