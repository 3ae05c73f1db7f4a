"""`StateUpdate`: validation, copies, comparison, pickling and pydantic."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import pprint
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel, TypeAdapter, ValidationError

from cognigy_async import Limits, RuntimeApi, UpdateValidationError
from cognigy_async.models.update import FIELD_NAMES, StateUpdate
from tests.unit._builders import unhurried, update, variables

ADAPTER = TypeAdapter(StateUpdate)
SMALL = Limits(safe_payload_bytes=100)
WIDE = {"session": {"a": "x" * 40, "b": "y" * 40}, "user": {"c": ["z" * 30]}, "next_step": "s"}


def sent(of: StateUpdate) -> list[bytes]:
    return [request.content for request in RuntimeApi().writes("http://server", of, "u")]


@pytest.mark.parametrize(
    ("fields", "payload"),
    [
        ({"session": {"a": 1}}, {"session": {"a": 1}}),
        ({"user": {"a": 1}}, {"user": {"a": 1}}),
        ({"next_step": "s"}, {"transition": {"nextStep": "s"}}),
        ({"session": {}, "user": {"a": 1}}, {"user": {"a": 1}}),
        ({"session": None, "user": None, "next_step": "s"}, {"transition": {"nextStep": "s"}}),
        (
            {"next_step": "s", "user": {"b": 2}, "session": {"a": 1}},
            {"session": {"a": 1}, "user": {"b": 2}, "transition": {"nextStep": "s"}},
        ),
        ({"session": {"a": 1}, "if_match": '"7"', "update_id": "u"}, {"session": {"a": 1}}),
    ],
)
def test_the_payload_has_the_keys_that_carry_something(
    fields: dict[str, Any], payload: dict[str, Any]
) -> None:
    made = StateUpdate(dialog_id="d", **fields)
    assert made.payload() == payload
    assert list(made.payload()) == list(payload)
    assert [made.payload()] == [json.loads(body) for body in sent(made)]


def test_later_changes_to_the_arguments_change_nothing() -> None:
    session: dict[str, Any] = {"a": [1, {"b": 2}]}
    made = update(session=session)
    before = sent(made)
    session["a"][1]["b"] = 3
    session["c"] = object()
    assert made.payload() == {"session": {"a": [1, {"b": 2}]}}
    assert made.session == {"a": [1, {"b": 2}]}
    assert sent(made) == before


def test_each_payload_is_a_copy_of_its_own() -> None:
    made = update(session={"a": [1]})
    made.payload()["session"]["a"].append(2)
    made.payload().clear()
    assert made.payload() == {"session": {"a": [1]}}
    assert sent(made) == [b'{"session":{"a":[1]}}']


def test_changes_to_what_an_update_returns_change_nothing() -> None:
    made = StateUpdate.from_fields(SMALL, {"dialog_id": "d", **WIDE})
    before = made.payload(), sent(made)
    made.session["a"] = "changed"
    made.user["c"].append(1)
    made.user.clear()
    made.fields()["session"].clear()
    assert (made.payload(), sent(made)) == before
    assert (made.session, made.user) == (WIDE["session"], WIDE["user"])
    # The client checks an update against limits of its own, and may send the outcome of that.
    assert made.with_limits(Limits()).payload() == before[0]
    assert made.replace().payload() == before[0]


@pytest.mark.parametrize(
    "name", ["dialog_id", "session", "user", "next_step", "if_match", "update_id", "other"]
)
def test_an_update_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(update(), name, "x")


def test_an_argument_that_is_not_given_reads_as_empty() -> None:
    made = update(next_step="s")
    assert (made.session, made.user, made.if_match, made.update_id) == ({}, {}, None, None)
    assert (made.dialog_id, made.next_step) == ("d-1", "s")
    assert made.fields() == {"dialog_id": "d-1", "next_step": "s"}


def test_equality_is_that_of_the_content() -> None:
    for same in (
        update(session={"a": 1}),
        update(session={"a": 1}, user={}),
        StateUpdate.from_fields(SMALL, {"dialog_id": "d-1", "session": {"a": 1}}),
    ):
        assert update(session={"a": 1}) == same
        assert hash(update(session={"a": 1})) == hash(same)
    for other in (
        update(session={"a": 2}),
        update(session={"a": 1.0}),
        update(user={"a": 1}),
        update("d-2", session={"a": 1}),
        update(session={"a": 1}, next_step="s"),
        update(session={"a": 1}, if_match="7"),
        update(session={"a": 1}, update_id="u"),
        {"dialog_id": "d-1", "session": {"a": 1}},
    ):
        assert update(session={"a": 1}) != other


@pytest.mark.parametrize(
    "through",
    [
        pytest.param(lambda made: pickle.loads(pickle.dumps(made)), id="pickle"),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda made: made.replace(), id="replace"),
        pytest.param(lambda made: StateUpdate(**made.fields()), id="fields"),
        pytest.param(lambda made: eval(repr(made), {"StateUpdate": StateUpdate}), id="repr"),
        pytest.param(lambda made: ADAPTER.validate_python(made), id="validate"),
        pytest.param(lambda made: ADAPTER.validate_python(ADAPTER.dump_python(made)), id="dump"),
        pytest.param(lambda made: ADAPTER.validate_json(ADAPTER.dump_json(made)), id="JSON"),
    ],
)
def test_an_update_survives_copying_and_serialising(
    through: Callable[[StateUpdate], StateUpdate],
) -> None:
    made = update(
        session={"a": [None, 0.5]}, user={"b": 1}, next_step="s", if_match='"7"', update_id="u-1"
    )
    again = through(made)
    assert type(again) is StateUpdate
    assert again == made
    assert again.payload() == made.payload()
    assert sent(again) == sent(made)
    assert again.fields() == made.fields()


def test_the_limits_of_an_update_go_with_it() -> None:
    made = StateUpdate.from_fields(SMALL, {"dialog_id": "d", **WIDE})
    assert len(sent(made)) > 1
    assert sent(pickle.loads(pickle.dumps(made))) == sent(made)
    assert sent(made.replace(update_id="v")) == sent(made)
    assert len(sent(made.with_limits(Limits()))) == 1


def test_an_update_with_the_limits_that_it_has_is_returned_as_it_is() -> None:
    made = update()
    assert made.with_limits(Limits()) is made
    stricter = made.with_limits(Limits(max_depth=1))
    assert stricter == made
    assert stricter is not made


def test_an_update_that_breaks_other_limits_is_refused() -> None:
    with pytest.raises(UpdateValidationError, match=r"session\.a\[0\]: .* deeper than 1 levels"):
        update(session={"a": [[1]]}).with_limits(Limits(max_depth=1))


def test_a_copy_with_changes_is_checked() -> None:
    made = update(session={"a": 1})
    changed = made.replace(session={"b": 2}, next_step="s")
    assert changed.payload() == {"session": {"b": 2}, "transition": {"nextStep": "s"}}
    assert made.payload() == {"session": {"a": 1}}
    with pytest.raises(UpdateValidationError, match=r"session\.b: a variable cannot be None"):
        made.replace(session={"b": None})
    with pytest.raises(UpdateValidationError, match="other: is not a field"):
        made.replace(other=1)
    with pytest.raises(UpdateValidationError, match="carries nothing"):
        made.replace(session=None)


class Order(BaseModel):
    """A body as a web service takes it."""

    updates: list[StateUpdate]


def test_an_update_is_a_part_of_other_models() -> None:
    text = '{"updates":[{"dialog_id":"d","session":{"a":{"b":[1.5,null]}},"next_step":"s"}]}'
    order = Order.model_validate_json(text)
    expected = StateUpdate(dialog_id="d", session={"a": {"b": [1.5, None]}}, next_step="s")
    assert order.updates == [expected]
    assert order.updates[0].payload() == expected.payload()
    assert order.model_dump() == {"updates": [expected.fields()]}
    assert Order.model_validate_json(order.model_dump_json()) == order
    assert TypeAdapter(list[StateUpdate]).validate_python([expected]) == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dialog_id":"d","session":{"a":null}}', r"session\.a: a variable cannot be None"),
        ('{"dialog_id":"d","session":{"a":NaN}}', r"session\.a: NaN and infinity are not JSON"),
        ('{"dialog_id":"d","session":{"a":[[[[]]]]}}', r"session\.a\[0\]\[0\]\[0\]: objects"),
        ('{"dialog_id":"d","session":[]}', r"session: is of type list"),
        ('{"dialog_id":5,"session":{"a":1}}', r"dialog_id: is of type int"),
        ('{"session":{"a":1}}', r"dialog_id: is missing"),
        ('{"dialog_id":"d"}', r"update: the update carries nothing; .*, inject or notify"),
        ('{"dialog_id":"d","session":{"{0}%s":1}}', r"session\..0.%s: a variable's name"),
        ("[]", "a mapping of the arguments of StateUpdate"),
        ("null", "a mapping of the arguments of StateUpdate"),
    ],
)
def test_inside_other_models_a_fault_is_one_of_their_faults(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Order.model_validate_json(f'{{"updates":[{text}]}}')
    assert [fault["loc"] for fault in caught.value.errors()] == [("updates", 0)]


@pytest.mark.parametrize(
    "text", ['{"dialog_id":"d","session":{"1x":"canary-4711"}}', '["canary-4711"]']
)
def test_a_fault_inside_other_models_shows_no_value(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate_json(f'{{"updates":[{text}]}}')
    error = caught.value
    assert "canary-4711" not in f"{error}{error!r}{error.errors()}{error.json()}"
    assert error.__cause__ is None
    assert error.__context__ is None


def test_an_update_works_with_the_functions_of_dataclasses() -> None:
    made = update(session={"a": [1]}, metadata={"by": "me"})
    assert [field.name for field in dataclasses.fields(made)] == list(FIELD_NAMES)
    record = dataclasses.asdict(made)
    assert {name: value for name, value in record.items() if value} == made.fields()
    assert StateUpdate(**record) == made
    assert dataclasses.replace(made, next_step="s") == made.replace(next_step="s")
    pprint.pformat(made)


def test_the_json_schema_tells_what_an_update_is() -> None:
    schema = TypeAdapter(StateUpdate).json_schema()
    assert schema["required"] == ["dialog_id"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert set(properties) == {
        "dialog_id",
        "session",
        "user",
        "next_step",
        "if_match",
        "update_id",
        "user_id",
        "profile_id",
        "metadata",
        "inject",
        "notify",
    }
    assert properties["metadata"]["additionalProperties"] == {"type": "string"}
    assert properties["session"]["type"] == properties["user"]["type"] == "object"
    assert properties["dialog_id"]["type"] == "string"
    within = Order.model_json_schema()
    assert within["properties"]["updates"]["items"] == {"$ref": "#/$defs/StateUpdate"}
    assert within["$defs"] == {"StateUpdate": schema}


@given(variables)
@unhurried
def test_equal_input_has_the_same_body_in_the_same_order(session: dict[str, Any]) -> None:
    made = update(session=session, next_step="s")
    assert sent(made) == sent(update(session=copy.deepcopy(session), next_step="s"))
    assert list(made.payload().get("session", {})) == list(session)


def test_the_order_of_members_has_no_meaning() -> None:
    one = StateUpdate("d", session={"a": {"x": 1, "y": [{"p": 1, "q": 2}]}, "b": 2}, next_step="s")
    two = StateUpdate("d", session={"b": 2, "a": {"y": [{"q": 2, "p": 1}], "x": 1}}, next_step="s")
    assert one == two
    assert hash(one) == hash(two)
    for session in ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [2, 1]}, {"a": True, "b": [1, 2]}):
        others = [{"a": 1, "b": [1, 2, 3]}, {"a": "1", "b": [1, 2]}, {"b": 1, "a": [1, 2]}]
        for other in others:
            assert StateUpdate("d", session=session) != StateUpdate("d", session=other)
    assert StateUpdate("d", session={"a": 1}) != StateUpdate("d", session={"a": True})
