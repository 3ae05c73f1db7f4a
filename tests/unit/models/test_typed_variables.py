"""Session variables checked against a model: names, types, places in messages, and no values."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pickle
import traceback
import uuid
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    field_validator,
    model_validator,
)

from cognigy_async import Limits, RuntimeApi, StateUpdate, UpdateValidationError
from cognigy_async.errors import ConfigurationError, Fault
from cognigy_async.models.typed_variables import faults_of_model, validate_model
from tests.unit._builders import CANARY
from tests.unit.client._parts import config


class Address(BaseModel):
    street: str
    city: str = ""


class Colour(enum.Enum):
    RED = "red"


class MySession(BaseModel):
    visits: int
    since: datetime.datetime
    total: decimal.Decimal = decimal.Decimal(0)
    ratio: float = 0.0
    home: Address | None = None
    colour: Colour = Colour.RED
    tier: Literal["gold", "basic"] = "basic"
    mixed: int | list[int] = 0
    tags: set[int] = set()
    related: list[MySession] = Field(default_factory=list)
    key: uuid.UUID | None = None
    code: Annotated[str, Field(max_length=3, pattern="^[a-z]*$")] = ""

    @field_validator("visits")
    @classmethod
    def counted(cls, visits: int) -> int:
        if visits == 99:
            raise RuntimeError(CANARY)
        if visits < 0:
            raise ValueError(f"{visits} {CANARY}")
        return visits

    @model_validator(mode="after")
    def whole(self) -> MySession:
        raise ValueError("the whole model is not there to be checked")

    def model_post_init(self, _: Any) -> None:
        raise AssertionError("an update is no instance of the model")


LIMITS = Limits(variables=MySession)


@pytest.mark.parametrize(
    "session",
    [
        {"visits": 1},
        {"since": "2025-02-03T04:05:06Z"},
        {"total": 1.5},
        {"total": "1.50"},
        {"ratio": 1},
        {"home": {"street": "x"}},
        {"colour": "red", "tier": "gold"},
        {"mixed": 3},
        {"mixed": [3]},
        {"tags": [1, 2]},
        {"tags": (1, 2)},
        {"related": []},
        {"key": str(uuid.UUID(int=1))},
    ],
)
def test_variables_that_fit_are_sent_as_they_are(session: dict[str, Any]) -> None:
    update = StateUpdate.from_fields(LIMITS, {"dialog_id": "d-1", "session": session})
    assert update.payload() == StateUpdate("d-1", session=session).payload()


@pytest.mark.parametrize(
    ("session", "path", "problem"),
    [
        ({"visits": "1"}, "session.visits", "input should be a valid integer"),
        ({"visits": True}, "session.visits", "input should be a valid integer"),
        ({"visits": 1.0}, "session.visits", "input should be a valid integer"),
        ({"visits": -1}, "session.visits", "does not fit its type (value_error)"),
        ({"visits": 99}, "session", "a validator of MySession raised RuntimeError"),
        ({"since": CANARY}, "session.since", "input should be a valid datetime"),
        ({"since": 5}, "session.since", "input should be a valid datetime"),
        ({"home": {"city": CANARY}}, "session.home", "street is missing"),
        ({"home": {"street": 1}}, "session.home.street", "input should be a valid string"),
        ({"home": [CANARY]}, "session.home", "input should be an object"),
        ({"colour": CANARY}, "session.colour", "input should be 'red'"),
        ({"tier": CANARY}, "session.tier", "input should be 'gold' or 'basic'"),
        ({"mixed": CANARY}, "session.mixed", "input should be a valid integer"),
        ({"mixed": [1, CANARY]}, "session.mixed", "input should be a valid integer"),
        ({"tags": [1, CANARY]}, "session.tags[1]", "input should be a valid integer"),
        ({"related": [{"visits": 1}]}, "session.related[0]", "since is missing"),
        ({"key": CANARY}, "session.key", "does not fit its type (uuid_parsing)"),
        ({"code": CANARY}, "session.code", "string should have at most 3 characters"),
        ({"code": "A"}, "session.code", "string should match pattern"),
        ({"visist": 1}, "session.visist", "MySession has no variable of this name"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    session: dict[str, Any], path: str, problem: str
) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate.from_fields(LIMITS, {"dialog_id": "d-1", "session": session})
    error = caught.value
    assert (error.path, error.dialog_id) == (path, "d-1")
    assert problem in error.faults[0].problem
    assert all(fault.remedy for fault in error.faults)
    assert CANARY not in "".join(traceback.format_exception(error)) + repr(error.faults)


def test_all_faults_of_all_variables_are_reported() -> None:
    faults = faults_of_model(MySession, {"visits": "1", "tier": 2, "unknown": 3})
    assert {fault.path for fault in faults} == {"session.visits", "session.tier", "session.unknown"}


def test_a_name_that_is_nearly_right_is_suggested_and_others_are_listed() -> None:
    [near] = faults_of_model(MySession, {"visist": 1})
    assert near.remedy == "did you mean visits?"
    [far] = faults_of_model(Address, {"q": 1})
    assert far == Fault(
        "session.q",
        "Address has no variable of this name",
        'its names are street, city; with extra="allow" it takes others as well',
    )


class Renamed(BaseModel):
    cart_total: float = Field(alias="cartTotal")
    name: str = Field("", validation_alias=AliasChoices("firstName", "first_name"))


class ByName(Renamed):
    model_config = ConfigDict(populate_by_name=True)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    visits: int = 0


def test_aliases_are_the_names_of_variables() -> None:
    assert not faults_of_model(Renamed, {"cartTotal": 1.5, "firstName": "x"})
    assert not faults_of_model(Renamed, {"first_name": "x"})
    [fault] = faults_of_model(Renamed, {"cart_total": 1.5})
    assert (fault.path, fault.remedy) == ("session.cart_total", "did you mean cartTotal?")
    assert not faults_of_model(ByName, {"cart_total": 1.5})


class Either(BaseModel):
    x: int = Field(0, validation_alias=AliasChoices("a", "b", AliasPath("q", "r")))
    z: int = Field(1, validation_alias=AliasPath("p", 0))


class NameOnly(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    x: int = Field(alias="theX")


class Written(BaseModel):
    x: int = Field(serialization_alias="outX")


class Read(BaseModel):
    x: int = Field(validation_alias="inX")


@pytest.mark.parametrize(
    ("model", "session", "fault"),
    [
        (
            ByName,
            {"cartTotal": 1.5, "cart_total": 2.5},
            "session.cart_total: session.cartTotal is the same variable of ByName; "
            "send one of the two",
        ),
        (
            Either,
            {"a": 1, "b": "no"},
            "session.b: session.a is the same variable of Either; send one of the two",
        ),
        (
            Either,
            {"b": 1, "q": {"r": 1}},
            "session.q: session.b is the same variable of Either; send one of the two",
        ),
        (
            Either,
            {"p": []},
            "session.p: Either reads z from p[0], which is missing; "
            "send p[0], or leave the variable out",
        ),
        (
            Either,
            {"q": {}},
            "session.q: Either reads x from q.r, which is missing; "
            "send q.r, or leave the variable out",
        ),
        (Either, {"p": ["q"]}, "session.p[0]: does not fit: input should be a valid integer"),
        (Either, {"unlike": 1}, "has no variable of this name; its names are a, b, q, p; with"),
        (ByName, {"unlike": 1}, "its names are cartTotal, cart_total, firstName, first_name, name"),
        (ByName, {"cartTota": 1}, "did you mean cartTotal?"),
        (NameOnly, {"unlike": 1}, "its names are x; with"),
        (
            Written,
            {"outX": 1},
            "session.outX: Written writes this name, but reads x; "
            "send x, or give the field one alias for both",
        ),
        (
            Read,
            {"x": 1},
            "session.x: Read writes this name, but reads inX; "
            "send inX, or give the field one alias for both",
        ),
    ],
)
def test_a_name_is_refused_for_the_reason_that_the_aliases_give(
    model: type[BaseModel], session: dict[str, Any], fault: str
) -> None:
    [found] = faults_of_model(model, session)
    assert fault in str(found)


@pytest.mark.parametrize(
    "session", [{"a": 1}, {"b": 1}, {"q": {"r": 1}}, {"p": [1, "x"]}, {"p": [1], "b": 2}]
)
def test_each_alias_of_a_field_is_accepted(session: dict[str, Any]) -> None:
    assert not faults_of_model(Either, session)


def test_a_converted_instance_needs_one_alias_for_both_directions() -> None:
    limits = Limits(variables=Renamed)
    fields = {"dialog_id": "d", "session": {"cartTotal": 1.5}}
    assert StateUpdate.from_fields(limits, fields, "json").session == {"cartTotal": 1.5}
    fields["session"] = Written(x=1)  # type: ignore[assignment]
    with pytest.raises(UpdateValidationError, match="Written writes this name, but reads x"):
        StateUpdate.from_fields(Limits(variables=Written), fields, "json")


def test_a_model_that_allows_other_names_checks_only_its_own() -> None:
    assert not faults_of_model(Open, {"other": [1], "visits": 1})
    [fault] = faults_of_model(Open, {"other": [1], "visits": "1"})
    assert fault.path == "session.visits"


def test_user_variables_and_steps_need_no_model() -> None:
    update = StateUpdate.from_fields(LIMITS, {"dialog_id": "d", "user": {"x": 1}, "next_step": "n"})
    assert update.user == {"x": 1}


def test_faults_without_a_model_come_first() -> None:
    fields = {"dialog_id": "d-1", "session": {"visits": object()}}
    with pytest.raises(UpdateValidationError, match="object is not a type") as caught:
        StateUpdate.from_fields(LIMITS, fields)
    assert len(caught.value.faults) == 1


class Unfinished(BaseModel):
    one: NotDefined  # type: ignore[name-defined]  # noqa: F821


class Late(BaseModel):
    other: Other


class Other(BaseModel):
    number: int


@pytest.mark.parametrize("model", [MySession() if False else 3, dict, RootModel[int], Unfinished])
def test_what_is_no_model_with_fields_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="variables: "):
        Limits(variables=model)


def test_a_model_may_name_one_that_is_defined_after_it() -> None:
    validate_model(Late)
    assert not faults_of_model(Late, {"other": {"number": 1}})
    assert faults_of_model(Late, {"other": {"number": "1"}})


def test_limits_with_a_model_are_limits() -> None:
    assert dataclasses.replace(Limits(), variables=MySession) == LIMITS
    assert Limits(variables=Address) != LIMITS
    assert pickle.loads(pickle.dumps(LIMITS)) == LIMITS


def test_an_update_made_before_is_checked_when_a_client_takes_it() -> None:
    given = StateUpdate("d-1", session={"visits": "many"})
    with pytest.raises(UpdateValidationError, match=r"session\.visits"):
        config(api=RuntimeApi(), limits=LIMITS).parse(given)
