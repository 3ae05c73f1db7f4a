"""The public REST API, sessions v2.0: contexts, states and contact profiles, without versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from .. import errors
from ..errors import ConfigurationError, Fault, UnsupportedByApiError, UpdateValidationError
from ..models.http import Request
from ..models.identifiers import fault_of_text
from ..models.limits import Limits, encode
from ..models.results import DialogState, parse_json
from ..models.update import StateUpdate
from ..retry import ResponseKind, retry_after
from .responses import (
    error_details,
    error_of_status,
    has_dialog_scope,
    kind_of_status,
    path_segment,
)

if TYPE_CHECKING:
    from ..models.http import Response
    from .base import Reset, Use

PROFILE_ID = re.compile(r"[a-z0-9]{24}").fullmatch
WITHOUT_VARIABLES = len('{"userId":"","context":{}}')

STATUS_OF_CODE = {
    1000: 400,  # missing argument
    1001: 500,  # database write
    1002: 404,
    1003: 500,  # database read
    1004: 409,
    1005: 400,  # invalid argument
    1008: 500,  # internal
    1013: 405,
    2000: 500,  # database connect
    2001: 500,  # database query
    8001: 504,  # timeout
}
"""What the `code` of an error means as a status. It goes before the status, except where the status
says what to do about credentials or waiting."""

STATUS_DECIDES = frozenset({401, 403, 429, 503})


class SessionsApi:
    """`{base_url}/new/v2.0/sessions/{dialog_id}` and `.../profiles/{profile_id}`.

    The dialog id is the session id. An update is sent as up to three kinds of requests, in this
    order: `session` is injected into the context, `next_step` into the state, `user` is written to
    the contact profile that the update names. They settle as one outcome; a failure midway tells
    `applied_parts`, and a repeat goes on with the request that failed.

    There are no versions, hence neither `if_match` nor `modify`. Of a request that was sent and not
    answered, only what assigns variables one by one is repeated: the others may undo what the flow
    has done since, and end as `AmbiguousUpdateError`.

    Args:
        user_id: whose sessions these are, for updates that do not say so.
        inject: what the server does with the variables of a context that an injection does not
            name: ``"merge"`` keeps them, ``"replace"`` drops them. Which one is not documented;
            `probe_inject` finds out. With ``"replace"`` no update is split and no lost injection
            repeated.
        reads_state: `get_state` sends ``GET .../sessions/{id}/state``, which is not documented
            either, and not there on every installation.
        is_dialog_throttle: tells from the headers (lower-case names) of a 429 whether it is the
            session's own; otherwise it pauses the whole tenant.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    limits = Limits.cognigy_saas()
    has_versions = False
    honours_idempotency_keys = False

    def __init__(
        self,
        *,
        user_id: str | None = None,
        inject: Literal["merge", "replace"] = "merge",
        reads_state: bool = False,
        is_dialog_throttle: Callable[[Mapping[str, str]], bool] = has_dialog_scope,
    ) -> None:
        if user_id is not None and (fault := fault_of_text("user_id", user_id)):
            raise ConfigurationError(f"SessionsApi: {fault}")
        if inject not in ("merge", "replace"):
            raise ConfigurationError(f'inject={inject!r}: must be "merge" or "replace"')
        self.user_id = user_id
        self.inject = inject
        self.keeps_other_variables = inject == "merge"
        self._reads_state = reads_state
        self._is_dialog_throttle = is_dialog_throttle

    def check_use(self, use: Use) -> None:
        """`modify` needs versions; reading is there where it was asked for."""
        if use == "modify":
            problem = "needs versions of the state, which the sessions API does not have"
            remedy = "assign values with update(), or keep a count where it is atomic"
            raise UnsupportedByApiError((Fault("modify()", problem, remedy),))
        if not self._reads_state:
            problem = "is not documented for the sessions API"
            remedy = (
                "use SessionsApi(reads_state=True) where the installation has it; the answer to an "
                "update, result.body, tells the context as well"
            )
            raise UnsupportedByApiError((Fault("get_state()", problem, remedy),))

    def check(self, update: StateUpdate) -> None:
        """Whose session, no precondition, a profile for `user`, and parts that fit."""
        if update._if_match is not None:
            problem = "needs versions of the state, which the sessions API does not have"
            remedy = "leave it out; the updates of one client stay in order without it"
            self._refuse(update, UnsupportedByApiError, Fault("if_match", problem, remedy))
        user_id = self._user_of(update._user_id, update._dialog_id)
        profile_id = update._profile_id
        if profile_id is not None and not PROFILE_ID(profile_id):
            problem = "is no id of a profile: 24 characters of a-z and 0-9"
            fault = Fault("profile_id", problem, "take it from the profile's address in Cognigy.AI")
            self._refuse(update, UpdateValidationError, fault)
        # A character of a user id takes six bytes at most, as an escape.
        enough = len(update._body) + WITHOUT_VARIABLES + 6 * len(user_id)
        if enough <= update._limits.safe_payload_bytes and b'"user":{' not in update._body:
            return
        if profile_id is None and update.user:
            problem = "variables of a user are kept in a contact profile, and none is named"
            remedy = "name profile_id, or send them as session variables"
            self._refuse(update, UnsupportedByApiError, Fault("user", problem, remedy))
        self._check_sizes(update, user_id)

    def _check_sizes(self, update: StateUpdate, user_id: str) -> None:
        most = update._limits.safe_payload_bytes
        parts = list(self._parts(update, user_id))
        for _, content in parts:
            if len(content) > most:
                problem = f"one of its variables, or its step, takes {len(content)} bytes to send"
                remedy = f"send at most {most}: split the value over several variables"
                self._refuse(update, UpdateValidationError, Fault("update", problem, remedy))
        if self.inject == "replace" and [part for part, _ in parts].count("context") > 1:
            problem = f"its session variables take more than {most} bytes"
            remedy = 'send fewer: with inject="replace" a second request would drop the first'
            self._refuse(update, UpdateValidationError, Fault("session", problem, remedy))

    @staticmethod
    def _refuse(update: StateUpdate, kind: type[UpdateValidationError], fault: Fault) -> None:
        raise kind((fault,), dialog_id=update._dialog_id)

    def _user_of(self, user_id: str | None, dialog_id: str) -> str:
        if user_id is None:
            user_id = self.user_id
        if user_id is None:
            remedy = "name it in the update, or for all of them in SessionsApi(user_id=...)"
            fault = Fault("user_id", "is missing, and the sessions API needs it", remedy)
            raise UpdateValidationError((fault,), dialog_id=dialog_id)
        return user_id

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """The context, the state, the profile. They carry no key: the API has none."""
        session = f"{base_url}/new/v2.0/sessions/{path_segment(update._dialog_id)}"
        profile = f"{base_url}/new/v2.0/profiles/{path_segment(update._profile_id or '')}"
        user_id = self._user_of(update._user_id, update._dialog_id)
        return [
            Request(
                "PATCH" if part == "profile" else "POST",
                profile if part == "profile" else f"{session}/{part}/inject",
                _headers(),
                content,
                part == "profile" or (part == "context" and self.inject == "merge"),
            )
            for part, content in self._parts(update, user_id)
        ]

    def _parts(
        self, update: StateUpdate, user_id: str
    ) -> Iterator[tuple[Literal["context", "state", "profile"], bytes]]:
        """The contents of all requests, in order."""
        most = update._limits.safe_payload_bytes
        payload = parse_json(update._body)
        for content in _split("context", payload.get("session"), most, {"userId": user_id}):
            yield "context", content
        if update._next_step is not None:
            yield "state", encode({"userId": user_id, "state": update._next_step})
        for content in _split("profile", payload.get("user"), most, {}):
            yield "profile", content

    def reset(
        self,
        base_url: str,
        dialog_id: str,
        what: Reset,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
    ) -> Request:
        """POST; the ids of flow and entry point where they are given."""
        given = {
            "user_id": user_id,
            "flow_reference_id": flow_reference_id,
            "entrypoint": entrypoint,
        }
        faults = tuple(
            fault
            for name, text in given.items()
            if text is not None and (fault := fault_of_text(name, text))
        )
        if faults:
            raise UpdateValidationError(faults, dialog_id=dialog_id)
        body = {"userId": self._user_of(user_id, dialog_id)}
        if flow_reference_id is not None:
            body["flowReferenceId"] = flow_reference_id
        if entrypoint is not None:
            body["entrypoint"] = entrypoint
        url = f"{base_url}/new/v2.0/sessions/{path_segment(dialog_id)}/{what}/reset"
        return Request("POST", url, _headers(), encode(body), False)

    def read(self, base_url: str, dialog_id: str) -> Request:
        """GET of the session's state."""
        url = f"{base_url}/new/v2.0/sessions/{path_segment(dialog_id)}/state"
        return Request("GET", url, {"accept": "application/json"})

    def classify(self, response: Response) -> ResponseKind:
        """By the code of the error where it has one, else by status."""
        return kind_of_status(_effective_status(response.status, _code(response)))

    def throttles_dialog(self, response: Response) -> bool:
        """What the predicate that the API was given says."""
        return self._is_dialog_throttle(response.headers)

    def error(self, request: Request, response: Response, wall_clock: float) -> errors.UpdateError:
        """The exception of the code or the status, with what RFC 7807 has, scrubbed."""
        status = response.status
        _, trace_id, detail = error_details(request, response)
        code = _code(response)
        context: dict[str, Any] = {
            "status": status,
            "trace_id": trace_id,
            "detail": detail,
            "code": code,
        }
        if status in (429, 503):
            context["retry_after"] = retry_after(response.headers, wall_clock)
        meaning = _effective_status(status, code)
        if meaning == 402:
            error: errors.UpdateError = errors.PermissionDeniedError(
                "The licence of the tenant does not cover this", **context
            )
            error.remedy = "Ask whoever holds the contract with the vendor."
        elif meaning in (409, 412):
            error = errors.StateConflictError("Somebody else is writing the session", **context)
            error.remedy = "Try again later."
        else:
            error = error_of_status(request, meaning, context)
        if isinstance(error, errors.DialogNotFoundError):
            error.remedy = (
                "Check session, user and profile id, and the base URL; a host that serves the "
                "runtime API instead needs api=RuntimeApi()."
            )
        elif meaning == 403 and error.remedy is errors.PermissionDeniedError.remedy:
            error.remedy = (
                "Grant the OAuth client access to the project, and check that the environment is "
                "the right one."
            )
        return error

    def etag(self, response: Response) -> None:
        """There is none; what a proxy adds is not the state's."""
        return

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """The context as session variables, and the state as the step."""
        body = parse_json(response.content)
        if not isinstance(body, dict):
            return None
        context, step = body.get("context"), body.get("state")
        if isinstance(context, str):
            # Kept as a text, it is told as one by some versions.
            context = parse_json(context.encode())
        if not isinstance(context, dict):
            return None
        return DialogState(
            dialog_id=dialog_id,
            session=context,
            user={},
            next_step=step if isinstance(step, str) else None,
            etag=None,
            version=None,
        )


