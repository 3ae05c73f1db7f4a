"""A broken promise, and the views of the log that the rules of the oracle share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .log import Call, Exchange, Log
from .schedule import Schedule

WITHDRAWN_WITHIN = 1.0
"""Seconds after a cancellation by which its withdrawal is written."""
TOLERANCE = 1e-6
"""Seconds by which two times of the virtual clock may differ by rounding."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken promise.

    Attributes:
        promise: number and name of the promise, such as ``"P1 order"``.
        dialog_id: the dialog, or an empty text.
        text: what happened, and at which virtual second.
    """

    promise: str
    dialog_id: str
    text: str


Rule: TypeAlias = Callable[[Schedule, Log], Iterator[Breach]]


def writes_of(log: Log) -> dict[str, list[Exchange]]:
    """Return the requests that may change a dialog, by dialog, in order."""
    writes: dict[str, list[Exchange]] = defaultdict(list)
    for each in log.exchanges:
        if each.method != "GET":
            writes[each.dialog_id].append(each)
    return writes


def requests_of(log: Log) -> dict[int, list[Exchange]]:
    """Return the requests that carried each update, by its number."""
    requests: dict[int, list[Exchange]] = defaultdict(list)
    for each in log.exchanges:
        for number in each.updates:
            requests[number].append(each)
    return requests


def first_applied(log: Log) -> dict[int, float]:
    """Return when each update was applied first, by its number."""
    applied: dict[int, float] = {}
    for each in log.exchanges:
        for number in each.updates:
            for at in each.applied_at:
                applied[number] = min(at, applied.get(number, at))
    return applied


def position_in(log: Log) -> Callable[[int], int]:
    """Return what gives the place of an update in the order of the calls, or of the rows."""
    calls = {call.number: index for index, call in enumerate(log.calls)}
    return lambda number: calls.get(number, number)


def withdrawal_may_be_lost(log: Log, call: Call) -> bool:
    """Return whether a crash may have kept the withdrawal of a cancelled update from the disk."""
    until = call.cancelled_at + WITHDRAWN_WITHIN
    return any(call.cancelled_at <= at < until for at in log.crashes)


def is_torn(log: Log, at: float) -> bool:
    """Return whether the process crashed at a time."""
    return any(abs(crash - at) < TOLERANCE for crash in log.crashes)
