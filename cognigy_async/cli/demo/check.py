"""The checks of the demo: compare the state of the server with the reports of the client."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cognigy_async import AmbiguousUpdateError, CognigyError, UpdateEvent
from cognigy_async.emulator import Emulator


class Outcome(NamedTuple):
    """The reported outcome of an update; a transition has no sequence number."""

    dialog_id: str
    seq: int | None
    error: CognigyError | None

    @property
    def failed(self) -> bool:
        """Return True for an error that is not expected; a lost transition ends as ambiguous."""
        expected = self.seq is None and isinstance(self.error, AmbiguousUpdateError)
        return self.error is not None and not expected


def run_checks(
    emulator: Emulator,
    max_in_flight: int,
    updates: int,
    outcomes: Sequence[Outcome],
    events: Mapping[str, Sequence[UpdateEvent]],
) -> list[tuple[str, int, str]]:
    """Return the name, number of breaches and meaning of each check."""
    stats = emulator.stats
    orders: dict[str, list[int]] = {}
    moves = Counter[str]()
    for name, dialog in emulator.dialogs.items():
        orders[name] = [entry.seq for entry in dialog.history if entry.seq is not None]
        moves[name] = sum("transition" in entry.body for entry in dialog.history)
    lost = sum(
        not moves[name] if seq is None else seq not in orders.get(name, ())
        for name, seq, error in outcomes
        if error is None
    )
    requested = Counter(name for name, seq, _ in outcomes if seq is None)
    doubled = sum(max(0, moves[name] - count) for name, count in requested.items())
    reordered = stats.reordered + sum(order != sorted(order) for order in orders.values())
    excess = max(0, stats.in_flight_max - max_in_flight)
    return [
        ("overlapping writes", stats.overlapping_writes, "concurrent writes of a dialog"),
        ("reordered", reordered, "an update overtook another one"),
        ("lost", lost, "applied, but not on the server"),
        ("doubled", max(doubled, stats.double_applies), "a transition applied twice"),
        ("early", stats.early_requests + stats.early_repeats, "a request before Retry-After"),
        ("unsettled", updates - len(outcomes), "an update without outcome"),
        ("misdelivered", _misdelivered(outcomes, events), "an event lost, doubled, reordered"),
        ("over the limit", excess, f"more than {max_in_flight} in flight"),
        ("tokens at once", max(0, stats.token_requests_overlapping - 1), "concurrent requests"),
    ]


def _misdelivered(outcomes: Sequence[Outcome], events: Mapping[str, Sequence[UpdateEvent]]) -> int:
    """Count the events that were duplicated, reordered or lost."""
    expected: defaultdict[str, list[int | None]] = defaultdict(list)
    for name, seq, error in outcomes:
        if error is None:
            expected[name].append(seq)
    wrong = 0
    for name in expected.keys() | events.keys():
        received = [event.payload.get("session", {}).get("seq") for event in events.get(name, ())]
        if received != expected[name]:
            wrong += max(1, abs(len(received) - len(expected[name])))
    return wrong
