"""An outbox in memory, for tests: its records come when the test wants, and may fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio

from cognigy_async import OutboxError, TargetStatus, UpdateEvent
from cognigy_async.spi import Intent, OutboxClient, Receipt


class MemoryOutbox:
    """Records what it gets, `delay` seconds later.

    Args:
        delay: seconds until a record is written; None writes it at once, `math.inf` never.
        left: intents of a dead process, which the client gets when it opens.

    Attributes:
        intents: those without an outcome, by update id.
        events: the recorded outcomes, in order.
        log: what was asked and recorded, in order: ("intend", ids), ("intended", ids), ...
        fails: returns the error of a record, by its verb and its ids.
    """

    def __init__(
        self,
        *,
        delay: float | None = None,
        left: Sequence[Intent] = (),
        watch: Callable[[str, tuple[str, ...]], None] = lambda verb, ids: None,
    ) -> None:
        self.delay = delay
        self._left = left
        self._watch = watch
        self.client: OutboxClient | None = None
        self.intents = {intent.update_id: intent for intent in left}
        self.events: list[UpdateEvent] = []
        self.log: list[tuple[str, tuple[str, ...]]] = []
        self.fails: Callable[[str, tuple[str, ...]], OutboxError | None] = lambda verb, ids: None
        self.open_error: OutboxError | None = None
        self.run_error: Exception | None = None
        self.stop = anyio.Event()
        self.closed: list[float] = []
        self.running = False
        self._work: list[tuple[float, str, tuple[str, ...], Callable[[], None], Receipt | None]]
        self._work = []
        self._more = anyio.Event()

    def status(self) -> tuple[TargetStatus, ...]:
        """Return nothing: it has no targets."""
        return ()

    def hang_after(self, last: str) -> None:
        """Write no record any more after one with this verb."""

        def note(verb: str, _: tuple[str, ...]) -> None:
            if verb == last:
                self.delay = math.inf

        self._watch = note

    async def open(self, client: OutboxClient) -> None:
        if self.open_error is not None:
            raise self.open_error
        self.client = client
        if self._left:
            client.resolve(self._left)

    async def run(self) -> None:
        self.running = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                await self.stop.wait()
                if self.run_error is not None:
                    raise self.run_error
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self.running = False

    async def _write(self) -> None:
        while True:
            if not self._work:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            await anyio.sleep(max(0.0, self._work[0][0] - anyio.current_time()))
            self._next()

    def _next(self) -> None:
        _, verb, ids, write, receipt = self._work.pop(0)
        error = self.fails(verb, ids)
        if error is None:
            write()
            self._note({"intend": "intended", "settle": "settled"}.get(verb, "withdrawn"), ids)
        if receipt is not None:
            receipt.recorded(error)

    def _note(self, verb: str, ids: tuple[str, ...]) -> None:
        self.log.append((verb, ids))
        self._watch(verb, ids)

    def _queue(
        self, verb: str, ids: tuple[str, ...], write: Callable[[], None], receipt: Receipt | None
    ) -> None:
        self._note(verb, ids)
        if self.delay == math.inf and receipt is not None:
            return
        due = anyio.current_time() + (self.delay or 0.0)
        self._work.append((due, verb, ids, write, receipt))
        if self.delay is None or self.delay == math.inf:
            while self._work:
                self._next()
        else:
            self._more.set()

    def intend(self, intents: Sequence[Intent], receipt: Receipt) -> None:
        def write() -> None:
            for intent in intents:
                assert intent.update_id not in self.intents
                self.intents[intent.update_id] = intent

        self._queue("intend", tuple(intent.update_id for intent in intents), write, receipt)

    def settle(self, events: Sequence[UpdateEvent], receipt: Receipt) -> None:
        def write() -> None:
            for event in events:
                del self.intents[event.update_id]
                self.events.append(event)

        self._queue("settle", tuple(event.update_id for event in events), write, receipt)

    def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
        def write() -> None:
            for update_id in update_ids:
                # An intent that could not be recorded is not there.
                self.intents.pop(update_id, None)

        self._queue("withdraw", tuple(update_ids), write, None)

    async def close(self, timeout: float) -> None:
        self.closed.append(timeout)
        while self._work and self._work[0][0] != math.inf:
            self._next()
