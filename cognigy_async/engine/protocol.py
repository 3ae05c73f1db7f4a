"""The protocol of one update: choose its next request and decide what follows a response.

Conflicts, lost answers and `modify` are handled here, in pure functions of an item and a response.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import (
    AmbiguousUpdateError,
    DeadlineExceededError,
    Fault,
    NoResponseError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateError,
    UpdateValidationError,
    UpdateWithdrawnError,
)
from ..models.limits import Limits
from ..models.results import DialogState, UpdateResult
from ..models.update import StateUpdate
from ..ratelimit.headers import reset_after
from ..retry import APPLIED, THROTTLING_KINDS, ResponseKind, RetryState
from .work_item import WRITE, Action, Kind, WorkItem

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..models.http import Request, Response

KNOWN_ETAGS = 4096
"""Minimum number of dialogs whose last version is remembered; at most twice that.

After a lost answer the version shows whether the update was applied."""


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
    """Seconds that rate-limit headers name, for an answer without Retry-After."""


Decision: TypeAlias = Settled | SendNext | RetryLater


class UpdateProtocol:
    """Chooses the next request of an item, and decides what follows its response.

    Args:
        api: builds requests and reads responses.
        base_url: URL without a slash at its end.
        limits: limits of the assignments that `modify` functions return.
    """

    def __init__(self, api: StateApi, base_url: str, limits: Limits) -> None:
        self.api = api
        self._base_url = base_url
        self.limits = limits
        self._etags: dict[str, str | None] = {}
        self._older_etags: dict[str, str | None] = {}

    def request(self, item: WorkItem) -> Request:
        """Return the next request of an item, unsigned.

        Raises:
            UpdateValidationError: The API cannot carry the update.
        """
        if item.action is not WRITE:
            return self.api.read(self._base_url, item.dialog_id)
        if item.requests is None:
            assert item.update is not None
            key = self._carrier(item) or item.update_id
            item.requests = self.api.writes(self._base_url, item.update, key)
        request = item.requests[item.part]
        if item.etag is not None:
            request.headers["if-match"] = item.etag
        elif not request.idempotent:
            # Store this before sending: a later read may already see the effect of the request.
            item.etag_before = self._known_etag(item.dialog_id)
        return request

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
        if response_kind is APPLIED:
            if item.action is WRITE:
                return self._applied(item, response, now)
            state = self.api.state(item.dialog_id, response)
            if state is not None:
                return self._read(item, state)
            # A 2xx with an unusable body is a server fault, not an outage: bulk work must not
            # retry it forever.
            response_kind = ResponseKind.FAULT
        following = self._failed(item, response_kind, self.api.error(request, response, wall_clock))
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
        if item.action not in (Action.REPORT, Action.CONFIRM):
            item.retry_state.last_error = error

    def final(self, item: WorkItem, error: UpdateError) -> UpdateError:
        """Return the error that completes an item, with its dialog, ids and attempts filled in.

        It is an `AmbiguousUpdateError` if a request without an answer may have been applied.
        """
        unanswered = item.retry_state.unanswered if item.retry_state is not None else None
        if unanswered is not None and item.kind is not Kind.READ:
            ambiguous = AmbiguousUpdateError(
                "The update was sent and not answered"
                if error is unanswered
                else "The update was sent and not answered, and could not be repeated",
                status=error.status,
                trace_id=error.trace_id,
                retry_after=error.retry_after,
                detail=error.detail,
                code=error.code,
            )
            ambiguous.__cause__ = error
            error = ambiguous
        elif item.kind is Kind.READ and isinstance(error, NoResponseError):
            error.remedy = "A read changes nothing: read again."
        error.dialog_id = item.dialog_id
        error.update_id = None if item.kind is Kind.READ else item.update_id
        error.attempts = item.attempts
        error.applied_parts = item.part
        return error

    def expired(self, item: WorkItem) -> UpdateError:
        """Return the error that completes an item at its deadline."""
        last = item.retry_state.last_error if item.retry_state is not None else None
        if item.attempts:
            error = DeadlineExceededError("The deadline passed before this was complete")
        else:
            error = DeadlineExceededError("The deadline passed before this was sent")
        if last is not None:
            error.status, error.trace_id, error.detail = last.status, last.trace_id, last.detail
            error.__cause__ = last
        return self.final(item, error)

    def _applied(self, item: WorkItem, response: Response, now: float) -> Decision:
        etag = self.api.etag(response)
        self._etags[item.dialog_id] = etag
        if len(self._etags) >= KNOWN_ETAGS:
            self._older_etags, self._etags = self._etags, {}
        item.part += 1
        assert item.requests is not None
        if item.part < len(item.requests):
            # Failures of one part say nothing about the next.
            item.etag = item.retry_state = None
            return SendNext()
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
                self.api.has_versions,
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

    def _known_etag(self, dialog_id: str) -> str | None:
        if dialog_id in self._etags:
            return self._etags[dialog_id]
        return self._older_etags.get(dialog_id)

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
            return Settled(error=self.final(item, conflict))
        if action is Action.CONFIRM and state.etag != item.etag:
            return Settled(error=self.final(item, retry_state.last_error))
        self._remember(item.dialog_id, state.etag)
        item.etag = state.etag
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
        return StateUpdate.from_fields(self.limits, fields)

    def _failed(self, item: WorkItem, response_kind: ResponseKind, error: UpdateError) -> Decision:
        if item.retry_state is None:
            item.retry_state = RetryState()
        retry_state = item.retry_state
        action = item.action
        if response_kind is ResponseKind.REFUSED:
            if action is Action.REPORT:
                error = retry_state.last_error or error
            return Settled(error=self.final(item, error))
        if action is Action.WRITE:
            if response_kind is ResponseKind.CONFLICT:
                return self._conflict(item, retry_state, error)
            if response_kind is ResponseKind.NO_RESPONSE:
                return self._lost(item, retry_state, error)
            if response_kind in (ResponseKind.FAULT, ResponseKind.GATEWAY) and not _assigns_only(
                item
            ):
                if not item.idempotent and not self._harmless(item):
                    retry_state.unanswered = retry_state.last_error = error
                    return Settled(error=self.final(item, error))
                retry_state.maybe_applied = True
        if action not in (Action.REPORT, Action.CONFIRM):
            retry_state.last_error = error
        return RetryLater(response_kind, error)

    def _harmless(self, item: WorkItem) -> bool:
        """Return True if the next write can be applied twice without harm."""
        return self.api.honours_idempotency_keys or _assigns_only(item)

    def _conflict(self, item: WorkItem, retry_state: RetryState, error: UpdateError) -> Decision:
        if not self.api.has_versions:
            # There is no version to compare. Another writer may hold the session; retry a limited
            # number of times.
            retry_state.last_error = error
            retry_state.conflicts += 1
            if retry_state.conflicts >= item.options.policy.max_attempts:
                return Settled(error=self.final(item, error))
            return RetryLater(ResponseKind.CONFLICT, error)
        # A server that honours keys may check the precondition first, which our own write broke.
        if not self.api.honours_idempotency_keys or item.etag is not None:
            if retry_state.maybe_applied and retry_state.unanswered is None:
                retry_state.unanswered = retry_state.last_error
            if retry_state.unanswered is not None and not _assigns_only(item):
                return Settled(error=self.final(item, error))
        retry_state.last_error = error
        if item.kind is Kind.STRICT:
            if isinstance(error, StateConflictError) and error.current_etag is None:
                item.action = Action.REPORT
                return SendNext()
            return Settled(error=self.final(item, error))
        if item.modification is not None:
            item.action = Action.READ
            item.modification.conflicts += 1
        else:
            item.action = Action.REBASE
        return RetryLater(ResponseKind.CONFLICT, error)

    def _lost(self, item: WorkItem, retry_state: RetryState, error: UpdateError) -> Decision:
        retry_state.unanswered = retry_state.last_error = error
        if item.options.policy.ambiguous == "retry":
            if self._harmless(item):
                return RetryLater(ResponseKind.NO_RESPONSE, error)
            known = item.etag or item.etag_before
            closed = isinstance(error, NoResponseError) and not error.timed_out
            if closed and known is not None:
                item.etag = known
                item.action = Action.CONFIRM
                return RetryLater(ResponseKind.NO_RESPONSE, error)
        return Settled(error=self.final(item, error))


def _assigns_only(item: WorkItem) -> bool:
    """Return whether repeating the next write gives the same state."""
    return item.kind is Kind.ASSIGN and item.idempotent


def withdrawn(item: WorkItem) -> UpdateWithdrawnError:
    """Return the error of an update that its caller withdrew."""
    return UpdateWithdrawnError(f"update {item.update_id!r} was withdrawn before it was sent")
