"""The handling of a request by any API of the emulator.

Outages, credentials, quotas and pauses are checked when the request arrives. Then half of the
latency passes, the request is executed in one step, and the other half passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import anyio

from .faults import Fault, FaultInjector
from .recorder import Arrival, Recorder
from .responses import HttpResponse, json_response
from .rules import Rules
from .server.asgi import HttpRequest, decode_segment, parse_object
from .state import Dialog, Profile, sequence_number
from .throttle import Header, Notice, Throttle
from .tokens import Tokens

DROPS = frozenset(("drop_before", "drop_after"))
HANGS = frozenset(("hang", "hang_applied"))
NOT_EXECUTED = frozenset(("drop_before", "hang"))
FAILURES = {f"error_{status}": status for status in (500, 502, 503, 504)}
FAILURES_APPLIED = {f"error_{status}_applied": status for status in (500, 502, 504)}
FAILURE_MESSAGES = {
    500: "the orchestration failed: state corruption",
    502: "bad gateway",
    503: "the service is overloaded",
    504: "gateway timeout",
}
NO_READS = "this installation cannot read the state"
INVALID_TOKEN: Header = (b"www-authenticate", b'Bearer error="invalid_token"')


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of the server that all endpoints share."""

    rules: Rules
    dialogs: dict[str, Dialog]
    profiles: dict[str, Profile]
    tokens: Tokens
    throttle: Throttle
    faults: FaultInjector
    recorder: Recorder


class Call:
    """A request to an API.

    Attributes:
        operation: Operation, a key of `ApiEndpoint.methods`.
        subject: Id of the dialog, session or profile, or the URL token of a message.
        writes: Whether the request writes.
        dialog_id: Id of the written dialog or session; None if there is none.
        key, if_match: Headers of a write.
        too_large: Whether the body exceeds the size limit.
        body: JSON object of a write, empty if there is a `problem`.
        problem: Reason why the body of a write is not a JSON object.
        seq: Sequence number of a write, by the convention of `Stats`.
    """

    def __init__(
        self, request: HttpRequest, operation: str, subject: str, content: bytes | None
    ) -> None:
        self.operation = operation
        self.subject = subject
        self.writes = request.method != "GET"
        is_profile = operation.startswith("profiles")
        self.dialog_id = subject if self.writes and not is_profile else None
        self.key = request.header(b"idempotency-key") if self.writes else None
        self.if_match = request.header(b"if-match") if self.writes else None
        self.too_large = content is None
        self.body: dict[str, Any] = {}
        self.problem: str | None = None
        if self.writes and content is not None:
            try:
                self.body = parse_object(content)
            except ValueError as error:
                self.problem = str(error)
        names = ("session", "context", "data")
        self.seq = next(
            (sequence_number(self.body[name]) for name in names if name in self.body), None
        )


