"""Waiting until certain things are over, whatever comes after them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import anyio

Item = TypeVar("Item", bound=Hashable)


class Countdowns(Generic[Item]):
    """Those who wait, each for a set of items of its own."""

    def __init__(self) -> None:
        self.waiting: list[tuple[set[Item], anyio.Event]] = []
        """For what, and how they are told that nothing of it is left."""
        self.ended = False
        """Nothing will be over any more."""

    async def wait(self, items: Iterable[Item]) -> None:
        """Wait until each of these items was given to `over`."""
        left = set(items)
        if not left or self.ended:
            return
        one = (left, anyio.Event())
        self.waiting.append(one)
        try:
            await one[1].wait()
        finally:
            self.waiting.remove(one)

    def end(self) -> None:
        """Nothing will be over any more: nobody waits."""
        self.ended = True
        for _, event in self.waiting:
            event.set()

    def over(self, item: Item) -> None:
        """Nobody needs to wait for this item any longer."""
        for left, event in self.waiting:
            left.discard(item)
            if not left:
                event.set()
