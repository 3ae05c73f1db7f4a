"""An async function as a target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from cognigy_async import UpdateEvent

from .target import DeliveryError

TIMEOUT = 30.0
"""Seconds that a call may take."""


class FunctionTarget:
    """Calls a function with one event at a time, side by side for different dialogs.

    An event is delivered when the function returns. If it raises, the event is delivered again
    later, unless it raises an error of `cognigy_async.crm` that says otherwise.
    """

    batch_size = 1
    linger = 0.0
    concurrency = 16

    def __init__(self, function: Callable[[UpdateEvent], Awaitable[object]], name: str) -> None:
        self.name = name
        self._function = function

    async def open(self) -> None:
        """Do nothing."""

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        """Call the function with the event."""
        (event,) = events
        with anyio.move_on_after(TIMEOUT) as scope:
            await self._function(event)
            return [None]
        assert scope.cancelled_caught
        raise DeliveryError(
            f"{self.name} did not return within {TIMEOUT:g} s (dialog {event.dialog_id!r})"
        )

    async def aclose(self) -> None:
        """Do nothing."""
