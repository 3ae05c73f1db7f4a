"""The engine of one client: it connects all parts, and can withdraw or cancel items."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from .._utils.concurrency import uninterrupted
from ..errors import CLOSED, ClientClosedError
from .backoff import Backoff
from .completion import Completion
from .dialog_queue import QueueState
from .dispatcher import Dispatcher
from .protocol import Settled, withdrawn
from .recorder import Recorder
from .scheduler import Scheduler
from .work_item import Kind, WorkItem

if TYPE_CHECKING:
    from ..ratelimit.limiter import QuotaState
    from .context import Context


class Engine:
    """Connects the parts of one open client."""

    def __init__(self, context: Context) -> None:
        self.clock = context.clock
        self._quota = context.quota
        if context.quota is not None:
            context.quota.bind_clock(context.clock)
        self.waker = context.waker
        self.pending_limit = context.pending_limit
        self.scheduler = Scheduler(context)
        self.queues = self.scheduler.queues
        self.completion = Completion(context, self.scheduler)
        self.recorder = (
            None if context.outbox is None else Recorder(context, self.scheduler, self.completion)
        )
        backoff = Backoff(context, self.scheduler)
        self._dispatcher = Dispatcher(
            context, self.scheduler, self.completion, backoff, self.recorder
        )
        self._keepers: TaskGroup | None = None

    def withdraw(self, item: WorkItem) -> bool:
        """Withdraw an item. Return False if it was sent or is complete."""
        if item.completed or item.sent_at is not None:
            return False
        self.completion.complete_unsent(item, withdrawn(item))
        self.waker.wake()
        return True

    def cancel(self, item: WorkItem) -> None:
        """Cancel an item for its caller: withdraw it, or complete its request without a retry."""
        if self.withdraw(item) or item.completed:
            return
        item.abandoned = True
        queue = item.queue
        assert queue is not None
        head = queue.first
        if head is not item:
            # A group cannot lose a member; it is sent as long as any caller waits for it.
            if not all(member.abandoned for member in head.members):
                return
            head.abandoned = True
        if queue.state is QueueState.IN_FLIGHT:
            return
        if head.retry_state is not None:
            self.completion.give_up(queue)
        elif item.kind is Kind.MODIFY or not head.attempts:
            self.completion.complete(queue, Settled(error=withdrawn(item)))
        self.waker.wake()

    async def flush(self) -> None:
        """End the linger of all items accepted so far, and wait until they are complete."""
        self.scheduler.end_linger()
        await self.completion.flush()

    def unsent_dialogs(self) -> list[str]:
        """Return the dialog of each accepted update that was not sent, in no particular order."""
        items = [item for queue in self.queues for item in queue.work_items]
        return [item.dialog_id for item in items if item.sent_at is None]

    def save_quota(self) -> QuotaState:
        """Return the state of the rate limits, to restore it after a restart."""
        if self._quota is None:
            return {"at": time.time(), "starts": []}
        return self._quota.save(self.clock(), time.time())

    def restore_quota(self, state: QuotaState) -> None:
        """Restore the state that `save_quota` returned."""
        if self._quota is not None:
            self._quota.restore(state, self.clock(), time.time())

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function in the background until the engine ends."""
        if self._keepers is None:
            raise ClientClosedError("the client is not open: use it inside `async with`")
        self._keepers.start_soon(function)

    async def run(self, started: anyio.Event, stop: anyio.Event, cut: anyio.CancelScope) -> None:
        """Run until `stop` is set, then wait for the requests in flight.

        Cancelling `cut` aborts these requests. Always call `close` afterwards, even after an error.
        """
        async with anyio.create_task_group() as keepers:
            self._keepers = keepers
            keepers.start_soon(uninterrupted(self._dispatcher.keep_time))
            for limiter in self._quota.shared_files if self._quota is not None else ():
                keepers.start_soon(uninterrupted(limiter.run), self.clock, self.waker)
            with cut:
                await self._dispatcher.run(started, stop)
            keepers.cancel_scope.cancel()

    def close(self, reason: str = CLOSED) -> None:
        """Complete all remaining items; call this only when no more items are accepted.

        With an outbox, the updates that were sent complete later, when their outcome is recorded.

        Args:
            reason: Reason of the close in messages, `CLOSED` or `STOPPED`.
        """
        self.completion.close(reason)
