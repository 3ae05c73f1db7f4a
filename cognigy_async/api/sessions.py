"""The public REST API, sessions v2.0: contexts, states and contact profiles, without versions.

Paths and errors are those of docs.cognigy.com (API reference) and of the official npm package
`@cognigy/rest-api-client` 0.19.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from .. import errors
from .._utils.arguments import validate_type
from ..errors import ConfigurationError, Fault, UnsupportedByApiError, UpdateValidationError
from ..models.http import Request
from ..models.identifiers import fault_of_text
from ..models.limits import Limits
from ..models.results import DialogState, parse_json
from ..models.update import StateUpdate
from ..models.variables import encode
from ..retry import ResponseKind, retry_after
from .responses import (
    MAX_ERROR_BODY,
    error_details,
    error_of_status,
    has_dialog_scope,
    kind_of_status,
    path_segment,
    validate_merged_values,
)

if TYPE_CHECKING:
    from ..models.http import Response
    from .base import MergedValues, OptionalMethod, ResetPart

PROFILES = "/new/v2.0/profiles"
PROFILE_ID = re.compile(r"[a-z0-9]{24}").fullmatch
ENVELOPE_LENGTH = len('{"userId":"","context":{}}')

NO_VERSIONS = "needs versions of the state, which the sessions API does not have"

STATUS_OF_CODE = {
    1000: 400,  # missing argument
    1001: 500,  # database write
    1002: 404,  # not found
    1003: 500,  # database read
    1004: 409,  # conflict
    1005: 400,  # invalid argument
    1008: 500,  # internal
    1013: 405,  # method not allowed
    2000: 500,  # database connect
    2001: 500,  # database query
    8001: 504,  # timeout
}
"""The status that the `code` of an error means. The code takes precedence over the status."""

STATUS_DECIDES = frozenset({401, 403, 429, 503})
"""Statuses that take precedence over the `code` of an error, because they ask for other action."""


class SessionsApi:
    """`{base_url}/new/v2.0/sessions/{dialog_id}` and `.../profiles/{profile_id}`.

    See `StateApi` for the methods. The dialog id is the session id. The client sends an update as
    up to three kinds of requests, in this order: inject `session` into the context, inject
    `next_step` into the state, write `user` to the contact profile that the update names. The
    update has one outcome. If a later request fails, the error has `applied_parts`. A retry
    continues with the request that failed.

    The vendor deprecated states in Cognigy.AI 2026.7 and plans their removal (docs.cognigy.com,
    "State"). It does not document what becomes of the requests for them.

    States have no versions, so the client rejects `if_match` and `modify`. After a lost response,
    the client repeats only assignments of variables. Another request could undo newer changes of
    the flow, so it fails with `AmbiguousUpdateError`.

    Args:
        user_id: user of the sessions, for updates without a `user_id`.
        inject: effect of an injection on context variables that the injection does not name:
            ``"merge"`` keeps them, ``"replace"`` drops them. The vendor does not document the
            effect; `probe_inject` finds it out. With ``"replace"``, the client splits no update
            and repeats no injection without a response.
        merged_values: values that an injection may merge into the earlier value of their variable,
            which coalescing then sends in a request of their own: ``"objects"``, ``"objects and
            lists"`` or ``"none"``. The default suits servers that replace values as well. With
            lists, the client repeats no injection of a list without a response.
        reads_state: let `get_state` send ``GET .../sessions/{id}/state``. The vendor does not
            document it, but a plugin of the vendor calls it; some installations lack it.
        is_dialog_throttle: function that gets the headers of a 429, values by lower-case name. It
            returns True to pause only the session, and False to pause the whole tenant. By default
            the header `X-RateLimit-Scope` decides.
        limits: limits of updates; ``Limits.cognigy_saas()``, the vendor's default, if not given.
            Use ``Limits.cognigy_app()`` on App.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    limits: Limits = Limits.cognigy_saas()
    has_versions = False
    read_delay = 0.0
    conditional_writes = False
    honours_idempotency_keys = False

    def __init__(
        self,
        *,
        user_id: str | None = None,
        inject: Literal["merge", "replace"] = "merge",
        merged_values: MergedValues = "objects",
        reads_state: bool = False,
        is_dialog_throttle: Callable[[Mapping[str, str]], bool] = has_dialog_scope,
        limits: Limits | None = None,
    ) -> None:
        if limits is not None:
            self.limits = validate_type("limits", limits, Limits)
        if user_id is not None and (fault := fault_of_text("user_id", user_id)):
            raise ConfigurationError(f"SessionsApi: {fault}")
        if inject not in ("merge", "replace"):
            raise ConfigurationError(f'inject={inject!r}: must be "merge" or "replace"')
        self.user_id = user_id
        self.inject = inject
        self.keeps_other_variables = inject == "merge"
        self.merged_values: MergedValues = validate_merged_values(merged_values)
        self._reads_state = reads_state
        self._is_dialog_throttle = is_dialog_throttle

    def check_use(self, use: OptionalMethod) -> None:
        """Reject `modify`, and `get_state` unless `reads_state` is set."""
        if use == "modify":
            remedy = "assign values with update(), or keep counters where they are atomic"
            raise UnsupportedByApiError((Fault("modify()", NO_VERSIONS, remedy),))
        if not self._reads_state:
            problem = "is not documented for the sessions API"
            remedy = (
                "use SessionsApi(reads_state=True) if your installation has it; the body of an "
                "update's result is the context as well"
            )
            raise UnsupportedByApiError((Fault("get_state()", problem, remedy),))

    def check(self, update: StateUpdate) -> None:
        """Reject a precondition, a missing user or profile id, and parts that are too large."""
        if update._if_match is not None:
            remedy = "leave it out; the updates of one client stay in order without it"
            self._refuse(update, UnsupportedByApiError, Fault("if_match", NO_VERSIONS, remedy))
        user_id = self._user_of(update._user_id, update._dialog_id)
        profile_id = update._profile_id
        if profile_id is not None and (fault := _fault_of_profile_id(profile_id)):
            self._refuse(update, UpdateValidationError, fault)
        # Fast path. A character of the user id takes at most six bytes, as an escape.
        size = len(update._body) + ENVELOPE_LENGTH + 6 * len(user_id)
        if size <= update._limits.safe_payload_bytes and b'"user":{' not in update._body:
            return
        if profile_id is None and update.user:
            problem = "user variables are stored in a contact profile, and the update names none"
            remedy = "pass profile_id, or send them as session variables"
            self._refuse(update, UnsupportedByApiError, Fault("user", problem, remedy))
        self._check_sizes(update, user_id)

    def _check_sizes(self, update: StateUpdate, user_id: str) -> None:
        limit = update._limits.safe_payload_bytes
        parts = list(self._parts(update, user_id))
        for _, content in parts:
            if len(content) > limit:
                problem = f"a variable or the step needs a request of {len(content)} bytes"
                remedy = f"send at most {limit}: split the value over several variables"
                self._refuse(update, UpdateValidationError, Fault("update", problem, remedy))
        if self.inject == "replace" and [part for part, _ in parts].count("context") > 1:
            problem = f"the session variables take more than {limit} bytes"
            remedy = 'send fewer: with inject="replace" a second request would drop the first'
            self._refuse(update, UpdateValidationError, Fault("session", problem, remedy))

    @staticmethod
    def _refuse(update: StateUpdate, kind: type[UpdateValidationError], fault: Fault) -> None:
        raise kind((fault,), dialog_id=update._dialog_id)

    def _user_of(self, user_id: str | None, dialog_id: str) -> str:
        if user_id is None:
            user_id = self.user_id
        if user_id is None:
            remedy = "pass it with the update, or once as SessionsApi(user_id=...)"
            fault = Fault("user_id", "is missing; the sessions API requires it", remedy)
            raise UpdateValidationError((fault,), dialog_id=dialog_id)
        return user_id

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """Return the requests for context, state and profile; this API has no idempotency keys."""
        session = f"{base_url}/new/v2.0/sessions/{path_segment(update._dialog_id)}"
        profile = f"{base_url}{PROFILES}/{path_segment(update._profile_id or '')}"
        user_id = self._user_of(update._user_id, update._dialog_id)
        return [
            Request(
                "PATCH" if part == "profile" else "POST",
                profile if part == "profile" else f"{session}/{part}/inject",
                _headers(),
                content,
                part == "profile" or (part == "context" and self._may_repeat(content)),
            )
            for part, content in self._parts(update, user_id)
        ]

    def _may_repeat(self, content: bytes) -> bool:
        """Return whether an injection has the same effect when it is sent twice."""
        # A server that merges lists may append to them.
        return self.inject == "merge" and (
            self.merged_values != "objects and lists" or b"[" not in content
        )

    def _parts(
        self, update: StateUpdate, user_id: str
    ) -> Iterator[tuple[Literal["context", "state", "profile"], bytes]]:
        """Yield kind and body of each request, in the order of sending."""
        limit = update._limits.safe_payload_bytes
        payload = parse_json(update._body)
        for content in _split("context", payload.get("session"), limit, {"userId": user_id}):
            yield "context", content
        if update._next_step is not None:
            yield "state", encode({"userId": user_id, "state": update._next_step})
        for content in _split("profile", payload.get("user"), limit, {}):
            yield "profile", content

    def reset(
        self,
        base_url: str,
        dialog_id: str,
        what: ResetPart,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
    ) -> Request:
        """Return the POST that resets the context or the state of a session."""
        names = ("user_id", "flow_reference_id", "entrypoint")
        texts = zip(names, (user_id, flow_reference_id, entrypoint), strict=True)
        faults = [fault_of_text(name, text) for name, text in texts if text is not None]
        if found := tuple(filter(None, faults)):
            raise UpdateValidationError(found, dialog_id=dialog_id)
        body = {"userId": self._user_of(user_id, dialog_id)}
        if flow_reference_id is not None:
            body["flowReferenceId"] = flow_reference_id
        if entrypoint is not None:
            body["entrypoint"] = entrypoint
        url = f"{base_url}/new/v2.0/sessions/{path_segment(dialog_id)}/{what}/reset"
        return Request("POST", url, _headers(), encode(body), False)

    def write_profile(self, base_url: str, profile_id: str | None, body: bytes) -> Request:
        """Return the PATCH of a profile, which assigns, or the POST that creates one."""
        if profile_id is None:
            return Request("POST", f"{base_url}{PROFILES}", _headers(), body, False)
        if fault := fault_of_text("profile_id", profile_id) or _fault_of_profile_id(profile_id):
            raise UpdateValidationError((fault,))
        return Request("PATCH", f"{base_url}{PROFILES}/{profile_id}", _headers(), body)

    def read(self, base_url: str, dialog_id: str) -> Request:
        """Return the undocumented GET of a session's state."""
        url = f"{base_url}/new/v2.0/sessions/{path_segment(dialog_id)}/state"
        return Request("GET", url, {"accept": "application/json"})

    def classify(self, response: Response) -> ResponseKind:
        """Return the kind of the error's code if it has one, else of the status."""
        return kind_of_status(_effective_status(response.status, _code(response)))

    def throttles_dialog(self, response: Response) -> bool:
        """Return the result of `is_dialog_throttle`."""
        return self._is_dialog_throttle(response.headers)

    def error(self, request: Request, response: Response, wall_clock: float) -> errors.UpdateError:
        """Return the exception for the code or the status, with the fields of RFC 7807."""
        status = response.status
        _, trace_id, detail = error_details(request, response)
        code = _code(response)
        context: dict[str, Any] = {"status": status, "trace_id": trace_id, "detail": detail}
        context["code"] = code
        if status in (429, 503):
            context["retry_after"] = retry_after(response.headers, wall_clock)
        meaning = _effective_status(status, code)
        is_profile = PROFILES in request.url
        if meaning == 402:
            error: errors.UpdateError = errors.PermissionDeniedError(
                "The licence of the tenant does not cover this", **context
            )
            error.remedy = "Ask the owner of your contract with the vendor."
        elif meaning in (409, 412):
            message = "Another client is writing the session"
            if is_profile:
                message = "Another client is writing the profile"
            error = errors.StateConflictError(message, **context)
            error.remedy = "Try again later."
        else:
            error = error_of_status(request, meaning, context)
        if isinstance(error, errors.DialogNotFoundError):
            error.remedy = (
                "Check the ids of session, user, profile and project, and the base URL; a host "
                "that serves the runtime API instead needs api=RuntimeApi()."
            )
        elif is_profile and isinstance(error, errors.BadRequestError):
            error.remedy = (
                "Check the names and types of the fields in the project's profile schema."
            )
        elif isinstance(error, errors.BadRequestError):
            error.remedy = (
                "Check the ids, the names and types of the variables, and that next_step names a "
                "state of the flow."
            )
        elif meaning == 403 and error.remedy is errors.PermissionDeniedError.remedy:
            error.remedy = (
                "Grant the OAuth client access to the project, and check that the environment is "
                "the right one."
            )
        return error

    def etag(self, response: Response) -> None:
        """Return None: an ETag added by a proxy is not a version of the state."""
        return

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """Convert a response: `context` to the session variables, `state` to the next step."""
        body = parse_json(response.content)
        if not isinstance(body, dict):
            return None
        context, step = body.get("context"), body.get("state")
        if isinstance(context, str):
            # Some versions of the server return it as a JSON string.
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


