"""Rows that an earlier run sent and that need more than a key."""

from __future__ import annotations

import anyio
import pytest

from cognigy_async import Limits, StateUpdate
from cognigy_async.bulk.input.row import Row
from cognigy_async.bulk.journal.schema import OpenSend
from cognigy_async.bulk.resend import AmbiguousSends, InterruptedGroups, ambiguous
from tests.simulation.world import Wire, client_of, state, throttled


def row(line: int, **session: int) -> Row:
    return Row(line, b"", StateUpdate("d", session=session), None, "d")


def test_a_group_is_complete_with_its_last_row() -> None:
    groups = InterruptedGroups({1: "key", 2: "other", 5: "key"})
    assert groups.add(row(1, a=1, b=1), Limits()) is None
    assert groups.keys == {2: "other", 5: "key"}
    group = groups.add(row(5, b=2), Limits())
    assert group is not None
    update, rows = group
    assert (update.session, update.update_id) == ({"a": 1, "b": 2}, "key")
    assert [one.line for one in rows] == [1, 5]


@pytest.mark.parametrize("cause", [None, ValueError("x")])
def test_an_ambiguous_row_names_its_dialog(cause: Exception | None) -> None:
    error = ambiguous(row(1, a=1), cause)  # type: ignore[arg-type]
    assert error.dialog_id == "d"
    assert error.__cause__ is cause


async def test_a_throttled_read_is_repeated_after_an_hour_however_far_the_moment_is() -> None:
    wire = Wire()
    wire.script(throttled("1000000000"), throttled("1000000000"), state(1), method="GET")
    async with client_of(wire) as client:
        sends = AmbiguousSends(client, [OpenSend(1, "d", '"1"')])
        update = await sends.resolve(row(1, a=1), StateUpdate("d", session={"a": 1}))
        assert isinstance(update, StateUpdate)
        assert update.if_match == '"1"'
    assert [round(sent.at) for sent in wire.sent] == [0, 3600, 7200]
    assert anyio.current_time() < 7300
