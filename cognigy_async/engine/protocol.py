"""The protocol of one update: choose its next request and decide what follows a response.

Conflicts, lost answers and `modify` are handled here, in pure functions of an item and a response.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from ..api.endpoint import Endpoint, error_of_answer, may_repeat, requests_of
from ..errors import (
    AmbiguousUpdateError,
    AuthenticationError,
    DeadlineExceededError,
    Fault,
    NoResponseError,
    StateConflictError,
    UnexpectedAnswerError,
    UnsupportedByApiError,
    UpdateError,
    UpdateValidationError,
    UpdateWithdrawnError,
)
from ..models.conversion import Encode
from ..models.identifiers import is_strong_etag
from ..models.limits import Limits
from ..models.results import DialogState, UpdateResult
from ..models.update import StateUpdate
from ..ratelimit.headers import reset_after
from ..retry import APPLIED, SERVED_KINDS, THROTTLING_KINDS, ResponseKind, RetryState
from .resolution import holds
from .work_item import PROFILE_PREFIX, RESOLVE, WRITE, Action, Kind, WorkItem

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..models.http import Request, Response

KNOWN_ETAGS = 4096
"""Minimum number of dialogs whose last version is remembered; at most twice that.

A transition is sent on condition of that version, so that it can be repeated safely."""

MAX_REFUSALS = 2
"""Number of refusals of one etag after which the server is taken to never accept it."""


MAYBE_APPLIED_KINDS = frozenset({ResponseKind.FAULT, ResponseKind.GATEWAY})

WEAK_ETAG_REMEDY = (
    "The etag is weak, and If-Match never matches a weak one: let the proxy pass the ETag of the "
    "API unchanged (compression often weakens it), or assign with update()."
)
CREATION_REMEDY = "Look in Cognigy.AI for the profile before you create it again."
FOREIGN_ETAG_REMEDY = (
    "Let the proxies pass ETag and If-Match unchanged, or assign with update() without if_match."
)


@dataclass(slots=True)
class Settled:
    """The item is complete.

    It has a result, a state (a read), an error, or none of them (a `modify` that writes nothing).
    """

    result: UpdateResult | None = None
    state: DialogState | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class SendNext:
    """The next request of the item follows at once."""


@dataclass(slots=True)
class RetryLater:
    """The request failed and a later one may succeed, if the retry policy allows one."""

    response_kind: ResponseKind
    error: UpdateError
    dialog_only: bool = False
    """True if the server throttles this dialog and not the tenant."""
    reset_after: float | None = None
    """Least seconds to wait after an answer without Retry-After, such as a header names them."""


Decision: TypeAlias = Settled | SendNext | RetryLater


class UpdateProtocol:
    """Chooses the next request of an item, and decides what follows its response.

    Args:
        api: builds requests and reads responses.
        base_url: URL without a slash at its end.
        limits: limits of the assignments that `modify` functions return.
        encode: conversion of their values.
        endpoint: receiver of messages, None without any.
    """

    def __init__(
        self,
        api: StateApi,
        base_url: str,
        limits: Limits,
        encode: Encode | None = None,
        endpoint: Endpoint | None = None,
    ) -> None:
        self.api = api
        self._endpoint = endpoint
        self._base_url = base_url
        self.limits = limits
        self._encode: Encode | None = encode
        self._reads_states = True
        try:
            api.check_use("get_state")
        except UnsupportedByApiError:
            self._reads_states = False
        self._etags: dict[str, str | None] = {}
        self._older_etags: dict[str, str | None] = {}
        self._accepts_its_etags = True
        """False if the server refused an etag twice that it had sent itself."""
        self._accepts_weak_etags = False
        """True if the server accepted a weak `If-Match`, which RFC 9110, 13.1.1, forbids."""

    def request(self, item: WorkItem) -> Request:
        """Return the next request of an item, unsigned.

        Raises:
            UpdateValidationError: The API cannot carry the update.
        """
        if item.action is not WRITE:
            return self.api.read(self._base_url, item.requested_dialog_id)
        if item.requests is None:
            assert item.update is not None
            key = self.key(item)
            if item.update._message is None:
                item.requests = self.api.writes(self._base_url, item.update, key)
            else:
                item.requests = requests_of(
                    self.api, self._endpoint, self._base_url, item.update, key
                )
        request = item.requests[item.part]
        if item.etag is None and not request.idempotent and request.url_token is None:
            item.etag = self._etag_to_attach(item.dialog_id)
        if item.etag is not None:
            request.headers["if-match"] = item.etag
        return request

    def key(self, item: WorkItem) -> str:
        """Return the `Idempotency-Key` of an item, without the number of a part."""
        if item.record is None and item.modification is None:
            return item.update_id
        if item.resolution is not None:
            return item.resolution.key
        return self._carrier(item) or item.update_id

    def known_etag(self, dialog_id: str) -> str | None:
        """Return the last version of a dialog that this client saw, if it is still known."""
        etags = self._etags if dialog_id in self._etags else self._older_etags
        return etags.get(dialog_id)

    def probe_next(self, item: WorkItem) -> bool:
        """Let an item read a dialog that was served before. Return False if there is none."""
        if not self._reads_states:
            return False
        known = chain(reversed(self._etags), reversed(self._older_etags))
        # A profile has no state to read.
        served = next((one for one in known if not one.startswith(PROFILE_PREFIX)), None)
        if served is None:
            return False
        item.probed_dialog_id, item.action = served, Action.PROBE
        return True

    def answered(
        self,
        item: WorkItem,
        response_kind: ResponseKind,
        request: Request,
        response: Response,
        now: float,
        wall_clock: float,
    ) -> Decision:
        """Return the decision after a response other than 401."""
        if item.action is Action.PROBE and response_kind in SERVED_KINDS:
            item.action = WRITE
            return SendNext()
        if response_kind is APPLIED:
            if item.action is WRITE:
                return self._applied(item, request, response, now)
            state = self.api.state(item.dialog_id, response)
            if state is not None:
                if item.kind is RESOLVE:
                    return self._resolve(item, state, response, now)
                return self._read(item, state)
            # A 2xx with an unusable body is a server fault, not an outage: bulk work must not
            # retry it forever.
            response_kind = ResponseKind.FAULT
        read_error = self.api.error if request.url_token is None else error_of_answer
        error = read_error(request, response, wall_clock)
        if response.body_error is not None:
            error.message += f"; {response.body_error}"
        following = self._failed(item, response_kind, error)
        if response_kind in THROTTLING_KINDS and isinstance(following, RetryLater):
            following.reset_after = reset_after(response.headers, wall_clock)
            if response_kind is ResponseKind.THROTTLED:
                following.dialog_only = self.api.throttles_dialog(response)
        return following

    def unanswered(self, item: WorkItem, error: UpdateError) -> Decision:
        """Return the decision after a request that was not answered or could not be sent."""
        lost = isinstance(error, NoResponseError)
        return self._failed(
            item, ResponseKind.NO_RESPONSE if lost else ResponseKind.NOT_SENT, error
        )

    def unauthorized(self, item: WorkItem, error: UpdateError) -> None:
        """Note that the credentials of a request were refused; it may be replayed with others."""
        if item.retry_state is None:
            item.retry_state = RetryState()
        if item.action not in (Action.REPORT, Action.PROBE):
            item.retry_state.last_error = error

    def final(self, item: WorkItem, error: UpdateError) -> UpdateError:
        """Return the error that completes an item, with its dialog, ids and attempts filled in.

        It is an `AmbiguousUpdateError` if a request without an answer may have been applied.
        """
        unanswered = item.retry_state.unanswered if item.retry_state is not None else None
        if item.kind is RESOLVE:
            if not isinstance(error, AmbiguousUpdateError):
                action = "repeated" if item.action is WRITE else "checked"
                ambiguous = _of_dead_process(f"it could not be {action}: {error.message}")
                ambiguous.status, ambiguous.trace_id = error.status, error.trace_id
                ambiguous.__cause__ = error
                error = ambiguous
        elif unanswered is not None and item.kind is not Kind.READ:
            message = (
                "The update was sent and not answered"
                if unanswered.status is None
                else f"The server answered {unanswered.status} and may have applied the update"
            )
            if error is not unanswered:
                message += f"; {_fate_of_repeat(item, error)}"
            ambiguous = AmbiguousUpdateError(
                message,
                status=error.status,
                trace_id=error.trace_id,
                retry_after=error.retry_after,
                detail=error.detail,
                code=error.code,
            )
            ambiguous.__cause__ = error
            if item.kind is Kind.CREATION:
                ambiguous.remedy = CREATION_REMEDY
            error = ambiguous
        elif item.kind is Kind.READ and isinstance(error, NoResponseError):
            error.remedy = "A read changes nothing: read again."
        error.dialog_id = item.dialog_id
        error.update_id = None if item.kind is Kind.READ else item.update_id
        error.attempts = item.attempts
        error.applied_parts = item.part
        return error

    def expired(self, item: WorkItem, *, waited_for_quota: bool = False) -> UpdateError:
        """Return the error that completes an item at its deadline."""
        last = item.retry_state.last_error if item.retry_state is not None else None
        message = f"The deadline passed before this was {'complete' if item.attempts else 'sent'}"
        if waited_for_quota:
            message += "; it waited for the quota of the rate limit"
        error = DeadlineExceededError(
            message if last is None else f"{message}; the last failure was: {last.message}"
        )
        if last is not None:
            error.status, error.trace_id, error.detail = last.status, last.trace_id, last.detail
            error.__cause__ = last
        return self.final(item, error)

    def _applied(
        self, item: WorkItem, request: Request, response: Response, now: float
    ) -> Decision:
        # The flow that a message wakes may write the state: its version is not known then.
        etag = self.api.etag(response) if request.url_token is None else None
        self._etags[item.dialog_id] = etag
        if len(self._etags) >= KNOWN_ETAGS:
            self._older_etags, self._etags = self._etags, {}
        item.part += 1
        assert item.requests is not None
        if item.part < len(item.requests):
            # Failures of one part say nothing about the next.
            item.etag = item.retry_state = None
            return SendNext()
        if item.modification is not None and not is_strong_etag(item.etag):
            self._accepts_weak_etags = True
        item.headers = response.headers
        began = item.sent_at if item.sent_at is not None else now
        return Settled(
            UpdateResult(
                item.dialog_id,
                item.update_id,
                response.status,
                etag,
                item.attempts,
                now - began,
                began - item.accepted_at,
                response.content,
                1,
                None if item.modification is None else self._carrier(item),
                self.api.has_versions and request.url_token is None,
            )
        )

    @staticmethod
    def _carrier(item: WorkItem) -> str | None:
        """Return the key of a `modify` that was written again after conflicts, else None."""
        conflicts = 0 if item.modification is None else item.modification.conflicts
        return f"{item.update_id}/r{conflicts}" if conflicts else None

    def _remember(self, dialog_id: str, etag: str | None) -> None:
        self._etags[dialog_id] = etag
        if len(self._etags) >= KNOWN_ETAGS:
            self._older_etags, self._etags = self._etags, {}

    def _etag_to_attach(self, dialog_id: str) -> str | None:
        """Return the last known version of a dialog if a write may be made conditional on it."""
        api = self.api
        # A server that honours keys applies a repeat once anyway.
        if not (api.conditional_writes and self._accepts_its_etags) or api.honours_idempotency_keys:
            return None
        etag = self.known_etag(dialog_id)
        return etag if is_strong_etag(etag) else None

    def _read(self, item: WorkItem, state: DialogState) -> Decision:
        action = item.action
        if action is Action.READ:
            self._remember(item.dialog_id, state.etag)
            return Settled(state=state) if item.kind is Kind.READ else self._decide(item, state)
        retry_state = item.retry_state
        assert retry_state is not None
        assert retry_state.last_error is not None
        if action is Action.REPORT:
            conflict = retry_state.last_error
            if isinstance(conflict, StateConflictError):
                conflict.current_etag = state.etag
                conflict.current_version = state.version
            return Settled(error=self._refused(item, conflict))
        self._remember(item.dialog_id, state.etag)
        if is_strong_etag(state.etag) and state.etag == retry_state.never_accepted_etag:
            self._accepts_its_etags = False
        usable = self._accepts_its_etags and is_strong_etag(state.etag)
        item.etag = state.etag if usable else None
        if item.etag is None and item.requests is not None:
            item.requests[item.part].headers.pop("if-match", None)
        item.action = Action.WRITE
        return SendNext()

    def _decide(self, item: WorkItem, state: DialogState) -> Decision:
        """Call the function of a `modify`, and prepare the write that it asks for."""
        assert item.modification is not None
        if item.abandoned:
            last = item.retry_state.last_error if item.retry_state is not None else None
            return Settled(error=withdrawn(item) if last is None else self.final(item, last))
        if state.etag is None:
            message = "The server sends no version of the state, without which modify() is not safe"
            return Settled(error=self.final(item, UnexpectedAnswerError(message)))
        try:
            assert item.context is not None
            assignment = item.context.run(item.modification.decide, state)
            if inspect.iscoroutine(assignment):
                assignment.close()
                raise TypeError("modify takes a plain function, not an async one")
            if assignment is None:
                return Settled()
            item.update = self._assignment(item, assignment, state.etag)
        except Exception as error:
            return Settled(error=error)
        item.etag = state.etag
        item.requests = None
        item.action = Action.WRITE
        return SendNext()

    def _assignment(self, item: WorkItem, assignment: Any, etag: str) -> StateUpdate:
        allowed = {"session", "user", "next_step"}
        if not isinstance(assignment, Mapping) or not assignment.keys() <= allowed:
            problem = "the function did not return an assignment"
            remedy = "return a dict with session, user or next_step, or None for no write"
            raise UpdateValidationError(
                (Fault("modify", problem, remedy),), dialog_id=item.dialog_id
            )
        fields = {"dialog_id": item.dialog_id, "if_match": etag, **assignment}
        if item.metadata:
            fields["metadata"] = item.metadata
        return StateUpdate.from_fields(self.limits, fields, self._encode)

    def _failed(self, item: WorkItem, response_kind: ResponseKind, error: UpdateError) -> Decision:
        if item.retry_state is None:
            item.retry_state = RetryState()
        retry_state = item.retry_state
        action = item.action
        if item.kind is RESOLVE:
            return self._unresolved(item, retry_state, response_kind, error)
        if response_kind is ResponseKind.REFUSED:
            if action is Action.REPORT:
                error = retry_state.last_error or error
            return Settled(error=self.final(item, error))
        if action is Action.WRITE:
            if response_kind is ResponseKind.CONFLICT:
                return self._conflict(item, retry_state, error)
            if response_kind is ResponseKind.NO_RESPONSE or (
                response_kind in MAYBE_APPLIED_KINDS and not _assigns_only(item)
            ):
                return self._lost(item, retry_state, response_kind, error)
        if action is Action.PROBE:
            # A 500 would count as an attempt of the update, which was not sent.
            is_fault = response_kind is ResponseKind.FAULT
            return RetryLater(ResponseKind.GATEWAY if is_fault else response_kind, error)
        if action is not Action.REPORT:
            retry_state.last_error = error
        return RetryLater(response_kind, error)

    def _conflict(self, item: WorkItem, retry_state: RetryState, error: UpdateError) -> Decision:
        if not self.api.conditional_writes:
            # There is no version to compare. Another writer may hold the session; retry a limited
            # number of times.
            retry_state.last_error = error
            retry_state.conflicts += 1
            if retry_state.conflicts >= item.options.policy.max_attempts:
                return Settled(error=self.final(item, error))
            return RetryLater(ResponseKind.CONFLICT, error)
        # A server that honours keys may check the precondition first, which our own write broke.
        keyed = self.api.honours_idempotency_keys and item.etag is None
        if retry_state.unanswered is not None and not (keyed or _assigns_only(item)):
            return Settled(error=self.final(item, error))
        retry_state.last_error = error
        if item.kind is Kind.STRICT:
            if isinstance(error, StateConflictError) and error.current_etag is None:
                item.action = Action.REPORT
                return SendNext()
            return Settled(error=self._refused(item, error))
        if item.etag is not None:
            self._count_refusal(item, item.etag, retry_state, error)
        if item.modification is not None:
            if item.etag == retry_state.never_accepted_etag:
                return Settled(error=self._refused(item, error))
            item.action = Action.READ
            item.modification.conflicts += 1
        else:
            item.action = Action.REBASE
        # A read that comes too early would show the state that was refused.
        return RetryLater(ResponseKind.CONFLICT, error, reset_after=self.api.read_delay or None)

    def _count_refusal(
        self, item: WorkItem, etag: str, retry_state: RetryState, error: UpdateError
    ) -> None:
        retry_state.refusals = retry_state.refusals + 1 if etag == retry_state.refused_etag else 1
        retry_state.refused_etag = etag
        attempts = max(MAX_REFUSALS, item.options.policy.max_attempts)
        allowed = MAX_REFUSALS if _refuses_etag(error, etag) else attempts
        is_refused = retry_state.refusals >= allowed
        if item.modification is not None and not (is_strong_etag(etag) or self._accepts_weak_etags):
            # Where others write the dialog, each refusal is of another weak etag.
            is_refused |= item.modification.conflicts + 1 >= attempts
        if is_refused:
            retry_state.never_accepted_etag = etag

    def _refused(self, item: WorkItem, error: UpdateError) -> UpdateError:
        """Return the error of a write whose etag was refused, for good."""
        etag = item.etag
        if isinstance(error, StateConflictError) and _refuses_etag(error, etag):
            never = item.retry_state.never_accepted_etag if item.retry_state is not None else None
            if etag in (never, error.current_etag):
                error.message = "The server does not accept the etag that it sends itself"
                error.remedy = FOREIGN_ETAG_REMEDY if is_strong_etag(etag) else WEAK_ETAG_REMEDY
        return self.final(item, error)

    # Updates whose process died.

    def without_read(self, item: WorkItem, now: float) -> Decision | None:
        """Return the decision about an update of a dead process that needs no read, else None."""
        resolution, update = item.resolution, item.update
        if item.action is not Action.READ:
            return None
        assert resolution is not None
        assert update is not None
        if update._message is not None:
            problem = "no state shows whether its message was sent"
        elif resolution.readable and self._reads_states:
            return None
        elif not (resolution.repeatable and may_repeat(self.api, update)):
            problem = "its dialog cannot be read"
        elif now >= resolution.blind_until:
            problem = "its dialog cannot be read, and the update is too old to be sent again"
        else:
            return self._resend(item, resolution.blind_until)
        return Settled(error=self.final(item, _of_dead_process(problem)))

    def _resolve(
        self, item: WorkItem, state: DialogState, response: Response, now: float
    ) -> Decision:
        """Return the decision about an update of a dead process after a read of its dialog."""
        resolution, update = item.resolution, item.update
        assert resolution is not None
        assert update is not None
        self._remember(item.dialog_id, state.etag)
        unchanged = (
            self.api.conditional_writes
            and is_strong_etag(state.etag)
            and state.etag == resolution.etag
        )
        # The dialog may have been at the node before: the version shows that it did not go there.
        if holds(state, update) and not (unchanged and update._next_step is not None):
            item.headers = response.headers
            began = item.sent_at if item.sent_at is not None else now
            return Settled(
                UpdateResult(
                    item.dialog_id,
                    item.update_id,
                    response.status,
                    state.etag,
                    item.attempts,
                    now - began,
                    began - item.accepted_at,
                    response.content,
                    carried_by=resolution.key,
                    versioned=self.api.has_versions,
                )
            )
        if not unchanged:
            problem = "the state has other values, and its version is not the one before the update"
        elif not resolution.repeatable:
            problem = 'the state does not have it, and ambiguous="raise" forbids a repeat'
        elif resolution.deadline is not None and now >= resolution.deadline:
            problem = "the state does not have it, and its deadline has passed"
        else:
            item.etag = state.etag
            return self._resend(item, resolution.deadline)
        return Settled(error=self.final(item, _of_dead_process(problem)))

    @staticmethod
    def _resend(item: WorkItem, deadline: float | None) -> SendNext:
        item.options = replace(item.options, deadline=deadline)
        item.action = WRITE
        return SendNext()

    def _unresolved(
        self,
        item: WorkItem,
        retry_state: RetryState,
        response_kind: ResponseKind,
        error: UpdateError,
    ) -> Decision:
        """Return the decision after a failed request for an update of a dead process."""
        resolution = item.resolution
        assert resolution is not None
        retry_state.last_error = error
        if response_kind is ResponseKind.REFUSED:
            if item.action is not Action.READ:
                return Settled(error=self.final(item, error))
            resolution.readable = False
            return SendNext()
        maybe_applied = response_kind in MAYBE_APPLIED_KINDS | {ResponseKind.NO_RESPONSE}
        reset_after = None
        if item.action is WRITE and (maybe_applied or response_kind is ResponseKind.CONFLICT):
            if resolution.readable and self._reads_states:
                # Perhaps the first request arrived, or this one.
                item.action = Action.READ
                reset_after = self.api.read_delay or None
            elif not item.idempotent:
                return Settled(error=self.final(item, error))
        elif item.action is Action.PROBE and response_kind is ResponseKind.FAULT:
            response_kind = ResponseKind.GATEWAY
        return RetryLater(response_kind, error, reset_after=reset_after)

    def _lost(
        self,
        item: WorkItem,
        retry_state: RetryState,
        response_kind: ResponseKind,
        error: UpdateError,
    ) -> Decision:
        """Return the decision after a write that may have been applied."""
        retry_state.unanswered = retry_state.last_error = error
        honours_keys = self.api.honours_idempotency_keys and not item.to_endpoint
        harmless = honours_keys or _assigns_only(item)
        # The first request may be carried out later than its repeat. It then finds another version.
        if item.options.policy.ambiguous == "raise":
            answered = response_kind is not ResponseKind.NO_RESPONSE
            repeatable = answered and (harmless or (item.idempotent and is_strong_etag(item.etag)))
        else:
            repeatable = harmless or is_strong_etag(item.etag)
        if repeatable:
            return RetryLater(response_kind, error)
        return Settled(error=self.final(item, error))


def _refuses_etag(error: UpdateError, etag: str | None) -> bool:
    """Return whether a conflict surely concerns the etag; 409 may also mean a busy dialog."""
    return error.status == 412 or not is_strong_etag(etag)


def _fate_of_repeat(item: WorkItem, error: UpdateError) -> str:
    """Return the clause of a message about the repeat of a request that may have been applied."""
    # Another action has failed without a repeat, and a 401 may be that of the token endpoint.
    by_server = item.action is WRITE and not isinstance(error, AuthenticationError)
    if by_server and error.status is not None and error.status < 500:
        return f"the repeat was refused with {error.status}"
    return "it could not be repeated"


def _of_dead_process(problem: str) -> AmbiguousUpdateError:
    return AmbiguousUpdateError(f"The process that sent the update died, and {problem}")


def _assigns_only(item: WorkItem) -> bool:
    """Return whether repeating the next write gives the same state."""
    return item.idempotent and item.kind in (Kind.ASSIGN, Kind.PROFILE)


def withdrawn(item: WorkItem) -> UpdateWithdrawnError:
    """Return the error of an update that its caller withdrew."""
    return UpdateWithdrawnError(f"update {item.update_id!r} was withdrawn before it was sent")
