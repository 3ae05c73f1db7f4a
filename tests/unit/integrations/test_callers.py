"""Whose mistake an invalid value is: what a request has, and what only the application has."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    BadRequestError,
    CognigyError,
    Fault,
    RateLimitedError,
    SessionsApi,
    StateUpdate,
    UpdateValidationError,
)
from cognigy_async.integrations.callers import CallerInput, caller_texts, problem_for_caller


def refusal(**fields: Any) -> UpdateValidationError:
    with pytest.raises(UpdateValidationError) as caught:
        StateUpdate(**fields)
    return caught.value


NAME = refusal(dialog_id="d-1", session={"a-b": 1})
STEP = refusal(dialog_id="d-1", next_step="")
ID = refusal(dialog_id="d-1 ", session={"a": 1})
BOTH = refusal(dialog_id="d-1 ", session={"a-b": 1})
KEY = refusal(dialog_id="d-1", session={"a": 1}, update_id="a b")
TAG = refusal(dialog_id="d-1", session={"a": 1}, if_match="a b")
NULL = refusal(dialog_id="d-1", session={"a": None})
EMPTY = refusal(dialog_id="", session={"a": 1})
BAD = BadRequestError("m", status=400, dialog_id="d-1")


def given(*texts: str, body: Any = None, tag: str | None = None) -> CallerInput:
    return CallerInput(texts, tag, b"" if body is None else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("error", "request_input"),
    [
        (NAME, given(body={"a-b": 1})),
        (NAME, given(body={"session": {"a-b": 2}})),
        (NAME, given(body={"dialog_id": "d-2", "session": {"a-b": 1}, "next_step": "x"})),
        (NAME, given(body=[{"dialog_id": "d-1", "session": {"a-b": 1}}])),
        (NAME, given(body={"update": {"dialog_id": "d-1", "session": {"a-b": 1}}, "note": 1})),
        (NAME, given(body={"updates": [{"dialog_id": "d-1", "session": {"a-b": 1}}]})),
        (NULL, given(body={"a": None})),
        (refusal(dialog_id="d", session={"a": None, "own": 1}), given(body={"a": None})),
        (EMPTY, given(*caller_texts([], {"dialogId": ""}))),
        (EMPTY, given(body={"dialog_id": "", "session": {"a": 1}})),
        (STEP, given("d-1", body={"next_step": ""})),
        (ID, given("x", "d-1 ")),
        (ID, given(body={"dialog_id": "d-1 "})),
        (BOTH, given("d-1 ", body={"a-b": 1})),
        (TAG, given(tag="a b")),
        (KEY, CallerInput(idempotency_key="a b")),
        (BAD, given("d-1", body={"session": {"a": 1}})),
        (BAD, given(body={"dialog_id": "d-1", "next_step": "x"})),
        (RateLimitedError("m", status=429), given()),
    ],
)
def test_what_the_request_has_is_the_callers(
    error: CognigyError, request_input: CallerInput
) -> None:
    problem = problem_for_caller(error, request_input, None)
    assert problem is not None
    assert problem.status in (400, 429)


@pytest.mark.parametrize(
    ("error", "request_input"),
    [
        (NAME, given("d-1")),
        (NAME, given("a-b", body="a-b")),
        (NAME, given("d-1", body={"session": {"a": 1}})),
        (NAME, CallerInput(body=b"no JSON")),
        (NAME, CallerInput(body=b"[" * 100_000)),
        (NULL, given(body={"a": None, "total": 1})),
        (NULL, given(body={"session": {"a": None, "total": 1}})),
        (NULL, given(body=[{"dialog_id": "d-1", "session": {"a": None, "total": 1}}])),
        (NULL, given(body={"user": {"a": None}})),
        (EMPTY, given(*caller_texts(["x"], {"q": "", "note": ""}))),
        (ID, given("d-2 ")),
        (ID, given(body={"dialog_id": "d-2 ", "session": {"a": 1}})),
        (ID, given("d-1")),
        (BOTH, given("d-1 ")),
        (BOTH, given("d-1 ", body={"a": 1})),
    ],
)
def test_what_only_the_application_has_is_its_own(
    error: CognigyError, request_input: CallerInput
) -> None:
    assert problem_for_caller(error, request_input, None) is None


@pytest.mark.parametrize(
    "request_input",
    [
        given("d-1"),
        given("d-1", body={"total": 5}),
        given("d-2", body={"session": {"a": 1}}),
    ],
)
def test_a_refusal_of_the_server_that_may_be_due_to_the_application_is_a_502(
    request_input: CallerInput,
) -> None:
    problem = problem_for_caller(BAD, request_input, None)
    assert problem is not None
    assert problem.status == problem.content["status"] == 502
    assert problem.content["error"] == "BadRequestError"


def test_the_limits_and_the_api_of_the_client_count() -> None:
    client = AsyncStateClient(
        "https://api.example", auth=ApiKey("key"), api=SessionsApi(user_id="u")
    )
    fields = {"dialog_id": "d-1", "session": {"a": 1}, "if_match": '"1"'}
    with pytest.raises(UpdateValidationError) as caught:
        client.api.check(StateUpdate.from_fields(client.limits, fields))
    request_input = given(body=fields)
    assert problem_for_caller(caught.value, request_input, client) is not None
    assert problem_for_caller(caught.value, request_input, None) is None
    other = UpdateValidationError((Fault("session.a", "is odd", "mend it"),))
    assert problem_for_caller(other, request_input, client) is None


def test_a_refusal_has_the_names_of_all_variables_and_no_values() -> None:
    error = refusal(dialog_id="d-1", session={"a": None, "b": "v", 10**5000: 1}, user={"c": "v"})
    assert error.names == {"session.a", "session.b", "user.c"}
    assert pickle.loads(pickle.dumps(error)).names == error.names
    assert refusal(dialog_id="d-1", session=["v"]).names == frozenset()
