"""Faults of variables: names, values, nesting and sizes."""

from __future__ import annotations

import math
import traceback
from collections import OrderedDict, UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async import StateUpdate, UpdateValidationError, VariableTypeError
from cognigy_async.models.limits import Limits
from cognigy_async.models.variables import are_plain, faults_in
from tests.unit._builders import CANARY, levels, unhurried, values, variables
from tests.unit._inputs import (
    BAD,
    BEYOND,
    GOOD,
    ONE,
    SURROGATE,
    Blank,
    Broken,
    Colour,
    Hiding,
    Odd,
    Truthless,
    long_ring,
    ring_of_lists,
)


def made(given_fields: dict[str, Any], limits: Limits | None = None) -> StateUpdate:
    """An update from a row; `...` stands for an argument that is missing."""
    row = {"dialog_id": "d-1"} | given_fields
    row = {name: value for name, value in row.items() if value is not ...}
    return StateUpdate.from_fields(limits or Limits(), row)


@pytest.mark.parametrize(
    ("given_fields", "path", "kind", "remedy"), [pytest.param(*row[1:], id=row[0]) for row in BAD]
)
def test_bad_input_is_refused_with_its_path_and_a_remedy(
    given_fields: dict[str, Any], path: str, kind: type[UpdateValidationError], remedy: str
) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made(given_fields)
    error = caught.value
    assert type(error) is kind
    assert error.path == error.faults[0].path == path
    assert f"{path}: " in str(error)
    assert remedy in str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error, TypeError) == (kind is VariableTypeError)


@pytest.mark.parametrize("context", ["session", "user"])
@pytest.mark.parametrize(
    ("given_variables", "sent"), [pytest.param(*row[1:], id=row[0]) for row in GOOD]
)
def test_good_values_are_sent_as_they_are(
    given_variables: dict[str, Any], sent: dict[str, Any], context: str
) -> None:
    update = made({context: given_variables})
    # The repr tells 1 from 1.0 and True, and shows the order.
    assert repr(update.payload()) == repr({context: sent})


@pytest.mark.parametrize(
    "wrap", [dict, MappingProxyType, UserDict, OrderedDict], ids=lambda wrap: wrap.__name__
)
def test_a_context_is_any_mapping(wrap: Callable[[dict[str, int]], Any]) -> None:
    assert StateUpdate(dialog_id="d", session=wrap({"a": 1})).payload() == {"session": {"a": 1}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dialog_id", "d" * 256),
        ("dialog_id", "../x?#%"),
        ("dialog_id", "d \u200b d"),
        ("dialog_id", "a\r\nb"),
        ("dialog_id", "😀"),
        ("next_step", "x" * 1024),
        ("next_step", "Schritt öffnen"),
        ("if_match", 'W/"7"'),
        ("if_match", "*"),
        ("if_match", "~" * 512),
        ("update_id", "x" * 512),
        ("update_id", "!a/b~"),
    ],
)
def test_good_texts_are_taken(name: str, value: str) -> None:
    assert getattr(made({**ONE, name: value}), name) == value


def test_all_faults_are_reported() -> None:
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate(
            dialog_id="d" * 300,
            session={"1a": None, "b": [math.nan, {2: BEYOND}]},
            user={"_user": {"c": [[[]]]}, "d": SURROGATE, "e": {1}},
        )
    paths = [fault.path for fault in caught.value.faults]
    expected = [
        "session.1a",
        "session.1a",
        "session.b[0]",
        "session.b[1]",
        "session.b[1][2]",
        "user._user",
        "user._user.c[0][0]",
        "user.d",
        "user.e",
        "dialog_id",
    ]
    assert sorted(paths) == sorted(expected)
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
        assert fault.problem
        assert fault.remedy
    assert caught.value.path == paths[0]


def test_the_faults_of_all_texts_are_reported_together() -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made({"dialog_id": 7, "next_step": "", "if_match": "\n", "update_id": "", "user": 5})
    paths = [fault.path for fault in caught.value.faults]
    assert paths == ["dialog_id", "next_step", "if_match", "update_id", "user"]


def test_parts_that_an_update_does_not_have_are_told_at_once() -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made({"dialog_id": ..., "sesion": {}, "nextStep": "s", **ONE})
    assert {fault.path for fault in caught.value.faults} == {"dialog_id", "sesion", "nextStep"}


def test_a_refusal_names_the_dialog() -> None:
    with pytest.raises(UpdateValidationError, match=r"^dialog 'd-17': session\.a: ") as caught:
        StateUpdate(dialog_id="d-17", session={"a": None})
    assert caught.value.dialog_id == "d-17"


@pytest.mark.parametrize("dialog_id", ["a\nb", 7, None, "\ud800"])
def test_a_refusal_does_not_repeat_what_is_no_dialog_id(dialog_id: object) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made({"dialog_id": dialog_id, "session": {"a": None}})
    assert caught.value.dialog_id is None
    assert "\n" not in str(caught.value)


