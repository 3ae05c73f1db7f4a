"""What an item says of its next request."""

from __future__ import annotations

import pytest

from cognigy_async import RuntimeApi, StateUpdate
from cognigy_async.engine.work_item import Action, Group, Kind, WorkItem
from tests.unit._builders import item


def with_requests(update: StateUpdate) -> WorkItem:
    made = item(update=update)
    made.requests = RuntimeApi().writes("https://server.example", update, made.update_id)
    return made


def test_variables_may_be_repeated_and_a_transition_may_not() -> None:
    moving = with_requests(StateUpdate("d-1", session={"a": 1}, next_step="pay"))
    assert moving.not_repeatable
    assert not moving.idempotent
    assigning = with_requests(StateUpdate("d-1", session={"a": 1}))
    assert not assigning.not_repeatable
    assert assigning.idempotent


def test_strict_writes_and_groups_may_not_be_repeated() -> None:
    assert item(Kind.STRICT).not_repeatable
    group = item()
    group.group = Group((item(), item()))
    assert group.not_repeatable
    assert len(group.members) == 2
    assert item().members == ()


@pytest.mark.parametrize("action", [Action.READ, Action.REBASE, Action.REPORT])
def test_reads_may_always_be_repeated(action: Action) -> None:
    made = item(Kind.STRICT)
    made.action = action
    assert not made.not_repeatable


def test_an_item_takes_its_precondition_and_metadata_from_the_update() -> None:
    made = item(update=StateUpdate("d-1", session={"a": 1}, if_match='"7"', metadata={"by": "x"}))
    assert (made.etag, dict(made.metadata), made.action) == ('"7"', {"by": "x"}, Action.WRITE)
    read = item(Kind.READ)
    assert (read.etag, dict(read.metadata), read.action) == (None, {}, Action.READ)
    assert read.has_slot
    assert not made.has_slot