def _fault_of_profile_id(profile_id: str) -> Fault | None:
    if PROFILE_ID(profile_id):
        return None
    problem = "is not a profile id, which has 24 characters of a-z and 0-9"
    remedy = "use the _id that the API returned when the profile was made"
    return Fault("profile_id", problem, remedy)


def _headers() -> dict[str, str]:
    return {"accept": "application/json", "content-type": "application/json"}


def _split(
    name: str, variables: Mapping[str, Any] | None, limit: int, others: Mapping[str, str]
) -> Iterator[bytes]:
    """Yield bodies of at most `limit` bytes with the variables under `name`, in order.

    A single variable that does not fit gets a larger body of its own.
    """
    if not variables:
        return
    whole = encode({**others, name: variables})
    if len(whole) <= limit:
        yield whole
        return
    empty = len(encode({**others, name: {}}))
    part: dict[str, Any] = {}
    size = empty
    for key, value in variables.items():
        needed = len(encode({key: value})) - len("{}") + (len(",") if part else 0)
        if part and size + needed > limit:
            yield encode({**others, name: part})
            part, size = {}, empty
            needed -= len(",")
        part[key] = value
        size += needed
    yield encode({**others, name: part})


def _code(response: Response) -> int | None:
    """Return the `code` of an error response; None if it has no code."""
    if 200 <= response.status < 400:
        return None
    body = parse_json(response.content[:MAX_ERROR_BODY])
    code = body.get("code") if isinstance(body, dict) else None
    return code if type(code) is int else None


def _effective_status(status: int, code: int | None) -> int:
    """Return the status that a status and a code mean together."""
    if code is None or status in STATUS_DECIDES:
        return status
    return STATUS_OF_CODE.get(code, status)
