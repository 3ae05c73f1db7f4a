"""Rows that were sent as one request before a crash: sent again as that request, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cognigy_async import Limits, StateUpdate
from cognigy_async.spi import DeliveryReceipt

from .deliveries import Deliveries
from .rows import Row


class Groups:
    """Puts the groups together again while their rows are read.

    Args:
        keys: by line the `Idempotency-Key` of the request.
    """

    def __init__(self, keys: Mapping[int, str]) -> None:
        self._keys = dict(keys)
        self._missing = Counter(keys.values())
        self._rows: dict[str, list[Row]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, row: Row) -> bool:
        """Whether a row belongs to one."""
        return row.line in self._keys

    def add(self, row: Row, limits: Limits) -> tuple[StateUpdate, list[Row]] | None:
        """One more row of a group; the whole group once it is complete."""
        key = self._keys.pop(row.line)
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


class GroupWatch:
    """Looks on while a group is sent again; an `UpdateWatch`.

    Args:
        retrying: told of a row of it, a reason and the seconds until it is repeated.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        deliveries: Deliveries,
        retrying: Callable[[Row, str, float], object],
    ) -> None:
        self._rows = rows
        self._deliveries = deliveries
        self._retrying = retrying

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """It is in the journal already, as it is."""

    def retrying(self, index: int, reason: str, seconds: float) -> None:
        """As `UpdateWatch` says."""
        self._retrying(self._rows[0], reason, seconds)

    def published(self, index: int, callback: str) -> DeliveryReceipt:
        """As `UpdateWatch` says."""
        return self._deliveries.expect(self._rows, callback)