SECRETS: list[tuple[str, dict[str, Any]]] = [
    ("wrong kind", {"session": {"a": CANARY.encode()}}),
    ("repr", {"session": {"a": Blank()}}),
    ("set", {"session": {"a": {CANARY}}}),
    ("bytes", {"session": {"a": CANARY.encode()}}),
    ("surrogate", {"session": {"a": CANARY + SURROGATE}}),
    ("deep", {"session": {"a": levels(4, CANARY)}}),
    ("beside a fault", {"session": {"a": CANARY, "b": None}}),
    ("context", {"session": CANARY}),
    ("contexts", {"user": [CANARY]}),
    ("large", {"session": {"a": CANARY * 100_000}}),
    ("etag", {**ONE, "if_match": CANARY + "\n"}),
    ("update id", {**ONE, "update_id": CANARY + "\n"}),
    ("step", {"next_step": CANARY * 1000}),
    ("unknown part", {**ONE, "context": {"a": CANARY}}),
    ("unread", {"session": {"a": CANARY}, "next_step": 5}),
]


@pytest.mark.parametrize("given_fields", [pytest.param(row[1], id=row[0]) for row in SECRETS])
def test_no_message_repeats_a_value(given_fields: dict[str, Any]) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made(given_fields)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    told += "".join(map(repr, caught.value.faults))
    assert CANARY not in told
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param(Truthless(), id="no truth value"),
        pytest.param({"a": Truthless()}, id="a value without truth value"),
        pytest.param(Broken(a=1), id="broken mapping"),
        pytest.param({"a": [Broken(b=1)]}, id="broken mapping inside"),
        pytest.param(Hiding(a=object()), id="a dict that shows less than it holds"),
        pytest.param({1.5: object()}, id="float as name"),
        pytest.param({b"a": math.nan}, id="bytes as name"),
        pytest.param({None: [math.nan]}, id="None as name"),
        pytest.param({10**5000: None}, id="a name of 5000 digits"),
        pytest.param({"a": {(1, 2): object()}}, id="tuple as key"),
    ],
)
def test_unreadable_input_is_a_validation_error(unreadable: Any) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate(dialog_id="d", session=unreadable)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", [1.5, None, b"a", (1,), pytest.param(10**5000, id="huge")])
def test_a_field_whose_name_is_no_text_is_bad_input_as_well(name: Any) -> None:
    with pytest.raises(UpdateValidationError, match="is not a field of an update"):
        made({**ONE, name: 1})


@given(session=variables, user=variables)
@unhurried
def test_input_within_the_limits_is_sent_unchanged(
    session: dict[str, Any], user: dict[str, Any]
) -> None:
    expected = {name: value for name, value in (("session", session), ("user", user)) if value}
    update = StateUpdate(dialog_id="d", session=session, user=user, next_step="s")
    assert repr(update.payload()) == repr({**expected, "transition": {"nextStep": "s"}})


hashable = st.none() | st.integers() | st.text() | st.binary() | st.floats() | st.tuples(st.text())
leaves = (
    hashable
    | st.booleans()
    | st.complex_numbers()
    | st.decimals()
    | st.dates()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from([object(), Colour.RED, Odd("inf"), len, int, ring_of_lists(), long_ring()])
    | st.integers(min_value=4000).map(lambda digits: 10 ** (digits % 10_000))
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.sets(hashable)
        | st.dictionaries(hashable, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.text(), inner).map(MappingProxyType)
        | st.dictionaries(st.text(), inner).map(UserDict)
    ),
)


@given(
    session=anything,
    user=anything,
    rest=st.dictionaries(
        st.sampled_from(["dialog_id", "next_step", "if_match", "update_id", "other"]), leaves
    ),
)
@unhurried
def test_any_object_raises_nothing_but_a_validation_error(
    session: object, user: object, rest: dict[str, Any]
) -> None:
    try:
        made({"session": session, "user": user} | rest)
    except UpdateValidationError as refusal:
        error = refusal
    else:
        return
    assert error.faults
    assert f"{error.path}: " in str(error)


@given(
    variables=st.dictionaries(st.text(min_size=1, max_size=3) | hashable, anything, max_size=3),
    depth=st.integers(1, 4),
)
@unhurried
def test_the_fast_check_overlooks_no_fault(variables: dict[Any, Any], depth: int) -> None:
    limits = Limits(max_depth=depth)
    if are_plain(limits, variables):
        assert faults_in(limits, "session", variables) == []


@given(session=st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), values, max_size=3))
@unhurried
def test_the_fast_check_accepts_all_plain_variables(session: dict[str, Any]) -> None:
    limits = Limits(max_depth=64, reserved_prefixes=())
    assert are_plain(limits, session) is (faults_in(limits, "session", session) == [])


@given(value=values)
@unhurried
def test_one_more_level_than_the_limit_is_refused(value: object) -> None:
    def depth(part: object) -> int:
        inner = part if isinstance(part, list) else part.values() if isinstance(part, dict) else ()
        return isinstance(part, list | dict) + max(map(depth, inner), default=0)

    enough = max(1, depth(value))
    update = {"dialog_id": "d", "session": {"a": value}}
    assert StateUpdate.from_fields(Limits(max_depth=enough), update).payload()
    if enough > 1:
        with pytest.raises(UpdateValidationError, match=f"deeper than {enough - 1} levels"):
            StateUpdate.from_fields(Limits(max_depth=enough - 1), update)
