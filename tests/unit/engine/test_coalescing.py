"""Which updates may share a request: the final state is that of one by one, whatever the server."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import Limits, StateUpdate
from cognigy_async.api.base import MergedValues
from cognigy_async.emulator.state import Dialog, Merging
from cognigy_async.emulator.state import Merge as Semantics
from cognigy_async.engine.coalescing import Merge, key_of, merges
from cognigy_async.models.variables import encode
from tests.chance import Chance
from tests.unit._builders import update

# Few names and small values, so that assignments meet each other.
scalars = st.sampled_from([0, 1, "a", True, 2.5])
leaves = scalars | st.lists(scalars, max_size=2)
objects = st.recursive(
    st.dictionaries(st.sampled_from("xy"), leaves | st.none(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xy"), inner | leaves, max_size=2),
    max_leaves=4,
)
assigned = st.dictionaries(st.sampled_from("abc"), leaves | objects, max_size=3)
payloads = st.fixed_dictionaries({}, optional={"session": assigned, "user": assigned})
sequences = st.lists(payloads, min_size=1, max_size=6)


def merged(
    sequence: list[dict[str, Any]],
    limits: Limits | None = None,
    merged_values: MergedValues = "objects",
) -> list[dict[str, Any]]:
    """The requests that carry the payloads, as many as may be in each."""
    requests: list[dict[str, Any]] = []
    merge = None
    for payload in sequence:
        if merge is None or not merge.take(payload):
            merge = Merge(limits or Limits(), merged_values)
            assert merge.take(payload)
            requests.append({})
        for context, variables in payload.items():
            requests[-1].setdefault(context, {}).update(variables)
    return requests


def state_after(
    requests: list[dict[str, Any]], before: dict[str, Any], semantics: Semantics | Merging
) -> dict[str, Any]:
    dialog = Dialog("d", session=dict(before.get("session", {})), user=dict(before.get("user", {})))
    for body in requests:
        dialog.assign(body, merge=semantics, at=0.0)
    return {"session": dialog.session, "user": dialog.user}


def check_the_state(before: dict[str, Any], sequence: list[dict[str, Any]]) -> int:
    """How many requests it took."""
    requests = merged(sequence)
    for semantics in get_args(Semantics):
        expected = state_after(sequence, before, semantics)
        assert state_after(requests, before, semantics) == expected, semantics
    return len(requests)


@settings(max_examples=300, deadline=None)
@given(before=payloads, sequence=sequences)
def test_p11_coalescing_the_state_is_that_of_one_by_one(
    before: dict[str, Any], sequence: list[dict[str, Any]]
) -> None:
    assert check_the_state(before, sequence) <= len(sequence)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_p11_coalescing_the_state_is_that_of_one_by_one_in_10_000_cases(seed: int) -> None:
    chance = Chance(seed)
    taken = given_ = 0
    for _ in range(100):
        sequence = chance.payloads(6)
        taken += check_the_state(chance.payload(), sequence)
        given_ += len(sequence)
    # Some share a request and some do not, else this would say nothing.
    assert 100 < taken < given_


SHARE = {
    "other variables": [{"session": {"a": 1}}, {"session": {"b": 2}}],
    "the same, scalars": [{"session": {"a": 1}}, {"session": {"a": 2}}],
    "a scalar over an object": [{"session": {"a": {"x": 1}}}, {"session": {"a": 2}}],
    "a list over an object": [{"session": {"a": {"x": 1}}}, {"session": {"a": [{"y": 1}]}}],
    "an object for another variable": [{"session": {"a": 1}}, {"session": {"b": {"x": 1}}}],
    "an object under the same name elsewhere": [{"session": {"a": 1}}, {"user": {"a": {"x": 1}}}],
}
APART = {
    "an object over a scalar": [{"session": {"a": 1}}, {"session": {"a": {"x": 1}}}],
    "an object over an object": [{"session": {"a": {"x": 1}}}, {"session": {"a": {"y": 1}}}],
    "an empty object": [{"user": {"a": {"x": 1}}}, {"user": {"a": {}}}],
    "an object over an object long gone": [
        {"user": {"a": {"x": 1}}},
        {"user": {"a": 1}},
        {"user": {"a": {"x": 1}}},
    ],
}


@pytest.mark.parametrize("sequence", SHARE.values(), ids=SHARE)
def test_what_shares_a_request(sequence: list[dict[str, Any]]) -> None:
    assert len(merged(sequence)) == 1


@pytest.mark.parametrize("sequence", APART.values(), ids=APART)
def test_what_stays_apart(sequence: list[dict[str, Any]]) -> None:
    assert len(merged(sequence)) == 2


def test_what_stays_apart_leaves_no_trace() -> None:
    merge = Merge(Limits())
    assert merge.take({"session": {"a": 1}})
    assert not merge.take({"session": {"b": 1, "a": {}}, "user": {"c": 1}})
    assert {context: list(names) for context, names in merge.names.items()} == {"session": ["a"]}
    assert merge.take({"session": {"b": {"x": 1}}, "user": {"c": {"x": 1}}})


@given(sequence=st.lists(payloads, min_size=2, max_size=8), pending_limit=st.integers(120, 300))
def test_a_merged_request_is_under_the_safe_threshold(
    sequence: list[dict[str, Any]], pending_limit: int
) -> None:
    limits = Limits(safe_payload_bytes=pending_limit)
    merge = Merge(limits)
    body: dict[str, Any] = {}
    for payload in sequence:
        if merge.take(payload):
            for context, variables in payload.items():
                body.setdefault(context, {}).update(variables)
    assert len(encode(body)) <= pending_limit


def test_a_merged_request_uses_the_room_that_there_is() -> None:
    """The same large variable again and again takes its room once."""
    limits = Limits(safe_payload_bytes=1000, max_variable_bytes=1000)
    value = "x" * 900
    assert len(merged([{"session": {"a": value}}] * 50, limits)) == 1
    assert len(merged([{"session": {"a": value}}, {"session": {"b": value}}], limits)) == 2


def test_a_merged_request_keeps_the_limit_of_a_context() -> None:
    limits = Limits(max_context_bytes=100, max_variable_bytes=100)
    value = "x" * 60
    apart = [{"session": {"a": value}}, {"session": {"b": value}}]
    assert len(merged(apart, limits)) == 2
    assert len(merged([{"session": {"a": value}}, {"user": {"b": value}}], limits)) == 1


def test_what_is_too_large_for_one_request_joins_nothing() -> None:
    large = {"session": dict.fromkeys("abcd", "x" * 60)}
    assert not Merge(Limits(safe_payload_bytes=200)).take(large)


@pytest.mark.parametrize("alone", [{"next_step": "s"}, {"if_match": '"1"'}], ids=str)
def test_a_transition_and_a_strict_write_stay_alone(alone: dict[str, str]) -> None:
    assert merges(update(session={"a": 1}))
    assert not merges(StateUpdate(dialog_id="d", session={"a": 1}, **alone))


def test_the_key_of_a_group_tells_its_members_and_their_order() -> None:
    lists = [["a", "b"], ["b", "a"], ["ab"], ["a", "b", "c"], ["a"]]
    assert len({key_of(ids) for ids in lists}) == len(lists)
    for one, other in itertools.product(lists, lists):
        assert (key_of(one) == key_of(other)) is (one == other)


def test_the_key_of_a_group_is_the_same_in_another_process() -> None:
    """And a header can carry it."""
    code = "from cognigy_async.engine.coalescing import key_of; print(key_of(['u-1', 'u-2']))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told == key_of(["u-1", "u-2"])
    StateUpdate(dialog_id="d", session={"a": 1}, update_id=told)


# Where it was measured which values the server merges.

MEASURED: dict[MergedValues, list[Semantics | Merging]] = {
    "none": ["replace"],
    "objects": ["replace", "recursive", Merging(1), Merging(2)],
    "objects and lists": ["replace", "recursive", Merging(lists=True), Merging(0, lists=True)],
}


# Lists of the same variable have to meet, and the earlier one has to be the longer one.
lists = st.lists(st.sampled_from([0, 1]), max_size=3)
listed = st.fixed_dictionaries({"session": st.dictionaries(st.just("a"), lists | objects)})


@settings(max_examples=500, deadline=None)
@given(
    before=listed,
    sequence=st.lists(listed, min_size=2, max_size=4) | sequences,
    merged_values=st.sampled_from(sorted(MEASURED)),
)
def test_p11_coalescing_the_state_is_that_of_one_by_one_where_merging_was_measured(
    before: dict[str, Any], sequence: list[dict[str, Any]], merged_values: MergedValues
) -> None:
    requests = merged(sequence, merged_values=merged_values)
    for semantics in MEASURED[merged_values]:
        expected = state_after(sequence, before, semantics)
        assert state_after(requests, before, semantics) == expected, semantics


@pytest.mark.parametrize(
    ("value", "requests"),
    [
        (1, {"none": 1, "objects": 1, "objects and lists": 1}),
        ([1], {"none": 1, "objects": 1, "objects and lists": 2}),
        ({"x": 1}, {"none": 1, "objects": 2, "objects and lists": 2}),
    ],
    ids=str,
)
def test_what_shares_a_request_follows_what_was_measured(
    value: Any, requests: dict[MergedValues, int]
) -> None:
    sequence = [{"session": {"a": value}}] * 2
    found = {
        merged_values: len(merged(sequence, merged_values=merged_values))
        for merged_values in requests
    }
    assert found == requests
