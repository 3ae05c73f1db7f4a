"""The course of one update: which request is next, and what its answer leads to.

This is where conflicts, lost answers and `modify` are dealt with. Nothing here waits: a `Backoff`
says that the update may go on later, and the retry policy decides when and whether.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import (
    AmbiguousUpdateError,
    AuthenticationError,
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
from ..retry import APPLIED, Trouble, Verdict
from .work_item import WRITE, Action, Entry, Kind

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..models.http import Request, Response

KNOWN_ETAGS = 4096
"""Dialogs whose last version is remembered, to tell after a lost answer whether it was applied.

At least so many, at most twice."""


@dataclass(slots=True)
class Done:
    """The update settles: with a result, a state (of a read), an error, or nothing (`modify`)."""

    result: UpdateResult | None = None
    state: DialogState | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class Again:
    """The next request follows at once."""


@dataclass(slots=True)
class Backoff:
    """The request failed in a way that a later one may mend."""

    verdict: Verdict
    error: UpdateError
    dialog_only: bool = False
    """The server throttles this dialog, not the tenant."""


Next: TypeAlias = Done | Again | Backoff


class Course:
    """Decides for every entry of a client, by the rules of its API.

    Args:
        api: how requests look and what answers mean.
        base_url: without a slash at its end.
        limits: what an assignment of `modify` is checked against.
    """

    def __init__(self, api: StateApi, base_url: str, limits: Limits) -> None:
        self.api = api
        self._base_url = base_url
        self.limits = limits
        self._etags: dict[str, str | None] = {}
        self._older_etags: dict[str, str | None] = {}

    def request(self, entry: Entry) -> Request:
        """The next request of an entry, unsigned.

        Raises:
            UpdateValidationError: the API cannot carry the update.
        """
        if entry.action is not WRITE:
            return self.api.read(self._base_url, entry.dialog_id)
        if entry.requests is None:
            assert entry.update is not None
            key = f"{entry.update_id}/r{entry.round}" if entry.round else entry.update_id
            entry.requests = self.api.writes(self._base_url, entry.update, key)
        request = entry.requests[entry.part]
        if entry.etag is not None:
            request.headers["if-match"] = entry.etag
        elif not request.idempotent:
            # Now, not when the answer is lost: a read meanwhile may see what this write does.
            entry.known = self._known_etag(entry.dialog_id)
        return request

    def answered(
        self,
        entry: Entry,
        verdict: Verdict,
        request: Request,
        response: Response,
        now: float,
        wall_clock: float,
    ) -> Next:
        """What follows an answer, other than 401."""
        if verdict is APPLIED:
            if entry.action is WRITE:
                return self._applied(entry, response, now)
            state = self.api.state(entry.dialog_id, response)
            if state is not None:
                return self._read(entry, state)
            # It is not away, so that bulk work does not wait for it without end.
            verdict = Verdict.FAULT
        following = self._failed(entry, verdict, self.api.error(request, response, wall_clock))
        if verdict is Verdict.THROTTLED and isinstance(following, Backoff):
            following.dialog_only = self.api.throttles_dialog(response)
        return following

    def unanswered(self, entry: Entry, error: UpdateError) -> Next:
        """What follows a request without an answer, or one that could not even be signed."""
        lost = isinstance(error, NoResponseError)
        return self._failed(entry, Verdict.NO_RESPONSE if lost else Verdict.NOT_SENT, error)

    def unauthorized(self, entry: Entry, error: UpdateError) -> None:
        """The credentials of a request were refused; it may be replayed with others."""
        if entry.trouble is None:
            entry.trouble = Trouble()
        if entry.action not in (Action.REPORT, Action.CONFIRM):
            entry.trouble.last = error

    def final(self, entry: Entry, error: UpdateError) -> UpdateError:
        """The error that an entry settles with: its facts filled in, and ambiguous if any of its
        requests may have been applied without our knowing.
        """
        trouble = entry.trouble
        if trouble is not None and trouble.lost is not None and entry.kind is not Kind.READ:
            told = AmbiguousUpdateError(
                "The update was sent and not answered"
                if error is trouble.lost
                else "The update was sent and not answered, and could not be repeated",
                status=error.status,
                trace_id=error.trace_id,
                retry_after=error.retry_after,
                detail=error.detail,
                code=error.code,
            )
            told.__cause__ = error
            error = told
        elif entry.kind is Kind.READ and isinstance(error, NoResponseError):
            error.remedy = "Nothing was changed by it: read again."
        error.dialog_id = entry.dialog_id
        error.update_id = None if entry.kind is Kind.READ else entry.update_id
        error.attempts = entry.attempts
        error.applied_parts = entry.part
        return error

    def expired(self, entry: Entry) -> UpdateError:
        """What an entry settles with at its deadline."""
        last = entry.trouble.last if entry.trouble is not None else None
        if entry.attempts:
            error = DeadlineExceededError("The deadline passed before this was complete")
        else:
            error = DeadlineExceededError("The deadline passed before this was sent")
        if last is not None:
            error.status, error.trace_id, error.detail = last.status, last.trace_id, last.detail
            error.__cause__ = last
        return self.final(entry, error)

    def _applied(self, entry: Entry, response: Response, now: float) -> Next:
        etag = self.api.etag(response)
        self._etags[entry.dialog_id] = etag
        if len(self._etags) >= KNOWN_ETAGS:
            self._older_etags, self._etags = self._etags, {}
        entry.part += 1
        assert entry.requests is not None
        if entry.part < len(entry.requests):
            # Each part starts afresh: what happened to the one before is over.
            entry.etag = entry.trouble = None
            return Again()
        entry.headers = response.headers
        began = entry.sent_at if entry.sent_at is not None else now
        return Done(
            UpdateResult(
                entry.dialog_id,
                entry.update_id,
                response.status,
                etag,
                entry.attempts,
                now - began,
                began - entry.accepted_at,
                response.content,
                1,
                f"{entry.update_id}/r{entry.round}" if entry.round else None,
                self.api.has_versions,
            )
        )

    def _remember(self, dialog_id: str, etag: str | None) -> None:
        self._etags[dialog_id] = etag
        if len(self._etags) >= KNOWN_ETAGS:
            self._older_etags, self._etags = self._etags, {}

    def _known_etag(self, dialog_id: str) -> str | None:
        if dialog_id in self._etags:
            return self._etags[dialog_id]
        return self._older_etags.get(dialog_id)

    def _read(self, entry: Entry, state: DialogState) -> Next:
        action = entry.action
        if action is Action.READ:
            self._remember(entry.dialog_id, state.etag)
            return Done(state=state) if entry.kind is Kind.READ else self._decide(entry, state)
        trouble = entry.trouble
        assert trouble is not None
        assert trouble.last is not None
        if action is Action.REPORT:
            conflict = trouble.last
            if isinstance(conflict, StateConflictError):
                conflict.current_etag = state.etag
                conflict.current_version = state.version
            return Done(error=self.final(entry, conflict))
        if action is Action.CONFIRM and state.etag != entry.etag:
            return Done(error=self.final(entry, trouble.last))
        self._remember(entry.dialog_id, state.etag)
        entry.etag = state.etag
        entry.action = Action.WRITE
        return Again()

    def _decide(self, entry: Entry, state: DialogState) -> Next:
        """Ask the function of a `modify` what to write."""
        assert entry.decide is not None
        if entry.abandoned:
            last = entry.trouble.last if entry.trouble is not None else None
            return Done(error=withdrawn(entry) if last is None else self.final(entry, last))
        if state.etag is None:
            message = "The server tells no version of the state, without which modify() is not safe"
            return Done(error=self.final(entry, UnexpectedAnswerError(message)))
        try:
            assert entry.context is not None
            assignment = entry.context.run(entry.decide, state)
            if inspect.iscoroutine(assignment):
                assignment.close()
                raise TypeError("modify takes a plain function, not an async one")
            if assignment is None:
                return Done()
            entry.update = self._assignment(entry, assignment, state.etag)
        except Exception as error:
            return Done(error=error)
        entry.etag = state.etag
        entry.requests = None
        entry.action = Action.WRITE
        return Again()

    def _assignment(self, entry: Entry, assignment: Any, etag: str) -> StateUpdate:
        allowed = {"session", "user", "next_step"}
        if not isinstance(assignment, Mapping) or not assignment.keys() <= allowed:
            problem = "the function returned something else than an assignment"
            remedy = "return a dict with session, user or next_step, or None for no write"
            raise UpdateValidationError(
                (Fault("modify", problem, remedy),), dialog_id=entry.dialog_id
            )
        fields = {"dialog_id": entry.dialog_id, "if_match": etag, **assignment}
        if entry.metadata:
            fields["metadata"] = entry.metadata
        return StateUpdate.within(self.limits, fields)

    def _failed(self, entry: Entry, verdict: Verdict, error: UpdateError) -> Next:
        if entry.trouble is None:
            entry.trouble = Trouble()
        trouble = entry.trouble
        action = entry.action
        if verdict is Verdict.REFUSED:
            if action is Action.REPORT:
                error = trouble.last or error
            return Done(error=self.final(entry, error))
        if action is Action.WRITE:
            if verdict is Verdict.CONFLICT:
                return self._conflict(entry, trouble, error)
            if verdict is Verdict.NO_RESPONSE:
                return self._lost(entry, trouble, error)
            if verdict in (Verdict.FAULT, Verdict.GATEWAY) and not _assigns_only(entry):
                if not entry.idempotent and not self._harmless(entry):
                    trouble.lost = trouble.last = error
                    return Done(error=self.final(entry, error))
                trouble.uncertain = True
        if action not in (Action.REPORT, Action.CONFIRM):
            trouble.last = error
        return Backoff(verdict, error)

    def _harmless(self, entry: Entry) -> bool:
        """Whether the write at hand may be applied twice without anybody noticing."""
        return self.api.honours_idempotency_keys or _assigns_only(entry)

    def _conflict(self, entry: Entry, trouble: Trouble, error: UpdateError) -> Next:
        if not self.api.has_versions:
            # There is no version to read and to demand. It may be only the turn of somebody else;
            # if it is not, no time that passes will help.
            trouble.last = error
            entry.round += 1
            if entry.round >= entry.terms.policy.max_attempts:
                return Done(error=self.final(entry, error))
            return Backoff(Verdict.CONFLICT, error)
        # A server that honours keys may look at the precondition first, which our own write broke.
        if not self.api.honours_idempotency_keys or entry.etag is not None:
            if trouble.uncertain and trouble.lost is None:
                trouble.lost = trouble.last
            if trouble.lost is not None and not _assigns_only(entry):
                return Done(error=self.final(entry, error))
        trouble.last = error
        if entry.kind is Kind.STRICT:
            if isinstance(error, StateConflictError) and error.current_etag is None:
                entry.action = Action.REPORT
                return Again()
            return Done(error=self.final(entry, error))
        if entry.kind is Kind.MODIFY:
            entry.action = Action.READ
            entry.round += 1
        else:
            entry.action = Action.REBASE
        return Backoff(Verdict.CONFLICT, error)

    def _lost(self, entry: Entry, trouble: Trouble, error: UpdateError) -> Next:
        trouble.lost = trouble.last = error
        if entry.terms.policy.ambiguous == "retry":
            if self._harmless(entry):
                return Backoff(Verdict.NO_RESPONSE, error)
            known = entry.etag or entry.known
            closed = isinstance(error, NoResponseError) and not error.timed_out
            if closed and known is not None:
                entry.etag = known
                entry.action = Action.CONFIRM
                return Backoff(Verdict.NO_RESPONSE, error)
        return Done(error=self.final(entry, error))


def _assigns_only(entry: Entry) -> bool:
    """Whether it says the same however often it is said."""
    return entry.kind is Kind.ASSIGN and entry.idempotent


def withdrawn(entry: Entry) -> UpdateWithdrawnError:
    """What those are told who still wait for an update that was taken back."""
    return UpdateWithdrawnError(f"update {entry.update_id!r} was taken back before it was sent")


def share(failure: AuthenticationError) -> AuthenticationError:
    """The failure for one of many updates, each of which fills in its own facts."""
    own = AuthenticationError(
        failure.message,
        transient=failure.transient,
        status=failure.status,
        detail=failure.detail,
        retry_after=failure.retry_after,
    )
    own.__cause__ = failure
    return own
