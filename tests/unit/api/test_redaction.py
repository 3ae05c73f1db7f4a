"""Private values of a request that a server repeats."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import RuntimeApi
from cognigy_async.api.redaction import PrivateValues
from tests.unit._builders import CANARY, request, response, update

BASE = "https://api.cognigy.ai"
API = RuntimeApi()
NOW = 1_700_000_000.0


def test_a_request_without_values_keeps_nothing_private() -> None:
    private = PrivateValues(API.read(BASE, "d"))
    assert not private.occur_in(f"anything, 42 or {CANARY}")


def test_short_values_are_words_of_their_own() -> None:
    (sent,) = API.writes(BASE, update(session={"a": "ab", "b": "cde"}), "u")
    private = PrivateValues(sent)
    assert private.occur_in("bad value ab")
    assert not private.occur_in("a cab")
    assert private.occur_in("a xcdex")


UUID = "api--7d0f1c2e-94b1-4e6a-8c3d-2b5f60a7e918"


@pytest.mark.parametrize(
    ("value", "trace_id", "told"),
    [
        # The digits of an id are its own.
        (7, UUID, True),
        ([0, 1, 2.0, 94], UUID, True),
        (1, "t-1", True),
        (4711, "req-4711", False),
        (4711, "4711", False),
        (149.99, "x.149.99", False),
        (123456, "id123456z", False),
        ("visa4711", "id-visa4711", False),
    ],
)
def test_a_trace_id_is_withheld_where_it_repeats_a_value(
    value: Any, trace_id: str, *, told: bool
) -> None:
    (sent,) = API.writes(BASE, update(session={"a": value}), "u")
    error = API.error(sent, response(500, {"traceId": trace_id}), NOW)
    assert error.trace_id == (trace_id if told else None)


VALUES: list[Any] = [CANARY, f"{CANARY} {'x' * 100}", [[CANARY]], {"k": CANARY}, 123456, -0.12345]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("context", ["session", "user"])
def test_a_message_that_repeats_a_value_is_withheld(context: str, value: Any) -> None:
    (sent,) = API.writes(BASE, update(**{context: {"a": value}}), "u")
    leaf = value
    while isinstance(leaf, list | dict):
        leaf = leaf[0] if isinstance(leaf, list) else leaf["k"]
    for said in (f"bad value {leaf}", f"{leaf}", f"a={str(leaf)[:40]!r}..."):
        error = API.error(sent, response(400, {"message": said}), NOW)
        assert error.detail == "[withheld, because it repeats values of the request]"
        assert str(leaf) not in str(error)


def test_a_value_is_found_whatever_white_space_stands_in_it() -> None:
    (sent,) = API.writes(BASE, update(session={"a": "12 Long Street"}), "u")
    error = API.error(sent, response(400, {"message": "no: 12\nLong\tStreet"}), NOW)
    assert "Long Street" not in str(error)


def test_keys_inside_a_value_are_part_of_the_value() -> None:
    (sent,) = API.writes(BASE, update(session={"a": {"someone@example.com": 1}}), "u")
    error = API.error(sent, response(400, {"message": "key someone@example.com"}), NOW)
    assert "someone@example.com" not in str(error)


def test_names_and_steps_may_be_repeated() -> None:
    (sent,) = API.writes(BASE, update(session={"a_variable": True}, next_step="a_step"), "u")
    said = "a_variable is not known at a_step, true"
    assert API.error(sent, response(400, {"message": said}), NOW).detail == said


@pytest.mark.parametrize("name", ["authorization", "x_api_key"])
def test_a_secret_of_the_request_never_comes_back(name: str) -> None:
    sent = request(**{name: f"Bearer {CANARY}"})
    answer = response(401, {"message": f"bad token {CANARY}", "traceId": CANARY}, etag=CANARY)
    error = API.error(sent, answer, NOW)
    assert CANARY not in str(error)
    assert CANARY not in repr(vars(error))


def test_the_scheme_of_the_credentials_is_no_secret() -> None:
    sent = request(authorization=f"Bearer {CANARY}")
    said = "The Bearer token has expired"
    assert API.error(sent, response(401, {"message": said}), NOW).detail == said


LONG = "CANARYVALUE-0123456789-abcdefghijklmnop-TAILSECRET"
KEY = "sk-APIKEYCANARY-0123456789abcdef"
REPEATED: list[tuple[Any, str]] = [
    (LONG, f"bad value ...{LONG[-20:]}"),
    (LONG, f"at offset 12: {LONG[12:40]}"),
    (LONG, f"bad value {LONG[:11]}..."),
    (LONG, f"bad value {LONG.upper()}"),
    ('ca"nary"quoted-secret', r"bad value \"ca\"nary\"quoted-secret\""),
    ("Zürich-geheim", r"bad value \"Z\u00fcrich-geheim\""),
    ("a&b-secretcanary", "bad value a&amp;b-secretcanary"),
    ("ab cd-secretcanary", "bad value ab%20cd-secretcanary"),
    ("canaryzw-secret", "bad c\u200banaryzw-secret"),
    ("q7Z", "bad value q7Z"),
    (123, "bad value 123"),
    (5000.0, "bad value 5000"),
    (149.99, "bad value 149.990"),
    ([1, {"k": "deep-canary"}], "bad value deep-canary"),
    (1, f"key {KEY[:16]}... is not valid"),
    (1, f"the key that ends with {KEY[-12:]} is not valid"),
]


@pytest.mark.parametrize(("value", "said"), REPEATED)
def test_a_part_of_a_value_or_a_key_in_any_form_is_withheld(value: Any, said: str) -> None:
    (sent,) = API.writes(BASE, update(session={"a": value}), "u")
    sent.headers["X-API-Key"] = KEY
    error = API.error(sent, response(400, {"message": said}), NOW)
    assert error.detail == "[withheld, because it repeats values of the request]"


def test_a_trace_id_that_is_part_of_a_value_is_withheld() -> None:
    (sent,) = API.writes(BASE, update(session={"a": LONG}), "u")
    error = API.error(sent, response(400, {"message": "x", "traceId": LONG[-20:]}), NOW)
    assert (error.trace_id, error.detail) == (None, "x")


def test_a_message_after_a_read_is_withheld_because_it_may_be_the_state() -> None:
    error = API.error(API.read(BASE, "d"), response(400, {"message": LONG}), NOW)
    assert error.detail is None


@pytest.mark.parametrize("said", ["invalid payload structure", "unknown node", "line 3 is bad"])
def test_a_message_without_values_is_kept(said: str) -> None:
    (sent,) = API.writes(BASE, update(session={"a": LONG, "b": 42, "c": True, "d": ""}), "u")
    error = API.error(sent, response(400, {"message": said}), NOW)
    assert error.detail == said
