"""Turns: everybody runs once in each round, and neighbours change places."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .machine import machine

__all__ = ["interleaved", "tell", "turns", "write"]

Key = TypeVar("Key")


def turns(keys: Sequence[Key], rounds: int) -> Iterator[tuple[int, Key]]:
    """Who runs when; every other round backwards, so that none always follows the same one."""
    for number in range(rounds):
        for key in reversed(keys) if number % 2 else keys:
            yield number, key


def interleaved(
    keys: Sequence[Key], rounds: int, run: Callable[[Key], dict[str, float]]
) -> dict[Key, list[dict[str, float]]]:
    """What each one measured, in the order of the rounds."""
    runs: dict[Key, list[dict[str, Any]]] = {key: [] for key in keys}
    for number, key in turns(keys, rounds):
        tell(f"round {number + 1} of {rounds}: {key}")
        runs[key].append({kind: float(f"{value:.5g}") for kind, value in run(key).items()})
    return runs


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def write(path: Path | None, told: dict[str, Any]) -> None:
    """A file of results, with the machine."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **told}, indent=2) + "\n")
