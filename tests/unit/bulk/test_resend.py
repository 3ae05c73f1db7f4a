"""Rows that an earlier run sent and that need more than a key."""

from __future__ import annotations

import pytest

from cognigy_async import Limits, RuntimeApi, StateUpdate
from cognigy_async.bulk.input.row import Row
from cognigy_async.bulk.journal.schema import OpenSend
from cognigy_async.bulk.resend import AmbiguousSends, InterruptedGroups, ambiguous
from tests.simulation.world import Wire, client_of


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


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', None])
@pytest.mark.parametrize("settings", [{}, {"conditional_writes": False}], ids=str)
def test_a_row_is_sent_again_on_the_strong_etag_that_it_was_sent_on(
    etag: str | None, settings: dict[str, bool]
) -> None:
    client = client_of(Wire(), api=RuntimeApi(**settings))
    sends = AmbiguousSends(client, [OpenSend(1, "d", etag)], renews_keys=False)
    update = sends.resolve(row(1, a=1), StateUpdate("d", next_step="s"))
    if etag == '"1"' and not settings:
        assert update is not None
        assert (update.if_match, update.next_step) == ('"1"', "s")
    else:
        assert update is None
    assert not sends.sends


def test_a_row_is_sent_again_without_a_condition_where_keys_are_honoured() -> None:
    client = client_of(Wire(), api=RuntimeApi(honours_idempotency_keys=True))
    update = StateUpdate("d", next_step="s")
    for renews_keys, expected in ((False, update), (True, None)):
        sends = AmbiguousSends(client, [OpenSend(1, "d", None)], renews_keys=renews_keys)
        assert sends.resolve(row(1, a=1), update) is expected
