"""Messages: which are refused, and what an update makes of them."""

from __future__ import annotations

import dataclasses
import datetime
import pickle
from collections import UserDict
from typing import Any

import pytest

from cognigy_async import Limits, StateUpdate, UpdateValidationError
from cognigy_async.models.message import read_message
from tests.unit._builders import CANARY, update

DEEP: Any = 1
for _ in range(70):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("message", "path", "problem"),
    [
        (["x"], "inject", "is of type list"),
        ({}, "inject", "has neither text nor data"),
        ({"text": "", "data": {}}, "inject", "has neither text nor data"),
        ({"text": 1}, "inject.text", "is of type int"),
        ({"data": ["x"]}, "inject.data", "is of type list"),
        ({"text": "x", "attachments": []}, "inject.attachments", "is not a part of it"),
        ({"text": "\ud800"}, "inject.text", "lone surrogate"),
        ({"data": {"a": {1: 2}}}, "inject.data.a", "a key is of type int"),
        ({"data": {"a": {"set"}}}, "inject.data.a", "set is not a type"),
        ({"data": {"a": 2**53}}, "inject.data.a", "the integer is beyond"),
        ({"data": {"a": DEEP}}, "inject.data.a", "deeper than 64 levels"),
    ],
)
def test_what_is_no_message_is_refused(message: Any, path: str, problem: str) -> None:
    _, faults = read_message(Limits(), "inject", message)
    assert any(fault.path.startswith(path) and problem in fault.problem for fault in faults)
    with pytest.raises(UpdateValidationError):
        update(inject=message)


def test_a_mapping_that_cannot_be_read_is_refused() -> None:
    class Broken(UserDict[str, Any]):
        def __iter__(self) -> Any:
            raise LookupError(CANARY)

    _, (fault,) = read_message(Limits(), "notify", Broken(text="x"))
    assert fault.problem == "reading it raised LookupError"


def test_text_and_data_are_never_missing() -> None:
    assert read_message(Limits(), "inject", {"text": "x"}) == ({"text": "x", "data": {}}, [])
    assert read_message(Limits(), "inject", {"text": None, "data": {"a": 1}})[0] == {
        "text": "",
        "data": {"a": 1},
    }


@pytest.mark.parametrize("attachments", ["x", [1], [{"url": {"x"}}]])
def test_attachments_are_a_list_of_objects(attachments: Any) -> None:
    with pytest.raises(UpdateValidationError, match=r"notify\.attachments"):
        update(notify={"text": "x", "attachments": attachments})
    made = update(notify={"attachments": ({"url": "u"},)})
    assert made.notify == {"text": "", "data": {}, "attachments": [{"url": "u"}]}


def test_the_data_of_a_message_has_no_rules_of_variables() -> None:
    data = {"a-b": None, "_cognigy": {"deep": [[[[1]]]]}, "": 1}
    assert update(inject={"data": data}).inject == {"text": "", "data": data}


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ({"next_step": "s"}, "next_step"),
        ({"if_match": '"7"', "session": {"a": 1}}, "if_match"),
        ({"notify": {"text": "y"}}, "notify"),
    ],
)
def test_only_the_message_of_an_update_must_not_be_repeated(
    others: dict[str, Any], name: str
) -> None:
    with pytest.raises(UpdateValidationError, match=f"inject: cannot be in one update with {name}"):
        update(inject={"text": "x"}, **others)
    made = update(inject={"text": "x"}, session={"a": 1}, user={"b": 1}, profile_id="p")
    assert not made.repeatable
    assert update(session={"a": 1}).repeatable
    assert not update(next_step="s").repeatable


def test_a_message_is_a_part_of_the_content_of_an_update() -> None:
    made = update(session={"a": 1}, inject={"text": "x"}, user_id="u")
    assert made.payload() == {"session": {"a": 1}, "inject": {"text": "x", "data": {}}}
    assert (made.inject, made.notify) == ({"text": "x", "data": {}}, {})
    for again in (pickle.loads(pickle.dumps(made)), StateUpdate(**made.fields()), made.replace()):
        assert again == made
        assert again.payload() == made.payload()
    assert made != update(session={"a": 1}, user_id="u")
    assert made != update(session={"a": 1}, notify={"text": "x"}, user_id="u")
    assert update(inject={"text": "x"}).session == {}


def test_an_empty_message_is_none_like_empty_variables() -> None:
    made = update(session={"a": 1}, inject={}, notify={})
    assert made == update(session={"a": 1})
    with pytest.raises(UpdateValidationError, match="carries nothing"):
        update(inject={})
    record = dataclasses.asdict(update(inject={"text": "x"}, user_id="u"))
    assert StateUpdate(**record) == update(inject={"text": "x"}, user_id="u")


def test_a_message_that_is_changed_later_is_sent_as_it_was() -> None:
    data = {"a": [1]}
    made = update(inject={"data": data})
    data["a"].append(2)
    assert made.inject["data"] == {"a": [1]}


def test_a_message_that_is_too_large_is_refused() -> None:
    limits = Limits(safe_payload_bytes=1000)
    with pytest.raises(UpdateValidationError, match="inject: takes 10"):
        StateUpdate.from_fields(limits, {"dialog_id": "d", "inject": {"text": "x" * 1000}})


def test_a_message_is_converted_like_variables() -> None:
    day = datetime.date(2026, 11, 30)
    made = update(inject={"data": {"day": day}}, encode="json")
    assert made.inject["data"] == {"day": "2026-11-30"}
    fields = {"dialog_id": "d", "notify": {"data": {"day": day}}}
    assert StateUpdate.from_fields(Limits(), fields, "json").notify["data"] == {"day": "2026-11-30"}
    with pytest.raises(UpdateValidationError, match=r"inject\.data\.day"):
        update(inject={"data": {"day": day}})
