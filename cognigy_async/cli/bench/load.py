"""Load generator: numbered updates, and the callers and streams that send them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
    StateApi,
    StateUpdate,
    UpdateResult,
    UpdateValidationError,
    plan,
)

VARIABLE = "bench"
"""Session variable that every update sets."""
FRAME_BYTES = len('{"session":{"bench":{"n":,"text":""}}}')
MIN_BYTES = 64
"""Smallest request body: it has room for any number."""
MAX_IN_FLIGHT = 10_000
MAX_DIALOGS = 1_000_000_000

Call = Callable[[int], Awaitable[object]]
Take = Callable[[UpdateResult | None, CognigyError | None], None]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Load:
    """The updates of one round: `count` updates, or as many as fit into `seconds`.

    Attributes:
        dialogs: Ids or numbers of dialogs, used in turn.
        prefix: First part of each id.
        payload_bytes: Size of a request body to the runtime API, at least `MIN_BYTES`.
    """

    dialogs: Sequence[str] | range
    prefix: str = ""
    payload_bytes: int = 200
    count: int | None = None
    seconds: float | None = None

    def dialog(self, number: int) -> str:
        """Return the dialog of an update."""
        return f"{self.prefix}{self.dialogs[number % len(self.dialogs)]}"

    def session(self, number: int) -> dict[str, Any]:
        """Return the session variables of an update."""
        size = self.payload_bytes - FRAME_BYTES - len(str(number))
        return {VARIABLE: {"n": number, "text": "x" * size}}

    def rows(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield updates as rows of `update_many`."""
        for number in numbers:
            yield {"dialog_id": self.dialog(number), "session": self.session(number)}

    def requests_per_update(self, api: StateApi) -> int:
        """Return the requests of an update. Raise an error if the API does not accept it."""
        # Raise for faults that do not depend on the size, such as a too long id.
        api.check(StateUpdate(self.dialog(-1), session={VARIABLE: 0}))
        estimate = plan(self.rows([0]), api=api)
        if not estimate.updates:
            raise ConfigurationError(
                f"--payload-bytes {self.payload_bytes}: too large for one request to this API; "
                "give a smaller number"
            )
        return estimate.requests


def turns(keys: Sequence[Key], rounds: int) -> Iterator[tuple[int, Key]]:
    """Yield each key once per round, with the number of the round."""
    for number in range(rounds):
        # Reverse every second round, so that no key always follows the same key.
        for key in reversed(keys) if number % 2 else keys:
            yield number, key


async def run_callers(call: Call, shares: Sequence[Iterator[int]]) -> None:
    """Run one caller per share; each sends one update at a time. Callers may share an iterator."""

    async def caller(numbers: Iterator[int]) -> None:
        for number in numbers:
            await call(number)

    async with anyio.create_task_group() as tasks:
        for numbers in shares:
            tasks.start_soon(caller, numbers)


async def run_stream(client: AsyncStateClient, rows: Iterable[dict[str, Any]], take: Take) -> None:
    """Send rows through `update_many`."""
    async with client.update_many(rows) as outcomes:
        async for outcome in outcomes:
            take(outcome.result, outcome.error)


def parse_levels(texts: Sequence[str]) -> list[int]:
    """Return the distinct numbers of requests in flight."""
    parts = ",".join(texts).split(",")
    numbers = [_parse_number("--max-in-flight", part.strip(), MAX_IN_FLIGHT) for part in parts]
    return list(dict.fromkeys(numbers))


def parse_dialogs(text: str) -> Sequence[str] | range:
    """Return numbers of dialogs, or the ids of a file with one id per line."""
    if text.isdecimal():
        return range(_parse_number("--dialogs", text, MAX_DIALOGS))
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"--dialogs {text}: {reason}; give a number, or a UTF-8 file with one id per line"
        ) from None
    ids = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    if not ids:
        raise ConfigurationError(f"--dialogs {text}: no dialog id found; write one id per line")
    for number, dialog_id in ids.items():
        try:
            StateUpdate(dialog_id, session={VARIABLE: 0})
        except UpdateValidationError as error:
            raise ConfigurationError(f"--dialogs {text}, line {number}: {error}") from None
    return list(ids.values())


def _parse_number(option: str, text: str, maximum: int) -> int:
    # Python refuses to convert thousands of digits.
    number = int(text) if text.isdecimal() and len(text) < 20 else 0
    if not 0 < number <= maximum:
        raise ConfigurationError(f"{option} {text!r}: must be a number from 1 to {maximum:,}")
    return number
