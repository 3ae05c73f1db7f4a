"""Path segments, and errors from responses."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async import Request, RuntimeApi, SessionsApi
from cognigy_async.api.responses import (
    KIND_OF_STATUS,
    ErrorDetails,
    error_details,
    kind_of_status,
    path_segment,
)
from tests.unit._builders import CANARY, request, response, unhurried

BASE = "https://api.cognigy.ai"
API = RuntimeApi()
NOW = 1_700_000_000.0


# Path segments.


@pytest.mark.parametrize(
    ("dialog_id", "segment"),
    [
        ("d-8f3a", "d-8f3a"),
        ("A_z~0", "A_z~0"),
        ("../x", "%2E%2E%2Fx"),
        ("a/b", "a%2Fb"),
        ("/", "%2F"),
        ("?", "%3F"),
        ("a?b=c&d", "a%3Fb%3Dc%26d"),
        ("#", "%23"),
        ("%", "%25"),
        ("%2F", "%252F"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a.b", "a%2Eb"),
        ("\\", "%5C"),
        (";", "%3B"),
        ("a\r\nb: c", "a%0D%0Ab%3A%20c"),
        ("\0", "%00"),
        ("é", "%C3%A9"),
        ("😀", "%F0%9F%98%80"),
        ("@host:80", "%40host%3A80"),
    ],
)
def test_a_dialog_id_is_one_segment_of_the_path(dialog_id: str, segment: str) -> None:
    url = API.read(BASE, dialog_id).url
    assert url == f"{BASE}/runtime/v2/dialogs/{segment}/state"
    # The default transport must not make a path of it again.
    parsed = httpx.URL(url)
    assert parsed.raw_path == f"/runtime/v2/dialogs/{segment}/state".encode()
    assert (parsed.host, parsed.query, parsed.fragment) == ("api.cognigy.ai", b"", "")


@given(st.text(min_size=1))
@unhurried
def test_any_dialog_id_can_be_read_back_from_the_path(dialog_id: str) -> None:
    path = API.read(BASE, dialog_id).url.removeprefix(BASE)
    assert path.isascii()
    assert path.isprintable()
    *before, segment, last = path.split("/")
    assert (before, last) == (["", "runtime", "v2", "dialogs"], "state")
    assert unquote(segment) == dialog_id


def test_unreserved_characters_stay_readable() -> None:
    assert path_segment("d-1_~Z9") == "d-1_~Z9"


# Errors.


def test_each_status_has_a_kind() -> None:
    assert all(kind_of_status(status) is kind for status, kind in KIND_OF_STATUS.items())
    # The whole range is in the tests of the APIs.
    assert [kind_of_status(status).value for status in (204, 302, 404, 502)] == [
        "applied",
        "refused",
        "refused",
        "gateway",
    ]


def test_the_details_are_empty_where_the_body_is_no_object() -> None:
    assert error_details(request(), response(500, b"<html>")) == ErrorDetails({}, None, None)


@pytest.mark.parametrize(
    ("answer", "trace_id"),
    [
        (response(500, {"traceId": "a"}, x_trace_id="b", x_request_id="c"), "a"),
        (response(500, {}, x_trace_id="b", x_request_id="c"), "b"),
        (response(500, b"", x_request_id="c"), "c"),
        (response(500, {"traceId": 5}), None),
        (response(500, {"traceId": "a b"}), None),
        (response(500, {"traceId": "a\nb"}), None),
        (response(500, {"traceId": "é"}), None),
        (response(500, {"traceId": "x" * 129}), None),
        (response(500, {"traceId": "x" * 128}), "x" * 128),
        (response(500), None),
    ],
)
def test_the_trace_id_is_found_and_never_trusted(answer: Any, trace_id: str | None) -> None:
    assert API.error(request(), answer, NOW).trace_id == trace_id


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"message": "a", "detail": "b", "error_description": "c"}, "a"),
        ({"detail": "b", "error_description": "c"}, "b"),
        ({"error_description": "c"}, "c"),
        ({"message": "a\r\n\x1b[31mb\x00\u202ec\u2028d"}, "a [31mb c d"),
        ({"message": "  a  \t b  "}, "a b"),
        ({"message": "x" * 200}, "x" * 200),
        ({"message": "x" * 201}, "x" * 197 + "..."),
        ({"message": {"a": 1}}, None),
        ({"message": ""}, None),
        ({"title": "a"}, None),
        (["message"], None),
        ("message", None),
        (b"<html>busy</html>", None),
        (b'{"message": "a"', None),
        (b"\xff", None),
        (b"[" * 10_000, None),
        (b'{"message": "' + b"x" * 70_000 + b'"}', None),
    ],
)
def test_the_message_of_the_server_is_shortened_and_cleaned(body: Any, detail: str | None) -> None:
    error = API.error(request(), response(500, body), NOW)
    assert error.detail == detail
    assert str(error).isprintable()


@pytest.mark.parametrize("api", [SessionsApi(user_id="u-1"), API], ids=["sessions", "runtime"])
def test_a_rejected_key_and_a_rejected_token_have_their_own_remedies(
    api: SessionsApi | RuntimeApi,
) -> None:
    request = Request("POST", BASE, {"X-API-Key": CANARY})
    told = {status: str(api.error(request, response(status), NOW)) for status in (401, 403)}
    assert "does not accept the API key" in told[401]
    assert "neither revoked nor expired" in told[401]
    assert "The API key does not allow this" in told[403]
    assert "user of the API key" in told[403]
    request = Request("POST", BASE, {"Authorization": f"Bearer {CANARY}"})
    tokens = {status: str(api.error(request, response(status), NOW)) for status in (401, 403)}
    assert "does not accept the token" in tokens[401]
    assert "client secret" in tokens[401]
    assert "The token does not allow this" in tokens[403]
    assert "API key" not in tokens[401] + tokens[403]
    assert CANARY not in f"{told}{tokens}"
