"""The runtime API: ``GET`` and ``PATCH /runtime/v2/dialogs/{id}/state``.

What may refuse a request whatever is in it (an outage, credentials, scopes, quotas, pauses) is
decided when it arrives. Then half of the latency passes, then the dialog is read or written in one
step, then the other half passes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import anyio

from cognigy_async import Limits

from .answers import Answer, Errors, answer_json
from .asgi import Request
from .faults import Fault, FaultSource
from .payload import fault_in, parse
from .state import Dialog, Merge, holds, sequence_number
from .throttle import Notice, Throttle
from .tokens import Tokens
from .watch import Arrival, Watch

__all__ = ["Rules", "RuntimeEndpoint"]

DROPS = frozenset(("drop_before", "drop_after"))
HANGS = frozenset(("hang", "hang_applied"))
NOT_EVEN_TRIED = frozenset(("drop_before", "hang"))
FAILURES = {f"error_{status}": status for status in (500, 502, 503, 504)}
FAILURES_APPLIED = {f"error_{status}_applied": status for status in (500, 502, 504)}
SAYS = {
    500: "the orchestration failed: state corruption",
    502: "bad gateway",
    503: "the service is overloaded",
    504: "gateway timeout",
}
INVALID_TOKEN = (b"www-authenticate", b'Bearer error="invalid_token"')


@dataclass(frozen=True, slots=True)
class Rules:
    """How the server goes about writes; see `Emulator`."""

    merge: Merge
    honour_idempotency_keys: bool
    conflict_status: int
    limits: Limits
    flow_nodes: Collection[str] | None
    max_body_bytes: int
    create_dialogs: bool
    history_limit: int | None


class Write:
    """What a PATCH carries: its body, or why there is none, and the headers that matter."""

    __slots__ = ("body", "if_match", "key", "problem", "seq", "too_large")

    def __init__(self, request: Request, content: bytes | None) -> None:
        self.key = request.header(b"idempotency-key")
        self.if_match = request.header(b"if-match")
        self.body: dict[str, Any] = {}
        self.problem: str | None = None
        self.too_large = content is None
        self.seq: int | None = None
        if content is not None:
            try:
                self.body = parse(content)
                self.seq = sequence_number(self.body)
            except ValueError as error:
                self.problem = str(error)


class RuntimeEndpoint:
    """Answers requests for the state of a dialog, or lets them meet their fault."""

    def __init__(
        self,
        rules: Rules,
        dialogs: dict[str, Dialog],
        tokens: Tokens,
        throttle: Throttle,
        faults: FaultSource,
        watch: Watch,
        errors: Errors,
    ) -> None:
        self._rules = rules
        self._dialogs = dialogs
        self._tokens = tokens
        self._throttle = throttle
        self._faults = faults
        self._watch = watch
        self._error = errors

    async def handle(self, request: Request, dialog_id: str) -> None:
        """Answer one GET or PATCH, or drop it, or never answer it."""
        content = await request.read(self._rules.max_body_bytes)
        write = Write(request, content) if request.method == "PATCH" else None
        arrival = self._arrives(request, dialog_id, write)
        try:
            answer, fault = self._at_the_gate(request, dialog_id, write)
            told = self._throttle.headers(request.address, anyio.current_time())
            delay = self._faults.delay(anyio.current_time()) / 2
            await self._travel(request, delay)
            if answer is None and fault not in NOT_EVEN_TRIED:
                answer = self._carried_out(dialog_id, write, fault)
            await self._travel(request, delay)
            if fault in HANGS:
                await request.until_gone()
                self._watch.stats.abandoned += 1
                return
        except anyio.get_cancelled_exc_class():
            self._watch.stats.abandoned += 1
            raise
        finally:
            awaited = arrival.awaited
            self._watch.leaves(arrival)
        if answer is None or fault in DROPS:
            self._watch.stats.dropped += 1
            await request.hang_up()
            return
        if not awaited:
            self._watch.stats.abandoned += 1
        answer.headers += told
        await self.send(request, answer)

    async def send(self, request: Request, answer: Answer) -> None:
        """Count an answer and send it."""
        self._watch.stats.answers[answer.status] += 1
        if answer.notice is not None:
            self._throttle.tell(answer.notice, anyio.current_time())
        await request.answer(answer)

    def _arrives(self, request: Request, dialog_id: str, write: Write | None) -> Arrival:
        now = anyio.current_time()
        stats = self._watch.stats
        if self._throttle.is_early(dialog_id, now, request.address):
            stats.early_requests += 1
        if write is None:
            return self._watch.read_arrives(request.connection)
        if self._throttle.repeats_early(write.key, now):
            stats.early_repeats += 1
        return self._watch.write_arrives(request.connection, dialog_id, write.seq)

    async def _travel(self, request: Request, seconds: float) -> None:
        if seconds:
            await anyio.sleep(seconds)
        elif request.connection is None:
            # Called in the process, a request would else be over before another task can run.
            await anyio.lowlevel.checkpoint()

    def _at_the_gate(
        self, request: Request, dialog_id: str, write: Write | None
    ) -> tuple[Answer | None, Fault | None]:
        """A refusal, or the fault that the request meets further on."""
        now = anyio.current_time()
        outage = self._faults.faults.fail_status
        if outage is not None:
            return self._failed(outage, write), None
        scopes = self._tokens.scopes_of(request.headers, now)
        if scopes is None:
            return self._error(401, "the token is missing, expired or unknown", INVALID_TOKEN), None
        if "runtime:write" not in scopes and (write is not None or "dialog:read" not in scopes):
            needed = "dialog:read or runtime:write" if write is None else "runtime:write"
            return self._error(403, f"this needs the scope {needed}"), None
        notice = self._throttle.admit(dialog_id, now, request.address)
        if notice is not None:
            return self._throttled(notice), None
        fault = self._faults.of(request.method, dialog_id, now)
        if fault is None:
            return None, None
        self._watch.stats.faults[str(fault)] += 1
        if fault == "throttle_tenant" or fault == "throttle_dialog":
            subject = dialog_id if fault == "throttle_dialog" else None
            seconds = self._faults.faults.throttle_seconds
            return self._throttled(self._throttle.pause(subject, seconds, now)), None
        if fault == "token_expiry":
            self._tokens.revoke(request.headers)
            return self._error(401, "the token has expired", INVALID_TOKEN), None
        status = fault if isinstance(fault, int) else FAILURES.get(fault)
        if status is not None:
            return self._failed(status, write), None
        return None, fault

    def _throttled(self, notice: Notice) -> Answer:
        return self._error(429, f"too many requests for this {notice.subject[0]}", notice=notice)

    def _failed(self, status: int, write: Write | None) -> Answer:
        seconds = self._faults.faults.retry_after_503
        notice = None
        if status == 503 and seconds is not None:
            key = None if write is None else write.key
            notice = self._throttle.repeat_after(key, seconds, anyio.current_time())
        return self._error(status, SAYS.get(status, "as was asked of the emulator"), notice=notice)

    def _carried_out(self, dialog_id: str, write: Write | None, fault: Fault | None) -> Answer:
        if write is None:
            answer = self._read(dialog_id)
        else:
            answer = self._written(dialog_id, write, fault)
        if isinstance(fault, str) and fault in FAILURES_APPLIED:
            return self._failed(FAILURES_APPLIED[fault], write)
        if fault == "malformed" and answer.status == 200:
            answer.cut()
        return answer

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

    def _dialog(self, dialog_id: str) -> Dialog | None:
        dialog = self._dialogs.get(dialog_id)
        if dialog is None and self._rules.create_dialogs:
            return Dialog(dialog_id)
        return dialog
