"""Record intents before updates are sent, and outcomes before updates complete, in an outbox.

A queue is put aside meanwhile and holds no worker. Everything here is synchronous but `wait`: the
outbox calls a receipt when a record is written.
"""

from __future__ import annotations

import enum
from logging import ERROR, WARNING
from typing import TYPE_CHECKING

from .._utils.concurrency import CompletionTracker
from .._utils.logging import log
from ..errors import (
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    OutboxError,
    UpdateError,
)
from ..hooks.outbox import Intent
from ..models.events import UpdateEvent
from .coalescing import own_outcome
from .dialog_queue import RECORDING, DialogQueue
from .protocol import Settled
from .work_item import WorkItem

if TYPE_CHECKING:
    from ..hooks.outbox import Outbox
    from .completion import Completion
    from .context import Context
    from .resolution import Resolution
    from .scheduler import Scheduler

UNRECORDED_REMEDY = (
    "Check disk and folder of the outbox: the next process that opens it finds out what became of "
    "the update."
)


class Step(enum.Enum):
    """Progress of a record."""

    INTENDING = "intending"
    """The intent is being written."""
    INTENDED = "intended"
    """The intent is written, and the update may be sent."""
    SETTLING = "settling"
    """The outcome is being written; it cannot change any more."""
    OVER = "over"
    """The update is complete; later receipts mean nothing."""


INTENDING, INTENDED, SETTLING, OVER = Step
"""Aliases: on Python 3.11 a look-up on the class costs five times as much."""


class Record:
    """The record of one head of a queue, and the receipt that its outbox gets.

    Attributes:
        update: the update in the intent; a `modify` that decides again needs another record.
        attempts: number of requests before the intent.
        done: the outcome, from the step SETTLING on.
        resolution: None unless the update is that of a dead process.
    """

    __slots__ = ("attempts", "done", "item", "recorder", "resolution", "step", "update")

    def __init__(
        self, recorder: Recorder, item: WorkItem, resolution: Resolution | None = None
    ) -> None:
        self.recorder = recorder
        self.item = item
        self.update = item.update
        self.attempts = item.attempts
        self.step = INTENDING if resolution is None else INTENDED
        self.done: Settled | None = None
        self.resolution = resolution

    def for_group(self, group: WorkItem) -> Record:
        """Return the record of a group whose members are updates of a dead process."""
        return Record(self.recorder, group, self.resolution)

    @property
    def may_be_applied(self) -> bool:
        """Return True if a request may have been applied that got no answer."""
        retry_state = self.item.retry_state
        lost = retry_state is not None and retry_state.unanswered is not None
        return lost or self.resolution is not None

    def settle(self, done: Settled) -> bool:
        """Record an outcome. Return False if the head can complete at once."""
        return self.recorder.settle(self, done)

    def withdraw(self) -> None:
        """Strike out the intent of an update that will not be sent."""
        self.recorder.withdraw(self)

    def recorded(self, error: OutboxError | None) -> None:
        """Go on after a record, or after the failure to write it; see `Receipt`."""
        try:
            self.recorder.go_on(self, error)
        except Exception as problem:
            # The outbox calls receipts of other updates next.
            log(ERROR, "internal error after a record: %s", type(problem).__name__)


