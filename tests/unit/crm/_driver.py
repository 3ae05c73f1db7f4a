"""A client that uses an outbox directly, and targets that fail on demand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from cognigy_async import OutboxError, StateUpdate, UpdateEvent, UpdateResult
from cognigy_async.crm import DeliveryError, Outbox
from cognigy_async.crm.store import Store
from cognigy_async.metrics import Metrics
from cognigy_async.spi import Intent

LONG = 3600.0


class Written:
    """A receipt that can be awaited."""

    def __init__(self) -> None:
        self.error: OutboxError | None = None
        self.done = anyio.Event()

    def recorded(self, error: OutboxError | None) -> None:
        assert not self.done.is_set()
        self.error = error
        self.done.set()

    async def wait(self) -> None:
        await self.done.wait()
        if self.error is not None:
            raise self.error


def intent_of(update: StateUpdate, update_id: str, deadline: float | None = None) -> Intent:
    facts = (update.metadata, f"key-{update_id}", '"1"', True, deadline, time.time())
    return Intent(update.dialog_id, update_id, update, *facts)


def event_of(
    update: StateUpdate, update_id: str, error: Any = None, metadata: Any = None
) -> UpdateEvent:
    facts = (200, '"2"', 1, 0.5, 0.25, b'{"version": 2}')
    result = None if error else UpdateResult(update.dialog_id, update_id, *facts)
    texts = update.metadata if metadata is None else metadata
    return UpdateEvent(update.dialog_id, update_id, update, result, error, texts)


class Client:
    """The side of a client that an outbox sees."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.metrics = Metrics()
        self.resolved: list[Intent] = []

    @property
    def store(self) -> Store:
        """The open file."""
        assert self.outbox._session is not None
        return self.outbox._session.recorder.store

    def resolve(self, intents: Sequence[Intent]) -> None:
        self.resolved += intents

    async def intend(self, update: StateUpdate, update_id: str) -> None:
        written = Written()
        self.outbox.intend([intent_of(update, update_id)], written)
        await written.wait()

    async def settle(self, *events: UpdateEvent) -> None:
        written = Written()
        self.outbox.settle(events, written)
        await written.wait()

    async def apply(self, dialog_id: str, update_id: str, **fields: Any) -> None:
        update = StateUpdate(dialog_id, **(fields or {"session": {"id": update_id}}))
        await self.intend(update, update_id)
        await self.settle(event_of(update, update_id))

    async def apply_many(self, ids: Sequence[tuple[str, str]]) -> None:
        """Apply updates, given by dialog and update id, of which the outcomes share a commit."""
        updates = [(StateUpdate(dialog, session={"id": key}), key) for dialog, key in ids]
        written = Written()
        self.outbox.intend([intent_of(*each) for each in updates], written)
        await written.wait()
        await self.settle(*(event_of(*each) for each in updates))


async def let_pass(seconds: float) -> None:
    """Wait in steps: time jumps to the next timer whenever a thread is at work."""
    for _ in range(round(seconds / 3) + 1):
        await anyio.sleep(3)


async def eventually(condition: Callable[[], bool]) -> None:
    """Let time pass until a condition holds that a thread brings about."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await anyio.sleep(1)


@asynccontextmanager
async def opened(outbox: Outbox, timeout: float = 1.0) -> AsyncIterator[Client]:
    """Open an outbox for a client, and close it as a client does."""
    client = Client(outbox)
    await outbox.open(client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        try:
            yield client
        finally:
            await outbox.close(timeout)


@dataclass
class Collector:
    """A target that keeps what it gets.

    Attributes:
        answer: returns the answer for an event, called with it and its number of deliveries.
        raises: called at the begin of each call.
    """

    name: str = "collector"
    batch_size: int = 1
    linger: float = 0.0
    concurrency: int = 16
    answer: Callable[[UpdateEvent, int], DeliveryError | None] = lambda event, count: None
    raises: Callable[[Sequence[UpdateEvent]], None] = lambda events: None
    delay: float = 0.0
    events: list[UpdateEvent] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    opened: int = 0
    closed: int = 0
    busy: set[str] = field(default_factory=set)
    most: int = 0
    in_flight: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def open(self) -> None:
        self.opened += 1

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        dialogs = {event.dialog_id for event in events}
        assert 0 < len(events) <= self.batch_size
        assert not dialogs & self.busy, "a dialog is in two calls"
        self.busy |= dialogs
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            self.calls.append([event.update_id for event in events])
            self.times.append(anyio.current_time())
            self.tell()
            if self.delay:
                await anyio.sleep(self.delay)
            self.raises(events)
            answers: list[DeliveryError | None] = []
            for event in events:
                count = self.counts[event.update_id] = self.counts.get(event.update_id, 0) + 1
                error = self.answer(event, count)
                answers.append(error)
                if error is None:
                    self.events.append(event)
            return answers
        finally:
            self.busy -= dialogs
            self.in_flight -= 1
            self.tell()

    def tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def aclose(self) -> None:
        self.closed += 1

    def ids(self, dialog_id: str | None = None) -> list[str]:
        """Return the ids of the delivered events, without repeats that follow."""
        found = [each for each in self.events if dialog_id in (None, each.dialog_id)]
        return list(dict.fromkeys(each.update_id for each in found))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds at the begin or the end of a call."""
        while not condition():
            await self.changed.wait()


def collecting(outbox: Outbox, target: Collector, **options: Any) -> Collector:
    outbox.deliver_to(target, **options)
    return target
