"""The sessions API v2.0: contexts and states of sessions, and contact profiles.

``POST /new/v2.0/sessions/{id}/context/inject``, ``.../state/inject``, ``.../context/reset``,
``.../state/reset``, ``GET /new/v2.0/sessions/{id}/state``, ``GET`` and ``PATCH
/new/v2.0/profiles/{id}``. A session is a `Dialog` whose session variables are the context and whose
step is the state; the history tells an injection as the assignment that it amounts to.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import anyio
from pydantic_core import to_json

from .answers import Answer, Errors, answer_json
from .asgi import Request
from .endpoint import Call, Endpoint, Server
from .faults import Fault
from .payload import parse
from .profiles import Profiles
from .state import Dialog, sequence_number

MISSING_ARGUMENT = 1000
INVALID_ARGUMENT = 1005
DEFAULT_STATE = "default"

Operation: TypeAlias = Literal[
    "context/inject", "context/reset", "state/inject", "state/reset", "state", "profile"
]
METHODS: dict[Operation, tuple[str, ...]] = {
    "context/inject": ("POST",),
    "context/reset": ("POST",),
    "state/inject": ("POST",),
    "state/reset": ("POST",),
    "state": ("GET",),
    "profile": ("GET", "PATCH"),
}

BELOW_A_SESSION: dict[str, Operation] = {
    operation: operation for operation in METHODS if operation != "profile"
}
"""Operations by the path below ``/new/v2.0/sessions/{id}/``."""


class SessionCall(Call):
    """One request of this API: its body, or why there is none."""

    __slots__ = ("body", "operation", "problem", "too_large")

    def __init__(
        self, request: Request, operation: Operation, subject: str, content: bytes | None
    ) -> None:
        writes = request.method != "GET"
        dialog_id = subject if writes and operation != "profile" else None
        super().__init__(subject, writes=writes, dialog_id=dialog_id)
        self.operation = operation
        self.body: dict[str, Any] = {}
        self.problem: str | None = None
        self.too_large = content is None
        if writes and content is not None:
            try:
                self.body = parse(content)
            except ValueError as error:
                self.problem = str(error)
            self.seq = sequence_number({"session": self.body.get("context")})


class SessionsEndpoint(Endpoint[SessionCall]):
    """Sessions and profiles, below ``/new/v2.0``."""

    def __init__(
        self, server: Server, errors: Errors, profiles: Profiles, max_payload_bytes: int
    ) -> None:
        super().__init__(server, errors)
        self._profiles = profiles
        self._max_payload_bytes = max_payload_bytes

    async def handle(self, request: Request, operation: Operation, subject: str) -> None:
        """Answer one request for a session or a profile, or drop it, or never answer it."""
        if request.method not in METHODS[operation]:
            allowed = ", ".join(METHODS[operation])
            header = (b"allow", allowed.encode())
            await self.refuse(request, 405, f"this takes {allowed}", header)
            return
        content = await request.read(self._max_payload_bytes)
        await self.serve(request, SessionCall(request, operation, subject, content))

    def _not_allowed(self, call: SessionCall, scopes: Collection[str]) -> Answer | None:
        return None

    def _carry_out(self, call: SessionCall, fault: Fault | None) -> Answer:
        if call.too_large:
            most = self._max_payload_bytes
            return self._error(413, f"the payload has more than {most} bytes")
        if call.problem is not None:
            return self._invalid(call.problem)
        if fault == "conflict":
            return self._error(409, "somebody else is writing it")
        if call.operation == "profile":
            return self._profile(call)
        dialog = self._dialog(call.subject)
        if dialog is None:
            return self._error(404, "there is no such session")
        if not call.writes:
            return self._read(dialog)
        user_id = call.body.get("userId")
        if user_id is None:
            return self._missing("userId")
        if not isinstance(user_id, str) or not user_id:
            return self._invalid("userId must be a string that is not empty")
        if fault == "competitor":
            dialog.compete(anyio.current_time(), self._rules.history_limit)
        return self._written(dialog, user_id, call)

    def _read(self, dialog: Dialog) -> Answer:
        return answer_json(
            200,
            {
                "sessionId": dialog.dialog_id,
                "userId": dialog.user_id,
                "context": dialog.session,
                "state": dialog.next_step or DEFAULT_STATE,
            },
        )

    def _written(self, dialog: Dialog, user_id: str, call: SessionCall) -> Answer:
        body = call.body
        match call.operation:
            case "context/inject":
                context = body.get("context")
                if context is None:
                    return self._missing("context")
                if not isinstance(context, dict):
                    return self._invalid("context must be an object")
                replaces = self._rules.inject == "replace"
                return self._assigned(dialog, user_id, {"session": context}, replaces=replaces)
            case "context/reset":
                return self._assigned(dialog, user_id, {"session": {}}, replaces=True)
            case "state/inject":
                state = body.get("state")
                if state is None:
                    return self._missing("state")
                if not isinstance(state, str):
                    return self._invalid("state must be a string")
                nodes = self._rules.flow_nodes
                if nodes is not None and state not in nodes:
                    return self._invalid(f"the flow has no state {state[:200]!r}")
                self._assigned(dialog, user_id, {"transition": {"nextStep": state}})
                return answer_json(200, {"state": state})
            case _:
                self._assigned(dialog, user_id, {"transition": {"nextStep": DEFAULT_STATE}})
                return answer_json(200, {})

    def _assigned(
        self, dialog: Dialog, user_id: str, body: dict[str, Any], *, replaces: bool = False
    ) -> Answer:
        """Write, and answer with the context."""
        variables = body.get("session")
        if variables is not None:
            after = {} if replaces else dict(dialog.session)
            size = len(to_json(after | variables))
            most = self._rules.limits.max_context_bytes
            if size > most:
                return self._invalid(f"the context would have {size} bytes, more than {most}")
        self._dialogs[dialog.dialog_id] = dialog
        dialog.user_id = user_id
        if replaces:
            dialog.session.clear()
        before = dialog.applied_before(None, sequence_number(body))
        entry = dialog.assign(
            body,
            merge=self._rules.merge,
            at=anyio.current_time(),
            history_limit=self._rules.history_limit,
        )
        self._watch.applied(entry, before)
        return answer_json(200, dialog.session)

    def _profile(self, call: SessionCall) -> Answer:
        profile = self._profiles.find(call.subject, create=self._rules.create_dialogs)
        if profile is None:
            return self._error(404, "there is no such profile")
        if not call.writes:
            return answer_json(200, profile.as_dict())
        problem = self._profiles.patch(profile, call.body)
        if problem is not None:
            return self._invalid(problem)
        self._watch.stats.applied += 1
        return Answer(204, b"", ())

    def _missing(self, name: str) -> Answer:
        message = f"Validation failed. Missing {name}."
        return self._error(400, message, members={"code": MISSING_ARGUMENT})

    def _invalid(self, message: str) -> Answer:
        return self._error(400, message, members={"code": INVALID_ARGUMENT})