class Recorder:
    """Puts the queues of one client aside while their outbox writes records.

    Attributes:
        settling: number of outcomes that are being written.
    """

    def __init__(self, context: Context, scheduler: Scheduler, completion: Completion) -> None:
        assert context.outbox is not None
        self._outbox: Outbox = context.outbox
        self._scheduler = scheduler
        self._completion = completion
        self._protocol = context.protocol
        self._hooks = context.hooks
        self._tracker = CompletionTracker()
        self._ended: OutboxError | None = None
        self.settling = 0

    # Intents.

    def adopt(self, item: WorkItem, resolution: Resolution) -> None:
        """Give an item the record of a dead process, which is written."""
        item.record = Record(self, item, resolution)

    def intend(self, queue: DialogQueue, item: WorkItem, now: float, wall_clock: float) -> None:
        """Record the intent of a head whose request was built and may be sent now."""
        if item.record is not None:
            # A `modify` that was refused decided again: nothing of the first write was applied.
            item.record.withdraw()
        item.record = record = Record(self, item)
        # What was recorded is sent as it is.
        item.coalesces = False
        if item.group is not None:
            # A member cannot leave the group any more, as if it was sent.
            item.sent_at = now
            for member in item.group.members:
                member.sent_at = now
                member.reserved = self._hooks.reserve()
        protocol, options = self._protocol, item.options
        etag = item.etag if item.etag is not None else protocol.known_etag(item.dialog_id)
        key = protocol.key(item)
        repeatable = options.policy.ambiguous != "raise"
        deadline = options.deadline
        if deadline is not None:
            deadline += wall_clock - now
        intents = []
        for each in (item,) if item.group is None else item.group.members:
            update = each.update
            assert update is not None
            intents.append(
                Intent(
                    each.dialog_id,
                    each.update_id,
                    update,
                    each.metadata,
                    key,
                    etag,
                    repeatable,
                    deadline,
                    wall_clock,
                )
            )
        self._scheduler.await_record(queue, is_outcome=False)
        if self._ended is not None:
            record.recorded(self._ended)
            return
        try:
            self._outbox.intend(intents, record)
        except Exception as error:
            record.recorded(_outbox_error(error))

    def withdraw(self, record: Record) -> None:
        """Strike out the intent of an update that will not be sent."""
        item = record.item
        if record.step is INTENDING:
            self._scheduler.recording -= 1
        record.step, item.record = OVER, None
        if record.resolution is not None:
            # The next process finds out what became of it.
            return
        try:
            ids = [each.update_id for each in item.members or (item,)]
            self._outbox.withdraw(item.dialog_id, ids)
        except Exception as error:
            message = "the outbox could not remove update %s of dialog %r: %s"
            log(WARNING, message, item.update_id, item.dialog_id, type(error).__name__)

    # Outcomes.

    def settle(self, record: Record, done: Settled) -> bool:
        """Record the outcome of a head. Return False if there is nothing to record."""
        if record.step is SETTLING:
            # An outcome does not change: what would end the update comes too late.
            return True
        item = record.item
        queue = item.queue
        assert queue is not None
        error = done.error
        if (
            isinstance(error, CognigyError)
            and not isinstance(error, UpdateError | ClientClosedError)
            and record.may_be_applied
        ):
            failure = UpdateError("The client could not go on")
            failure.__cause__ = error
            done = Settled(error=self._protocol.final(item, failure))
        sent = item.attempts > record.attempts or record.resolution is not None
        if not (sent and (done.result is not None or isinstance(done.error, UpdateError))):
            record.withdraw()
            return False
        events = []
        for each in (item,) if item.group is None else item.group.members:
            own = done if item.group is None else own_outcome(item, each, done)
            failed = own.error if isinstance(own.error, CognigyError) else None
            events.append(
                UpdateEvent(
                    each.dialog_id, each.update_id, each.update, own.result, failed, each.metadata
                )
            )
        record.step, record.done = SETTLING, done
        self.settling += 1
        self._scheduler.await_record(queue, is_outcome=True)
        if self._ended is not None:
            record.recorded(self._ended)
            return True
        try:
            self._outbox.settle(events, record)
        except Exception as problem:
            record.recorded(_outbox_error(problem))
        return True

    # Receipts.

    def go_on(self, record: Record, error: OutboxError | None) -> None:
        """Go on after a record was written, or could not be."""
        step, item = record.step, record.item
        queue = item.queue
        if step is INTENDING:
            assert queue is not None
            self._scheduler.recording -= 1
            if error is None:
                record.step = INTENDED
                self._scheduler.end_record(queue)
                return
            record.step, item.record = OVER, None
            self._completion.complete(queue, Settled(error=_not_intended(item, error)))
        elif step is SETTLING:
            assert queue is not None
            assert record.done is not None
            self._scheduler.recording -= 1
            record.step, item.record = OVER, None
            done = record.done
            if error is not None:
                done = Settled(error=_unrecorded(item, done, error))
            try:
                self._completion.complete(queue, done)
            finally:
                self.settling -= 1
                if self._tracker.waits:
                    self._tracker.mark_done(0)
        self._scheduler.wake()

    async def wait(self) -> None:
        """Wait until all outcomes so far are recorded."""
        while self.settling:
            await self._tracker.wait(0, self.settling)

    def end(self, error: OutboxError) -> None:
        """Let all records that are not yet written fail, and all later ones."""
        self._ended = self._ended or error
        for queue in self._scheduler.queues:
            if queue.state is RECORDING and queue.first.record is not None:
                queue.first.record.recorded(self._ended)


def _outbox_error(error: Exception) -> OutboxError:
    if isinstance(error, OutboxError):
        return error
    failure = OutboxError(f"the outbox raised {type(error).__name__}")
    failure.__cause__ = error
    return failure


def _not_intended(item: WorkItem, error: OutboxError) -> OutboxError:
    failure = OutboxError(
        f"the update of dialog {item.dialog_id!r} was not sent, because the outbox could not "
        f"record it: {error}",
        error.path,
    )
    failure.__cause__ = error
    return failure


def _unrecorded(item: WorkItem, done: Settled, error: OutboxError) -> AmbiguousUpdateError:
    """Return the error of an update that was sent, and whose outcome was not recorded."""
    failure = done.error if isinstance(done.error, UpdateError) else None
    answer = "was applied" if failure is None else f"failed with {type(failure).__name__}"
    ambiguous = AmbiguousUpdateError(
        f"The update {answer}, but the outbox could not record its outcome",
        status=done.result.status if done.result is not None else None,
        dialog_id=item.dialog_id,
        update_id=item.update_id,
        attempts=item.attempts,
    )
    if failure is not None:
        ambiguous.status, ambiguous.trace_id = failure.status, failure.trace_id
        ambiguous.detail, ambiguous.applied_parts = failure.detail, failure.applied_parts
    ambiguous.remedy = UNRECORDED_REMEDY
    ambiguous.__cause__ = error
    return ambiguous
