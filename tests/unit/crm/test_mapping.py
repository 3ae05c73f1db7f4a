"""`FieldMapping`: which values of an event leave, and under which name."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import ConfigurationError, UpdateEvent
from cognigy_async.crm import EventRejectedError
from cognigy_async.crm.mapping import FieldMapping, join_options
from tests.unit._builders import CANARY
from tests.unit.crm._events import event, text_of

ALL: dict[str, Any] = {
    "mail": "metadata.email",
    "id": "dialog_id",
    "name": "session.name",
    "stage": "user.sales.stage",
    "step": "next_step",
    "twice": lambda of: of.payload.get("session", {}).get("name", "") * 2 or None,
}


def test_each_source_has_its_value_and_nothing_else_leaves() -> None:
    of = event(
        session={"name": "Ann", "secret": "no"},
        user={"sales": {"stage": 3, "more": 4}, "other": True},
        next_step="checkout",
        metadata={"email": "a@b.example", "trace": "t"},
    )
    assert FieldMapping("Webhook", ALL).read(of) == {
        "mail": "a@b.example",
        "id": "d-1",
        "name": "Ann",
        "stage": 3,
        "step": "checkout",
        "twice": "AnnAnn",
    }


def test_only_what_the_update_sets_is_there() -> None:
    fields = FieldMapping("Webhook", ALL).read(event(user={"sales": {"stage": 3}}))
    assert fields == {"id": "d-1", "stage": 3}


@pytest.mark.parametrize("user", [{"sales": 3}, {"sales": {"other": 3}}, {"sales": [{"stage": 1}]}])
def test_a_member_that_is_not_there_is_no_value(user: dict[str, Any]) -> None:
    assert FieldMapping("Webhook", {"stage": "user.sales.stage"}).read(event(user=user)) is None


def test_a_key_of_metadata_may_have_dots() -> None:
    mapping = FieldMapping("Webhook", {"x": "metadata.a.b"})
    assert mapping.read(event(metadata={"a.b": "1"})) == {"x": "1"}


def test_dialog_and_metadata_alone_are_no_reason_to_send() -> None:
    of = event(session={"other": 1}, metadata={"email": "a@b.example"})
    assert FieldMapping("Webhook", ALL, "mail").read(of) is None


def test_a_mapping_of_nothing_but_metadata_sends_each_event() -> None:
    mapping = FieldMapping("Webhook", {"id": "dialog_id", "mail": "metadata.email"})
    assert mapping.read(event()) == {"id": "d-1"}


@pytest.mark.parametrize("metadata", [{}, {"email": ""}])
def test_an_event_that_does_not_identify_its_record_is_rejected(metadata: dict[str, str]) -> None:
    mapping = FieldMapping("HubSpot", ALL, "mail")
    with pytest.raises(EventRejectedError, match=r"dialog 'd-1'.*'mail'") as caught:
        mapping.read(event(session={"name": CANARY}, metadata=metadata))
    assert CANARY not in text_of(caught.value)


def test_zero_and_false_are_values() -> None:
    mapping = FieldMapping("HubSpot", {"id": "session.id", "vip": "session.vip"}, "id")
    assert mapping.read(event(session={"id": 0, "vip": False})) == {"id": 0, "vip": False}


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_a_function_returns_what_json_can_hold(value: object) -> None:
    mapping = FieldMapping("Webhook", {"x": lambda _: value})
    with pytest.raises(EventRejectedError, match=r"'d-1'.*field 'x'.*(TypeError|ValueError)"):
        mapping.read(event())


def test_a_failed_function_shows_no_value() -> None:
    def fails(of: UpdateEvent) -> object:
        return int(of.payload["session"]["a"])

    with pytest.raises(EventRejectedError, match="failed with ValueError") as caught:
        FieldMapping("Webhook", {"x": fails}).read(event(session={"a": CANARY}))
    assert CANARY not in text_of(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "source",
    ["session", "session.", "session.a.", "name", "metadata.", "dialog_id.x", "next_step.x", "", 5],
)
def test_an_unknown_source_is_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="field 'x' must be"):
        FieldMapping("Webhook", {"x": source})


def test_a_mapping_has_fields_and_its_key() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        FieldMapping("Webhook", {})
    with pytest.raises(ConfigurationError, match="a source for 'email'"):
        FieldMapping("HubSpot", {"x": "session.x"}, "email")


def test_texts_in_a_list_are_options() -> None:
    assert join_options(["a", "b"]) == "a;b"
    assert join_options(["a", 1]) == ["a", 1]
    assert join_options("a") == "a"
