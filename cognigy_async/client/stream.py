"""`update_many`: many updates in, one outcome for each out, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from .._utils.concurrency import is_failure
from ..engine.work_item import SendOptions, WorkItem
from ..errors import ClientClosedError, CognigyError
from ..models.results import UpdateOutcome
from ..models.update import Row
from .admission import Admission, kind_of
from .config import ClientConfig
from .lifecycle import Lifecycle

CHUNK = 64
"""Inputs taken from an iterable before others get their turn."""

ENDING_TIME = 5.0
"""Seconds that an asynchronous generator has to end when its stream is left."""


class UpdateStream:
    """The outcomes of many updates, one for each input, in the order in which they settle.

    Iterate over it, at best inside ``async with``: leaving that withdraws what was not sent.
    Without it, what was accepted is carried out although nobody looks, and an asynchronous input is
    taken on until as many are held as may be, and closed with the client. An input that is not
    valid becomes an outcome with an error. What the input itself raises is raised here, after the
    outcomes of what it gave before.

    It takes input as the workers need it, or where updates are coalesced as much as there is, and
    holds at most `limit` inputs, outcomes not yet read included.
    """

    def __init__(
        self,
        config: ClientConfig,
        lifecycle: Lifecycle,
        updates: Iterable[Row] | AsyncIterable[Row],
        *,
        options: SendOptions,
    ) -> None:
        self._config = config
        self._lifecycle = lifecycle
        self._engine = lifecycle.opened
        self._options = options
        self._limit = max(1, config.max_pending // 2)
        self._context = copy_context()
        self._rows: Iterator[Row] | None = None
        self._arriving: AsyncIterator[Row] | None = None
        if isinstance(updates, AsyncIterable):
            self._arriving = aiter(updates)
        else:
            self._rows = _iterator(updates)
        self._outcomes: deque[UpdateOutcome] = deque()
        self._index = 0
        self._held = 0
        self._exhausted = False
        self._failure: BaseException | None = None
        self._complaint: Exception | None = None
        self._moved: anyio.Event | None = None
        self._room_for_one: anyio.Event | None = None
        self._feeder: anyio.CancelScope | None = None
        self._fed: anyio.Event | None = None

    def __repr__(self) -> str:
        return (
            f"<UpdateStream {self._index} taken, {self._held} held, "
            f"{len(self._outcomes)} to be read>"
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> UpdateOutcome:
        while True:
            if self._rows is not None and self._wants_input():
                await self._pull()
            elif self._arriving is not None and self._fed is None and not self._exhausted:
                self._start_feeding()
            if self._outcomes:
                self._held -= 1
                if self._room_for_one is not None:
                    self._room_for_one.set()
                return self._outcomes.popleft()
            if self._exhausted and not self._held:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            await self._wait_for_outcome()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def stop(self) -> None:
        """Take no more input, withdraw what was not sent, and let what is in flight end.

        The outcomes of all of it are still to be read: what was withdrawn has an
        `UpdateWithdrawnError`, what waited to be repeated has its last failure.
        """
        self._rows = None
        self._exhausted = True
        if self._feeder is not None:
            self._feeder.cancel()
        self._withdraw()
        self._wake_reader()

    async def aclose(self) -> None:
        """Take no more input and withdraw what was not sent. Outcomes not read are dropped.

        Raises:
            Exception: what the input raises when it is closed, after all this is done.
        """
        self._exhausted = True
        rows, self._rows = self._rows, None
        if self._feeder is not None and self._fed is not None:
            self._feeder.cancel()
            # Its source may take its time to end.
            self._withdraw()
            with anyio.CancelScope(shield=True):
                await self._fed.wait()
        self._withdraw()
        self._outcomes.clear()
        self._held = 0
        self._failure = None
        if isinstance(rows, Generator):
            rows.close()
        if self._complaint is not None:
            complaint, self._complaint = self._complaint, None
            raise complaint

    def _withdraw(self) -> None:
        if self._held:
            engine = self._engine()
            mine = [e for queue in engine.queues for e in queue.work_items if e.sink is self]
            for item in mine:
                engine.cancel(item)

    # Taking input.

    def _wants_input(self) -> bool:
        return not self._held or (self._held < self._limit and self._wants_more())

    def _wants_more(self) -> bool:
        # The further it looks ahead, the more it finds that may share a request.
        options = self._options
        return options.coalesce or self._engine().scheduler.wants_input(live=options.live)

    async def _pull(self) -> None:
        """Take input from an iterable while it finds workers, as much as may be held."""
        rows = self._rows
        assert rows is not None
        try:
            admission = self._lifecycle.check_open()
        except CognigyError as error:
            self._end(error)
            return
        while self._wants_input():
            for _ in range(min(CHUNK, self._limit - self._held)):
                if not admission.try_acquire_bulk_slot():
                    if self._held:
                        return
                    await admission.acquire_bulk_slot()
                try:
                    row = next(rows)
                except BaseException as error:
                    admission.give_back()
                    self._end(None if isinstance(error, StopIteration) else error)
                    return
                self._take(admission, row)
            if self._outcomes:
                return
            await anyio.lowlevel.checkpoint()

    def _end(self, failure: BaseException | None) -> None:
        """There is no more input; `failure` is raised after the outcomes of what there was."""
        self._rows = None
        self._exhausted = True
        self._failure = failure

    def _take(self, admission: Admission, row: Row) -> None:
        """One input: accept it, or make an outcome of what is wrong with it."""
        index = self._index
        self._index += 1
        self._held += 1
        update = None
        try:
            update = self._config.parse(row)
            admission.admit(
                kind_of(update),
                update._dialog_id,
                update,
                self._options,
                self,
                has_slot=True,
                context=self._context,
                index=index,
            )
        except Exception as error:
            if update is None:
                admission.give_back()
            if not isinstance(error, CognigyError):
                told = CognigyError(f"the input could not be read: {type(error).__name__}")
                told.__cause__ = error
                error = told
            self._outcomes.append(UpdateOutcome(index, update, None, None, error))
            self._wake_reader()

    def notify(self, item: WorkItem, /) -> None:
        """The sink of every entry of this stream."""
        if self._room_for_one is not None:
            self._room_for_one.set()
        if self._exhausted and not self._held:
            return
        error = item.error
        assert error is None or isinstance(error, CognigyError)
        self._outcomes.append(
            UpdateOutcome(item.index, item.update, item.update_id, item.result, error)
        )
        if self._moved is not None:
            self._wake_reader()

    def _wake_reader(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()

    def _feed_more(self) -> None:
        if self._room_for_one is not None:
            self._room_for_one.set()

    async def _wait_for_outcome(self) -> None:
        """Wait for an outcome, or until more input is wanted."""
        self._moved = moved = anyio.Event()
        idlers = self._engine().waker.on_idle
        if self._rows is not None and self._held < self._limit:
            idlers.add(self._wake_reader)
        try:
            await moved.wait()
        finally:
            self._moved = None
            idlers.discard(self._wake_reader)

    def _start_feeding(self) -> None:
        self._lifecycle.check_open()
        self._fed = anyio.Event()
        self._feeder = anyio.CancelScope()
        self._context.run(self._engine().spawn, self._feed)

    async def _feed(self) -> None:
        """Take input from an async iterable, as much as may be held."""
        assert self._arriving is not None
        assert self._feeder is not None
        assert self._fed is not None
        try:
            with self._feeder:
                async for row in self._arriving:
                    admission = await self._acquire_slot()
                    if self._feeder.cancel_called:
                        admission.give_back()
                        return
                    self._take(admission, row)
        except BaseException as error:
            if isinstance(error, Exception):
                self._failure = error
            elif not is_failure(error):
                self._failure = ClientClosedError("the client was closed before the input ended")
                raise
            else:
                # Raised as it is, it would look as if the one who reads were cancelled.
                told = CognigyError(f"the input of update_many raised {type(error).__name__}")
                told.__cause__ = error
                self._failure = told
        finally:
            self._exhausted = True
            try:
                await self._close_source()
            finally:
                self._fed.set()
                self._wake_reader()

    async def _close_source(self) -> None:
        if isinstance(self._arriving, AsyncGenerator):
            try:
                with anyio.move_on_after(ENDING_TIME, shield=True):
                    await self._arriving.aclose()
            except Exception as error:
                self._complaint = error

    async def _acquire_slot(self) -> Admission:
        while self._held >= self._limit or (self._held and not self._wants_more()):
            self._room_for_one = anyio.Event()
            idlers = self._engine().waker.on_idle
            idlers.add(self._feed_more)
            try:
                await self._room_for_one.wait()
            finally:
                self._room_for_one = None
                idlers.discard(self._feed_more)
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_bulk_slot():
            await admission.acquire_bulk_slot()
        return admission


def _iterator(updates: Any) -> Iterator[Row]:
    if isinstance(updates, str | bytes | Mapping) or not isinstance(updates, Iterable):
        kind = type(updates).__name__
        raise TypeError(f"update_many takes an iterable of updates, not {kind}")
    return iter(updates)
