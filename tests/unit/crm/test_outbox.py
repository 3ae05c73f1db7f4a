"""The outbox as a client uses it: records, room, errors, reopening."""

from __future__ import annotations

from pathlib import Path

import pytest

from cognigy_async import StateUpdate
from cognigy_async.crm import Outbox
from tests.unit.crm._driver import Collector, collecting, event_of, opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


async def test_an_applied_update_is_delivered_as_it_was(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    fields = {
        "session": {"a": 1},
        "next_step": "node",
        "metadata": {"order": "7"},
        "if_match": '"1"',
    }
    update = StateUpdate("d-1", **fields)
    async with opened(outbox) as client:
        await client.intend(update, "u-1")
        await client.settle(event_of(update, "u-1"))
        await target.until(lambda: bool(target.events))
    (event,) = target.events
    assert event.update == update
    assert (event.update_id, event.dialog_id, event.metadata) == ("u-1", "d-1", {"order": "7"})
    assert event.error is None
    assert event.result is not None
    assert (event.result.etag, event.result.version) == ('"2"', 2)
    assert (target.opened, target.closed) == (1, 1)
    # Nothing is left.
    assert {path.name for path in folder.iterdir()} == {"adoption.lock"}
