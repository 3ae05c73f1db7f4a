"""Assignments made at random, of few names and small values, so that they meet each other."""

from __future__ import annotations

import random
from typing import Any


class Chance:
    """The same for the same seed; thousands in a second."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        kind = self.random.randrange(8)
        if kind < 3 or depth == 3:
            return self.random.choice([0, 1, "a", True, 2.5])
        if kind == 3:
            return [self.value(depth + 1) for _ in range(self.random.randrange(3))]
        names = self.random.sample("xyz", self.random.randrange(4))
        return {name: self.value(depth + 1) for name in names}

    def payload(self) -> dict[str, Any]:
        contexts = self.random.choice([("session",), ("user",), ("session", "user")])
        return {
            context: {name: self.value() for name in self.random.sample("abc", 2)}
            for context in contexts
        }

    def payloads(self, most: int) -> list[dict[str, Any]]:
        return [self.payload() for _ in range(self.random.randint(1, most))]
