"""Events of updates."""

from __future__ import annotations

from cognigy_async import CallbackError, ServerError
from cognigy_async.models.events import DeadLetter, UpdateEvent
from tests.unit._builders import update


def test_the_payload_of_an_event_is_what_was_sent() -> None:
    event = UpdateEvent("d-1", "u-1", update(session={"a": 1}, next_step="pay"), None, None)
    assert event.payload == {"session": {"a": 1}, "transition": {"nextStep": "pay"}}
    assert event.payload is not event.payload


def test_a_reset_has_no_payload() -> None:
    assert UpdateEvent("d-1", "u-1", None, None, None).payload == {}


def test_the_repr_names_the_update_and_its_outcome() -> None:
    applied = UpdateEvent("d-1", "u-1", update(), None, None)
    failed = UpdateEvent("d-1", "u-2", update(), None, ServerError("The server failed"))
    assert repr(applied) == "<UpdateEvent u-1 dialog='d-1' applied>"
    assert repr(failed) == "<UpdateEvent u-2 dialog='d-1' ServerError>"


def test_a_dead_letter_keeps_event_and_reason() -> None:
    event = UpdateEvent("d-1", "u-1", update(), None, None)
    letter = DeadLetter(event, CallbackError("the callback failed"), 3)
    assert (letter.event, str(letter.error), letter.attempts) == (event, "the callback failed", 3)
