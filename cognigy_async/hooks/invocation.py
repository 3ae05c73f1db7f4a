"""Calls of other people's functions: each has a timeout, plain functions run in threads.

Code that a callback calls must not wait for what waits for the callback, so it is known here
whether it does.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread

from ..errors import CallbackError

if TYPE_CHECKING:
    from .registry import CallbackRegistry


class _Call:
    """A call of a callback that is under way, or was."""

    __slots__ = ("active", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.active = True


current_call: ContextVar[_Call | None] = ContextVar("cognigy_async.call", default=None)
"""Set where a callback runs: what it calls must not wait for the queue that it holds up. Tasks that
the callback started inherit it, and the mark says whether the call is still under way."""


def inside_callback(owner: object) -> bool:
    """Whether this is called, directly or not, by a callback of `owner` that is under way."""
    call = current_call.get()
    return call is not None and call.active and call.owner is owner


class Invoker:
    """Calls one callback, and what it has for its dead letters.

    Args:
        owner: who the calls are marked with, and whose metrics they are counted in.
        timeout: seconds for one call.
        most_hanging: threads that may run on past their timeout; then the callback is not called.
    """

    def __init__(
        self, name: str, owner: CallbackRegistry, timeout: float, *, most_hanging: int
    ) -> None:
        self._name = name
        self._owner = owner
        self._timeout = timeout
        self._most_hanging = most_hanging
        self._hanging: set[object] = set()
        # The number of calls is bounded already, and a thread that hangs must not hold a place.
        self._threads = anyio.CapacityLimiter(math.inf)

    async def call(
        self, function: Callable[[Any], object], argument: object, *, unlimited: bool = False
    ) -> None:
        """Call a function, async or plain; `unlimited` whatever else hangs.

        Raises:
            Exception: what it raises, or a `TimeoutError`.
        """
        call = _Call(self._owner)
        mark = current_call.set(call)
        try:
            with anyio.fail_after(self._timeout):
                result: object
                if _is_async(function):
                    result = function(argument)
                else:
                    if len(self._hanging) >= self._most_hanging and not unlimited:
                        hanging = f"{len(self._hanging)} calls of {self._name}"
                        raise CallbackError(f"{hanging} hang in their threads")
                    result = await self._in_thread(function, argument)
                if inspect.isawaitable(result):
                    await cast("Awaitable[object]", result)
        finally:
            call.active = False
            current_call.reset(mark)

    async def _in_thread(self, function: Callable[[Any], object], argument: object) -> object:
        call = object()
        begun: list[object] = []
        ended: list[object] = []

        def run() -> object:
            begun.append(call)
            try:
                return function(argument)
            finally:
                ended.append(call)
                self._hanging.discard(call)

        try:
            return await anyio.to_thread.run_sync(
                run, abandon_on_cancel=True, limiter=self._threads
            )
        except anyio.get_cancelled_exc_class():
            if begun and not ended:
                self._owner.metrics.threads_abandoned += 1
                self._hanging.add(call)
                # It may have ended in the meantime, and found nothing to take out.
                if ended:
                    self._hanging.discard(call)
            raise


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (an object may have an async __call__)
    )
