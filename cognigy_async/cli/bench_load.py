"""What a benchmark writes, and to which dialogs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, overload

from cognigy_async import (
    ConfigurationError,
    StateApi,
    StateUpdate,
    UpdateValidationError,
    plan,
)

VARIABLE = "bench"
"""The one session variable that is written."""

FRAME = len('{"session":{"bench":{"n":,"text":""}}}')
LEAST_BYTES = 64
"""Of a body: room for its frame and for any number."""


class Mode(StrEnum):
    """How updates are given to the client."""

    UPDATE = "update"
    UPDATE_MANY = "update_many"


@dataclass(frozen=True)
class NumberedDialogs(Sequence[str]):
    """Dialogs that differ by a number, in constant memory."""

    prefix: str
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        numbers = range(self.size)[index]
        if isinstance(numbers, range):
            return [f"{self.prefix}{number}" for number in numbers]
        return f"{self.prefix}{numbers}"


class Load:
    """The work of one round.

    Args:
        dialogs: they take turns.
        payload_bytes: of the body of a request to the runtime API, at least `LEAST_BYTES`.
        count: updates of a round.
        seconds: of a round, instead of `count`.
    """

    def __init__(
        self,
        mode: Mode,
        dialogs: Sequence[str],
        *,
        payload_bytes: int,
        count: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.mode = mode
        self.dialogs = dialogs
        self.payload_bytes = payload_bytes
        self.count = count
        self.seconds = math.inf if seconds is None else seconds
        self._text = "x" * (payload_bytes - FRAME)

    def dialog(self, number: int) -> str:
        """The dialog of the update of that number."""
        return self.dialogs[number % len(self.dialogs)]

    def session(self, number: int) -> dict[str, Any]:
        """What the update of that number assigns; bodies have the same size."""
        digits = len(str(number))
        return {VARIABLE: {"n": number, "text": self._text[digits:]}}

    def row(self, number: int) -> dict[str, Any]:
        """The update of that number."""
        return {"dialog_id": self.dialog(number), "session": self.session(number)}


def warm_up_of(in_flight: int) -> int:
    """Updates before those that are measured: all connections are open then, and code is warm."""
    return max(20, 2 * in_flight)


def requests_each(load: Load, api: StateApi) -> int:
    """Requests of one update.

    Raises:
        UpdateValidationError, ConfigurationError: the API takes no such update.
    """
    # What is wrong whatever its size, as a user id that is missing, it says itself.
    api.check(StateUpdate(load.dialog(0), session={VARIABLE: 0}))
    found = plan([load.row(0)], api=api)
    if not found.updates:
        raise ConfigurationError(
            f"--payload-bytes {load.payload_bytes}: one request to this API cannot carry that; "
            "write less"
        )
    return found.requests


def read_dialogs(path: Path) -> list[str]:
    """Dialog ids of a file, one a line; empty lines do not count.

    Raises:
        ConfigurationError: it cannot be read, has none, or has one that cannot be an id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"--dialogs {path}: cannot be read: {error.strerror}; give a number, or a file with "
            "one dialog id a line"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"--dialogs {path}: is not UTF-8; save it as UTF-8") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not (dialog_id := line.strip()):
            continue
        try:
            StateUpdate(dialog_id, session={VARIABLE: 0})
        except UpdateValidationError as error:
            raise ConfigurationError(f"--dialogs {path}, line {number}: {error}") from None
        found.append(dialog_id)
    if not found:
        raise ConfigurationError(f"--dialogs {path}: has no dialog id; write one a line")
    return found
