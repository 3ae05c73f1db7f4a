"""How updates come in: checked, given a place, a name and a number, and put into their lane."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING

import anyio

from ..engine.coalescing import merges
from ..engine.completion import pause_error
from ..engine.dialog_queue import QueueState
from ..engine.work_item import (
    ASSIGN,
    READ,
    Action,
    Kind,
    Modification,
    Reading,
    SendOptions,
    Sink,
    WorkItem,
)
from ..errors import AuditError, DeadlineExceededError
from ..hooks.observers import Observations, Operation
from ..models.identifiers import NO_METADATA
from ..models.results import Decide
from ..models.update import StateUpdate
from .waiters import waiters_for_this_loop

if TYPE_CHECKING:
    from ..engine.context import Context
    from ..engine.scheduler import Scheduler
    from ..models.http import Request
    from .lifecycle import Lifecycle

AUDIT_PAUSE = 0.02
"""Seconds before bulk work looks again whether the audit has caught up."""


class Admission:
    """The way into a client.

    Whoever lets an entry in first takes a place in the room; it is given back when the entry
    settles, or when it is refused.
    """

    def __init__(self, context: Context, scheduler: Scheduler, lifecycle: Lifecycle) -> None:
        self._scheduler = scheduler
        self._lifecycle = lifecycle
        self._pending_limit = context.pending_limit
        self._hooks = context.hooks
        self._metrics = context.metrics
        self._clock = context.clock
        self._pauses_dialogs = context.config.pauses_dialogs
        self._mergeable = context.config.api.keeps_other_variables
        audit = context.audit
        self._audit = audit if audit is not None and audit.strict else None
        """Only a strict one keeps updates out."""
        self.waiters = waiters_for_this_loop()
        """Wakes the task that waits for one update."""
        self._ids = secrets.token_hex(8)
        self._serials = count(1)

    def try_acquire_slot(self) -> bool:
        """Take a place if there is one; what a callback calls always finds one."""
        if self._hooks.any and self._hooks.called_us():
            self._pending_limit.acquire_beyond_capacity()
            return True
        return self._pending_limit.try_acquire()

    async def acquire_slot(
        self, deadline: float | None = None, dialog_id: str | None = None
    ) -> None:
        """Take a place, waiting for it.

        Raises:
            ClientClosedError: the client was closed meanwhile.
            DeadlineExceededError: the deadline passed, or cannot be met.
        """
        if deadline is None or dialog_id is None:
            await self._pending_limit.acquire(dialog_id)
        else:
            self._check_deadline(deadline, dialog_id)
            await self._acquire_slot_by(deadline, dialog_id)
        if not self._lifecycle.accepting:
            self._pending_limit.release()
            self._lifecycle.check_open()

    async def _acquire_slot_by(self, deadline: float, dialog_id: str) -> None:
        seconds = max(0.0, deadline - self._clock())
        with anyio.move_on_after(seconds) as waiting:
            await self._pending_limit.acquire(dialog_id)
        if waiting.cancelled_caught:
            message = "The deadline passed before there was room for the update"
            raise DeadlineExceededError(message, dialog_id=dialog_id)

    def _check_deadline(self, deadline: float, dialog_id: str) -> None:
        """Refuse at once what cannot be sent in time, as far as is known."""
        now = self._clock()
        earliest = self._scheduler.earliest(dialog_id, now)
        if deadline <= now:
            message = "The deadline has passed already"
            raise DeadlineExceededError(message, dialog_id=dialog_id)
        if deadline <= earliest:
            wait = earliest - now
            message = f"The deadline cannot be met: nothing may be sent for {wait:.1f} s"
            raise DeadlineExceededError(message, dialog_id=dialog_id, retry_after=wait)

    def give_back(self) -> None:
        """A place is not needed after all."""
        self._pending_limit.release()

    def begin(
        self,
        kind: Kind,
        dialog_id: str,
        update: StateUpdate | None,
        options: SendOptions,
        sink: Sink,
        *,
        waits_when_paused: bool = False,
        decide: Decide | None = None,
        requests: list[Request] | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> WorkItem:
        """Queue an entry that has its place in the room; a read needs none. See `admit`."""
        item = self.admit(
            kind,
            dialog_id,
            update,
            options,
            sink,
            has_slot=True,
            waits_when_paused=waits_when_paused,
            decide=decide,
            requests=requests,
            metadata=metadata,
        )
        assert item is not None
        return item

    def admit(
        self,
        kind: Kind,
        dialog_id: str,
        update: StateUpdate | None,
        options: SendOptions,
        sink: Sink,
        *,
        has_slot: bool = False,
        context: Variables | None = None,
        waits_when_paused: bool = False,
        decide: Decide | None = None,
        requests: list[Request] | None = None,
        index: int = -1,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> WorkItem | None:
        """Queue an entry; None where it has no place in the room and there is none.

        Callbacks run in `context`, or in that of the caller where it is not given.

        Raises:
            DialogPausedError: the dialog is paused and the entry would not wait for `resume`.
            DeadlineExceededError: the deadline passed, or cannot be met.
            AuditError: a strict audit sink takes no records.
        """
        inside = self._hooks.any and self._hooks.called_us()
        if not has_slot:
            if inside:
                self._pending_limit.acquire_beyond_capacity()
            elif not self._pending_limit.try_acquire():
                return None
        if self._audit is not None and kind is not READ:
            try:
                self._audit.check()
            except AuditError:
                self._pending_limit.release()
                raise
        if options.deadline is not None:
            try:
                self._check_deadline(options.deadline, dialog_id)
            except DeadlineExceededError as error:
                if kind is not READ:
                    self._pending_limit.release()
                error.update_id = update.update_id if update is not None else None
                raise
        if self._pauses_dialogs and not waits_when_paused and kind is not READ:
            queue = self._scheduler.queues.get(dialog_id)
            if queue is not None and queue.state is QueueState.PAUSED:
                self._pending_limit.release()
                raise pause_error(queue)
        if context is None and (self._hooks.any or decide is not None):
            context = copy_context()
        serial = next(self._serials)
        named = update._update_id if update is not None else None
        item = WorkItem(
            kind,
            dialog_id,
            named if named is not None else f"{self._ids}-{serial:x}",
            update,
            serial,
            options,
            sink,
        )
        # Set here and not passed: keywords double the price of an entry.
        item.context = context
        item.from_callback = inside
        item.waits_when_paused = waits_when_paused
        item.index = index
        if update is None:
            if decide is not None:
                item.modification = Modification(decide)
            elif kind is READ:
                item.reading = Reading()
            item.metadata = metadata
            if requests is not None:
                item.requests, item.action = requests, Action.WRITE
        elif options.coalesce:
            item.coalesces = self._mergeable and merges(update)
        if self._hooks.observers:
            operation = _OPERATIONS.get(kind, "update")
            observed = Observations(self._hooks.observers, operation, dialog_id, item.update_id)
            item.observations = observed or None
        if kind is not READ:
            self._metrics.pending += 1
        self._scheduler.accept(item, self._clock())
        return item

    # What a stream needs besides.

    def wants_input(self, *, live: bool) -> bool:
        """Whether more updates of that class would find workers soon."""
        return self._scheduler.wants_input(live=live)

    def try_acquire_bulk_slot(self) -> bool:
        """Take a place if there is one, and the audit keeps up."""
        if self._audit is not None and self._audit.slow:
            return False
        return self.try_acquire_slot()

    async def acquire_bulk_slot(self) -> None:
        """Take a place when the audit has caught up, waiting for it; see `wait_for_room`."""
        # It catches up in threads that know nothing of the event loop.
        while self._audit_is_slow():
            self._lifecycle.check_open()
            await anyio.sleep(AUDIT_PAUSE)
        self._lifecycle.check_open()
        if not self.try_acquire_slot():
            await self.acquire_slot()

    def _audit_is_slow(self) -> bool:
        return self._audit is not None and self._audit.slow


_OPERATIONS: Mapping[Kind, Operation] = {
    Kind.MODIFY: "modify",
    Kind.READ: "read",
    Kind.RESET: "reset",
}


def kind_of(update: StateUpdate) -> Kind:
    """What an entry for an update is for."""
    return ASSIGN if update._if_match is None else Kind.STRICT
