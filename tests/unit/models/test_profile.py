"""The body of a request that writes a contact profile."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from cognigy_async import Limits, UpdateValidationError, VariableTypeError
from cognigy_async.models.profile import profile_body

PROJECT = "abcdef0123456789abcdef01"
NOTHING = {"profile": None, "active": None, "contact_ids": None}
SAAS = Limits.cognigy_saas()


def body(encoding: Any = None, **given: Any) -> Any:
    return json.loads(profile_body(SAAS, encoding, NOTHING | given))


def test_only_what_was_given_is_a_member() -> None:
    assert body(project_id=PROJECT) == {"projectId": PROJECT}
    assert body(active=False) == {"active": False}
    assert body(contact_ids=iter(("a", "b"))) == {"contactIds": ["a", "b"]}
    assert body(contact_ids=[]) == {"contactIds": []}
    assert body(profile={"a": [1, {"b": None}]}) == {"profile": {"a": [1, {"b": None}]}}


def test_values_are_converted_where_the_client_converts_them() -> None:
    assert body("json", profile={"born": date(1990, 1, 2)}) == {"profile": {"born": "1990-01-02"}}


@pytest.mark.parametrize(
    ("given", "kind", "path"),
    [
        ({}, UpdateValidationError, "profile"),
        ({"profile": {"cognigy_a": 1}}, UpdateValidationError, "profile.cognigy_a"),
        ({"profile": {"a": float("nan")}}, UpdateValidationError, "profile.a"),
        ({"profile": {"a": date(1990, 1, 2)}}, VariableTypeError, "profile.a"),
        ({"profile": [1]}, VariableTypeError, "profile"),
        ({"active": 1}, VariableTypeError, "active"),
        ({"contact_ids": "abc"}, VariableTypeError, "contact_ids"),
        ({"contact_ids": 7}, VariableTypeError, "contact_ids"),
        ({"contact_ids": ["a", ""]}, UpdateValidationError, "contact_ids[1]"),
        ({"contact_ids": [7]}, VariableTypeError, "contact_ids[0]"),
        ({"contact_ids": ["\ud800"]}, UpdateValidationError, "contact_ids[0]"),
        ({"project_id": None}, VariableTypeError, "project_id"),
        ({"project_id": "abc"}, UpdateValidationError, "project_id"),
        ({"profile": {"a": "x" * 60_000}}, UpdateValidationError, "profile"),
    ],
    ids=str,
)
def test_what_is_not_valid(given: dict[str, Any], kind: type, path: str) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        body(**given)
    assert type(caught.value) is kind
    assert caught.value.path == path


def test_all_faults_are_named_and_no_value() -> None:
    with pytest.raises(UpdateValidationError) as caught:
        body(project_id="secret", active="secret", contact_ids=["secret", None])
    assert [fault.path for fault in caught.value.faults] == [
        "project_id",
        "active",
        "contact_ids[1]",
    ]
    assert "secret" not in str(caught.value)
