"""`ClientConfig`: which arguments are refused, and what an operation is sent with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cognigy_async import (
    ConfigurationError,
    Limits,
    RetryPolicy,
    SessionsApi,
    StateUpdate,
    UnsupportedByApiError,
    UpdateValidationError,
)
from cognigy_async.client.config import ClientConfig
from tests.unit._builders import update
from tests.unit.client._parts import config


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("base_url", "api.example", "base_url must be absolute"),
        ("base_url", "http://api.example", "base_url uses http://"),
        ("auth", "key", "auth must be a token provider"),
        ("api", "runtime", "api must be a StateApi"),
        ("max_in_flight", 0, "max_in_flight=0"),
        ("max_pending", True, "max_pending=True"),
        ("retry", 3, "retry: must be a RetryPolicy"),
        ("limits", {}, "limits: must be a Limits"),
        ("encode", "xml", "encode='xml': must be \"json\" or None"),
        ("linger", -1, "linger=-1"),
        ("on_failure", "stop", 'must be "continue" or "pause"'),
        ("timeout", 0, "timeout=0"),
        ("transport", "httpx", "transport must have a method send"),
        ("outbox", "crm-outbox", "outbox must be an Outbox"),
    ],
)
def test_an_invalid_argument_is_refused(argument: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(**{argument: value})


def test_it_is_frozen_and_normalised() -> None:
    made: ClientConfig = config(base_url="https://api.example/", linger=1, on_failure="pause")
    assert made.base_url == "https://api.example"
    assert isinstance(made.linger, float)
    assert made.pauses_dialogs
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.timeout = 1.0  # type: ignore[misc]


def test_an_update_that_was_checked_against_its_limits_is_taken_as_it_is() -> None:
    limits = Limits(max_depth=1)
    made = config(limits=limits)
    own = StateUpdate.from_fields(limits, {"dialog_id": "d", "session": {"a": 1}})
    assert made.parse(own) is own
    row = made.parse({"dialog_id": "d", "session": {"a": 1}})
    assert row == own
    assert row._limits is limits
    with pytest.raises(UpdateValidationError, match="deeper than 1 levels"):
        made.parse(update(session={"a": [[1]]}))


def test_the_api_has_its_say_about_each_update() -> None:
    made = config(api=SessionsApi(user_id="u"), limits=Limits())
    with pytest.raises(UnsupportedByApiError):
        made.parse({"dialog_id": "d", "session": {"a": 1}, "if_match": '"7"'})


def test_options_are_the_clients_own_where_an_operation_names_none() -> None:
    policy = RetryPolicy(max_attempts=1)
    made = config(retry=policy, timeout=3, coalesce=True)
    usual = made.send_options()
    assert usual is made.send_options() is made.default_options
    assert (usual.policy, usual.timeout, usual.deadline) == (policy, 3, None)
    assert (usual.live, usual.coalesce, usual.watch) == (True, True, None)
    other = RetryPolicy(max_attempts=2)
    own = made.send_options(other, 1.5, 7.0, "bulk", coalesce=False)
    assert (own.policy, own.timeout, own.deadline) == (other, 1.5, 7.0)
    assert (own.live, own.coalesce) == (False, False)
    assert made.send_options(timeout=1.5).policy is policy


@pytest.mark.parametrize(
    "arguments", [{"retry": 3}, {"timeout": 0}, {"timeout": "1"}, {"priority": "high"}], ids=str
)
def test_an_invalid_argument_of_an_operation_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        config().send_options(**arguments)


def test_a_dialog_id_and_metadata_alone_are_validated() -> None:
    metadata = {"actor": "a"}
    dialog_id, copy = config().validate_dialog_id("d", metadata)
    metadata["actor"] = "b"
    assert (dialog_id, copy) == ("d", {"actor": "a"})
    with pytest.raises(UpdateValidationError, match="dialog_id: is empty"):
        config().validate_dialog_id(" ")
