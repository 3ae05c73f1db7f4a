"""Arguments that are rejected where they are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async._utils.arguments import (
    is_loopback,
    url_problem,
    validate_base_url,
    validate_count,
    validate_seconds,
    validate_timeout,
    validate_type,
)
from tests.unit._builders import CANARY


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan, "5", None])
def test_a_timeout_is_positive_and_finite(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout=.*positive number of seconds"):
        validate_timeout(timeout)
    assert validate_timeout(0.5) == 0.5


@pytest.mark.parametrize(
    ("seconds", "least", "message"),
    [
        (math.nan, -math.inf, "deadline=nan: must be a finite number in seconds"),
        (math.inf, -math.inf, "deadline=inf: must be a finite number in seconds"),
        ("5", -math.inf, "deadline='5': must be a finite number in seconds"),
        (True, -math.inf, "deadline=True: must be a finite number in seconds"),
        (-1, 0, "deadline=-1: must be a finite number of at least 0 in seconds"),
    ],
)
def test_seconds_are_finite_and_at_least_the_bound(
    seconds: Any, least: float, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate_seconds("deadline", seconds, least=least)
    assert str(caught.value) == message
    assert validate_seconds("deadline", 5, least=least) == 5.0


@pytest.mark.parametrize("number", [0, -1, 1.0, "1", True, None])
def test_a_count_is_an_integer_of_at_least_one(number: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^workers=.*integer of at least 1"):
        validate_count("workers", number)
    assert validate_count("workers", 1) == 1


def test_a_wrong_type_is_named_without_the_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate_type("retry", CANARY, dict)
    assert str(caught.value) == "retry: must be a dict, not a str"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("api.example.com", "must be absolute"),
        ("ftp://api.example.com", "must be absolute"),
        ("https://", "must be absolute"),
        ("https://api.example.com:0", "must be absolute"),
        ("https://api.example.com:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://api.example.com/a b", "spaces or control characters"),
        ("https://api.example.com/\x00", "spaces or control characters"),
        (f"https://me:{CANARY}@api.example.com", "must not hold credentials"),
        (f"https://api.example.com/#{CANARY}", "must not have a fragment"),
        (f"https://api.example.com/?key={CANARY}", "neither query nor fragment"),
        ("https://é.example.com", "must be ASCII"),
        ("http://api.example.com", "unencrypted"),
        ("http://127.0.0.1.nip.io", "unencrypted"),
        ("http://127.1", "unencrypted"),
        ("http://0177.0.0.1", "unencrypted"),
        ("http://2130706433", "unencrypted"),
        ("HTTP://LOCALHOST.EXAMPLE", "unencrypted"),
        ("http://localhost@evil.example", "must not hold credentials"),
        ("http://[::1].example", "neither a name nor an address"),
        ("http://[::1]example:80", "neither a name nor an address"),
        ("http://a[::1]", "neither a name nor an address"),
        ("http://[v1.x]", "neither a name nor an address"),
        ("http://evil.example\\.localhost", "neither a name nor an address"),
        ("http://evil.example%2F.localhost", "neither a name nor an address"),
        ("https://[::1].example", "neither a name nor an address"),
    ],
)
def test_a_bad_base_url_is_rejected_without_repeating_it(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^base_url .*{problem}") as caught:
        validate_base_url(url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "validated"),
    [
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com/prefix//", "https://api.example.com/prefix"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
        ("https://state_api.example-1.com:443", "https://state_api.example-1.com:443"),
    ],
)
def test_a_good_base_url_loses_its_trailing_slashes(url: str, validated: str) -> None:
    assert validate_base_url(url) == validated


def test_http_to_another_machine_has_to_be_allowed() -> None:
    assert validate_base_url("http://api.example.com", allow_insecure=True)


def test_a_query_is_no_problem_of_every_url() -> None:
    assert url_problem("https://api.example.com/token?tenant=a", "https://x") is None


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.example.com", False),
        ("127.0.0.1.nip.io", False),
        ("127.0.0.1.", False),
        ("127.1", False),
        ("0177.0.0.1", False),
        ("0x7f.0.0.1", False),
        ("2130706433", False),
        ("localhost..", False),
        (".localhost", False),
        ("a..localhost", False),
        ("evil.example\\.localhost", False),
        ("::ffff:10.0.0.1", False),
        ("::", False),
        ("notlocalhost", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
        (None, False),
    ],
)
def test_which_hosts_are_this_machine(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("check", [validate_timeout, lambda value: validate_seconds("a", value)])
def test_numbers_come_back_as_they_are(check: Callable[[Any], float]) -> None:
    assert check(3) == 3
