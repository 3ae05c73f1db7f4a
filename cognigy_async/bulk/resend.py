"""Rows that an earlier run sent without recording an outcome, and that are unsafe to resend."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    DialogState,
    Limits,
    NoResponseError,
    NotSentError,
    RateLimitedError,
    ServerError,
    StateUpdate,
)
from cognigy_async.spi import MAX_BULK_WAIT

from .input.row import Row
from .journal.schema import OpenSend

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
"""Seconds between attempts to read a state from an unavailable server."""

AWAY = (NotSentError, NoResponseError, RateLimitedError, ServerError)


class AmbiguousSends:
    """Rows that an earlier run may have applied, and that must not be applied twice.

    If the version of the state is the same as before the send, the row was not
    applied. It is then sent with that version as `If-Match`. Otherwise it is ambiguous.

    Attributes:
        sends: Sends that are not resolved yet, by line.
    """

    def __init__(self, client: AsyncStateClient, sends: Iterable[OpenSend]) -> None:
        self._client = client
        self.sends = {send.line: send for send in sends}

    async def resolve(self, row: Row, update: StateUpdate) -> StateUpdate | AmbiguousUpdateError:
        """Return the update to send for a row, or an error if it is unsafe to send it.

        Wait while the server is unavailable.
        """
        send = self.sends.pop(row.line)
        if self._client.api.honours_idempotency_keys:
            return update
        if send.etag is None:
            return ambiguous(row, None)
        try:
            state = await self._read(send.dialog_id)
        except CognigyError as error:
            return ambiguous(row, error)
        if state.etag != send.etag:
            return ambiguous(row, None)
        return update.replace(if_match=send.etag)

    async def _read(self, dialog_id: str) -> DialogState:
        wait = FIRST_WAIT
        while True:
            try:
                return await self._client.get_state(dialog_id)
            except AWAY as error:
                named = min(error.retry_after or 0.0, MAX_BULK_WAIT)
                pause = max(wait * random.uniform(0.5, 1.0), named)
            await anyio.sleep(pause)
            wait = min(LONGEST_WAIT, 2 * wait)


def ambiguous(row: Row, cause: CognigyError | None) -> AmbiguousUpdateError:
    """Return the error of a row that may have been applied by an earlier run."""
    error = AmbiguousUpdateError(
        "The update was sent, and the job was interrupted before its answer was recorded",
        dialog_id=row.dialog_id,
        update_id=None if row.update is None else row.update.update_id,
    )
    error.__cause__ = cause
    return error


class InterruptedGroups:
    """Rows that were sent as one request, and may only be sent again unchanged.

    Attributes:
        keys: Idempotency keys of requests, by the line of each row that was not read yet.
    """

    def __init__(self, keys: Mapping[int, str]) -> None:
        self.keys = dict(keys)
        self._missing = Counter(keys.values())
        self._rows: dict[str, list[Row]] = {}

    def add(self, row: Row, limits: Limits) -> tuple[StateUpdate, list[Row]] | None:
        """Add a row. If its group is now complete, return the group's update and rows."""
        key = self.keys.pop(row.line)
        rows = self._rows.setdefault(key, [])
        rows.append(row)
        self._missing[key] -= 1
        if self._missing[key]:
            return None
        del self._rows[key]
        assigned: dict[str, dict[str, Any]] = {}
        for one in rows:
            assert one.update is not None
            for context, variables in one.update.payload().items():
                assigned.setdefault(context, {}).update(variables)
        fields = {"dialog_id": row.dialog_id, **assigned, "update_id": key}
        return StateUpdate.from_fields(limits, fields), rows
