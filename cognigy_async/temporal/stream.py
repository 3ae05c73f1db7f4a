"""`DurableStream`: the outcomes of many updates that go through a Temporal cluster."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from cognigy_async import (
    AmbiguousUpdateError,
    CognigyError,
    DrainReport,
    StateUpdate,
    UpdateOutcome,
    UpdateResult,
    UpdateValidationError,
)

if TYPE_CHECKING:
    from .client import DurableUpdate

Inputs: TypeAlias = (
    Iterable[StateUpdate | Mapping[str, Any]] | AsyncIterable[StateUpdate | Mapping[str, Any]]
)
INPUTS_PER_YIELD = 64
MAX_FAILURES_KEPT = 100


class DurableStream:
    """The outcomes of `update_many`, one for each input, in the order of completion.

    It works as `UpdateStream` does: leaving ``async with`` withdraws what the cluster has not got.
    """

    def __init__(
        self,
        accept: Callable[[StateUpdate | Mapping[str, Any]], Awaitable[DurableUpdate]],
        updates: Inputs,
        limit: int,
    ) -> None:
        if not isinstance(updates, AsyncIterable):
            # Raise `TypeError` here, as `AsyncStateClient.update_many` does.
            updates = iter(updates)
        self._inputs = updates
        self._accept = accept
        self._outcomes: deque[UpdateOutcome] = deque()
        self._open: dict[DurableUpdate, None] = {}
        self._room = asyncio.Semaphore(limit)
        self._changed = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._taken = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> UpdateOutcome:
        if self._feeder is None:
            self._feeder = asyncio.create_task(self._feed())
        while not self._outcomes:
            if self._feeder.done() and not self._open:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._room.release()
        return self._outcomes.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def drain(self) -> DrainReport:
        """Send all remaining rows, wait for their outcomes, and count them."""
        applied = ambiguous = failed = 0
        failures: list[UpdateOutcome] = []
        async for outcome in self:
            if outcome.error is None:
                applied += 1
                continue
            if isinstance(outcome.error, AmbiguousUpdateError):
                ambiguous += 1
            else:
                failed += 1
            if len(failures) < MAX_FAILURES_KEPT:
                failures.append(outcome)
        return DrainReport(applied, failed, ambiguous, tuple(failures))

    def stop(self) -> None:
        """Take no more input, and withdraw what the cluster has not got."""
        if self._feeder is None:
            self._inputs = iter(())
        else:
            self._feeder.cancel()
        for handle in list(self._open):
            handle.withdraw()

    async def aclose(self) -> None:
        """Stop, and drop the outcomes that were not read."""
        self.stop()
        if self._feeder is not None:
            await asyncio.wait((self._feeder,))
        self._outcomes.clear()
        self._open.clear()
        self._error = None
        self._changed.set()

    async def _feed(self) -> None:
        try:
            if isinstance(self._inputs, AsyncIterable):
                async for given in self._inputs:
                    await self._take(given)
            else:
                for given in self._inputs:
                    await self._take(given)
                    if self._taken % INPUTS_PER_YIELD == 0:
                        await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            self._error = error
        finally:
            if isinstance(self._inputs, AsyncGenerator):
                with suppress(Exception):
                    await self._inputs.aclose()
            self._changed.set()

    async def _take(self, given: StateUpdate | Mapping[str, Any]) -> None:
        await self._room.acquire()
        index = self._taken
        self._taken += 1
        try:
            handle = await self._accept(given)
        except UpdateValidationError as error:
            self._outcomes.append(UpdateOutcome(index, None, None, None, error))
            self._changed.set()
            return
        self._open[handle] = None
        handle._outcome.add_done_callback(partial(self._complete, index, handle))

    def _complete(
        self, index: int, handle: DurableUpdate, outcome: asyncio.Future[UpdateResult]
    ) -> None:
        error = outcome.exception()
        if self._open.pop(handle, handle) is handle:
            return
        assert error is None or isinstance(error, CognigyError)
        result = outcome.result() if error is None else None
        self._outcomes.append(UpdateOutcome(index, handle._update, handle.update_id, result, error))
        self._changed.set()
