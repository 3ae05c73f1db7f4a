"""The workers that have nothing to do, and how they are woken."""

from __future__ import annotations

from collections.abc import Callable

import anyio


class Sleepers:
    """Wakes one worker at a time; each wakes the next when it finds more to do than it takes.

    So a transport that answers at once is not given a crowd of workers that find nothing.
    """

    def __init__(self) -> None:
        self._events: list[anyio.Event] = []
        self._waking = False
        self._ended = False
        self.idlers: set[Callable[[], None]] = set()
        """Called when a worker finds nothing to do: more input is wanted."""

    def __repr__(self) -> str:
        return f"<Sleepers {len(self._events)} asleep>"

    async def sleep(self) -> None:
        """Wait to be woken; return at once after `end`."""
        if self._ended:
            return
        for call in list(self.idlers):
            call()
        event = anyio.Event()
        self._events.append(event)
        try:
            await event.wait()
        finally:
            self._waking = False
            if event in self._events:
                self._events.remove(event)

    def wake(self) -> None:
        """Wake one, unless one is waking up."""
        if self._events and not self._waking:
            self._waking = True
            self._events.pop().set()

    def end(self) -> None:
        """Wake all; nobody sleeps any more."""
        self._ended = True
        while self._events:
            self._events.pop().set()
