"""Rows that were sent before a crash, must not be repeated blindly, and have no recorded outcome.

The state tells: where its version is still the one known from before, the row was not applied, and
is sent again on condition of that version. In every other case nobody can tell.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import anyio

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    DialogState,
    NoResponseError,
    NotSentError,
    RateLimitedError,
    ServerError,
    StateUpdate,
)

from .records import OpenSend
from .rows import Row

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
"""Seconds between attempts to read a state from a server that is away."""

AWAY = (NotSentError, NoResponseError, RateLimitedError, ServerError)


class Doubts:
    """What an earlier run left open."""

    def __init__(self, client: AsyncStateClient, sends: Iterable[OpenSend]) -> None:
        self._client = client
        self._sends = {send.line: send for send in sends}

    def __len__(self) -> int:
        return len(self._sends)

    async def resolve(self, row: Row) -> StateUpdate | AmbiguousUpdateError | None:
        """What to send for a row, or why it cannot be sent; None where there is no doubt of it.

        Waits for a server that is away.
        """
        send = self._sends.pop(row.line, None)
        if send is None or row.update is None:
            return None
        if self._client.api.honours_idempotency_keys:
            return row.update
        if send.etag is None:
            return _ambiguous(row, None)
        try:
            state = await self._read(send.dialog_id)
        except CognigyError as error:
            return _ambiguous(row, error)
        if state.etag != send.etag:
            return _ambiguous(row, None)
        return row.update.replace(if_match=send.etag)

    async def _read(self, dialog_id: str) -> DialogState:
        wait = FIRST_WAIT
        while True:
            try:
                return await self._client.get_state(dialog_id)
            except AWAY as error:
                pause = max(wait * random.uniform(0.5, 1.0), error.retry_after or 0.0)
            await anyio.sleep(pause)
            wait = min(LONGEST_WAIT, 2 * wait)


def _ambiguous(row: Row, cause: CognigyError | None) -> AmbiguousUpdateError:
    assert row.update is not None
    error = AmbiguousUpdateError(
        "The update was sent, and the job was interrupted before its answer was recorded",
        dialog_id=row.dialog_id,
        update_id=row.update.update_id,
    )
    error.__cause__ = cause
    return error


def conflicted(row: Row, cause: CognigyError) -> AmbiguousUpdateError:
    """What a row comes to that was sent again on condition, when the condition did not hold."""
    return _ambiguous(row, cause)
