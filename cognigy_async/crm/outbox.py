"""`Outbox`: a durable queue between a client and a CRM, in a folder of this machine."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import anyio

from cognigy_async import (
    AmbiguousUpdateError,
    ClientUsageError,
    ConfigurationError,
    OutboxError,
    TargetStatus,
    UpdateEvent,
)
from cognigy_async._utils.arguments import validate_count, validate_seconds, validate_type
from cognigy_async._utils.group_commit import call_in_thread
from cognigy_async._utils.logging import log
from cognigy_async.spi import (
    Intent,
    OutboxClient,
    Receipt,
    dump_outcome,
    dump_update,
    load_update,
)

from . import recorder as recording
from .adoption import adopt
from .delivery import Delivery
from .folder import prepare_folder
from .function_target import FunctionTarget
from .recorder import Recorder
from .store import (
    AMBIGUOUS,
    APPLIED,
    FAILED,
    Batch,
    Durability,
    IntentRow,
    Key,
    OutcomeRow,
    Store,
    TargetCounts,
)
from .target import Target

LOOK_EVERY = 5.0
"""Seconds between looks for files of dead processes, and for changes by commands."""
WEEK = 7 * 24 * 3600.0
SMALLEST = 100_000
"""Least `max_bytes`. An empty file has about 30,000."""
ROW_BYTES = 200
"""Bytes that an intent takes beside its content, about."""


@dataclass(slots=True)
class _Entered:
    """A target as it was given."""

    target: Target
    name: str
    failures: bool


@dataclass(slots=True)
class _Session:
    """The outbox while a client uses it.

    Attributes:
        waiting: intents for which there is no room, and who waits for them, by the first of their
            keys.
        gathered: bytes of the intents since the last commit.
    """

    client: OutboxClient
    recorder: Recorder
    deliveries: list[Delivery]
    masks: tuple[int, int]
    waiting: OrderedDict[Key, tuple[list[IntentRow], Receipt]] = field(default_factory=OrderedDict)
    gathered: int = 0
    is_running: bool = False
    closing: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    known_errors: set[str] = field(default_factory=set)


class Outbox:
    """A durable queue of the events of applied updates, for one client at a time.

    Before an update is sent its intent is recorded, and before `update` returns its outcome. So the
    event of each update that was reported as applied is delivered at least once, also after the
    process was killed. Processes share a folder: each has a file of its own, and takes over those
    of dead processes. The folder holds the values of undelivered updates. Its mode is 0700.

    Args:
        folder: created if missing. It must be on a local disk and belong to this user alone.
        durability: ``"process"``: records survive the end of the process, however it comes.
            ``"power"``: they survive a loss of power too, which takes a write to the disk for each
            group of updates.
        max_bytes: size of the records of this process from which on no update is sent.
        when_full: then updates wait (``"wait"``) or fail with `OutboxError` (``"fail"``).
        max_age: seconds after which an event whose delivery fails becomes a dead letter.

    Raises:
        ConfigurationError: an argument is invalid.

    Example::

        outbox = Outbox("crm-outbox")
        outbox.deliver_to(save_to_crm, name="crm")
        async with AsyncStateClient(..., outbox=outbox) as client:
            await client.update("d-1", session={"cart_total": 149.99})
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        durability: Durability = "process",
        max_bytes: int = 1_000_000_000,
        when_full: Literal["wait", "fail"] = "wait",
        max_age: float = WEEK,
    ) -> None:
        if durability not in get_args(Durability):
            raise ConfigurationError(f'durability={durability!r}: must be "process" or "power"')
        if when_full not in ("wait", "fail"):
            raise ConfigurationError(f'when_full={when_full!r}: must be "wait" or "fail"')
        if validate_count("max_bytes", max_bytes) < SMALLEST:
            raise ConfigurationError(f"max_bytes={max_bytes}: must be at least {SMALLEST}")
        self.folder = Path(folder).absolute()
        self._durability: Durability = durability
        self._max_bytes = max_bytes
        self._waits = when_full == "wait"
        self._max_age = validate_seconds("max_age", max_age, least=0)
        self._targets: list[_Entered] = []
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"<Outbox {str(self.folder)!r} to {', '.join(each.name for each in self._targets)}>"

    def deliver_to(
        self,
        target: Target | Callable[[UpdateEvent], Awaitable[object]],
        *,
        name: str | None = None,
        failures: bool = False,
    ) -> None:
        """Deliver events to a target, or call an async function with each of them.

        Args:
            name: name by which deliveries are kept, the same in all processes and at each start.
                By default that of the target or of the function.
            failures: deliver failed and ambiguous updates as well, with their `error`.

        Raises:
            ConfigurationError: the object cannot be a target, or another one has this name.
            ClientUsageError: a client uses the outbox already.
        """
        if self._session is not None:
            raise ClientUsageError("call deliver_to before the client is opened")
        given: Any = target
        if not callable(getattr(given, "deliver", None)):
            if not _is_async(given):
                kind = type(given).__name__
                raise ConfigurationError(f"a target is an async function or a Target, not {kind}")
            given = FunctionTarget(given, getattr(given, "__name__", ""))
        entered = _Entered(given, given.name if name is None else name, failures)
        validate_type("name", entered.name, str)
        if not entered.name.isprintable() or not entered.name:
            raise ConfigurationError(f"name={entered.name!r}: give the target a printable name")
        if any(each.name == entered.name for each in self._targets):
            raise ConfigurationError(
                f"name={entered.name!r}: another target has this name; give each its own"
            )
        self._targets.append(entered)

    def status(self) -> tuple[TargetStatus, ...]:
        """Return the state of each target, from counters; empty while no client is open."""
        if self._session is None:
            return ()
        return tuple(delivery.status for delivery in self._session.deliveries)

    # What the client calls.

    async def open(self, client: OutboxClient) -> None:
        """Open a file for this process, and take over those of dead ones.

        Raises:
            OutboxError: the folder or a file in it cannot be used.
            ConfigurationError: no target was given.
            ClientUsageError: another client uses the outbox.
        """
        if self._session is not None:
            raise ClientUsageError("another client uses this outbox; give each client its own")
        if not self._targets:
            raise ConfigurationError("the outbox has no target: call deliver_to before")
        names = [each.name for each in self._targets]

        def open_store() -> tuple[Store, list[IntentRow], list[TargetCounts]]:
            prepare_folder(self.folder)
            store = Store(self.folder, self._durability, names)
            try:
                intents, errors = adopt(store, self.folder)
                if errors:
                    raise errors[0]
                counts = [store.counts(store.masks[name]) for name in names]
            except BaseException:
                store.close()
                raise
            return store, intents, counts

        store, intents, counts = await call_in_thread(anyio.CapacityLimiter(1), open_store)
        recorder = Recorder(store, self._written)
        masks = [store.masks[name] for name in names]
        deliveries = [
            Delivery(each.target, each.name, recorder, mask, self._max_age)
            for each, mask in zip(self._targets, masks, strict=True)
        ]
        failures = sum(
            mask for each, mask in zip(self._targets, masks, strict=True) if each.failures
        )
        session = _Session(client, recorder, deliveries, (sum(masks), failures))
        self._session = session
        for delivery, each in zip(deliveries, counts, strict=True):
            delivery.seed(each)
        self._resolve(session, intents)

    async def run(self) -> None:
        """Write records and deliver events until `close`, or until cancelled."""
        session = self._opened()
        session.is_running = True
        try:
            async with anyio.create_task_group() as writing:
                writing.start_soon(session.recorder.commits.run)
                with session.scope:
                    async with anyio.create_task_group() as looking:
                        looking.start_soon(self._look, session)
                        async with anyio.create_task_group() as deliveries:
                            for delivery in session.deliveries:
                                deliveries.start_soon(delivery.run)
                        await session.closing.wait()
                        looking.cancel_scope.cancel()
                session.recorder.commits.close()
        finally:
            session.ended.set()

    def intend(self, intents: Sequence[Intent], receipt: Receipt) -> None:
        """Record updates that share one request, before it is sent."""
        session = self._opened()
        rows, size = [], 0
        for dialog_id, update_id, update, metadata, *facts, recorded_at in intents:
            content = dump_update(update, metadata, *facts)
            rows.append(IntentRow(update_id, dialog_id, recorded_at, content))
            size += len(content) + ROW_BYTES
        if session.waiting or not self._has_room(session, size):
            if self._waits:
                session.waiting[rows[0][:2]] = rows, receipt
            else:
                receipt.recorded(self._full())
            return
        self._record(session, rows, size, receipt)

    def settle(self, events: Sequence[UpdateEvent], receipt: Receipt) -> None:
        """Record the outcomes of updates, and queue their events for the targets."""
        session = self._opened()
        batch, known = session.recorder.batch, session.recorder.store.open
        now = recording.clock()
        applied, failed = session.masks
        for event in events:
            key = (event.update_id, event.dialog_id)
            if key not in known and event.update is not None:
                facts = (event.update_id, None, False, None)
                content = dump_update(event.update, event.metadata, *facts)
                batch.intents[key] = IntentRow(*key, now, content)
            outcome, answer = dump_outcome(event)
            if event.error is None:
                state, pending = APPLIED, applied
            else:
                is_ambiguous = isinstance(event.error, AmbiguousUpdateError)
                state, pending = AMBIGUOUS if is_ambiguous else FAILED, failed
            batch.outcomes.append(OutcomeRow(state, now, outcome, answer, pending, key))
        session.recorder.commits.when_written(receipt.recorded)

    def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
        """Remove intents of updates that will not be sent. Nobody waits for that."""
        session = self._opened()
        keys = [(each, dialog_id) for each in update_ids]
        if session.waiting.pop(keys[0], None) is not None:
            return
        batch = session.recorder.batch
        batch.withdrawn += [key for key in keys if batch.intents.pop(key, None) is None]
        session.recorder.commits.noted.set()

    async def close(self, timeout: float) -> None:
        """Write what is left, let deliveries under way end within `timeout` seconds, and close."""
        session = self._opened()
        with anyio.CancelScope(shield=True):
            session.closing.set()
            for delivery in session.deliveries:
                delivery.close()
            if session.is_running:
                with anyio.move_on_after(timeout):
                    await session.ended.wait()
                session.scope.cancel()
                await session.ended.wait()
            await session.recorder.commits.commit()
            for _, receipt in session.waiting.values():
                receipt.recorded(OutboxError("the outbox was closed", str(self.folder)))
            self._session = None
            await session.recorder.call(Store.close)

    # Inside.

    def _opened(self) -> _Session:
        if self._session is None:
            raise ClientUsageError("the outbox is not open")
        return self._session

    def _has_room(self, session: _Session, size: int) -> bool:
        store = session.recorder.store
        total = store.used + session.gathered + size
        # Whatever its size, one request fits in an empty outbox.
        return total <= self._max_bytes or not (session.gathered or store.used > SMALLEST // 2)

    def _full(self) -> OutboxError:
        return OutboxError(
            f"the outbox {self.folder} is full: its records reach max_bytes={self._max_bytes}. "
            "Nothing was sent. Look at the targets (cognigy-async outbox status), or raise the "
            "limit.",
            str(self.folder),
        )

    def _record(
        self, session: _Session, rows: list[IntentRow], size: int, receipt: Receipt
    ) -> None:
        session.gathered += size
        recorded = session.recorder.batch.intents
        for row in rows:
            recorded[row.update_id, row.dialog_id] = row
        session.recorder.commits.when_written(receipt.recorded)

    def _written(self, batch: Batch) -> None:
        """Go on after a commit: deliver new events, and admit intents that waited for room.

        The batch is empty if it could not be written.
        """
        session = self._session
        if session is None:
            return
        if batch.outcomes:
            for delivery in session.deliveries:
                delivery.added(batch.outcomes)
        session.gathered = _size(session.recorder.batch.intents.values())
        while session.waiting:
            key = next(iter(session.waiting))
            rows, receipt = session.waiting[key]
            size = _size(rows)
            if not self._has_room(session, size):
                return
            del session.waiting[key]
            self._record(session, rows, size, receipt)

    def _resolve(self, session: _Session, rows: Sequence[IntentRow]) -> None:
        intents = []
        for row in rows:
            try:
                update, metadata, facts = load_update(row.dialog_id, row.content)
                key, etag, repeatable, deadline = facts
            except (ValueError, TypeError) as error:
                log(logging.ERROR, "an intent of dialog %r is damaged: %r", row.dialog_id, error)
                continue
            intents.append(
                Intent(
                    row.dialog_id,
                    row.update_id,
                    update,
                    metadata,
                    key,
                    etag,
                    repeatable,
                    deadline,
                    row.recorded_at,
                )
            )
        if intents:
            session.client.resolve(intents)

    async def _look(self, session: _Session) -> None:
        """Look for files of dead processes and for changes by commands, every few seconds."""

        def look(store: Store) -> tuple[list[IntentRow], list[OutboxError], bool]:
            before = store.last_event
            try:
                intents, errors = adopt(store, self.folder)
            except OutboxError as error:
                intents, errors = [], [error]
            changed = store.last_event != before
            try:
                changed |= store.changed_by_others()
                for delivery in session.deliveries:
                    delivery.look(store)
                store.empty_wal()
            except OutboxError as error:
                errors.append(error)
            return intents, errors, changed

        while True:
            await anyio.sleep(LOOK_EVERY)
            intents, errors, changed = await session.recorder.call(look)
            for error in errors:
                # Each of them once.
                if str(error) not in session.known_errors:
                    session.known_errors.add(str(error))
                    log(logging.ERROR, "%s", error)
            session.recorder.retry()
            if changed:
                for delivery in session.deliveries:
                    delivery.reset()
            self._resolve(session, intents)


def _size(rows: Iterable[IntentRow]) -> int:
    return sum([len(row.content) + ROW_BYTES for row in rows])


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (an object may have an async __call__)
    )
