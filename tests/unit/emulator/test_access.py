"""Requests over sockets that a web page may have made."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.emulator.server.access import Access


def status(
    access: Access, *headers: tuple[str, str], method: str = "GET", path: str = "/_emulator/stats"
) -> int | None:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    refusal = access.refusal({"method": method, "path": path, "headers": raw})
    return None if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("127.0.0.1:8321", False),
        ("127.9.9.9", False),
        ("localhost", False),
        ("LOCALHOST.:80", False),
        ("api.localhost:8321", False),
        ("[::1]:8321", False),
        ("emulator:8321", False),
        ("Emulator", False),
        ("10.1.2.3:8321", False),
        ("[fd00::1]:80", False),
        ("evil.example", True),
        ("emulator.evil.example", True),
        ("emulator@evil.example", True),
        ("127.0.0.1.nip.io:8321", True),
        ("localhost.evil.example", True),
        ("[::1].evil.example", True),
        ("evil.example\\.localhost", True),
        ("2130706433", True),
        ("0.0.0.0:8321", True),
        ("10.1.2.4", True),
        ("", True),
        (":8321", True),
        ("localhost, evil.example", True),
        ("\xe9", True),
    ],
)
def test_a_host_is_loopback_or_allowed(host: str, refused: bool) -> None:
    access = Access("0.0.0.0", ["emulator", "10.1.2.3", "[FD00::1]"])
    for _ in range(2):
        assert status(access, ("Host", host)) == (403 if refused else None)
        # One that was accepted makes no other one acceptable.
        assert status(access, ("Host", "evil.example")) == 403


def test_the_address_that_is_listened_on_is_allowed() -> None:
    assert status(Access("10.1.2.3", ()), ("Host", "10.1.2.3:80")) is None
    assert status(Access("::", ["fd00::1"]), ("Host", "[fd00:0::1]:80")) is None
    assert status(Access("::", ()), ("Host", "[::]:80")) == 403


def test_an_address_that_is_no_host_is_left_to_the_listening_socket() -> None:
    assert status(Access("no host", ()), ("Host", "no host")) == 403
    assert status(Access("no host", ()), ("Host", "localhost")) is None


def test_no_host_comes_from_no_browser_and_two_are_one_too_many() -> None:
    access = Access("127.0.0.1", ())
    assert status(access) is None
    assert status(access, ("Host", "localhost"), ("Host", "localhost")) == 403
    assert status(access, ("Host", "localhost"), ("Host", "evil.example")) == 403
    assert status(access, ("Origin", "http://localhost")) == 403


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://localhost:8321", False),
        ("https://LOCALHOST:8321", False),
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8321", True),
        ("http://evil.example", True),
        ("http://localhost:8321.evil.example", True),
        ("ftp://localhost:8321", True),
        ("null", True),
        ("", True),
    ],
)
@pytest.mark.parametrize("path", ["/_emulator/stats", "/runtime/v2/dialogs/d-1/state"])
def test_an_origin_is_that_of_the_server(origin: str, refused: bool, path: str) -> None:
    access = Access("127.0.0.1", ())
    headers = (("Host", "localhost:8321"), ("Origin", origin))
    assert status(access, *headers, path=path) == (403 if refused else None)
    more = ("Origin", "http://localhost:8321"), *headers
    assert status(access, *more, path=path) == (403 if refused else None)


@pytest.mark.parametrize(
    ("content_type", "refused"),
    [
        ("application/json", False),
        ("Application/JSON; charset=utf-8", False),
        ("text/plain", True),
        ("text/plain; application/json", True),
        ("application/x-www-form-urlencoded", True),
        ("multipart/form-data; boundary=x", True),
        (None, True),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_control_requests_are_json(content_type: str | None, refused: bool, method: str) -> None:
    access = Access("127.0.0.1", ())
    headers = [("Content-Type", content_type)] if content_type is not None else []
    headers.append(("Host", "localhost"))
    found = status(access, *headers, method=method, path="/_emulator/reset")
    assert found == (415 if refused else None)
    assert status(access, *headers, method=method, path="/oauth/token") is None


@pytest.mark.parametrize(
    "host", ["", "*", "http://emulator", "emulator:8321", "[::1]:80", "a b", "[emulator]", "é/"]
)
def test_a_bad_allowed_host_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^allowed host .*: must be a host name"):
        Access("127.0.0.1", [host])


def test_one_string_is_no_list_of_hosts() -> None:
    wrong: Any = "emulator"
    with pytest.raises(ConfigurationError, match="must be a list"):
        Access("127.0.0.1", wrong)
