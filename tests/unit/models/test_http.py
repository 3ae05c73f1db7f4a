"""HTTP requests and responses as values."""

from __future__ import annotations

from cognigy_async.models.http import Request, Response
from tests.unit._builders import CANARY


def test_the_reprs_show_neither_headers_nor_content() -> None:
    request = Request("PATCH", "https://server/d-1", {"x-api-key": CANARY}, CANARY.encode())
    response = Response(200, {"set-cookie": CANARY}, CANARY.encode())
    assert repr(request) == f"<Request PATCH https://server/d-1 {len(CANARY)} bytes>"
    assert repr(response) == f"<Response 200 {len(CANARY)} bytes>"


def test_a_request_may_be_repeated_unless_it_says_otherwise() -> None:
    assert Request("GET", "https://server/d-1", {}).idempotent


def test_equal_requests_are_still_two() -> None:
    assert Request("GET", "https://server", {}) != Request("GET", "https://server", {})
