"""`Limits`: the numbers, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from cognigy_async import ConfigurationError, StateUpdate, UpdateValidationError
from cognigy_async.models.limits import Limits
from tests.unit._inputs import (
    ONE,
)


def made(given_fields: dict[str, Any], limits: Limits | None = None) -> StateUpdate:
    """An update from a row; `...` stands for an argument that is missing."""
    row = {"dialog_id": "d-1"} | given_fields
    row = {name: value for name, value in row.items() if value is not ...}
    return StateUpdate.from_fields(limits or Limits(), row)


@pytest.mark.parametrize(
    ("limits", "given_fields", "path", "message"),
    [
        ({"max_integer": 9}, {"session": {"a": 10}}, "session.a", "beyond 9"),
        ({"max_dialog_id_length": 2}, {"dialog_id": "ddd", **ONE}, "dialog_id", "more than 2"),
        ({"reserved_prefixes": ("x",)}, {"user": {"xa": 1}}, "user.xa", "begin with x"),
        ({"max_depth": 1}, {"user": {"a": [[]]}}, "user.a[0]", "deeper than 1 levels"),
        ({"max_variable_bytes": 9}, {"user": {"abc": "123456"}}, "user.abc", "takes 13 bytes"),
        (
            {"max_variable_bytes": 9, "safe_payload_bytes": 62},
            {"user": {"abc": "12345"}},
            "user.abc",
            "takes 12 bytes, and at most 9",
        ),
        ({"max_context_bytes": 9}, {"user": {"a": "123456"}}, "user", "more than 9"),
        ({"safe_payload_bytes": 99}, {"user": {"a": "é" * 50}}, "user.a", "at most 46 can be sent"),
        ({"safe_payload_bytes": 99}, {"next_step": "x" * 90}, "next_step", "99"),
        (
            {"safe_payload_bytes": 99},
            {"user": {"a": "x" * 40, "b": "x" * 40}, "if_match": "7"},
            "update",
            "a conditional write cannot be split",
        ),
    ],
)
def test_other_limits(
    limits: dict[str, Any], given_fields: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(UpdateValidationError, match=message) as caught:
        made(given_fields, Limits(**limits))
    assert caught.value.path == path


def test_input_beyond_the_sizes_of_the_tutorial() -> None:
    with pytest.raises(
        UpdateValidationError, match="split the value over several variables"
    ) as one:
        made({"user": {"a": 1, "b": ["x" * 2**19]}})
    assert one.value.path == "user.b"
    many = {f"v{number}": "x" * 1000 for number in range(1100)}
    with pytest.raises(UpdateValidationError, match="more than 1048576") as context:
        made({"session": many, "user": {"a": 1}})
    assert context.value.path == "session"
    half = dict(list(many.items())[:600])
    with pytest.raises(UpdateValidationError, match="conditional write cannot be split") as strict:
        made({"session": half, "if_match": "7"})
    assert strict.value.path == "update"
    assert made({"session": half, "user": half, "next_step": "s"}).payload()


def test_the_largest_values_of_each_limit_are_taken() -> None:
    variable = {"user": {"a": "x" * 95}}
    made(variable, Limits(max_variable_bytes=100))
    # A variable that fills its limit needs no room for others as long as all of it is safe.
    made(variable, Limits(max_variable_bytes=100, safe_payload_bytes=120))
    made(variable, Limits(max_context_bytes=102))
    made({"user": {"a": "x" * 95}, "if_match": "7"}, Limits(safe_payload_bytes=112))
    made({"next_step": "x" * 60}, Limits(safe_payload_bytes=99))


def test_an_empty_tuple_of_prefixes_reserves_nothing() -> None:
    limits = Limits(reserved_prefixes=())
    assert StateUpdate.from_fields(limits, {"dialog_id": "d", "session": {"_user": 1}}).payload()


def test_the_limits_of_the_tutorial_and_of_the_public_api() -> None:
    tutorial, saas = Limits(), Limits.cognigy_saas()
    assert (tutorial.max_variable_bytes, tutorial.max_context_bytes) == (2**20, 2**20)
    assert tutorial.safe_payload_bytes == 2**19
    assert (tutorial.max_depth, tutorial.max_integer) == (3, 2**53 - 1)
    assert (saas.max_context_bytes, saas.safe_payload_bytes) == (65_000, 60_000)
    app = Limits.cognigy_app()
    assert app == replace(saas, max_context_bytes=1_500_000)
    assert saas.reserved_prefixes == tutorial.reserved_prefixes


@pytest.mark.parametrize(
    "number",
    [
        "max_variable_bytes",
        "max_context_bytes",
        "safe_payload_bytes",
        "max_integer",
        "max_depth",
        "max_dialog_id_length",
    ],
)
@pytest.mark.parametrize("value", [0, -1, math.nan, 2.5, "3", None])
def test_numbers_that_no_update_could_satisfy_are_refused(number: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=number) as caught:
        Limits(**{number: value})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("prefixes", [["_a"], "_a", None, ("_a", 1)])
def test_reserved_prefixes_are_a_tuple_of_texts(prefixes: Any) -> None:
    with pytest.raises(ConfigurationError, match="reserved_prefixes"):
        Limits(reserved_prefixes=prefixes)


def test_the_depth_has_a_bound_of_its_own() -> None:
    assert Limits(max_depth=64).max_depth == 64
    with pytest.raises(ConfigurationError, match="between 1 and 64"):
        Limits(max_depth=65)


def test_a_context_that_is_too_large_names_the_limit_to_raise() -> None:
    large = {"session": {f"v{number}": "x" * 1000 for number in range(70)}}
    with pytest.raises(UpdateValidationError, match="more than 65000") as caught:
        made(large, Limits.cognigy_saas())
    assert "raise Limits(max_context_bytes=...) if your tenant allows" in str(caught.value)
    assert made(large, Limits.cognigy_app()).payload() == large
