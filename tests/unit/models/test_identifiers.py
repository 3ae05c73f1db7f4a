"""Metadata of an update: kept, validated, never sent."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from cognigy_async import Limits, RuntimeApi, StateUpdate, UpdateValidationError, VariableTypeError
from cognigy_async.models.identifiers import faults_of_identifiers, is_strong_etag
from tests.unit._builders import CANARY, update

TOLD = {"actor": "agent-7", "reason": "refund"}


def told(**changes: Any) -> StateUpdate:
    return StateUpdate("d-1", session={"a": 1}, **{"metadata": TOLD} | changes)


def test_it_is_kept_as_it_was() -> None:
    given = dict(TOLD)
    made = told(metadata=given)
    given["actor"] = "somebody else"
    made.metadata.clear()
    assert made.metadata == TOLD
    assert update().metadata == {}
    assert told(metadata={}).metadata == {}


def test_it_is_not_sent() -> None:
    made = told(metadata={"actor": CANARY})
    for sent in RuntimeApi().writes("http://server", made, "u-1"):
        assert CANARY not in f"{sent.url} {sent.headers} {sent.content!r}"
    assert CANARY not in str(made.payload())


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda made: pickle.loads(pickle.dumps(made)), id="pickle"),
        pytest.param(lambda made: StateUpdate(**made.fields()), id="fields"),
        pytest.param(lambda made: made.replace(next_step="n"), id="replace"),
        pytest.param(lambda made: made.with_limits(Limits(max_depth=2)), id="with_limits"),
        pytest.param(lambda made: TypeAdapter(StateUpdate).validate_python(made.fields()), id="py"),
    ],
)
def test_copies_keep_it(copy: Any) -> None:
    assert copy(told()).metadata == TOLD


def test_it_counts_for_equality() -> None:
    assert told() == told(metadata=dict(reversed(TOLD.items())))
    assert hash(told()) == hash(told())
    assert told() != told(metadata={})


class Broken(Mapping[str, str]):
    def __getitem__(self, name: str) -> str:
        raise RuntimeError(CANARY)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("metadata", "path", "kind", "problem"),
    [
        ("actor=7", "metadata", VariableTypeError, "is of type str"),
        ([("a", "b")], "metadata", VariableTypeError, "is of type list"),
        ({"actor": 7}, "metadata.actor", VariableTypeError, "the text is of type int"),
        ({"actor": None}, "metadata.actor", VariableTypeError, "the text is of type NoneType"),
        ({7: "x"}, "metadata.<int>", VariableTypeError, "the name is of type int"),
        ({"a": "\ud800"}, "metadata.a", UpdateValidationError, "lone surrogate"),
        ({"\ud800": "a"}, r"metadata.'\ud800'", UpdateValidationError, "lone surrogate"),
        ({"a": "x" * 1025}, "metadata.a", UpdateValidationError, "1025 characters"),
        ({"n" * 129: "x"}, f"metadata.{'n' * 57}...", UpdateValidationError, "129 characters"),
        ({f"n{n}": "" for n in range(33)}, "metadata", UpdateValidationError, "33 entries"),
        (Broken(), "metadata", UpdateValidationError, "reading it raised RuntimeError"),
    ],
)
def test_bad_metadata_is_rejected(
    metadata: Any, path: str, kind: type[UpdateValidationError], problem: str
) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        told(metadata=metadata)
    assert type(caught.value) is kind
    assert caught.value.path == path
    assert problem in str(caught.value)
    assert CANARY not in str(caught.value)


def test_the_largest_metadata_is_accepted() -> None:
    most = {f"{n:0128}": "x" * 1024 for n in range(32)}
    assert told(metadata=most).metadata == most


def test_its_faults_are_reported_with_the_others() -> None:
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate("d-1", session={"_user": 1}, metadata={"a": 1})  # type: ignore[dict-item]
    assert {fault.path for fault in caught.value.faults} == {"session._user", "metadata.a"}


@pytest.mark.parametrize(
    ("arguments", "path", "problem"),
    [
        (("", None, None, None), "dialog_id", "is empty"),
        ((7, None, None, None), "dialog_id", "is of type int"),
        (("d" * 2000, None, None, None), "dialog_id", "has 2000 characters"),
        (("d-1", "s" * 1025, None, None), "next_step", "has 1025 characters"),
        (("d-1", None, "an etag", None), "if_match", "is not a text that a header can carry"),
        (("d-1", None, None, "\ud800"), "update_id", "is not a text that a header can carry"),
    ],
)
def test_each_fault_of_an_identifier_names_its_path(
    arguments: tuple[Any, Any, Any, Any], path: str, problem: str
) -> None:
    [fault] = faults_of_identifiers(Limits(), *arguments)
    assert (fault.path, fault.problem[: len(problem)]) == (path, problem)
    assert fault.remedy


@pytest.mark.parametrize("name", ["dialog_id", "user_id", "profile_id"])
@pytest.mark.parametrize(
    ("char", "meant"),
    [
        (" ", "space"),
        ("\u00a0", "no-break space"),
        ("\t", "a control character"),
        ("\0", "a control character"),
        ("\x7f", "a control character"),
        ("\u200b", "zero width space"),
        ("\u2060", "word joiner"),
        ("\ufeff", "zero width no-break space"),
        ("\u202e", "right-to-left override"),
        ("\u00ad", "soft hyphen"),
    ],
)
def test_an_id_has_no_invisible_character_at_its_ends(name: str, char: str, meant: str) -> None:
    for text, place in ((f"{char}d-1", "begins"), (f"d-1{char}", "ends"), (char, "")):
        with pytest.raises(UpdateValidationError) as caught:
            StateUpdate(**{"dialog_id": "d-1", "session": {"a": 1}, name: text})
        [fault] = caught.value.faults
        assert fault.path == name
        if place and fault.problem != "is empty":
            assert fault.problem == f"{place} with U+{ord(char):04X}, {meant}"
    made = StateUpdate(**{"dialog_id": "d-1", "session": {"a": 1}, name: f"d{char}1"})
    assert getattr(made, name) == f"d{char}1"


@pytest.mark.parametrize("text", ["\u2764\ufe0f", "d\u200d1", "\u05d0", "\ue000", "d\u0301"])
def test_an_id_may_end_with_any_visible_character(text: str) -> None:
    assert StateUpdate(text, session={"a": 1}).dialog_id == text


@pytest.mark.parametrize(
    ("etag", "strong"),
    [('"7"', True), ('""', True), ('W/"7"', False), ("7", False), ('"', False), ("", False)],
)
def test_only_a_quoted_etag_is_strong(etag: str, strong: bool) -> None:
    assert is_strong_etag(etag) is strong
    assert not is_strong_etag(None)
