"""`Webhook`: the signed request of an event, and what the answers of a receiver mean."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio
import pytest
from standardwebhooks import Webhook as Verifier

from cognigy_async import (
    AmbiguousUpdateError,
    ConfigurationError,
    NotSentError,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.crm import DeliveryError, TargetGoneError, TargetUnavailableError, Webhook
from tests.stubs.transport import InProcess, Reply, served
from tests.stubs.webhook import Receiver
from tests.unit._builders import CANARY
from tests.unit.crm._events import event, kinds, opened, outcomes, text_of

URL = "https://crm.example/hooks/url-token"
SECRET = "whsec_" + "c2VjcmV0LWNhbmFyeS1rZXktb2YtMjQtYnl0ZXM="


def hook(**arguments: Any) -> tuple[Webhook, Receiver, InProcess]:
    receiver = Receiver(SECRET)
    transport = InProcess(receiver)
    return Webhook(URL, SECRET, transport=transport, **arguments), receiver, transport


async def test_an_event_is_sent_as_a_signed_post() -> None:
    webhook, receiver, transport = hook()
    of = event(session={"cart": 1}, user={"vip": True}, next_step="n", metadata={"trace": "t"})
    async with opened(webhook):
        assert await webhook.deliver([of]) == [None]
    (request,) = transport.requests
    assert (request.method, request.url) == ("POST", URL)
    assert request.headers["webhook-id"] == of.update_id
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    Verifier(SECRET).verify(request.content, request.headers)
    body = receiver.bodies[of.update_id]
    assert body["type"] == "dialog.updated"
    assert body["timestamp"].endswith("+00:00")
    assert body["data"] == {
        "dialog_id": "d-1",
        "update_id": of.update_id,
        "session": {"cart": 1},
        "user": {"vip": True},
        "transition": {"nextStep": "n"},
        "metadata": {"trace": "t"},
    }


async def test_a_body_that_was_changed_does_not_verify() -> None:
    webhook, _, transport = hook()
    async with opened(webhook):
        await webhook.deliver([event()])
    (request,) = transport.requests
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(SECRET).verify(request.content.replace(b"d-1", b"d-2"), request.headers)


async def test_the_version_goes_with_the_event() -> None:
    webhook, receiver, _ = hook()
    result = UpdateResult("d-1", "u", 200, '"7"', 1, 0.1, 0.1, b'{"version": 7}')
    of = UpdateEvent("d-1", "u", event().update, result, None)
    async with opened(webhook):
        await webhook.deliver([of])
    assert receiver.bodies["u"]["data"]["version"] == 7


async def test_a_failed_update_says_so() -> None:
    webhook, receiver, _ = hook()
    of = event(error=AmbiguousUpdateError("no answer"))
    async with opened(webhook):
        await webhook.deliver([of])
    body = receiver.bodies[of.update_id]
    assert body["type"] == "dialog.update_failed"
    assert body["data"]["error"]["type"] == "AmbiguousUpdateError"
    assert "no answer" in body["data"]["error"]["message"]


async def test_with_fields_nothing_else_leaves() -> None:
    webhook, receiver, transport = hook(fields={"mail": "metadata.email", "total": "session.total"})
    of = event(session={"total": 5, "other": CANARY}, metadata={"email": "a@b.example"})
    nothing = event(number=1, session={"other": CANARY}, metadata={"email": "a@b.example"})
    async with opened(webhook):
        assert await webhook.deliver([of]) == [None]
        assert await webhook.deliver([nothing]) == [None]
    assert receiver.bodies[of.update_id]["data"] == {"mail": "a@b.example", "total": 5}
    assert len(transport.requests) == 1
    assert CANARY.encode() not in transport.requests[0].content


@pytest.mark.parametrize(
    ("reply", "kind", "wait"),
    [
        (Reply(200, {"any": "body"}), "", None),
        (Reply(202), "", None),
        (Reply(410), "TargetGoneError", None),
        (Reply(429, headers={"retry-after": "30"}), "TargetUnavailableError", 30.0),
        (Reply(503, headers={"retry-after": "30"}), "TargetUnavailableError", 30.0),
        (Reply(503), "TargetUnavailableError", None),
        (Reply(500), "TargetUnavailableError", None),
        (Reply(401), "DeliveryError", None),
        (Reply(404), "DeliveryError", None),
        (Reply(422), "DeliveryError", None),
        (Reply(301, headers={"location": "https://other.example"}), "DeliveryError", None),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
async def test_answers(reply: Reply, kind: str, wait: float | None) -> None:
    webhook, receiver, transport = hook()
    receiver.replies = [reply]
    async with opened(webhook):
        (found,) = await outcomes(webhook, [event()])
    assert kinds([found]) == [kind]
    assert getattr(found, "retry_after", None) == wait
    assert len(transport.requests) == 1


async def test_repetitions_carry_the_same_id_and_a_new_time() -> None:
    webhook, receiver, transport = hook()
    receiver.replies = [Reply(404), Reply(503)]
    of = event()
    async with opened(webhook):
        for expected in (DeliveryError, TargetUnavailableError):
            with pytest.raises(expected):
                await webhook.deliver([of])
        assert await webhook.deliver([of]) == [None]
    assert receiver.attempts == [of.update_id] * 3
    assert {request.headers["webhook-id"] for request in transport.requests} == {of.update_id}


async def test_a_day_of_outage_ends_with_everything_in_order() -> None:
    webhook, receiver, transport = hook()
    events = [event("d-1", number) for number in range(20)]
    transport.failures = [NotSentError("down") for _ in range(24)]
    async with opened(webhook):
        for of in events:
            found: list[DeliveryError | None] = [DeliveryError("not yet sent")]
            while found != [None]:
                found = await outcomes(webhook, [of])
                await anyio.sleep(3600 if found != [None] else 0)
    assert anyio.current_time() >= 86_400
    assert receiver.sequence("d-1") == [of.update_id for of in events]


async def test_no_secret_and_no_value_is_in_an_error_or_a_repr() -> None:
    webhook, receiver, transport = hook()
    receiver.replies = [Reply(410, CANARY), Reply(404, CANARY), Reply(500, CANARY)]
    transport.failures = []
    of = event(session={"x": CANARY})
    async with opened(webhook):
        found = [(await outcomes(webhook, [of]))[0] for _ in range(3)]
    texts = [*map(text_of, found), repr(webhook), str(webhook), repr(transport.requests)]
    key = SECRET.removeprefix("whsec_")
    for text in texts[:-1]:
        assert not [each for each in (CANARY, key, "url-token") if each in text]
    assert isinstance(found[0], TargetGoneError)
    assert CANARY not in texts[-1]
    assert key not in texts[-1]


@pytest.mark.parametrize(
    "url",
    ["http://crm.example/x", "crm.example", "https://u:p@crm.example", "https://é.example", ""],
)
def test_a_url_is_absolute_and_https(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Webhook: the URL"):
        Webhook(url, SECRET)


@pytest.mark.parametrize("url", ["http://localhost:8000/x", "http://127.0.0.1/x", "http://[::1]/x"])
def test_this_machine_needs_no_tls(url: str) -> None:
    Webhook(url, SECRET)


def test_insecure_is_a_decision() -> None:
    Webhook("http://crm.internal/x", SECRET, allow_insecure=True)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "canary", "whsec_" + "canary-!" * 8, "whsec_YWJj", None]
)
def test_a_secret_is_long_base64_and_never_shown(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least 24 random bytes") as caught:
        Webhook(URL, secret)
    assert "canary" not in str(caught.value)


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "standardwebhooks", None)
    with pytest.raises(ImportError, match=r"cognigy-async\[crm\]"):
        Webhook(URL, SECRET)


@pytest.mark.real_time
async def test_over_http() -> None:
    receiver = Receiver(SECRET)
    receiver.replies = [Reply(302, headers={"location": "/elsewhere"})]
    with served(receiver) as origin:
        async with opened(Webhook(f"{origin}/crm", SECRET)) as webhook:
            (found,) = await outcomes(webhook, [event()])
            assert "not followed" in str(found)
            assert await webhook.deliver([event()]) == [None]
        webhook = Webhook(f"{origin}/crm", SECRET)
    async with opened(webhook):
        (found,) = await outcomes(webhook, [event()])
        assert isinstance(found, TargetUnavailableError)
    assert receiver.attempts == ["u-d-1-0"] * 2
    assert json.dumps(receiver.bodies["u-d-1-0"]["data"]["session"]) == '{"a": 0}'
