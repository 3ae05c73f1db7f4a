"""Whether a state has what an update assigns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from cognigy_async import DialogState, StateUpdate
from cognigy_async.engine.resolution import holds
from tests.unit._builders import unhurried, variables


def state(session: Any = None, user: Any = None, next_step: str | None = None) -> DialogState:
    return DialogState("d", session or {}, user or {}, next_step, None, None)


@unhurried
@given(variables, variables)
def test_a_state_holds_what_was_assigned_and_more(session: Any, others: Any) -> None:
    update = StateUpdate("d", session=session, user={"u": 1})
    found = state(others | session, {"u": 1.0, "v": 2})
    assert holds(found, update)
    assert not holds(state(session, {"v": 1}), update)


@pytest.mark.parametrize(
    ("found", "assigned"),
    [(1, True), (0, False), (False, 0), ([], {}), ({"a": 1}, {}), ([1], [1, 2]), ("1", 1)],
)
def test_other_values_are_not_what_was_assigned(found: Any, assigned: Any) -> None:
    assert not holds(state({"a": found}), StateUpdate("d", session={"a": assigned}))
    assert not holds(state({"a": [found]}), StateUpdate("d", session={"a": [assigned]}))
    assert holds(state({"a": assigned}), StateUpdate("d", session={"a": assigned}))


def test_the_node_counts_if_the_update_names_one() -> None:
    moves = StateUpdate("d", session={"a": 1}, next_step="s")
    assert holds(state({"a": 1}, next_step="s"), moves)
    assert not holds(state({"a": 1}, next_step="t"), moves)
    assert not holds(state({"a": 1}), moves)
    assert holds(state({"a": 1}, next_step="t"), StateUpdate("d", session={"a": 1}))
