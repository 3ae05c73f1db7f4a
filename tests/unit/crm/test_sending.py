"""`Sender`: what statuses and lost connections mean, and one request that a server fails at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from cognigy_async import ConfigurationError, NoResponseError, NotSentError, Request, Response
from cognigy_async.crm import DeliveryError, TargetUnavailableError
from cognigy_async.crm.sending import (
    MAX_RETRY_AFTER,
    MAX_SUSPECTS,
    PATIENCE,
    Sender,
    code,
    json_of,
    objects,
    validate_name,
    validate_secret,
    wait_of,
)
from tests.stubs.transport import InProcess, Reply

REQUEST = Request("POST", "https://crm.example/x", {}, b"{}")


class Answers:
    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    def handle(self, *_: Any) -> Reply:
        return Reply(self.statuses.pop(0))


async def failure(sender: Sender, name: str = "u-1") -> DeliveryError | None:
    try:
        return sender.failure(await sender.send(REQUEST, name), name)
    except DeliveryError as error:
        return error


def sender_of(stub: Any) -> tuple[Sender, InProcess]:
    transport = InProcess(stub)
    return Sender("the CRM", transport, 5.0), transport


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (204, None),
        (299, None),
        (302, DeliveryError),
        (308, DeliveryError),
        (400, DeliveryError),
        (404, DeliveryError),
        (429, TargetUnavailableError),
        (500, TargetUnavailableError),
        (502, TargetUnavailableError),
        (503, TargetUnavailableError),
        (504, TargetUnavailableError),
    ],
)
async def test_a_status_pauses_the_target_or_fails_the_event(status: int, kind: Any) -> None:
    sender, _ = sender_of(Answers(status))
    await sender.open()
    found = await failure(sender)
    assert (None if found is None else type(found)) is kind
    if found is not None:
        assert str(status) in str(found)


async def test_a_redirect_is_not_followed_and_said() -> None:
    sender, transport = sender_of(Answers(307))
    await sender.open()
    assert "a redirect, which is not followed; correct the URL" in str(await failure(sender))
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    "error", [NotSentError("no connection"), NoResponseError("closed", timed_out=True)]
)
async def test_a_lost_connection_pauses_the_target(error: Exception) -> None:
    sender, transport = sender_of(Answers())
    transport.failures.append(error)
    await sender.open()
    found = await failure(sender)
    assert isinstance(found, TargetUnavailableError)
    assert found.__cause__ is error


async def test_a_request_that_always_fails_is_blamed_when_others_are_answered() -> None:
    sender, _ = sender_of(Answers(500, 200, 500, 500))
    await sender.open()
    assert isinstance(await failure(sender, "bad"), TargetUnavailableError)
    assert await failure(sender, "good") is None
    for _ in range(2):
        assert type(await failure(sender, "bad")) is DeliveryError


async def test_a_request_that_always_fails_alone_is_blamed_after_some_pauses() -> None:
    sender, _ = sender_of(Answers(*[500] * 2 * PATIENCE))
    await sender.open()
    for _ in range(2):
        found = [type(await failure(sender)) for _ in range(PATIENCE)]
        assert found == [TargetUnavailableError] * (PATIENCE - 1) + [DeliveryError]


async def test_suspects_are_bounded_and_forgotten_on_success() -> None:
    sender, _ = sender_of(Answers(*[500] * (MAX_SUSPECTS + 5), 200))
    await sender.open()
    for number in range(MAX_SUSPECTS + 5):
        await failure(sender, f"u-{number}")
    assert len(sender._suspects) == MAX_SUSPECTS
    await failure(sender, f"u-{MAX_SUSPECTS}")
    assert len(sender._suspects) == MAX_SUSPECTS - 1


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("99999", MAX_RETRY_AFTER), ("soon", None), ("0", None)]
)
def test_retry_after_in_seconds_is_bounded(value: str, seconds: float | None) -> None:
    assert wait_of(Response(503, {"retry-after": value})) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = wait_of(Response(503, {"retry-after": date}))
    assert seconds is not None
    assert 50 < seconds <= 60


async def test_the_wait_reaches_the_outbox() -> None:
    sender, _ = sender_of(Answers())
    found = sender.failure(Response(429, {"retry-after": "7"}), "u-1")
    assert isinstance(found, TargetUnavailableError)
    assert found.retry_after == 7.0


async def test_a_given_transport_stays_open_and_an_own_one_is_closed() -> None:
    sender, transport = sender_of(Answers())
    await sender.open()
    await sender.aclose()
    assert not transport.closed
    own = Sender("the CRM", None, 5.0)
    made = await own.open()
    await own.aclose()
    assert "closed" in repr(made)
    with pytest.raises(DeliveryError, match="not open"):
        await own.send(REQUEST, "u-1")


def test_bodies_that_cannot_be_used_are_empty() -> None:
    assert json_of(Response(200, {}, b'{"a":1}')) == {"a": 1}
    assert json_of(Response(200, {}, b"<html>")) is None
    assert json_of(Response(200, {}, b"[" * 100_000)) is None
    assert json_of(Response(200, {}, b"", "too large")) is None
    assert objects([{"a": 1}, 5]) == [{"a": 1}]
    assert objects({"a": 1}) == []


def test_only_codes_are_shown() -> None:
    assert code("RATE_LIMIT") == "RATE_LIMIT"
    assert [code("canary a@b"), code(None), code("A" * 65)] == ["?"] * 3


@pytest.mark.parametrize("secret", ["", "canary with space", "canary\n", "canary-é", None])
def test_a_secret_is_visible_ascii_and_never_shown(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="visible ASCII") as caught:
        validate_secret("HubSpot: the token", secret)
    assert "canary" not in str(caught.value)


def test_a_name_fits_into_a_path() -> None:
    assert validate_name("sobject", "My_Thing__c") == "My_Thing__c"
    for name in ("", "a/b", "a b", "é"):
        with pytest.raises(ConfigurationError, match="must be a name"):
            validate_name("sobject", name)
