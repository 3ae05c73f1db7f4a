"""`AsyncStateClient`: the façade. How it is opened, looked after and closed is in `upkeep`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .admission import Priority, Row, kind_of
from .entries import Entry, Kind, Terms
from .errors import QueueFullError
from .metadata import NO_METADATA
from .models import Decide, DialogState, UpdateResult
from .pending import PendingUpdate
from .retry import RetryPolicy
from .stream import UpdateStream
from .updates import StateUpdate
from .upkeep import Upkeep

if TYPE_CHECKING:
    from .events import UpdateWatch
    from .messages import Request


class AsyncStateClient(Upkeep):
    """Writes dialog state, from many tasks at once.

    Use it as ``async with AsyncStateClient(...) as client``, one for the life of the process. All
    times are seconds.

    Args:
        base_url: where the API is, without its path; a trailing slash is fine.
        auth: where the credentials come from; several clients may share one.
        api: which API of the server; `RuntimeApi()` by default.
        max_in_flight: requests at a time, reads included.
        max_pending: updates accepted and unsettled at a time; then `update` waits its turn.
        rate_limit: requests in a window of time, all kinds but for tokens; one `RateLimit`, several
            that hold at once, or ``"auto"``, which learns from the server's headers and its 429s.
        retry: when failed updates are sent again; `RetryPolicy()` by default.
        limits: what an update may carry; the API's own by default.
        coalesce: send updates that wait for the same dialog as one request where the state cannot
            tell; see ``docs/coalescing.md``.
        linger: how long a dialog waits for more to coalesce, counted from its oldest update; ended
            by `flush` and `aclose`.
        on_failure: ``"pause"`` holds back what follows a failed update of a dialog until `resume`.
        timeout: for one request.
        audit: where a record of each settled update goes, for example `JsonLinesAudit(path)`.
        transport: how requests are sent; the client closes it. `HttpxTransport()` by default.
        allow_insecure: take a base URL with ``http://`` whose host is not this machine.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    async def update(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
        if_match: str | None = None,
        update_id: str | None = None,
        user_id: str | None = None,
        profile_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult:
        """Assign variables of one dialog, perhaps move it, and wait until that is done.

        Cancelled before it is sent, the update is never sent. Cancelled after, its request
        completes, and is not repeated.

        Args:
            dialog_id, session, user, next_step, if_match, update_id, user_id, profile_id, metadata:
                see `StateUpdate`.
            retry, timeout, coalesce: instead of the client's own.
            deadline: seconds from this call after which nothing of it is sent, waits of all kinds
                included. A request under way then ends and counts, and is not followed by another.
            priority: ``"bulk"`` gives way to live work, and waits for a server that is away.

        Raises:
            UpdateValidationError: bad input, or (`UnsupportedByApiError`) something that the API
                does not have; nothing was sent.
            UpdateError: it was not carried out; the subclasses say why.
            DeadlineExceededError: the deadline passed, or cannot be met as far as is known.
            DialogPausedError: the dialog is paused after a failure.
            AuditError: a strict audit sink takes no records; nothing was sent.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        admission = self._admission
        update = StateUpdate.checked(
            admission.limits,
            dialog_id,
            session,
            user,
            next_step,
            if_match,
            update_id,
            user_id,
            profile_id,
            metadata,
        )
        admission.check(update)
        terms = admission.terms(retry, timeout, deadline, priority, coalesce)
        if not admission.take_room():
            await admission.wait_for_room(terms.deadline, dialog_id)
        wakes = self._wakes
        entry = admission.begin(
            kind_of(update),
            dialog_id,
            update,
            terms,
            wakes,
        )
        # Thousands may wait here at a time: they hold no more than they need.
        del update, session, user
        try:
            await wakes.wait(entry)
        except BaseException:
            self._life.engine.cancel(entry)
            raise
        if entry.error is not None:
            raise entry.error
        assert entry.result is not None
        return entry.result

    async def submit(
        self,
        update: StateUpdate | Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
    ) -> PendingUpdate:
        """Accept an update, waiting for room, and return a handle on it.

        Args:
            update: a `StateUpdate`, or a mapping of its arguments.
            retry, timeout, deadline, coalesce, priority: as for `update`.
            watch: looks on while it is under way; see `UpdateWatch`.

        Raises:
            UpdateValidationError: bad input; nothing was accepted.
            DeadlineExceededError, AuditError: as for `update`.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        valid = self._admission.parse(update)
        terms = self._admission.terms(retry, timeout, deadline, priority, coalesce, watch)
        if not self._admission.take_room():
            await self._admission.wait_for_room(terms.deadline, valid.dialog_id)
        return self._hand_out(valid, terms)

    def submit_nowait(
        self,
        update: StateUpdate | Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
    ) -> PendingUpdate:
        """The same without waiting.

        Raises:
            QueueFullError: `max_pending` updates are accepted and unsettled.
            UpdateValidationError, DeadlineExceededError, AuditError, ClientUsageError: as for
                `submit`.
        """
        valid = self._admission.parse(update)
        terms = self._admission.terms(retry, timeout, deadline, priority, coalesce, watch)
        if not self._admission.take_room():
            raise QueueFullError(self._max_pending)
        return self._hand_out(valid, terms)

    def update_many(
        self,
        updates: Iterable[Row] | AsyncIterable[Row],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "bulk",
    ) -> UpdateStream:
        """Carry out many updates; iterate over the outcomes, one for each input.

        Updates of one dialog are sent in the order of the input, those of different dialogs side by
        side. This is bulk work: it gives way to `update`, and waits for a server that is away.
        It leaves the last tenth of each window of a rate limit to be used bit by bit, so that
        `update` finds a place in it soon.

        Args:
            updates: `StateUpdate`s, or mappings of its arguments; an iterable or an async iterable.
            retry, timeout, coalesce: instead of the client's own.
            deadline: seconds from this call for all of them, as for `update`; what comes too late
                becomes an outcome with a `DeadlineExceededError`.
            watch: looks on while they are under way; see `UpdateWatch`.
            priority: ``"live"`` makes it like as many `update` calls.

        Raises:
            TypeError: the input cannot be iterated.
            ClientUsageError: while iterating, when the client is not open; at once with a deadline.
        """
        return UpdateStream(
            self._admission,
            lambda: self._life.engine,
            updates,
            limit=max(1, self._max_pending // 2),
            terms=self._admission.terms(retry, timeout, deadline, priority, coalesce, watch),
        )

    async def get_state(
        self,
        dialog_id: str,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "live",
    ) -> DialogState:
        """Read the state of a dialog. It does not queue behind the dialog's writes.

        Args:
            retry, timeout, deadline, priority: as for `update`.

        Raises:
            UpdateValidationError: no dialog id. UnsupportedByApiError: this API reads no states.
            UpdateError: it could not be read.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        self._api.check_use("get_state")
        dialog_id, _ = self._admission.check_dialog_id(dialog_id)
        terms = self._admission.terms(retry, timeout, deadline, priority)
        self._life.check_open()
        entry = await self._carry_out(Kind.READ, dialog_id, terms)
        assert entry.state is not None
        return entry.state

    async def modify(
        self,
        dialog_id: str,
        fn: Decide,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult | None:
        """Read the state, let `fn` decide what to write, and write it if nothing changed meanwhile.

        Otherwise start over. Two `modify` of one dialog never lose an update, wherever they run.

        Args:
            fn: called with the `DialogState`, perhaps several times, in the event loop; returns a
                mapping with `session`, `user` or `next_step`, or None for no write.
            retry, timeout, deadline, priority, metadata: as for `update`.

        Raises:
            UnsupportedByApiError: this API has no versions.
            Exception: whatever `fn` raises, and what `update` raises.
        """
        given: Any = fn
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise TypeError("modify takes a plain function of the dialog's state, not an async one")
        self._api.check_use("modify")
        dialog_id, metadata = self._admission.check_dialog_id(dialog_id, metadata)
        terms = self._admission.terms(retry, timeout, deadline, priority)
        if not self._admission.take_room():
            await self._admission.wait_for_room(terms.deadline, dialog_id)
        entry = await self._carry_out(Kind.MODIFY, dialog_id, terms, decide=fn, metadata=metadata)
        return entry.result

    async def reset_context(
        self,
        dialog_id: str,
        *,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> UpdateResult:
        """Put the context of a session back to its beginning, after what was accepted before.

        A reset that was sent and not answered is not repeated: it may wipe out what the flow has
        written since.

        Args:
            user_id: as for `update`.
            flow_reference_id, entrypoint: the ids of the flow whose context it is, and of the
                project or snapshot that it is in; sent where given, and the server may insist.
            retry, timeout: instead of the client's own.

        Raises:
            UnsupportedByApiError: this API has no resets. Otherwise what `update` raises.
        """
        dialog_id, _ = self._admission.check_dialog_id(dialog_id)
        request = self._api.reset(
            self._base_url, dialog_id, "context", user_id, flow_reference_id, entrypoint
        )
        return await self._reset(dialog_id, request, retry, timeout)

    async def reset_state(
        self,
        dialog_id: str,
        *,
        user_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> UpdateResult:
        """Put the state of a session's flow back to its default; see `reset_context`."""
        dialog_id, _ = self._admission.check_dialog_id(dialog_id)
        request = self._api.reset(self._base_url, dialog_id, "state", user_id)
        return await self._reset(dialog_id, request, retry, timeout)

    async def _reset(
        self,
        dialog_id: str,
        request: Request,
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> UpdateResult:
        terms = self._admission.terms(retry, timeout)
        if not self._admission.take_room():
            await self._admission.wait_for_room(None, dialog_id)
        entry = await self._carry_out(Kind.RESET, dialog_id, terms, requests=[request])
        assert entry.result is not None
        return entry.result

    async def _carry_out(
        self,
        kind: Kind,
        dialog_id: str,
        terms: Terms,
        *,
        decide: Decide | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        requests: list[Request] | None = None,
    ) -> Entry:
        """Accept all but an update and wait for its outcome; cancelled, it is given up."""
        wakes = self._wakes
        entry = self._admission.begin(
            kind,
            dialog_id,
            None,
            terms,
            wakes,
            decide=decide,
            requests=requests,
            metadata=metadata,
        )
        try:
            await wakes.wait(entry)
        except BaseException:
            self._life.engine.cancel(entry)
            raise
        if entry.error is not None:
            raise entry.error
        return entry

    def _hand_out(self, update: StateUpdate, terms: Terms) -> PendingUpdate:
        """Accept an update that has its place, and give a handle on it."""
        pending = PendingUpdate(self._life.engine, self._life.check_home)
        pending.bind(
            self._admission.begin(
                kind_of(update), update.dialog_id, update, terms, pending, held=True
            )
        )
        return pending
