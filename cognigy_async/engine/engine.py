"""The engine of one client: its parts, put together, and how entries get in and out of them.

Everything here is synchronous but for `run` and `flush`: what is decided about an entry is decided
in one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from ..errors import ClientClosedError
from ..ratelimit.limiter import CompositeLimiter, QuotaState
from .backoff import Backoff
from .completion import Completion
from .dialog_queue import QueueState
from .dispatcher import Dispatcher
from .protocol import Settled, withdrawn
from .scheduler import Scheduler
from .work_item import Kind, WorkItem

if TYPE_CHECKING:
    from .context import Context


class Engine:
    """What stands behind one client."""

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
        self._dispatcher = Dispatcher(
            context, self.scheduler, self.completion, Backoff(context, self.scheduler)
        )
        self._keepers: TaskGroup | None = None

    # Accepting and withdrawing: called by the client, synchronous.

    def withdraw(self, item: WorkItem) -> bool:
        """Take an entry back if it was not sent; whether that was so."""
        if item.settled or item.sent_at is not None:
            return False
        self.completion.take_out(item, withdrawn(item))
        self.waker.wake()
        return True

    def cancel(self, item: WorkItem) -> None:
        """The caller of an entry is gone: it is withdrawn, or not sent again."""
        if self.withdraw(item) or item.settled:
            return
        item.abandoned = True
        queue = item.queue
        assert queue is not None
        head = queue.first
        if head is not item:
            # It is in a group, whose body stays as it is: it goes on while anybody waits for it.
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
        """Wait until what was accepted before has settled; nothing of it lingers any more."""
        self.scheduler.end_linger()
        await self.completion.flush()

    def save_quota(self) -> QuotaState:
        """What the quota has to know after a restart."""
        quota = self._quota if self._quota is not None else CompositeLimiter(())
        return quota.save(self.clock(), time.time())

    def restore_quota(self, state: QuotaState) -> None:
        """Take that over."""
        if self._quota is not None:
            self._quota.restore(state, self.clock(), time.time())

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something in the background until the engine ends."""
        if self._keepers is None:
            raise ClientClosedError("the client is not open: use it inside `async with`")
        self._keepers.start_soon(function)

    async def run(self, started: anyio.Event, stop: anyio.Event, cut: anyio.CancelScope) -> None:
        """Work until `stop` is set, then end the requests in flight; `cut` tears them down.

        However this ends, call `close` after it.
        """
        async with anyio.create_task_group() as keepers:
            self._keepers = keepers
            keepers.start_soon(self._dispatcher.keep_time)
            for task in self._quota.background_tasks() if self._quota is not None else ():
                keepers.start_soon(task, self.clock, self.waker.wake)
            with cut:
                await self._dispatcher.run(started, stop)
            keepers.cancel_scope.cancel()

    def close(self) -> None:
        """Give everything that is left its outcome; nothing may be accepted any more."""
        self.completion.close()
