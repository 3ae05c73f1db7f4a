"""Deliver events as records: merge those of one record, and single out the one that is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cognigy_async import UpdateEvent

from .mapping import FieldMapping
from .target import DeliveryError, EventRejectedError, TargetGoneError, TargetUnavailableError

MAX_REQUESTS = 32
"""Requests that one batch may cost. What is left then is sent with a later batch."""


class RefusedError(Exception):
    """The target refused records together, and does not say which of them is the reason.

    Attributes:
        error: the outcome if the request had one event only.
    """

    def __init__(self, error: DeliveryError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class Item:
    """One event of a batch, as fields of a record.

    Attributes:
        index: position in the batch.
        key: value that identifies the record.
    """

    index: int
    event: UpdateEvent
    key: str
    fields: dict[str, Any]


@dataclass(slots=True)
class Record:
    """The fields that one request sets in one record, from one or several events in order."""

    key: str
    fields: dict[str, Any]
    items: list[Item]


Send: TypeAlias = Callable[[Sequence[Record]], Awaitable[Sequence[DeliveryError | None]]]
"""Sends records, and returns an outcome for each of them.

It raises `RefusedError`, or a `DeliveryError` that holds for all of them.
"""


def merge(items: Sequence[Item]) -> list[Record]:
    """Return one record for each key, with the later value of each field."""
    records: dict[str, Record] = {}
    for item in items:
        record = records.get(item.key)
        if record is None:
            records[item.key] = Record(item.key, dict(item.fields), [item])
        else:
            record.fields |= item.fields
            record.items.append(item)
    return list(records.values())


async def deliver_records(
    events: Sequence[UpdateEvent],
    mapping: FieldMapping,
    key_of: Callable[[Any], str],
    send: Send,
) -> list[DeliveryError | None]:
    """Deliver events, and return the outcome of each.

    A refused request is sent again in halves, until the refused event stands alone. After a failure
    of a record, later events of this record wait, so that no older value overwrites a newer one.
    Events of failed updates, and those without a mapped field, need no request.

    Args:
        key_of: makes the value of the identifying field into a text, the same one for values that
            the target takes for the same.
        send: sends records in one request.
    """
    outcomes: list[DeliveryError | None] = [None] * len(events)
    parts = deque([_read_items(events, mapping, key_of, outcomes)])
    held, requests = set[str](), 0
    while parts:
        part = _without_held(parts.popleft(), held, outcomes)
        if not part:
            continue
        if requests == MAX_REQUESTS:
            rest = DeliveryError("the batch has many refused records; the rest is sent later")
            _fail([part, *parts], outcomes, rest)
            break
        requests += 1
        records = merge(part)
        try:
            results = await send(records)
        except RefusedError as refused:
            if len(part) > 1:
                parts.extendleft(reversed(_halves(part)))
                continue
            results = [refused.error]
        except (TargetUnavailableError, TargetGoneError) as error:
            _fail([part, *parts], outcomes, error)
            break
        except DeliveryError as error:
            results = [error] * len(records)
        for record, outcome in zip(records, results, strict=True):
            if outcome is None:
                continue
            if isinstance(outcome, EventRejectedError) and len(record.items) > 1:
                parts.extendleft(reversed(_halves(record.items)))
                continue
            if not isinstance(outcome, EventRejectedError):
                held.add(record.key)
            for item in record.items:
                outcomes[item.index] = _about(item.event, outcome)
    return outcomes


def _read_items(
    events: Sequence[UpdateEvent],
    mapping: FieldMapping,
    key_of: Callable[[Any], str],
    outcomes: list[DeliveryError | None],
) -> list[Item]:
    """Return the events that need a request."""
    items: list[Item] = []
    for index, event in enumerate(events):
        try:
            fields = mapping.read(event) if event.error is None else None
        except EventRejectedError as error:
            outcomes[index] = error
            continue
        if fields is not None:
            items.append(Item(index, event, key_of(fields[mapping.key or ""]), fields))
    return items


def _without_held(
    items: list[Item], held: set[str], outcomes: list[DeliveryError | None]
) -> list[Item]:
    """Return the events that need not wait for an earlier one of their record."""
    for item in items:
        if item.key in held:
            outcomes[item.index] = DeliveryError(
                f"dialog {item.event.dialog_id!r}: an earlier event of the record failed; this one "
                "is sent after it"
            )
    return [item for item in items if item.key not in held]


def _halves(items: list[Item]) -> list[list[Item]]:
    middle = len(items) // 2
    return [items[:middle], items[middle:]]


def _fail(
    parts: Sequence[Sequence[Item]], outcomes: list[DeliveryError | None], error: DeliveryError
) -> None:
    for part in parts:
        for item in part:
            outcomes[item.index] = error


def _about(event: UpdateEvent, error: DeliveryError) -> DeliveryError:
    """Return the error of one event, which names its dialog."""
    if isinstance(error, TargetUnavailableError | TargetGoneError):
        return error
    named = type(error)(f"dialog {event.dialog_id!r}: {error}")
    named.__cause__ = error.__cause__
    return named
