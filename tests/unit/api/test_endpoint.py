"""`Endpoint`: its arguments, its requests, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from cognigy_async import ConfigurationError, RuntimeApi, SessionsApi, StateUpdate
from cognigy_async.api.endpoint import (
    Endpoint,
    count_requests,
    error_of_answer,
    kind_of_answer,
    requests_of,
    with_url_token,
)
from cognigy_async.retry import ResponseKind
from tests.unit._builders import CANARY, response

TOKEN = "7b21c0de93f4a8500d6be1f27a94c3d8"
ENDPOINT = Endpoint("https://endpoint.example/", TOKEN)
MESSAGE: dict[str, Any] = {"inject": {"text": "hello", "data": {"n": 1}}, "user_id": "u-1"}


def test_the_token_is_shown_nowhere() -> None:
    for endpoint in (ENDPOINT, Endpoint("https://endpoint.example", SecretStr(TOKEN))):
        assert endpoint.url == "https://endpoint.example"
        assert repr(endpoint) == "<Endpoint https://endpoint.example>"
        assert TOKEN not in str([getattr(endpoint, name) for name in endpoint.__slots__])


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("https://endpoint.example", "", "the token is empty"),
        ("https://endpoint.example", None, "the token is of type NoneType"),
        ("https://endpoint.example", f"a/{CANARY}", "the token has other characters"),
        ("https://endpoint.example", f"{CANARY}?", "the token has other characters"),
        ("https://endpoint.example", f"..{CANARY}", "the token has other characters"),
        (f"https://endpoint.example/{CANARY}", CANARY, "url contains the token"),
        ("https://endpoint.example/" + "0f" * 32, "another", "url contains the token"),
        (
            "endpoint.example",
            CANARY,
            "url must be absolute, like https://endpoint-trial.cognigy.ai",
        ),
        ("https://endpoint.example?a=1", CANARY, "url must have neither query nor fragment"),
        (None, CANARY, "url: must be a str"),
    ],
)
def test_an_invalid_argument_is_refused(url: Any, token: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^Endpoint: {message}") as caught:
        Endpoint(url, token)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None or CANARY not in str(caught.value.__context__)


def test_a_request_has_the_token_only_for_the_transport() -> None:
    request = ENDPOINT.request(StateUpdate("s/1", **MESSAGE), "u-1")
    assert request.url == "https://endpoint.example/inject/REDACTED"
    assert json.loads(request.content) == {
        "userId": "u-1",
        "sessionId": "s/1",
        "text": "hello",
        "data": {"n": 1},
    }
    assert not request.idempotent
    sent = with_url_token(request)
    assert (sent.method, sent.url) == ("POST", f"https://endpoint.example/inject/{TOKEN}")
    assert (sent.headers, sent.content) == (request.headers, request.content)
    for one in (request, sent):
        assert repr(one) == (
            f"<Request POST https://endpoint.example/inject/REDACTED {len(request.content)} bytes>"
        )


def test_the_message_is_the_last_request_of_an_update() -> None:
    update = StateUpdate("s", session={"a": 1}, notify={"text": "x"}, user_id="u-1")
    requests = requests_of(RuntimeApi(), ENDPOINT, "https://api.example", update, "key")
    assert [(one.method, one.idempotent) for one in requests] == [("PATCH", True), ("POST", False)]
    assert json.loads(requests[0].content) == {"session": {"a": 1}}
    assert count_requests(RuntimeApi(), update) == 2
    alone = StateUpdate("s", **MESSAGE)
    (request,) = requests_of(
        SessionsApi(user_id="other"), ENDPOINT, "https://api.example", alone, "key"
    )
    assert json.loads(request.content)["userId"] == "u-1"
    assert count_requests(SessionsApi(), alone) == 1


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (200, ResponseKind.APPLIED),
        (204, ResponseKind.APPLIED),
        (302, ResponseKind.REFUSED),
        (401, ResponseKind.REFUSED),
        (404, ResponseKind.REFUSED),
        (409, ResponseKind.REFUSED),
        (412, ResponseKind.REFUSED),
        (408, ResponseKind.GATEWAY),
        (429, ResponseKind.THROTTLED),
        (500, ResponseKind.FAULT),
        (502, ResponseKind.GATEWAY),
        (503, ResponseKind.UNAVAILABLE),
    ],
)
def test_an_answer_asks_for_no_other_token_and_no_other_version(
    number: int, kind: ResponseKind
) -> None:
    assert kind_of_answer(response(number)) is kind


def test_an_error_repeats_neither_the_token_nor_the_message() -> None:
    request = ENDPOINT.request(StateUpdate("s", **MESSAGE), "u-1")
    for text in (f"Cannot POST /inject/{TOKEN}", "no hello here", "the value hello"):
        answer = response(404, {"message": text, "traceId": TOKEN})
        error = error_of_answer(request, answer, 0.0)
        assert (error.detail, error.trace_id) == (
            "[withheld, because it repeats values of the request]",
            None,
        )
    plain = error_of_answer(request, response(429, {"message": "slow down"}), 0.0)
    assert plain.detail == "slow down"
