"""Accept updates and reads: check the client, acquire a pending slot and queue a work item."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextvars import Context as ContextVariables
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING

import anyio

from .._utils.concurrency import FORKED, current_loop_getter, fork_counter
from ..api.endpoint import NO_VARIABLES
from ..engine.coalescing import merges
from ..engine.completion import pause_error
from ..engine.dialog_queue import QueueState
from ..engine.work_item import (
    ASSIGN,
    READ,
    STRICT,
    Action,
    Kind,
    Modification,
    Reading,
    SendOptions,
    Sink,
    WorkItem,
)
from ..errors import ClientClosedError, ClientUsageError, CognigyError, DeadlineExceededError
from ..hooks.observers import Observations, Operation
from ..models.identifiers import NO_METADATA
from ..models.results import Decide
from ..models.update import StateUpdate

if TYPE_CHECKING:
    from ..engine.context import Context
    from ..engine.scheduler import Scheduler
    from ..models.http import Request

AUDIT_POLL_INTERVAL = 0.02
"""Seconds between two checks of bulk work whether the audit sinks have caught up."""


class Admission:
    """Accepts the operations of a client, in the event loop that opened it.

    Acquire a pending slot before calling `enqueue`. The slot is released when the operation
    completes or is refused.
    """

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._pending_limit = context.pending_limit
        self._hooks = context.hooks
        self._metrics = context.metrics
        self._clock = context.clock
        self._pauses_dialogs = context.config.pauses_dialogs
        self._api_can_merge = context.config.api.keeps_other_variables
        # Only a strict audit refuses updates.
        audit = context.audit
        self._audit = audit if audit is not None and audit.strict else None
        self._current_loop = current_loop_getter()
        self._loop = self._current_loop()
        self._fork_count = fork_counter.count
        self._id_prefix = secrets.token_hex(8)
        self._serials = count(1)
        self.is_open = False
        self._open_to_callbacks = False

    def open(self) -> None:
        """Start to accept operations."""
        self.is_open = True

    def close(self, *, except_callbacks: bool = False) -> None:
        """Stop accepting operations; `except_callbacks` keeps running callbacks allowed."""
        self.is_open = False
        self._open_to_callbacks = except_callbacks

    def check_open(self) -> None:
        """Raise `ClientUsageError` if the client does not accept operations of this caller."""
        self.check_event_loop()
        if self.is_open or (self._open_to_callbacks and self._hooks.inside_callback()):
            return
        raise ClientClosedError(
            "the client is closed and accepts no more updates; create a new one"
        )

    def check_event_loop(self) -> None:
        """Raise `ClientUsageError` in another event loop, thread or process."""
        if self._fork_count != fork_counter.count:
            raise ClientUsageError(FORKED)
        try:
            loop = self._current_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise ClientUsageError(
                "this client belongs to another event loop; open one in each event loop"
            )

    # Pending slots.

    def try_acquire_slot(self) -> bool:
        """Try to acquire a slot without waiting. Inside a callback, this always succeeds."""
        if self._hooks.has_callbacks and self._hooks.inside_callback():
            self._pending_limit.acquire_beyond_capacity()
            return True
        return self._pending_limit.try_acquire()

    async def acquire_slot(
        self, dialog_id: str | None = None, deadline: float | None = None
    ) -> None:
        """Wait for a free slot and acquire it. Waiting dialogs take turns.

        Raises:
            ClientClosedError: The client was closed while waiting.
            DeadlineExceededError: `deadline`, a time of the client's clock, cannot be met.
        """
        if self.try_acquire_slot():
            return
        if deadline is None or dialog_id is None:
            await self._pending_limit.acquire(dialog_id)
        else:
            self._check_deadline(deadline, dialog_id)
            with anyio.move_on_after(max(0.0, deadline - self._clock())) as scope:
                await self._pending_limit.acquire(dialog_id)
            if scope.cancelled_caught:
                message = "The deadline passed while the update waited for a pending slot"
                raise DeadlineExceededError(message, dialog_id=dialog_id)
        if not self.is_open:
            self.release_slot()
            self.check_open()

    def try_acquire_bulk_slot(self) -> bool:
        """Try to acquire a slot without waiting; return False while the audit sinks are behind."""
        if self._audit is not None and self._audit.slow:
            return False
        return self.try_acquire_slot()

    async def acquire_bulk_slot(self) -> None:
        """Wait until the audit sinks have caught up, then acquire a slot; see `acquire_slot`."""
        # Poll, because the threads that write to the sinks cannot set an event of this loop.
        while self._audit is not None and self._audit.slow:
            self.check_open()
            await anyio.sleep(AUDIT_POLL_INTERVAL)
        self.check_open()
        await self.acquire_slot()

    def release_slot(self) -> None:
        """Release a slot that no work item uses."""
        self._pending_limit.release()

    # Work items.

    def enqueue(
        self,
        update: StateUpdate,
        options: SendOptions,
        sink: Sink,
        *,
        index: int = -1,
        context: ContextVariables | None = None,
        waits_when_paused: bool = False,
    ) -> WorkItem:
        """Queue an update for which the caller has acquired a slot.

        Args:
            index: Position in the input of `update_many`.
            context: Context variables for the callbacks; by default those of the caller.
            waits_when_paused: Wait for `resume` if the dialog is paused.

        Raises:
            DialogPausedError: The dialog is paused, and `waits_when_paused` is False.
            DeadlineExceededError: The deadline passed, or cannot be met.
            AuditError: A strict audit sink does not accept records.
        """
        kind = ASSIGN if update._if_match is None else STRICT
        dialog_id = update._dialog_id
        item = self._new_item(
            kind, dialog_id, update, options, sink, context, waits_when_paused=waits_when_paused
        )
        item.index = index
        if options.coalesce:
            item.coalesces = self._api_can_merge and merges(update)
        self._scheduler.accept(item, self._clock())
        return item

    def enqueue_operation(
        self,
        kind: Kind,
        dialog_id: str,
        options: SendOptions,
        sink: Sink,
        *,
        decide: Decide | None = None,
        requests: list[Request] | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> WorkItem:
        """Queue any other operation like `enqueue`; a read needs no slot."""
        context = None if decide is None else copy_context()
        item = self._new_item(kind, dialog_id, None, options, sink, context)
        if decide is not None:
            item.modification = Modification(decide)
        elif kind is READ:
            item.reading = Reading()
        item.metadata = metadata
        if requests is not None:
            item.requests, item.action = requests, Action.WRITE
        self._scheduler.accept(item, self._clock())
        return item

    def next_serial(self) -> int:
        """Return the serial of one more item."""
        return next(self._serials)

    def _new_item(
        self,
        kind: Kind,
        dialog_id: str,
        update: StateUpdate | None,
        options: SendOptions,
        sink: Sink,
        context: ContextVariables | None,
        *,
        waits_when_paused: bool = False,
    ) -> WorkItem:
        update_id = update._update_id if update is not None else None
        needs_slot = kind is not READ
        try:
            if self._audit is not None and needs_slot:
                self._audit.check()
            if options.deadline is not None:
                self._check_deadline(options.deadline, dialog_id, update_id)
            if self._pauses_dialogs and not waits_when_paused and needs_slot:
                queue = self._scheduler.queues.get(dialog_id)
                if queue is not None and queue.state is QueueState.PAUSED:
                    raise pause_error(queue)
        except CognigyError:
            if needs_slot:
                self.release_slot()
            raise
        hooks = self._hooks
        if context is None and hooks.has_callbacks:
            context = copy_context()
        serial = next(self._serials)
        if update_id is None:
            update_id = f"{self._id_prefix}-{serial:x}"
        item = WorkItem(kind, dialog_id, update_id, update, serial, options, sink)
        # Set the attributes here: keyword arguments double the cost of creating an item.
        item.context = context
        item.from_callback = hooks.has_callbacks and hooks.inside_callback()
        item.waits_when_paused = waits_when_paused
        if hooks.observers:
            operation = _OPERATIONS.get(kind, "update")
            if update is not None and update._message is not None and update._body == NO_VARIABLES:
                operation = "inject" if update.inject else "notify"
            item.observations = (
                Observations(hooks.observers, operation, dialog_id, update_id) or None
            )
        if needs_slot:
            self._metrics.pending += 1
        return item

    def _check_deadline(
        self, deadline: float, dialog_id: str, update_id: str | None = None
    ) -> None:
        """Raise `DeadlineExceededError` if the deadline passed or is known to be too early."""
        now = self._clock()
        earliest = self._scheduler.earliest(dialog_id, now)
        wait = None
        if deadline <= now:
            message = "The deadline has passed already"
        elif deadline <= earliest:
            wait = earliest - now
            message = f"The deadline cannot be met: no request may be sent for {wait:.1f} s"
        else:
            return
        raise DeadlineExceededError(
            message, dialog_id=dialog_id, update_id=update_id, retry_after=wait
        )


_OPERATIONS: Mapping[Kind, Operation] = {
    Kind.MODIFY: "modify",
    Kind.READ: "read",
    Kind.RESET: "reset",
    Kind.CREATION: "create_profile",
    Kind.PROFILE: "update_profile",
}
