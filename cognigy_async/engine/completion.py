"""How updates end: outcomes, paused dialogs, `flush`, and what is left when a client closes.

All of it is synchronous but for the waiting of `flush`. Whoever calls decides; this keeps the
lanes, the room, the metrics and the callbacks in step with the decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from logging import DEBUG, WARNING
from typing import TYPE_CHECKING

from .._utils.concurrency import Countdowns
from .._utils.logging import is_told, log
from ..errors import (
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    DialogPausedError,
    UpdateError,
    UpdateWithdrawnError,
)
from ..models.events import UpdateEvent
from .coalescing import outcomes
from .dialog_queue import Lane, LaneState
from .protocol import Done
from .work_item import READ, Entry

if TYPE_CHECKING:
    from ..models.update import StateUpdate
    from .context import Context
    from .scheduler import Scheduler


class Completion:
    """Gives entries their outcomes."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lanes = scheduler.lanes
        self._course = context.course
        self._pauses_dialogs = context.config.pauses_dialogs
        self._metrics = context.metrics
        self._hooks = context.hooks
        self._room = context.room
        self._clock = context.clock
        self._audit = context.audit
        self._flushes: Countdowns[int] = Countdowns()
        self.unsent: list[StateUpdate] = []

    # Outcomes.

    def last_error(self, entry: Entry) -> UpdateError:
        """What an entry settles with that is not tried again."""
        trouble = entry.trouble
        last = trouble.last if trouble is not None else None
        if last is None:
            last = UpdateError("The update was given up before it was complete")
        return self._course.final(entry, last)

    def give_up(self, lane: Lane) -> None:
        """The head of a lane is not tried again."""
        self.settle(lane, Done(error=self.last_error(lane.first)))

    def expire(self, lane: Lane) -> None:
        """The head of a lane that was sent before is past its deadline."""
        self.settle(lane, Done(error=self._course.expired(lane.first)))

    def settle(self, lane: Lane, done: Done) -> None:
        """The head of a lane has its outcome; the lane goes on, pauses or is forgotten."""
        entry = lane.head
        assert entry is not None
        error = done.error
        pauses = self._pauses_dialogs and entry.kind is not READ
        if pauses and isinstance(error, UpdateError) and not self._scheduler.stopped:
            self._pause(lane, error)
        else:
            self._scheduler.finish(lane)
        if not entry.members:
            self._finish(entry, done)
            return
        failure: Exception | None = None
        for member, own in outcomes(entry, done):
            try:
                self._finish(member, own)
            except Exception as problem:
                # What breaks at one of them must not keep the others from their outcomes.
                failure = failure or problem
        if failure is not None:
            raise failure

    def take_out(self, entry: Entry, error: CognigyError) -> None:
        """An entry that was not sent gets its outcome, and its lane goes on without it."""
        self._scheduler.remove(entry)
        self._finish(entry, Done(error=error))

    def _finish(self, entry: Entry, done: Done) -> None:
        """Tell everybody: the caller first."""
        entry.settled = True
        entry.result, entry.state, entry.error = done.result, done.state, done.error
        metrics = self._metrics
        if entry.observations is not None:
            entry.observations.settled(done.error, entry.attempts)
        if entry.kind is READ:
            metrics.reads += done.state is not None
            entry.sink.notify(entry)
            return
        metrics.pending -= 1
        self._room.give_back()
        result = done.result
        if result is not None:
            metrics.applied += 1
            metrics.latency.record(result.latency)
            metrics.queued.record(result.queued)
        elif done.error is not None:
            self._count_failure(done.error)
            if isinstance(done.error, UpdateError) and entry.sent_at is not None:
                done.error.latency = self._clock() - entry.sent_at
                done.error.queued = entry.sent_at - entry.accepted_at
        if self._flushes.waiting:
            self._flushes.over(entry.serial)
        entry.sink.notify(entry)
        if result is None or is_told(DEBUG):
            _log(entry)
        if self._hooks.any:
            self._publish(entry)
        if self._audit is not None:
            self._audit.settled(entry)

    def _count_failure(self, error: BaseException) -> None:
        if isinstance(error, AmbiguousUpdateError):
            self._metrics.ambiguous += 1
        elif isinstance(error, UpdateWithdrawnError):
            self._metrics.withdrawn += 1
        elif not isinstance(error, ClientClosedError):
            self._metrics.failed += 1

    def _publish(self, entry: Entry) -> None:
        event = None
        error = entry.error if isinstance(entry.error, UpdateError) else None
        if entry.result is not None or error is not None:
            event = UpdateEvent(
                entry.dialog_id,
                entry.update_id,
                entry.update,
                entry.result,
                error,
                dict(entry.metadata),
            )
        # Without one the callback was registered after the update was accepted.
        context = entry.context if entry.context is not None else copy_context()
        self._hooks.publish(
            event,
            context,
            entry.reserved,
            exempt=entry.exempt,
            watch=entry.terms.watch,
            index=entry.index,
        )
        entry.reserved = ()

    # Paused dialogs.

    def _pause(self, lane: Lane, error: UpdateError) -> None:
        self._scheduler.pause(lane, error)
        self._metrics.paused += 1
        told = "dialog %r is paused after a failed update"
        log(WARNING, told, lane.dialog_id, dialog_id=lane.dialog_id)
        for entry in lane.entries:
            if entry.held:
                self._flushes.over(entry.serial)
            else:
                self.take_out(entry, pause_error(lane))

    def paused(self) -> dict[str, DialogPausedError]:
        """The dialogs that wait for `resume`."""
        return {
            lane.dialog_id: pause_error(lane)
            for lane in self._lanes
            if lane.state is LaneState.PAUSED
        }

    def resume(self, dialog_id: str | None) -> None:
        """Let one paused dialog, or all of them, go on."""
        for lane in self._lanes if dialog_id is None else [self._lanes.get(dialog_id)]:
            if lane is not None and lane.state is LaneState.PAUSED:
                self._scheduler.resume(lane)
                self._metrics.paused -= 1

    # Waiting for all, and closing.

    def _open(self) -> Iterator[int]:
        """What has no outcome yet, paused dialogs aside."""
        for lane in self._lanes:
            if lane.state is not LaneState.PAUSED:
                for entry in lane.entries:
                    yield entry.serial

    @property
    def busy(self) -> bool:
        """Whether `flush` would wait."""
        return any(True for _ in self._open())

    async def flush(self) -> None:
        """Wait until what was accepted before has settled, paused dialogs aside."""
        await self._flushes.wait(self._open())

    def close(self) -> None:
        """Nothing is sent any more: everything that is left gets its outcome."""
        self._scheduler.stop()
        self._room.close()
        scheduler = self._scheduler
        left = [entry for lane in (*self._lanes, *scheduler.reads) for entry in lane.entries]
        for entry in sorted(left, key=lambda entry: entry.serial):
            lane = entry.lane
            if lane is None:
                # A member of a group that was given up.
                continue
            head = lane.first
            if entry.sent_at is not None and head.attempts:
                self.give_up(lane)
                continue
            if entry in head.members:
                self.unsent.extend(member.update for member in head.members if member.update)
                told = ClientClosedError("the client was closed before these updates were sent")
                self.settle(lane, Done(error=told))
                continue
            if entry.update is not None:
                self.unsent.append(entry.update)
            message = f"the client was closed before update {entry.update_id!r} was sent"
            self.take_out(entry, ClientClosedError(message))
            # Whoever reads a stream has the outcomes of its rows, which may be thousands.
            if entry.kind is not READ and entry.index < 0:
                log(
                    WARNING,
                    "update %s of dialog %r was not sent: the client was closed",
                    entry.update_id,
                    entry.dialog_id,
                    dialog_id=entry.dialog_id,
                    update_id=entry.update_id,
                )


def _log(entry: Entry) -> None:
    fields = {"dialog_id": entry.dialog_id, "update_id": entry.update_id}
    if entry.result is not None:
        fields |= {"attempts": str(entry.attempts), "status": str(entry.result.status)}
        log(DEBUG, "applied %s", entry.result, **fields)
    elif isinstance(entry.error, UpdateError):
        kind = type(entry.error).__name__
        fields |= {"attempts": str(entry.attempts), "status": str(entry.error.status)}
        fields |= {"error": kind}
        log(WARNING, "update failed: %s: %s", kind, entry.error, **fields)


def pause_error(lane: Lane) -> DialogPausedError:
    """What a caller is told of a paused dialog."""
    error = DialogPausedError(lane.dialog_id, len(lane.entries))
    error.__cause__ = lane.paused_by
    return error
