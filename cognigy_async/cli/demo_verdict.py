"""What the server saw, compared with what the client was told and what it told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cognigy_async import UpdateEvent
from cognigy_async.emulator import Dialog, Emulator


@dataclass
class Seen:
    """What the client was given and what it told.

    Attributes:
        events: what the callback was given, by dialog.
        updates: how many were handed to the client. settled: how many of them had an outcome.
        applied: dialog and sequence number of what the client said was applied.
        moved: dialog of each transition, and whether the client said that it was applied.
    """

    events: Mapping[str, Sequence[UpdateEvent]]
    updates: int = 0
    settled: int = 0
    applied: list[tuple[str, int]] = field(default_factory=list)
    moved: list[tuple[str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One promise: how often it was broken, and what that would have been."""

    name: str
    broken: int
    meaning: str

    @property
    def kept(self) -> bool:
        """Whether it was never broken."""
        return not self.broken


def judge(emulator: Emulator, seen: Seen, max_in_flight: int) -> tuple[Check, ...]:
    """Every promise that the demo can check, by what the server has and has counted."""
    stats, dialogs = emulator.stats, emulator.dialogs
    orders = {name: applications(dialog) for name, dialog in dialogs.items()}
    moves = {name: transitions(dialog) for name, dialog in dialogs.items()}
    disordered = sum(order != sorted(order) for order in orders.values())
    lost = sum(seq not in orders.get(dialog_id, ()) for dialog_id, seq in seen.applied)
    lost += sum(applied and not moves.get(dialog_id) for dialog_id, applied in seen.moved)
    expected = Counter(dialog_id for dialog_id, _ in seen.moved)
    doubled = sum(max(0, moves.get(name, 0) - count) for name, count in expected.items())
    return (
        Check(
            "overlapping writes",
            stats.overlapping_writes,
            "two writes of one dialog under way at a time",
        ),
        Check("reordered", stats.reordered + disordered, "an update that overtook another one"),
        Check("lost", lost, "told as applied, and not on the server"),
        Check("doubled", max(doubled, stats.double_applies), "a transition made twice"),
        Check(
            "early",
            stats.early_requests + stats.early_repeats,
            "a request before the moment that the server named",
        ),
        Check("unsettled", seen.updates - seen.settled, "an update without an outcome"),
        Check(
            "misdelivered",
            misdelivered(seen),
            "an event not once, or not in order, at the callback",
        ),
        Check(
            "over the limit",
            max(0, stats.in_flight_max - max_in_flight),
            f"requests beyond {max_in_flight} at a time",
        ),
        Check(
            "tokens at once",
            max(0, stats.token_requests_overlapping - 1),
            "a token request while another one was under way",
        ),
    )


def applications(dialog: Dialog) -> list[int]:
    """The sequence numbers of what was applied to a dialog, in its order, repeats included."""
    return [entry.seq for entry in dialog.history if entry.seq is not None]


def transitions(dialog: Dialog) -> int:
    """How often a dialog was moved."""
    return sum("transition" in entry.body for entry in dialog.history)


def misdelivered(seen: Seen) -> int:
    """Events that came twice, out of order or not at all, dialog by dialog."""
    expected: dict[str, list[int | None]] = {}
    for dialog_id, seq in seen.applied:
        expected.setdefault(dialog_id, []).append(seq)
    for dialog_id, applied in seen.moved:
        if applied:
            expected.setdefault(dialog_id, []).append(None)
    wrong = 0
    for dialog_id in expected.keys() | seen.events.keys():
        told = [
            event.payload.get("session", {}).get("seq") for event in seen.events.get(dialog_id, ())
        ]
        due = expected.get(dialog_id, [])
        if told != due:
            wrong += max(1, abs(len(told) - len(due)))
    return wrong
