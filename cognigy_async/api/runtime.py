"""The runtime API v2, as in the tutorial: one PATCH for an update, ETags, conditional writes.

No page of the vendor documents this API, its versions, or a header such as `Idempotency-Key`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from .._utils.arguments import validate_seconds, validate_type
from ..errors import Fault, UnsupportedByApiError, UpdateError
from ..models.http import Request
from ..models.limits import DEFAULT_LIMITS, Limits
from ..models.results import DialogState, parse_json, version_of
from ..models.update import StateUpdate
from ..models.variables import ENVELOPE, encode
from ..retry import APPLIED, ResponseKind, retry_after
from .responses import (
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


UNCONDITIONAL = "needs If-Match, which RuntimeApi(conditional_writes=False) does not send"


class RuntimeApi:
    """`PATCH` and `GET {base_url}/runtime/v2/dialogs/{dialog_id}/state`.

    See `StateApi` for the methods.

    Args:
        honours_idempotency_keys: True if you know that the server applies each `Idempotency-Key`
            only once. Then the client repeats every update without a response, even an update with
            a transition.
        conditional_writes: False if you know that the server ignores `If-Match`. Then the client
            refuses `modify` and `if_match`, and never repeats a transition without a response.
        merged_values: values that the server may merge into the earlier value of their variable,
            which coalescing then sends in a request of their own: ``"objects"``, ``"objects and
            lists"`` or ``"none"``. The default suits servers that replace values as well. With
            lists, the client repeats no assignment of a list without a response, unless its
            version is known.
        read_delay: seconds after a write in which a read may not show it. After a conflict, the
            client waits that long before it reads.
        is_dialog_throttle: function that gets the headers of a 429, values by lower-case name. It
            returns True to pause only the dialog, and False to pause the whole tenant. By default
            the header `X-RateLimit-Scope` decides.
        limits: limits of updates; ``Limits()``, the tutorial's, by default.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    limits: Limits = DEFAULT_LIMITS
    has_versions = True
    keeps_other_variables = True

    def __init__(
        self,
        *,
        honours_idempotency_keys: bool = False,
        conditional_writes: bool = True,
        merged_values: MergedValues = "objects",
        read_delay: float = 0.0,
        is_dialog_throttle: Callable[[Mapping[str, str]], bool] = has_dialog_scope,
        limits: Limits | None = None,
    ) -> None:
        if limits is not None:
            self.limits = validate_type("limits", limits, Limits)
        self.honours_idempotency_keys = honours_idempotency_keys
        self.conditional_writes = conditional_writes
        self.merged_values: MergedValues = validate_merged_values(merged_values)
        # A server that merges lists may append to them.
        self._repeats_lists = merged_values != "objects and lists"
        self.read_delay = validate_seconds("read_delay", read_delay, least=0.0)
        self._is_dialog_throttle = is_dialog_throttle

    def check_use(self, use: OptionalMethod) -> None:
        """Refuse `modify` if the server ignores `If-Match`."""
        if use == "modify" and not self.conditional_writes:
            remedy = "assign values with update(), or keep counters where they are atomic"
            raise UnsupportedByApiError((Fault("modify()", UNCONDITIONAL, remedy),))

    def check(self, update: StateUpdate) -> None:
        """Refuse a user id, a profile id, and an `if_match` that the server would ignore."""
        if update._if_match is not None and not self.conditional_writes:
            fault = Fault("if_match", UNCONDITIONAL, "leave it out")
            raise UnsupportedByApiError((fault,), dialog_id=update._dialog_id)
        if update._user_id is None and update._profile_id is None:
            return
        if update._profile_id is None and update._message is not None:
            return  # The user id is for the endpoint.
        name = "user_id" if update._user_id is not None else "profile_id"
        problem = "is not supported by the runtime API"
        remedy = "leave it out, or use api=SessionsApi() with the host of the public REST API"
        raise UnsupportedByApiError((Fault(name, problem, remedy),), dialog_id=update._dialog_id)

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """Return one PATCH, or several if the payload exceeds `Limits.safe_payload_bytes`."""
        body = update._body
        idempotent = update._next_step is None and (self._repeats_lists or b"[" not in body)
        url = _url(base_url, update._dialog_id)
        if len(body) <= update._limits.safe_payload_bytes:
            return [Request("PATCH", url, _write_headers(update_id), body, idempotent)]
        requests = [
            Request("PATCH", url, _write_headers(f"{update_id}/{part}"), body)
            for part, body in enumerate(_split(update))
        ]
        for request in requests:
            request.idempotent = self._repeats_lists or b"[" not in request.content
        requests[-1].idempotent &= update._next_step is None
        return requests

    def reset(
        self,
        base_url: str,
        dialog_id: str,
        what: ResetPart,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
    ) -> NoReturn:
        """Raise `UnsupportedByApiError`."""
        method, other = f"reset_{what}()", "session=" if what == "context" else "next_step="
        remedy = f"assign the values with update({other}...), or use api=SessionsApi()"
        fault = Fault(method, "is not supported by the runtime API", remedy)
        raise UnsupportedByApiError((fault,), dialog_id=dialog_id)

    def write_profile(self, base_url: str, profile_id: str | None, body: bytes) -> NoReturn:
        """Raise `UnsupportedByApiError`."""
        method = "create_profile()" if profile_id is None else "update_profile()"
        remedy = "use api=SessionsApi() with the host of the public REST API"
        fault = Fault(method, "is not supported by the runtime API", remedy)
        raise UnsupportedByApiError((fault,))

    def read(self, base_url: str, dialog_id: str) -> Request:
        """Return a GET of the state."""
        return Request("GET", _url(base_url, dialog_id), {"accept": "application/json"})

    def classify(self, response: Response) -> ResponseKind:
        """Return the kind of the status."""
        status = response.status
        return APPLIED if 200 <= status < 300 else kind_of_status(status)

    def throttles_dialog(self, response: Response) -> bool:
        """Return the result of `is_dialog_throttle`."""
        return self._is_dialog_throttle(response.headers)

    def error(self, request: Request, response: Response, wall_clock: float) -> UpdateError:
        """Return the exception for the status."""
        status = response.status
        body, trace_id, detail = error_details(request, response)
        context: dict[str, Any] = {"status": status, "trace_id": trace_id, "detail": detail}
        if status in (429, 503):
            context["retry_after"] = retry_after(response.headers, wall_clock)
        if status in (409, 412):
            context["current_etag"] = self.etag(response)
            context["current_version"] = version_of(body)
        return error_of_status(request, status, context)

    def etag(self, response: Response) -> str | None:
        """Return the `ETag` header, or None if it is no valid value for `If-Match`."""
        etag = response.headers.get("etag")
        if not etag or len(etag) > 512 or not (etag.isascii() and etag.isprintable()):
            return None
        return None if " " in etag else etag

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """Return the state in the body with the version in the `ETag` header."""
        body = parse_json(response.content)
        if not isinstance(body, dict):
            return None
        session, user = body.get("session") or {}, body.get("user") or {}
        transition = body.get("transition") or {}
        if not all(isinstance(part, dict) for part in (session, user, transition)):
            return None
        step = transition.get("nextStep")
        return DialogState(
            dialog_id=dialog_id,
            session=session,
            user=user,
            next_step=step if isinstance(step, str) else None,
            etag=self.etag(response),
            version=version_of(body),
        )


def _url(base_url: str, dialog_id: str) -> str:
    return f"{base_url}/runtime/v2/dialogs/{path_segment(dialog_id)}/state"


def _write_headers(key: str) -> dict[str, str]:
    return {
        "accept": "application/json",
        "content-type": "application/json",
        "idempotency-key": key,
    }


def _split(update: StateUpdate) -> Iterator[bytes]:
    """Yield bodies within the limit: variables in order, the transition in the last one."""
    transition = encode({"nextStep": update.next_step}) if update.next_step else b""
    space = update._limits.safe_payload_bytes - ENVELOPE
    contexts: dict[str, dict[str, object]] = {}
    size = 0
    for context, variables in (("session", update.session), ("user", update.user)):
        for name, value in variables.items():
            needed = len(encode(name)) + len(encode(value)) + 2
            if contexts and size + needed > space:
                yield encode(contexts)
                contexts, size = {}, 0
            contexts.setdefault(context, {})[name] = value
            size += needed
    if not transition:
        yield encode(contexts)
        return
    step = {"transition": {"nextStep": update.next_step}}
    if size + len(transition) > space:
        yield encode(contexts)
        yield encode(step)
    else:
        yield encode({**contexts, **step})
