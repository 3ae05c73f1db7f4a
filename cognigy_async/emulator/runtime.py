"""The runtime API: ``GET`` and ``PATCH /runtime/v2/dialogs/{id}/state``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import anyio

from cognigy_async import Limits, StateUpdate, UpdateValidationError

from .endpoint import NO_READS, ApiEndpoint, Call
from .faults import Fault
from .responses import HttpResponse, json_response
from .state import Dialog, matches
from .throttle import Header

MEMBERS = frozenset(("session", "user", "transition"))


class RuntimeEndpoint(ApiEndpoint):
    """The state of a dialog."""

    methods: ClassVar = {"state": ("GET", "PATCH")}

    def _scopes_for(self, call: Call) -> tuple[str, ...]:
        return ("runtime:write",) if call.writes else ("dialog:read", "runtime:write")

    def _error_body(self, status: int, message: str, number: int) -> dict[str, object]:
        return {"message": message, "traceId": f"emulator-{number}"}

    def _apply(self, call: Call, fault: Fault | None) -> HttpResponse:
        rules, dialog = self._rules, self._find_dialog(call.subject)
        if dialog is None:
            return self._error(404, "no such dialog")
        if not call.writes:
            if not rules.reads_state:
                return self._error(404, NO_READS)
            seen = dialog.seen_at(anyio.current_time() - rules.read_delay)
            return json_response(200, seen.as_dict(), *self._etag(seen.version))
        problem = find_problem(call.subject, call.body, rules.limits, rules.flow_nodes)
        if problem is not None:
            return self._invalid(problem)
        now = anyio.current_time()
        if rules.read_delay:
            dialog.remember(now)
        if fault == "competitor":
            self._dialogs[call.subject] = dialog
            dialog.compete(at=now, history_limit=rules.history_limit)
        refusal = self._replay(dialog, call) or self._check_version(dialog, call, fault)
        if refusal is not None:
            return refusal
        self._dialogs[call.subject] = dialog
        earlier = dialog.find_earlier(call.key, call.seq)
        entry = dialog.assign(
            call.body,
            merge=rules.merge,
            at=now,
            key=call.key,
            if_match=call.if_match,
            history_limit=rules.history_limit,
        )
        self._recorder.record_applied(entry, earlier)
        return self._success(dialog, entry.version)

    def _replay(self, dialog: Dialog, call: Call) -> HttpResponse | None:
        """Return the response to a known key: the first response again, or a refusal."""
        entry = dialog.identities.get(call.key) if call.key is not None else None
        if entry is None:
            return None
        reused, honoured = entry.body != call.body, self._rules.honour_idempotency_keys
        if reused:
            self._recorder.stats.reused_keys += 1
        if not honoured:
            return None
        if reused:
            return self._error(422, "the Idempotency-Key was used for another body")
        self._recorder.stats.replayed += 1
        return self._success(dialog, entry.version)

    def _check_version(
        self, dialog: Dialog, call: Call, fault: Fault | None
    ) -> HttpResponse | None:
        """Return a refusal if `If-Match` does not match or a conflict is injected."""
        if fault == "conflict":
            status, message = 409, "another client is writing the state"
        elif call.if_match is None or self._rules.if_match == "ignored":
            return None
        else:
            weakly = self._rules.if_match == "weak"
            try:
                if matches(call.if_match, dialog.version, weakly=weakly):
                    return None
            except ValueError as error:
                return self._error(400, str(error))
            status = self._rules.conflict_status
            message = f"the state has version {dialog.version}"
        members = {"dialogId": dialog.dialog_id, "version": dialog.version}
        return self._error(status, message, *self._etag(dialog.version), members=members)

    def _success(self, dialog: Dialog, version: int) -> HttpResponse:
        body = {"dialogId": dialog.dialog_id, "version": version, "message": "state updated"}
        return json_response(200, body, *self._etag(version))

    def _etag(self, version: int) -> tuple[Header, ...]:
        """Return the header `ETag` of a version, if there is one."""
        if self._rules.etags == "none":
            return ()
        prefix = b"W/" if self._rules.etags == "weak" else b""
        return ((b"etag", prefix + b'"%d"' % version),)


def find_problem(
    dialog_id: str, body: dict[str, Any], limits: Limits, flow_nodes: Collection[str] | None
) -> str | None:
    """Return the reason to refuse a body, or None.

    Variables are validated by the rules that a client applies before it sends them.
    """
    if not body.keys() <= MEMBERS:
        unknown = ", ".join(sorted(body.keys() - MEMBERS))
        return f"unknown member {unknown[:200]}; use session, user and transition"
    arguments: dict[str, Any] = {"dialog_id": dialog_id}
    for context in ("session", "user"):
        if context in body:
            if not isinstance(body[context], dict):
                return f"{context} must be an object of variables"
            arguments[context] = body[context]
    if "transition" in body:
        transition = body["transition"]
        if not isinstance(transition, dict) or list(transition) != ["nextStep"]:
            return "transition must be an object with the single member nextStep"
        arguments["next_step"] = step = transition["nextStep"]
        if not isinstance(step, str):
            return "transition.nextStep must be a string"
        if flow_nodes is not None and step not in flow_nodes:
            return f"transition.nextStep: the flow has no node {step[:200]!r}"
    try:
        StateUpdate.from_fields(limits, arguments)
    except UpdateValidationError as error:
        return str(error)
    return None
