"""The file of an outbox against dicts: each event is for each target until that one has it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cognigy_async import OutboxError
from cognigy_async.crm.folder import prepare_folder
from cognigy_async.crm.store import (
    APPLIED,
    FAILED,
    Batch,
    DeadRow,
    IntentRow,
    Key,
    OutcomeRow,
    Store,
    connect,
)

TARGETS = ("crm", "bi")
MASKS = (1, 2)
ALL = 3


@dataclass
class Event:
    key: Key
    number: int
    pending: int
    dead: int = 0


class StoreMachine(RuleBasedStateMachine):
    """A store against a dict of intents and a list of events."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "outbox"
        self.intents: dict[Key, bytes] = {}
        self.events: list[Event] = []
        self.updates = 0

    @initialize()
    def begin(self) -> None:
        prepare_folder(self.folder)
        self.store = Store(self.folder, "process", TARGETS)

    def new_intent(self) -> IntentRow:
        self.updates += 1
        content = b"%d" % self.updates
        return IntentRow(f"u-{self.updates}", f"d-{self.updates % 3}", 1.0, content)

    @rule(
        count=st.integers(0, 70),
        ends=st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0, 1, 2, 3])), max_size=5),
        withdraws=st.lists(st.integers(0, 99), max_size=3),
        decides_again=st.booleans(),
        fails=st.sampled_from([False, False, False, True]),
    )
    def write(
        self,
        count: int,
        ends: list[tuple[int, int]],
        withdraws: list[int],
        decides_again: bool,
        fails: bool,
    ) -> None:
        """Record intents and outcomes, also of intents in the same batch; or nothing of it."""
        before = list(self.intents)
        withdrawn = {before[at % len(before)] for at in withdraws if before}
        intents = {row[:2]: row for row in (self.new_intent() for _ in range(count))}
        if decides_again and withdrawn:
            # It is recorded anew with other values.
            again = min(withdrawn)
            intents[again] = IntentRow(*again, 1.0, b"again")
        left = [key for key in (*before, *intents) if key not in withdrawn or key in intents]
        outcomes = {left[at % len(left)]: pending for at, pending in ends if left}
        batch = Batch(withdrawn=sorted(withdrawn), intents=dict(intents))
        for key, pending in outcomes.items():
            state = APPLIED if pending == ALL else FAILED
            batch.outcomes.append(OutcomeRow(state, 2.0, b"outcome", None, pending, key))
        if fails:
            broken: Any = IntentRow("broken", "d", 1.0, None)  # type: ignore[arg-type]
            batch.intents[broken[:2]] = broken
            with pytest.raises(OutboxError):
                self.store.write(batch)
            return
        self.store.write(batch)
        for key in withdrawn:
            del self.intents[key]
        self.intents.update((key, row.content) for key, row in intents.items())
        for key, pending in outcomes.items():
            del self.intents[key]
            if pending:
                self.events.append(Event(key, 0, pending))

    @precondition(lambda self: self.events)
    @rule(mask=st.sampled_from(MASKS), limit=st.integers(1, 80))
    def deliver(self, mask: int, limit: int) -> None:
        """A target has the first events that wait for it."""
        rows = self.store.page(mask, 0, limit)
        self.store.write(Batch(delivered={mask: [row.id for row in rows]}))
        waiting = [event for event in self.events if event.pending & mask][:limit]
        for event in waiting:
            event.pending &= ~mask
        self.events = [event for event in self.events if event.pending or event.dead]

    @precondition(lambda self: self.events)
    @rule(mask=st.sampled_from(MASKS))
    def bury(self, mask: int) -> None:
        """A target does not get the first event that waits for it."""
        rows = self.store.page(mask, 0, 1)
        waiting = [event for event in self.events if event.pending & mask][:1]
        assert [row.update_id for row in rows] == [event.key[0] for event in waiting]
        letters = [DeadRow(MASKS.index(mask), row.id, 3, "no", 3.0) for row in rows]
        self.store.write(Batch(dead=letters))
        for event in waiting:
            event.pending &= ~mask
            event.dead |= mask

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def each_target_sees_what_waits_for_it_in_order(self) -> None:
        for mask in MASKS:
            rows = self.store.page(mask, 0, 10_000)
            waiting = [event for event in self.events if event.pending & mask]
            assert [row[1:3] for row in rows] == [event.key for event in waiting]
            assert self.store.again(mask, [row.id for row in rows]) == rows
            counts = self.store.counts(mask)
            assert counts.depth == len(waiting)
            assert counts.dead_letters == sum(bool(event.dead & mask) for event in self.events)
            assert (self.store.oldest(mask) is None) == (not waiting)
            assert self.store.last_event >= max([row.id for row in rows], default=0)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def the_open_intents_are_in_the_file(self) -> None:
        assert self.store.open.keys() == self.intents.keys()
        with closing(connect(self.store.path, "ro")) as other:
            found = other.execute(
                "SELECT update_id, dialog_id, id, content FROM entries WHERE state = 0"
            ).fetchall()
        assert {(update, dialog): content for update, dialog, _, content in found} == self.intents
        assert {(update, dialog): number for update, dialog, number, _ in found} == self.store.open

    def teardown(self) -> None:
        """A file with nothing in it goes away."""
        if not hasattr(self, "store"):
            return
        is_empty = not self.intents and not self.events
        self.store.close()
        assert self.store.path.exists() != is_empty
        if not is_empty:
            with closing(sqlite3.connect(self.store.path)) as file:
                assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        shutil.rmtree(self.folder.parent)


class StoreMachineForLong(StoreMachine):
    pass


TestStore: Any = StoreMachine.TestCase
TestStore.settings = settings(deadline=None, max_examples=8, stateful_step_count=20)
TestStoreForLong: Any = pytest.mark.thorough(StoreMachineForLong.TestCase)
TestStoreForLong.settings = settings(deadline=None, max_examples=300, stateful_step_count=40)
