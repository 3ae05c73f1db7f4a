"""What every API of the emulator does with a request: gates, faults, latency, throttling.

What may refuse a request whatever is in it (an outage, credentials, quotas, pauses) is decided when
it arrives. Then half of the latency passes, then it is carried out in one step, then the other half
passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import anyio
import anyio.lowlevel

from cognigy_async import Limits

from .answers import Answer, Errors
from .asgi import Request
from .faults import Fault, FaultSource
from .state import Dialog, Merge
from .throttle import Notice, Throttle
from .tokens import Tokens
from .watch import Arrival, Watch

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
    inject: Literal["merge", "replace"]
    honour_idempotency_keys: bool
    conflict_status: int
    limits: Limits
    flow_nodes: Collection[str] | None
    max_body_bytes: int
    create_dialogs: bool
    history_limit: int | None


@dataclass(frozen=True, slots=True)
class Server:
    """What all endpoints share."""

    rules: Rules
    dialogs: dict[str, Dialog]
    tokens: Tokens
    throttle: Throttle
    faults: FaultSource
    watch: Watch


class Call:
    """One request, as far as every API looks at it.

    Attributes:
        subject: the dialog, or what else is read or written.
        dialog_id: the dialog that it writes; None where it writes none.
        writes: whether it writes anything.
        key, seq: what tells whether an update is the same; None for nothing.
    """

    __slots__ = ("dialog_id", "key", "seq", "subject", "writes")

    def __init__(self, subject: str, *, writes: bool, dialog_id: str | None = None) -> None:
        self.subject = subject
        self.writes = writes
        self.dialog_id = dialog_id
        self.key: str | None = None
        self.seq: int | None = None


CallT = TypeVar("CallT", bound=Call)


class Endpoint(ABC, Generic[CallT]):
    """Answers requests, or lets them meet their fault."""

    def __init__(self, server: Server, errors: Errors) -> None:
        self._rules = server.rules
        self._dialogs = server.dialogs
        self._tokens = server.tokens
        self._throttle = server.throttle
        self._faults = server.faults
        self._watch = server.watch
        self._error = errors

    @abstractmethod
    def _not_allowed(self, call: CallT, scopes: Collection[str]) -> Answer | None:
        """A refusal where the scopes do not suffice."""

    @abstractmethod
    def _carry_out(self, call: CallT, fault: Fault | None) -> Answer:
        """Read or write, in one step without an await; fault is one that bears on that."""

    async def serve(self, request: Request, call: CallT) -> None:
        """Answer one request, or drop it, or never answer it."""
        arrival = self._arrives(request, call)
        try:
            answer, fault = self._at_the_gate(request, call)
            told = self._throttle.headers(request.address, anyio.current_time())
            delay = self._faults.delay(anyio.current_time()) / 2
            await self._travel(request, delay)
            if answer is None and fault not in NOT_EVEN_TRIED:
                answer = self._carried_out(call, fault)
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

    async def refuse(
        self, request: Request, status: int, message: str, *headers: tuple[bytes, bytes]
    ) -> None:
        """Answer a request that is none of this API."""
        self._watch.stats.requests += 1
        await self.send(request, self._error(status, message, *headers))

    def _arrives(self, request: Request, call: CallT) -> Arrival:
        now = anyio.current_time()
        stats = self._watch.stats
        if self._throttle.is_early(call.subject, now, request.address):
            stats.early_requests += 1
        if not call.writes:
            return self._watch.read_arrives(request.connection)
        if self._throttle.repeats_early(call.key, now):
            stats.early_repeats += 1
        return self._watch.write_arrives(request.connection, call.dialog_id, call.seq)

    async def _travel(self, request: Request, seconds: float) -> None:
        if seconds:
            await anyio.sleep(seconds)
        elif request.connection is None:
            # Called in the process, a request would else be over before another task can run.
            await anyio.lowlevel.checkpoint()

    def _at_the_gate(self, request: Request, call: CallT) -> tuple[Answer | None, Fault | None]:
        """A refusal, or the fault that the request meets further on."""
        now = anyio.current_time()
        outage = self._faults.faults.fail_status
        if outage is not None:
            return self._failed(outage, call), None
        scopes = self._tokens.scopes_of(request.headers, now)
        if scopes is None:
            return self._error(401, "the token is missing, expired or unknown", INVALID_TOKEN), None
        refusal = self._not_allowed(call, scopes)
        if refusal is not None:
            return refusal, None
        notice = self._throttle.admit(call.subject, now, request.address)
        if notice is not None:
            return self._throttled(notice), None
        fault = self._faults.of("PATCH" if call.writes else "GET", call.subject, now)
        if fault is None:
            return None, None
        self._watch.stats.faults[str(fault)] += 1
        if fault == "throttle_tenant" or fault == "throttle_dialog":
            subject = call.subject if fault == "throttle_dialog" else None
            seconds = self._faults.faults.throttle_seconds
            return self._throttled(self._throttle.pause(subject, seconds, now)), None
        if fault == "token_expiry":
            self._tokens.revoke(request.headers)
            return self._error(401, "the token has expired", INVALID_TOKEN), None
        status = fault if isinstance(fault, int) else FAILURES.get(fault)
        if status is not None:
            return self._failed(status, call), None
        return None, fault

    def _throttled(self, notice: Notice) -> Answer:
        return self._error(429, f"too many requests for this {notice.subject[0]}", notice=notice)

    def _failed(self, status: int, call: CallT) -> Answer:
        seconds = self._faults.faults.retry_after_503
        notice = None
        if status == 503 and seconds is not None:
            notice = self._throttle.repeat_after(call.key, seconds, anyio.current_time())
        return self._error(status, SAYS.get(status, "as was asked of the emulator"), notice=notice)

    def _carried_out(self, call: CallT, fault: Fault | None) -> Answer:
        answer = self._carry_out(call, fault)
        if isinstance(fault, str) and fault in FAILURES_APPLIED:
            return self._failed(FAILURES_APPLIED[fault], call)
        if fault == "malformed" and answer.status == 200:
            answer.cut()
        return answer

    def _dialog(self, dialog_id: str) -> Dialog | None:
        dialog = self._dialogs.get(dialog_id)
        if dialog is None and self._rules.create_dialogs:
            return Dialog(dialog_id)
        return dialog
