"""The sessions API v2.0: contexts and states of sessions, and contact profiles.

A session is a `Dialog`: its session variables are the context, its step is the state. In the
history an injection is recorded as an assignment with the same effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from itertools import count
from typing import Any, ClassVar

import anyio
from pydantic_core import to_json

from .endpoint import NO_READS, ApiEndpoint, Call
from .faults import Fault
from .responses import HttpResponse, json_response
from .state import Dialog, Profile, sequence_number

MISSING_ARGUMENT = {"code": 1000}
INVALID_ARGUMENT = {"code": 1005}
CODES = {404: 1002, 405: 1013, 409: 1004, 500: 1008}
"""Error codes by status, where the two differ."""
TITLES = {status.value: status.phrase for status in HTTPStatus}
DEFAULT_STATE = "default"
ID_LENGTH = 24
"""Characters of the ids of profiles and projects."""


class SessionsEndpoint(ApiEndpoint):
    """Sessions and profiles, below ``/new/v2.0``."""

    methods: ClassVar = {
        "sessions/context/inject": ("POST",),
        "sessions/context/reset": ("POST",),
        "sessions/state/inject": ("POST",),
        "sessions/state/reset": ("POST",),
        "sessions/state": ("GET",),
        "profiles": ("GET", "PATCH"),
        "profiles/create": ("POST",),
    }

    def _error_body(self, status: int, message: str, number: int) -> dict[str, object]:
        """Return a problem by RFC 7807, with the members that the sessions API adds."""
        title = TITLES.get(status, "Error")
        return {
            "type": title,
            "title": title,
            "status": status,
            "detail": message,
            "instance": "/new/v2.0",
            "code": CODES.get(status, status),
            "traceId": f"api--emulator-{number}",
            "details": {},
        }

    def _apply(self, call: Call, fault: Fault | None) -> HttpResponse:
        if fault == "conflict":
            return self._error(409, "another client is writing it")
        if call.operation == "profiles":
            return self._apply_to_profile(call)
        if call.operation == "profiles/create":
            return self._create_profile(call)
        dialog = self._find_dialog(call.subject)
        if dialog is None:
            return self._error(404, "no such session")
        rules, now = self._rules, anyio.current_time()
        if not call.writes:
            if not rules.reads_state:
                return self._error(404, NO_READS)
            seen = dialog.seen_at(now - rules.read_delay)
            return json_response(
                200,
                {
                    "sessionId": seen.dialog_id,
                    "userId": seen.user_id,
                    "context": seen.session,
                    "state": seen.next_step or DEFAULT_STATE,
                },
            )
        user_id = call.body.get("userId")
        if user_id is None:
            return self._missing("userId")
        if not isinstance(user_id, str) or not user_id:
            return self._invalid("userId must be a string that is not empty")
        if rules.read_delay:
            dialog.remember(now)
        if fault == "competitor":
            dialog.compete(at=now, history_limit=rules.history_limit)
        return self._write(dialog, user_id, call)

    def _write(self, dialog: Dialog, user_id: str, call: Call) -> HttpResponse:
        match call.operation:
            case "sessions/context/inject":
                context = call.body.get("context")
                if context is None:
                    return self._missing("context")
                if not isinstance(context, dict):
                    return self._invalid("context must be an object")
                replaces = self._rules.inject == "replace"
                return self._assign_context(dialog, user_id, context, replaces=replaces)
            case "sessions/context/reset":
                return self._assign_context(dialog, user_id, {}, replaces=True)
            case "sessions/state/inject":
                state = call.body.get("state")
                if state is None:
                    return self._missing("state")
                if not isinstance(state, str):
                    return self._invalid("state must be a string")
                nodes = self._rules.flow_nodes
                if nodes is not None and state not in nodes:
                    return self._invalid(f"the flow has no state {state[:200]!r}")
                self._assign(dialog, user_id, {"transition": {"nextStep": state}})
                return json_response(200, {"state": state})
            case _:
                self._assign(dialog, user_id, {"transition": {"nextStep": DEFAULT_STATE}})
                return json_response(200, {})

    def _assign_context(
        self, dialog: Dialog, user_id: str, context: dict[str, Any], *, replaces: bool
    ) -> HttpResponse:
        size = len(to_json(context if replaces else dialog.session | context))
        most = self._rules.limits.max_context_bytes
        if size > most:
            return self._invalid(f"the context would have {size} bytes, more than {most}")
        if replaces:
            dialog.session.clear()
        self._assign(dialog, user_id, {"session": context})
        return json_response(200, dialog.session)

    def _assign(self, dialog: Dialog, user_id: str, body: Mapping[str, Any]) -> None:
        self._dialogs[dialog.dialog_id] = dialog
        dialog.user_id = user_id
        earlier = dialog.find_earlier(None, sequence_number(body.get("session")))
        entry = dialog.assign(
            body,
            merge=self._rules.merge,
            at=anyio.current_time(),
            history_limit=self._rules.history_limit,
        )
        self._recorder.record_applied(entry, earlier)

    def _apply_to_profile(self, call: Call) -> HttpResponse:
        profile = self._profiles.get(call.subject)
        if profile is None and self._rules.create_dialogs:
            profile = Profile(call.subject)
        if profile is None:
            return self._error(404, "no such profile")
        if not call.writes:
            return json_response(200, profile.as_dict())
        problem = profile.patch(call.body)
        if problem is not None:
            return self._invalid(problem)
        self._profiles[call.subject] = profile
        self._recorder.stats.applied += 1
        return HttpResponse(204, b"", ())

    def _create_profile(self, call: Call) -> HttpResponse:
        members = dict(call.body)
        project_id = members.pop("projectId", None)
        if project_id is None:
            return self._missing("projectId")
        if not isinstance(project_id, str) or len(project_id) != ID_LENGTH:
            return self._invalid(f"projectId must be a string of {ID_LENGTH} characters")
        numbered = (f"{number:0{ID_LENGTH}x}" for number in count(len(self._profiles) + 1))
        profile = Profile(next(each for each in numbered if each not in self._profiles))
        profile.project_id = project_id
        problem = profile.patch(members)
        if problem is not None:
            return self._invalid(problem)
        self._profiles[profile.profile_id] = profile
        self._recorder.stats.applied += 1
        return json_response(201, profile.as_dict())

    def _missing(self, name: str) -> HttpResponse:
        message = f"Validation failed. Missing {name}."
        return self._error(400, message, members=MISSING_ARGUMENT)

    def _invalid(self, message: str) -> HttpResponse:
        return self._error(400, message, members=INVALID_ARGUMENT)
