"""Requests and responses of the runtime API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DialogNotFoundError,
    Limits,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    Request,
    ResponseKind,
    ServerError,
    StateConflictError,
    StateUpdate,
    UnexpectedAnswerError,
    UnsupportedByApiError,
    UpdateError,
)
from cognigy_async.api.runtime import RuntimeApi
from tests.unit._builders import request, response, unhurried, update, variables

BASE = "https://api.cognigy.ai"
API = RuntimeApi()
NOW = 1_700_000_000.0


def writes(limits: dict[str, Any], /, **fields: Any) -> list[Request]:
    made = StateUpdate.from_fields(Limits(**limits), {"dialog_id": "d", **fields})
    return API.writes(BASE, made, "u-1")


def bodies(requests: list[Request]) -> list[Any]:
    return [json.loads(one.content) for one in requests]


# Requests.


def test_a_write_is_one_patch() -> None:
    (sent,) = writes({}, session={"a": "é"}, user={"b": 1}, next_step="s", if_match='"7"')
    assert sent.method == "PATCH"
    assert sent.url == f"{BASE}/runtime/v2/dialogs/d/state"
    assert sent.headers == {
        "accept": "application/json",
        "content-type": "application/json",
        "idempotency-key": "u-1",
    }
    text = '{"session":{"a":"é"},"user":{"b":1},"transition":{"nextStep":"s"}}'
    assert sent.content.decode() == text


def test_a_read_is_a_get_on_the_same_path() -> None:
    sent = API.read(BASE, "d/1")
    assert (sent.method, sent.content) == ("GET", b"")
    assert sent.url == API.writes(BASE, update("d/1"), "u")[0].url
    assert sent.headers == {"accept": "application/json"}


# Splitting.


def test_a_payload_at_the_threshold_is_one_request_and_above_it_several() -> None:
    fields = {"session": {"a": "x" * 30, "b": "y" * 30}, "next_step": "s"}
    size = len(writes({}, **fields)[0].content)
    assert len(writes({"safe_payload_bytes": size}, **fields)) == 1
    several = writes({"safe_payload_bytes": size - 1}, **fields)
    assert bodies(several) == [
        {"session": {"a": "x" * 30}},
        {"session": {"b": "y" * 30}, "transition": {"nextStep": "s"}},
    ]
    assert [part.headers["idempotency-key"] for part in several] == ["u-1/0", "u-1/1"]
    assert [part.idempotent for part in several] == [True, False]
    assert {part.url for part in several} == {f"{BASE}/runtime/v2/dialogs/d/state"}


def test_parts_are_filled_in_order_and_the_last_takes_the_transition() -> None:
    five = dict.fromkeys("abcde", "x" * 10)
    parts = bodies(writes({"safe_payload_bytes": 125}, session=five, user=five, next_step="s"))
    names = [{context: "".join(part[context]) for context in part} for part in parts]
    assert names == [
        {"session": "abcd"},
        {"session": "e", "user": "abc"},
        {"user": "de", "transition": "nextStep"},
    ]


def test_a_transition_that_fits_no_part_is_a_part_of_its_own() -> None:
    parts = bodies(writes({"safe_payload_bytes": 99}, user={"a": "x" * 40}, next_step="s" * 20))
    assert parts == [{"user": {"a": "x" * 40}}, {"transition": {"nextStep": "s" * 20}}]


steps = st.none() | st.text("abc", min_size=1, max_size=20)


@given(variables, variables, steps, st.integers(100, 300))
@unhurried
def test_the_parts_together_are_the_payload(
    session: dict[str, Any], user: dict[str, Any], next_step: str | None, threshold: int
) -> None:
    fields = {"dialog_id": "d", "session": session, "user": user, "next_step": next_step}
    try:
        made = StateUpdate.from_fields(Limits(safe_payload_bytes=threshold), fields)
    except ValueError:
        return
    requests = API.writes(BASE, made, "u")
    payload = made.payload()
    parts = bodies(requests)
    assert all(len(one.content) <= threshold for one in requests)
    assert all(parts), "an empty request changes nothing and costs one"
    order: dict[str, list[str]] = {}
    union: dict[str, dict[str, Any]] = {}
    for part in parts:
        for context in part.keys() - {"transition"}:
            order.setdefault(context, []).extend(part[context])
            union.setdefault(context, {}).update(part[context])
    transition = payload.pop("transition", None)
    assert repr(sorted(union.items())) == repr(sorted(payload.items()))
    assert order == {context: list(variables) for context, variables in payload.items()}
    assert [part.get("transition") for part in parts] == [None] * (len(parts) - 1) + [transition]
    # The session comes before the user variables.
    contexts = [context for part in parts for context in part if context != "transition"]
    assert contexts == sorted(contexts, key=["session", "user"].index)
    if len(parts) > 1:
        keys = [one.headers["idempotency-key"] for one in requests]
        assert keys == [f"u/{number}" for number in range(len(parts))]


def test_the_default_threshold_is_half_a_mebibyte() -> None:
    many = {f"v{number}": "x" * 1000 for number in range(1000)}
    parts = writes({}, session=many)
    assert len(parts) == 2
    assert all(500 * 1024 < len(part.content) <= 512 * 1024 for part in parts[:1])
    assert len(API.writes(BASE, update(session={"v": "x" * 524_000}), "u")) == 1


# Responses.


def expected_kind(status: int) -> ResponseKind:
    if 200 <= status < 300:
        return ResponseKind.APPLIED
    if status >= 500:
        return {
            500: ResponseKind.FAULT,
            501: ResponseKind.REFUSED,
            503: ResponseKind.UNAVAILABLE,
            505: ResponseKind.REFUSED,
            510: ResponseKind.REFUSED,
        }.get(status, ResponseKind.GATEWAY)
    special = {
        408: ResponseKind.GATEWAY,
        401: ResponseKind.UNAUTHORIZED,
        409: ResponseKind.CONFLICT,
        412: ResponseKind.CONFLICT,
        429: ResponseKind.THROTTLED,
    }
    return special.get(status, ResponseKind.REFUSED)


def expected_error(status: int) -> type[UpdateError]:
    kinds: dict[int, type[UpdateError]] = {
        400: BadRequestError,
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: DialogNotFoundError,
        408: ServerError,
        409: StateConflictError,
        412: StateConflictError,
        413: PayloadTooLargeError,
        429: RateLimitedError,
    }
    return kinds.get(status, ServerError if status >= 500 else UnexpectedAnswerError)


def test_every_status_has_its_kind_and_its_error() -> None:
    for status in range(100, 600):
        body = {"detail": "no", "traceId": "api--1", "version": 9}
        answer = response(status, body, etag='"9"', retry_after="7")
        assert (status, API.classify(answer)) == (status, expected_kind(status))
        error = API.error(request(), answer, NOW)
        assert (status, type(error)) == (status, expected_error(status))
        assert (error.status, error.trace_id, error.detail) == (status, "api--1", "no")
        assert error.retry_after == (7.0 if status in (429, 503) else None)
        if isinstance(error, StateConflictError):
            assert (error.current_etag, error.current_version) == ('"9"', 9)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        *((302, "redirect"), (200, "not a state"), (418, "does not define")),
        *((100, "does not define"), (408, "gave up waiting"), (421, "does not serve this host")),
        *((425, "early data"), (501, "does not implement"), (505, "version of HTTP")),
    ],
)
def test_the_error_of_an_unexpected_response_describes_it(status: int, message: str) -> None:
    assert message in str(API.error(request(), response(status), NOW))


@pytest.mark.parametrize(
    ("etag", "taken"),
    [
        ('"7"', True),
        ('W/"7"', True),
        ("7", True),
        ("x" * 512, True),
        ("x" * 513, False),
        ("", False),
        ('"7"\r\nx: y', False),
        ('"7"\n', False),
        ('"7 8"', False),
        ('"\x00"', False),
        ('"é"', False),
    ],
)
def test_an_etag_is_taken_if_it_can_be_sent_back(etag: str, taken: bool) -> None:
    answer = response(200, {"session": {}}, etag=etag)
    expected = etag if taken else None
    assert API.etag(answer) == expected
    state = API.state("d", answer)
    assert state is not None
    assert state.etag == expected


@pytest.mark.parametrize(
    ("body", "session", "user", "next_step", "version"),
    [
        ({}, {}, {}, None, None),
        ({"session": {"a": [1]}, "user": {"b": None}}, {"a": [1]}, {"b": None}, None, None),
        ({"transition": {"nextStep": "s"}, "version": 3}, {}, {}, "s", 3),
        ({"session": None, "user": None, "transition": None}, {}, {}, None, None),
        ({"transition": {"nextStep": 5}, "version": "3"}, {}, {}, None, None),
        ({"transition": {}, "version": True, "more": 1}, {}, {}, None, None),
    ],
)
def test_a_state_is_read_from_the_body(
    body: Any, session: Any, user: Any, next_step: str | None, version: int | None
) -> None:
    state = API.state("d", response(200, body))
    assert state is not None
    assert (state.dialog_id, state.session, state.user) == ("d", session, user)
    assert (state.next_step, state.version, state.etag) == (next_step, version, None)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"null", b"[]", b'"x"', b"7", b'{"session": {}', b"\xff", b"[" * 100_000),
        *({"session": [1]}, {"user": "x"}, {"transition": [1]}),
    ],
)
def test_a_body_without_a_state_is_none(body: Any) -> None:
    assert API.state("d", response(200, body)) is None


@given(st.binary(max_size=300), st.integers(100, 599))
@unhurried
def test_no_body_raises(content: bytes, status: int) -> None:
    answer = response(status, content, etag='"7"', retry_after="x", date="y")
    assert isinstance(API.error(request(content), answer, NOW), UpdateError)
    API.state("d", answer)


@pytest.mark.parametrize(
    ("headers", "dialog_only"),
    [
        ({"x_ratelimit_scope": "dialog"}, True),
        ({"x_ratelimit_scope": " Dialog "}, True),
        ({"x_ratelimit_scope": "tenant"}, False),
        ({"x_ratelimit_scope": ""}, False),
        ({}, False),
    ],
)
def test_a_429_concerns_the_dialog_or_the_tenant(
    headers: dict[str, str], dialog_only: bool
) -> None:
    assert API.throttles_dialog(response(429, **headers)) is dialog_only


def test_another_predicate_decides_what_a_429_concerns() -> None:
    api = RuntimeApi(is_dialog_throttle=lambda headers: headers.get("x-scope") == "d")
    assert api.throttles_dialog(response(429, x_scope="d"))
    assert not api.throttles_dialog(response(429, x_ratelimit_scope="dialog"))


def test_the_user_declares_whether_keys_are_honoured() -> None:
    assert not API.honours_idempotency_keys
    assert RuntimeApi(honours_idempotency_keys=True).honours_idempotency_keys


def test_without_conditional_writes_no_condition_is_accepted() -> None:
    api = RuntimeApi(conditional_writes=False)
    api.check(StateUpdate("d-1", session={"a": 1}))
    api.check_use("get_state")
    with pytest.raises(UnsupportedByApiError, match=r"if_match: needs If-Match.*leave it out"):
        api.check(StateUpdate("d-1", session={"a": 1}, if_match='"7"'))
    with pytest.raises(UnsupportedByApiError, match=r"modify\(\): needs If-Match"):
        api.check_use("modify")
    RuntimeApi().check_use("modify")


def test_limits_of_its_own() -> None:
    limits = Limits(max_context_bytes=65_000)
    assert (RuntimeApi(limits=limits).limits, RuntimeApi().limits) == (limits, Limits())
    with pytest.raises(ConfigurationError, match="limits: must be a Limits, not a int"):
        RuntimeApi(limits=65_000)  # type: ignore[arg-type]
