"""Errors of an HTTP library become errors that show nothing of the request."""

from __future__ import annotations

import errno
import socket

import pytest

from cognigy_async.errors import NoResponseError, NotSentError
from cognigy_async.transports._errors import MAX_REASON, host_of, reason_of, translate

CANARY = "c4nary"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.cognigy.test/new?token=c4nary", "api.cognigy.test"),
        ("http://127.0.0.1:8080/state", "127.0.0.1:8080"),
        ("https://user:c4nary@host/state", "host"),
        ("https://user:c4na/ry@host/state", "the server"),
        ("https://[c4nary", "the server"),
        ("c4nary", "the server"),
    ],
)
def test_only_the_host_of_a_url_is_shown(url: str, host: str) -> None:
    assert host_of(url) == host


def test_the_reason_of_the_operating_system_comes_first() -> None:
    refused = OSError(errno.ECONNREFUSED, CANARY)
    wrapped = RuntimeError(CANARY)
    wrapped.__cause__ = ExceptionGroup("several", [refused])
    assert reason_of(wrapped, "") == "Connection refused"
    assert reason_of(RuntimeError(refused), "") == "Connection refused"
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert reason_of(unknown, "") == "Name or service not known"


def test_a_reason_without_an_error_of_the_operating_system() -> None:
    assert reason_of(RuntimeError(CANARY), "the session was closed") == "the session was closed"
    assert reason_of(RuntimeError(CANARY), "") == "RuntimeError"
    assert len(reason_of(RuntimeError(), "x" * 500)) == MAX_REASON


@pytest.mark.parametrize(
    ("timeout", "refused", "begun", "expected"),
    [
        (None, True, True, NotSentError("No connection to host: why")),
        (2.5, True, False, NotSentError("No connection to host within 2.5 s")),
        (None, False, False, NotSentError("The request could not be sent to host: why")),
        (None, False, True, NoResponseError("No complete response from host: why")),
        (
            0.5,
            False,
            True,
            NoResponseError("No complete response from host within 0.5 s", timed_out=True),
        ),
    ],
)
def test_an_error_says_whether_the_server_may_have_acted(
    timeout: float | None, refused: bool, begun: bool, expected: NotSentError | NoResponseError
) -> None:
    error = translate("https://host/state", "why", timeout=timeout, refused=refused, begun=begun)
    assert type(error) is type(expected)
    assert str(error) == str(expected)
    assert getattr(error, "timed_out", False) == getattr(expected, "timed_out", False)
    assert type(error.__cause__) is (ConnectionError if timeout is None else TimeoutError)
    assert str(error.__cause__) == "why"
