"""The protocol between a client and its outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cognigy_async import StateUpdate
from cognigy_async.client.recovery import Recovery
from cognigy_async.engine.recorder import Record
from cognigy_async.hooks.outbox import RESEND_WITHIN, Intent, Outbox, OutboxClient, Receipt
from tests.simulation.outbox import MemoryOutbox

if TYPE_CHECKING:
    # What the parts hand to each other has the types of the protocol.
    def of_outbox(outbox: MemoryOutbox) -> Outbox:
        return outbox

    def of_client(client: Recovery) -> OutboxClient:
        return client

    def of_receipt(record: Record) -> Receipt:
        return record


def test_an_intent_does_not_change() -> None:
    update = StateUpdate("d", session={"a": 1})
    intent = Intent("d", "u-1", update, {}, "u-1", None, True, None, 1.0)
    with pytest.raises(AttributeError):
        intent.key = "other"  # type: ignore[misc]


def test_the_repr_shows_no_values() -> None:
    update = StateUpdate("d", session={"name": "the-value"}, metadata={"m": "the-text"})
    intent = Intent("d", "u-1", update, update.metadata, "k-1", None, True, None, 1.0)
    assert repr(intent) == "<Intent u-1 dialog='d' key='k-1'>"


def test_a_dialog_that_cannot_be_read_has_half_a_minute() -> None:
    assert RESEND_WITHIN == 30.0