def _headers() -> dict[str, str]:
    return {"accept": "application/json", "content-type": "application/json"}


def _split(
    name: str, variables: Mapping[str, Any] | None, most: int, others: Mapping[str, str]
) -> Iterator[bytes]:
    """Bodies of at most so many bytes with the variables under `name`, in their order.

    One variable that does not fit has a body of its own, which is larger.
    """
    if not variables:
        return
    whole = encode({**others, name: variables})
    if len(whole) <= most:
        yield whole
        return
    empty = len(encode({**others, name: {}}))
    part: dict[str, Any] = {}
    size = empty
    for key, value in variables.items():
        needed = len(encode({key: value})) - len("{}") + (len(",") if part else 0)
        if part and size + needed > most:
            yield encode({**others, name: part})
            part, size = {}, empty
            needed -= len(",")
        part[key] = value
        size += needed
    yield encode({**others, name: part})


def _code(response: Response) -> int | None:
    """The `code` of an error."""
    if 200 <= response.status < 400:
        return None
    body = parse_json(response.content[:65_536])
    code = body.get("code") if isinstance(body, dict) else None
    return code if type(code) is int else None


def _effective_status(status: int, code: int | None) -> int:
    """The status that an answer amounts to."""
    if code is None or status in STATUS_DECIDES:
        return status
    return STATUS_OF_CODE.get(code, status)