class ApiEndpoint(ABC):
    """An API of the emulator.

    Args:
        backend: Parts that all endpoints share.
        max_bytes: Size above which a body is answered 413.
    """

    methods: ClassVar[Mapping[str, tuple[str, ...]]]
    """Allowed HTTP methods by operation."""
    has_tokens: ClassVar[bool] = True
    """True if requests need an API key or a token."""

    def __init__(self, backend: Backend, max_bytes: int) -> None:
        self._rules = backend.rules
        self._dialogs = backend.dialogs
        self._profiles = backend.profiles
        self._tokens = backend.tokens
        self._throttle = backend.throttle
        self._faults = backend.faults
        self._recorder = backend.recorder
        self._max_bytes = max_bytes
        self.reset()

    def reset(self) -> None:
        """Number trace ids from 1 again."""
        self._trace_numbers = count(1)

    async def handle(self, request: HttpRequest, operation: str, segment: bytes) -> None:
        """Answer one request, drop it, or let it hang.

        Args:
            request: Request to answer.
            operation: Operation named in the path; it may not exist.
            segment: Percent-encoded id of the dialog, session or profile.
        """
        methods = self.methods.get(operation)
        subject = decode_segment(segment)
        if methods is None or not segment or b"/" in segment:
            refusal = self._error(404, "no such path")
        elif request.method not in methods:
            allowed = ", ".join(methods)
            refusal = self._error(405, f"use {allowed}", (b"allow", allowed.encode()))
        elif subject is None:
            refusal = self._error(400, "the id is not UTF-8")
        else:
            content = await request.read(self._max_bytes)
            await self._serve(request, Call(request, operation, subject, content))
            return
        self._recorder.stats.requests += 1
        await self._send(request, refusal)

    @abstractmethod
    def _apply(self, call: Call, fault: Fault | None) -> HttpResponse:
        """Read or write in one step, without an await.

        Args:
            call: Request, whose body is a JSON object if it writes.
            fault: Fault to inject; only "conflict" and "competitor" change the outcome.
        """

    @abstractmethod
    def _error_body(self, status: int, message: str, number: int) -> dict[str, object]:
        """Return the body of an error response; `number` makes its trace id unique."""

    def _scopes_for(self, call: Call) -> tuple[str, ...]:
        """Return the scopes; one of them is required. Empty: any credentials are enough."""
        return ()

    def _invalid(self, message: str) -> HttpResponse:
        return self._error(400, message)

    def _error(
        self,
        status: int,
        message: str,
        *headers: Header,
        notice: Notice | None = None,
        members: Mapping[str, object] | None = None,
    ) -> HttpResponse:
        """Return an error response; `members` are added to its body."""
        body = self._error_body(status, message, next(self._trace_numbers)) | dict(members or {})
        response = json_response(status, body, *headers)
        if 300 <= status < 400:
            response.headers += ((b"location", b"/elsewhere"),)
        if notice is not None:
            response.headers += notice.headers
            response.notice = notice
        return response

    async def _serve(self, request: HttpRequest, call: Call) -> None:
        arrival = self._record_arrival(request, call)
        stats = self._recorder.stats
        try:
            response, fault = self._admit(request, call)
            quota_headers = self._throttle.quota_headers(request.address, anyio.current_time())
            delay = self._faults.delay(anyio.current_time()) / 2
            await request.delay(delay)
            if response is None and fault not in NOT_EXECUTED:
                response = self._execute(call, fault)
            await request.delay(delay)
            if fault in HANGS:
                await request.wait_until_gone()
                stats.abandoned += 1
                return
        except anyio.get_cancelled_exc_class():
            stats.abandoned += 1
            raise
        finally:
            awaited = arrival.awaited
            self._recorder.end(arrival)
        if response is None or fault in DROPS:
            stats.dropped += 1
            await request.hang_up()
            return
        if not awaited:
            stats.abandoned += 1
        response.headers += quota_headers
        response.headers += self._throttle.date_headers(response.notice)
        await self._send(request, response)

    async def _send(self, request: HttpRequest, response: HttpResponse) -> None:
        self._recorder.stats.answers[response.status] += 1
        if response.notice is not None:
            self._throttle.record(response.notice, anyio.current_time())
        await request.answer(response)

    def _record_arrival(self, request: HttpRequest, call: Call) -> Arrival:
        now = anyio.current_time()
        stats = self._recorder.stats
        if self._throttle.is_early(call.subject, now, request.address):
            stats.early_requests += 1
        if not call.writes:
            return self._recorder.begin_read(request.connection)
        if self._throttle.is_early_repeat(call.key, now):
            stats.early_repeats += 1
        return self._recorder.begin_write(request.connection, call.dialog_id, call.seq)

    def _admit(self, request: HttpRequest, call: Call) -> tuple[HttpResponse | None, Fault | None]:
        """Return a refusal, or else the fault to inject later."""
        now = anyio.current_time()
        faults = self._faults.faults
        if faults.fail_status is not None:
            return self._fail(faults.fail_status, call), None
        refusal = self._check_credentials(request, call, now)
        if refusal is not None:
            return refusal, None
        notice = self._throttle.admit(call.subject, now, request.address)
        if notice is not None:
            return self._reject(notice), None
        fault = self._faults.next_fault("PATCH" if call.writes else "GET", call.subject, now)
        if fault is None:
            return None, None
        self._recorder.stats.faults[str(fault)] += 1
        if fault == "throttle_tenant" or fault == "throttle_dialog":
            subject = call.subject if fault == "throttle_dialog" else None
            return self._reject(self._throttle.pause(subject, faults.throttle_seconds, now)), None
        if fault == "token_expiry" and self.has_tokens:
            self._tokens.revoke(request.headers)
            return self._error(401, "the token has expired", INVALID_TOKEN), None
        status = fault if isinstance(fault, int) else FAILURES.get(fault)
        if status is not None:
            return self._fail(status, call), None
        return None, fault

    def _check_credentials(
        self, request: HttpRequest, call: Call, now: float
    ) -> HttpResponse | None:
        """Return a refusal if the credentials of a request are missing, expired or too weak."""
        scopes = self._tokens.scopes_of(request.headers, now)
        if scopes is None:
            return self._error(
                401, "the token or the API key is missing, expired or unknown", INVALID_TOKEN
            )
        needed = self._scopes_for(call)
        if needed and set(scopes).isdisjoint(needed):
            return self._error(403, f"this needs the scope {' or '.join(needed)}")
        return None

    def _reject(self, notice: Notice) -> HttpResponse:
        return self._error(429, f"too many requests for this {notice.subject[0]}", notice=notice)

    def _fail(self, status: int, call: Call) -> HttpResponse:
        seconds = self._faults.faults.retry_after_503
        notice = None
        if status == 503 and seconds is not None:
            notice = self._throttle.delay_repeat(call.key, seconds, anyio.current_time())
        message = FAILURE_MESSAGES.get(status, "the emulator was asked for this status")
        return self._error(status, message, notice=notice)

    def _execute(self, call: Call, fault: Fault | None) -> HttpResponse:
        if call.too_large:
            response = self._error(413, f"the body has more than {self._max_bytes} bytes")
        elif call.problem is not None:
            response = self._invalid(call.problem)
        else:
            response = self._apply(call, fault)
        if isinstance(fault, str) and fault in FAILURES_APPLIED:
            return self._fail(FAILURES_APPLIED[fault], call)
        if fault == "malformed" and response.status in (200, 201):
            response.truncate()
        return response

    def _find_dialog(self, dialog_id: str) -> Dialog | None:
        dialog = self._dialogs.get(dialog_id)
        return Dialog(dialog_id) if dialog is None and self._rules.create_dialogs else dialog
