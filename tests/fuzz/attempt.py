"""What each target is to the program."""

from __future__ import annotations

from typing import Protocol, Self


class Attempt(Protocol):
    """Tries mutated data on one part of the package."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...

    def run(self, seed: int) -> str:
        """Try the data of a seed, and return how it ended.

        Raises:
            CognigyError: the data was refused.
        """
        ...
