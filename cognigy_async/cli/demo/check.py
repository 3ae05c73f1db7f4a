"""The checks of the demo: what the server has, compared with what the client reported."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cognigy_async import UpdateEvent
from cognigy_async.emulator import Emulator


@dataclass
class Reported:
    """What the client was given, and what it reported.

    Attributes:
        events: events that the callback received, by dialog.
        updates: number of updates that the client was given.
        outcomes: number of updates that have an outcome.
        applied: dialog and sequence number of each update that was reported as applied.
        moved: dialog of each transition, and whether it was reported as applied.
    """

    events: Mapping[str, Sequence[UpdateEvent]]
    updates: int = 0
    outcomes: int = 0
    applied: list[tuple[str, int]] = field(default_factory=list)
    moved: list[tuple[str, bool]] = field(default_factory=list)


class Check(NamedTuple):
    """A promise, and how often it was broken."""

    name: str
    broken: int
    meaning: str


def run_checks(emulator: Emulator, reported: Reported, max_in_flight: int) -> list[Check]:
    """Return a check for each promise that the state and the counters of the server can prove."""
    stats = emulator.stats
    orders, moves = {}, Counter[str]()
    for name, dialog in emulator.dialogs.items():
        orders[name] = [entry.seq for entry in dialog.history if entry.seq is not None]
        moves[name] = sum("transition" in entry.body for entry in dialog.history)
    lost = sum(seq not in orders.get(name, ()) for name, seq in reported.applied)
    lost += sum(applied and not moves[name] for name, applied in reported.moved)
    requested = Counter(name for name, _ in reported.moved)
    doubled = sum(max(0, moves[name] - count) for name, count in requested.items())
    reordered = stats.reordered + sum(order != sorted(order) for order in orders.values())
    early = stats.early_requests + stats.early_repeats
    excess = max(0, stats.in_flight_max - max_in_flight)
    tokens = max(0, stats.token_requests_overlapping - 1)
    return [
        Check("overlapping writes", stats.overlapping_writes, "concurrent writes of a dialog"),
        Check("reordered", reordered, "an update overtook another one"),
        Check("lost", lost, "applied, but not on the server"),
        Check("doubled", max(doubled, stats.double_applies), "a transition applied twice"),
        Check("early", early, "a request before Retry-After"),
        Check("unsettled", reported.updates - reported.outcomes, "an update without outcome"),
        Check("misdelivered", _misdelivered(reported), "an event lost, doubled, reordered"),
        Check("over the limit", excess, f"more than {max_in_flight} in flight"),
        Check("tokens at once", tokens, "concurrent token requests"),
    ]


def _misdelivered(reported: Reported) -> int:
    """Count the events that came twice, out of order or not at all."""
    expected: defaultdict[str, list[int | None]] = defaultdict(list)
    for dialog_id, seq in reported.applied:
        expected[dialog_id].append(seq)
    for dialog_id, applied in reported.moved:
        if applied:
            expected[dialog_id].append(None)
    wrong = 0
    for dialog_id in expected.keys() | reported.events.keys():
        events = reported.events.get(dialog_id, ())
        received = [event.payload.get("session", {}).get("seq") for event in events]
        if received != expected[dialog_id]:
            wrong += max(1, abs(len(received) - len(expected[dialog_id])))
    return wrong
