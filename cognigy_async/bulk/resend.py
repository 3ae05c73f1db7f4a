"""Rows that an earlier run sent without recording an outcome, and that are unsafe to resend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    Limits,
    StateUpdate,
)
from cognigy_async.spi import count_requests, is_strong_etag

from .input.row import Row
from .journal.schema import OpenSend


class AmbiguousSends:
    """Rows that an earlier run may have applied, and that must not be applied twice.

    Such a row is sent again with the `If-Match` that the journal has for it: if it was applied,
    or is applied late, the state has another version and one of the requests is refused. A row
    that was sent without a strong etag, or as several requests, is ambiguous.

    Attributes:
        sends: Sends that are not resolved yet, by line.
    """

    def __init__(
        self, client: AsyncStateClient, sends: Iterable[OpenSend], *, renews_keys: bool
    ) -> None:
        self._client = client
        self._renews_keys = renews_keys
        self.sends = {send.line: send for send in sends}

    def resolve(self, row: Row, update: StateUpdate) -> StateUpdate | None:
        """Return the update to send for a row, or None if it is unsafe to send it."""
        send = self.sends.pop(row.line)
        if update.inject or update.notify:
            # Messages have neither keys nor conditions.
            return None
        if self._client.api.honours_idempotency_keys:
            has_same_key = row.has_own_id or row.not_repeatable or not self._renews_keys
            return update if has_same_key else None
        if not self._client.api.conditional_writes or not is_strong_etag(send.etag):
            return None
        if count_requests(self._client.api, update) > 1:
            # The etag is that of the last request. Those before it may have been applied.
            return None
        return update.replace(if_match=send.etag)


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
        assert row.update is not None
        people = {"user_id": row.update.user_id, "profile_id": row.update.profile_id}
        fields = {"dialog_id": row.dialog_id, **people, **assigned, "update_id": key}
        return StateUpdate.from_fields(limits, fields), rows
