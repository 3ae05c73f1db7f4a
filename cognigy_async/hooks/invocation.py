"""Call user functions: each call has a timeout, and plain functions run in threads."""

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
    from ..metrics import Metrics


class Call:
    """One call of a user function; `active` is True until the function has returned."""

    __slots__ = ("active", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.active = True


current_call: ContextVar[Call | None] = ContextVar("cognigy_async.call", default=None)
"""The call that runs the current code. Tasks that it starts inherit this and may outlive it."""


class Invoker:
    """Calls one callback and its dead-letter handler.

    Args:
        name: Name of the callback in messages.
        owner: Identifies the client in `current_call`.
        timeout: Seconds for one call.
        max_hanging: Maximum number of threads that still run after their timeout; then a plain
            function is not called.
        metrics: Counts abandoned threads.
    """

    def __init__(
        self, name: str, owner: object, timeout: float, max_hanging: int, metrics: Metrics
    ) -> None:
        self._name = name
        self._owner = owner
        self._timeout = timeout
        self._max_hanging = max_hanging
        self._metrics = metrics
        self._hanging: set[object] = set()
        # Set no limit: the queue limits the calls, and a hanging thread must not use a place.
        self._threads = anyio.CapacityLimiter(math.inf)

    async def call(
        self, function: Callable[[Any], object], argument: object, *, unlimited: bool = False
    ) -> None:
        """Call a function, async or plain; `unlimited` ignores `max_hanging`.

        Raises:
            TimeoutError: The call took too long.
            CallbackError: Too many earlier calls hang in their threads.
            Exception: Raised by the function.
        """
        call = Call(self._owner)
        token = current_call.set(call)
        try:
            with anyio.fail_after(self._timeout):
                result: object
                if _is_async(function):
                    result = function(argument)
                else:
                    if len(self._hanging) >= self._max_hanging and not unlimited:
                        raise CallbackError(
                            f"{len(self._hanging)} calls of {self._name} hang in their threads, so "
                            "no more are made; give blocking calls in it a timeout"
                        )
                    result = await self._call_in_thread(function, argument)
                if inspect.isawaitable(result):
                    await cast("Awaitable[object]", result)
        finally:
            call.active = False
            current_call.reset(token)

    async def _call_in_thread(self, function: Callable[[Any], object], argument: object) -> object:
        call = object()
        started: list[object] = []
        ended: list[object] = []

        def run() -> object:
            started.append(call)
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
            if started and not ended:
                self._metrics.threads_abandoned += 1
                self._hanging.add(call)
                # The thread may have ended between the check and the line above.
                if ended:
                    self._hanging.discard(call)
            raise


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (an object may have an async __call__)
    )
