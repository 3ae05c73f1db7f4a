"""`Salesforce`: records, tokens, limits, and the meaning of its errors."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async import ConfigurationError, NoResponseError, NotSentError, UpdateEvent
from cognigy_async.crm import Salesforce, SalesforceAuth, TargetUnavailableError
from cognigy_async.crm.salesforce import PAUSE
from tests.stubs.salesforce import SalesforceStub, errors, failed
from tests.stubs.transport import InProcess, Reply, served
from tests.unit._builders import CANARY
from tests.unit.crm._events import event, kinds, opened, outcomes, text_of

DOMAIN = "https://acme.my.salesforce.com"
SECRET = "canary-consumer-secret"
MAPPING = {"Dialog__c": "dialog_id", "LastName": "session.name", "Tags__c": "session.tags"}


def crm(
    mapping: dict[str, Any] = MAPPING, *, secret: str = SECRET, **arguments: Any
) -> tuple[Salesforce, SalesforceStub, InProcess]:
    stub = SalesforceStub(SECRET, fields=("LastName", "Tags__c"))
    transport = InProcess(stub)
    given: dict[str, Any] = {"external_id": "Dialog__c", "transport": transport}
    auth = SalesforceAuth(DOMAIN, "consumer-key", secret)
    return Salesforce(auth, mapping, **given | arguments), stub, transport


def call(number: int, name: Any = None, *, at: int = 0) -> UpdateEvent:
    return event(f"d-{number}", at, session={"name": f"n{number}" if name is None else name})


async def test_records_are_upserted_in_one_request() -> None:
    target, stub, transport = crm()
    async with opened(target):
        assert await target.deliver([call(n) for n in range(200)]) == [None] * 200
    assert (stub.tokens, stub.calls) == (1, 1)
    assert stub.records["d-7"] == {"Dialog__c": "d-7", "LastName": "n7"}
    token, upsert = transport.requests
    assert token.url == f"{DOMAIN}/services/oauth2/token"
    path = "services/data/v66.0/composite/sobjects/Contact/Dialog__c"
    assert (upsert.method, upsert.url) == ("PATCH", f"{DOMAIN}/{path}")


async def test_object_and_version_are_settings() -> None:
    target, stub, transport = crm(sobject="Chat__c", api_version="v60.0")
    stub.sobject = "Chat__c"
    async with opened(target):
        assert await target.deliver([call(1)]) == [None]
    assert "/v60.0/composite/sobjects/Chat__c/" in transport.requests[-1].url


async def test_a_record_stands_once_in_a_request() -> None:
    target, stub, _ = crm()
    async with opened(target):
        assert await target.deliver([call(1, "a"), call(2), call(1, "b", at=1)]) == [None] * 3
    assert stub.history["d-1"] == [{"Dialog__c": "d-1", "LastName": "b"}]


async def test_the_options_of_a_picklist_are_one_text() -> None:
    target, stub, _ = crm()
    async with opened(target):
        assert await target.deliver([event(session={"tags": ["a", "b"]})]) == [None]
    assert stub.records["d-1"]["Tags__c"] == "a;b"


async def test_a_refused_record_leaves_the_others_written() -> None:
    target, stub, _ = crm()
    async with opened(target):
        results = await target.deliver([call(1), call(2, "INVALID"), call(3)])
    assert kinds(results) == ["", "EventRejectedError", ""]
    text = "dialog 'd-2': Salesforce refused the record (STRING_TOO_LONG, LastName)"
    assert text in str(results[1])
    assert list(stub.records) == ["d-1", "d-3"]


async def test_of_merged_events_only_the_refused_one_is_rejected() -> None:
    target, stub, _ = crm()
    events = [
        event(number=0, session={"tags": "a"}),
        event(number=1, session={"name": "INVALID"}),
        event(number=2, session={"tags": "c"}),
    ]
    async with opened(target):
        assert kinds(await target.deliver(events)) == ["", "EventRejectedError", ""]
    assert stub.records["d-1"] == {"Dialog__c": "d-1", "Tags__c": "c"}


async def test_a_required_field_of_a_new_record_is_named() -> None:
    target, stub, _ = crm()
    stub.required = ("LastName",)
    async with opened(target):
        (found,) = await target.deliver([event(session={"tags": "a"})])
    assert "REQUIRED_FIELD_MISSING, LastName" in str(found)


async def test_a_locked_row_is_written_later() -> None:
    target, stub, _ = crm()
    stub.locked["d-1"] = 1
    async with opened(target):
        results = await target.deliver([call(1), call(2)])
        assert kinds(results) == ["DeliveryError", ""]
        assert "UNABLE_TO_LOCK_ROW" in str(results[0])
        assert await target.deliver([call(1)]) == [None]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("DUPLICATE_VALUE", "DeliveryError"),
        ("SERVER_UNAVAILABLE", "DeliveryError"),
        ("DUPLICATES_DETECTED", "EventRejectedError"),
        ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "EventRejectedError"),
        ("INVALID_FIELD_FOR_INSERT_UPDATE", "TargetGoneError"),
    ],
)
async def test_errors_of_a_record(code: str, kind: str) -> None:
    target, stub, _ = crm()
    stub.replies = [Reply(200, [{"success": True, "errors": []}, failed(code, CANARY, [CANARY])])]
    async with opened(target):
        results = await target.deliver([call(1), call(2)])
    assert kinds(results) == ["", kind]
    assert code in str(results[1])
    assert CANARY not in text_of(results[1])


@pytest.mark.parametrize("body", [[], [{"success": True}] * 3, {"a": 1}, None])
async def test_a_result_is_needed_for_each_record(body: Any) -> None:
    target, stub, _ = crm()
    stub.replies = [Reply(200, body)]
    async with opened(target):
        results = await outcomes(target, [call(1), call(2)])
    assert kinds(results) == ["DeliveryError"] * 2


async def test_a_value_of_a_wrong_type_fails_its_record_only() -> None:
    target, stub, _ = crm()
    events = [call(n, {"k": CANARY} if n == 9 else None) for n in range(20)]
    async with opened(target):
        results = await target.deliver(events)
    assert [n for n, each in enumerate(results) if each is not None] == [9]
    assert "400 JSON_PARSER_ERROR" in str(results[9])
    assert CANARY not in text_of(results[9])
    assert stub.calls <= 11


async def test_an_unknown_field_stops_the_target() -> None:
    target, stub, _ = crm(MAPPING | {"Nope__c": "session.name"})
    async with opened(target):
        results = await outcomes(target, [call(n) for n in range(20)])
    assert set(kinds(results)) == {"TargetGoneError"}
    assert "400 INVALID_FIELD" in str(results[0])
    assert stub.calls == 1


async def test_an_expired_token_is_renewed_once() -> None:
    target, stub, transport = crm()
    async with opened(target):
        await target.deliver([call(1)])
        stub.expire_tokens()
        assert await target.deliver([call(2)]) == [None]
        assert (stub.tokens, len(transport.requests)) == (2, 5)
        expired = errors("INVALID_SESSION_ID", "x")
        stub.replies = [Reply(401, expired), Reply(401, expired)]
        (found,) = await outcomes(target, [call(3)])
    assert kinds([found]) == ["TargetGoneError"]
    assert stub.tokens == 3


async def test_side_by_side_one_token_is_requested() -> None:
    target, stub, transport = crm()
    transport.latency = 1.0
    async with opened(target), anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(target.deliver, [call(number)])
    assert stub.tokens == 1
    assert stub.calls == 5


async def test_wrong_credentials_stop_the_target() -> None:
    target, _, _ = crm(secret="canary-wrong-secret")
    async with opened(target):
        (found,) = await outcomes(target, [call(1)])
    assert kinds([found]) == ["TargetGoneError"]
    assert "canary" not in text_of(found)


async def test_a_token_endpoint_that_is_down_pauses_the_target() -> None:
    target, _, transport = crm()
    transport.failures = [NotSentError("down")] * 3
    async with opened(target):
        (found,) = await outcomes(target, [call(1)])
        assert kinds([found]) == ["TargetUnavailableError"]
        assert await target.deliver([call(1)]) == [None]


@pytest.mark.parametrize(
    ("reply", "kind", "wait"),
    [
        (Reply(403, errors("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")), "U", PAUSE),
        (Reply(403, errors("REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (...)")), "U", 10.0),
        (Reply(403, errors("INSUFFICIENT_ACCESS", "x")), "G", None),
        (Reply(403), "G", None),
        (Reply(404, errors("NOT_FOUND", "x")), "G", None),
        (Reply(500), "U", None),
        (Reply(503, None, {"retry-after": "60"}), "U", 60.0),
        (Reply(429, None, {"retry-after": "60"}), "U", 60.0),
        (Reply(302), "D", None),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
async def test_statuses(reply: Reply, kind: str, wait: float | None) -> None:
    target, stub, _ = crm()
    stub.replies = [reply]
    async with opened(target):
        results = await outcomes(target, [call(1), call(2)])
    names = {"U": "TargetUnavailableError", "G": "TargetGoneError", "D": "DeliveryError"}
    assert kinds(results) == [names[kind]] * 2
    assert getattr(results[0], "retry_after", None) == wait


async def test_the_rest_of_the_daily_requests_is_left_to_others() -> None:
    target, stub, transport = crm()
    stub.used, stub.limit = 94, 100
    async with opened(target):
        assert await target.deliver([call(1)]) == [None]
        sent = len(transport.requests)
        (found,) = await outcomes(target, [call(2)])
        assert isinstance(found, TargetUnavailableError)
        assert found.retry_after == pytest.approx(PAUSE)
        assert len(transport.requests) == sent
        await anyio.sleep(PAUSE)
        stub.used = 50
        assert await target.deliver([call(2)]) == [None]


async def test_the_usage_of_one_app_is_no_usage_of_the_organization() -> None:
    target, stub, _ = crm()
    usage = "per-app-api-usage=249/250(appName=sample), api-usage=25/5000"
    reply = Reply(200, [{"success": True}], {"sforce-limit-info": usage})
    stub.replies = [reply, None]
    async with opened(target):
        assert await target.deliver([call(1)]) == [None]
        assert await target.deliver([call(2)]) == [None]


async def test_a_target_can_be_opened_again() -> None:
    target, stub, _ = crm()
    for number in range(2):
        async with opened(target):
            assert await target.deliver([call(number)]) == [None]
    assert kinds(await outcomes(target, [call(2)])) != [""]
    assert stub.tokens == 2


async def test_no_secret_and_no_value_is_in_an_error_or_a_repr() -> None:
    target, stub, transport = crm()
    events, found = [call(1, f"INVALID {CANARY}")], []
    async with opened(target):
        found += await outcomes(target, events)
        replies = [Reply(400, errors(CANARY, CANARY)), Reply(403, CANARY), Reply(500, CANARY)]
        for reply in replies:
            stub.replies = [reply]
            found += await outcomes(target, events)
        transport.failures = [NoResponseError("closed")]
        found += await outcomes(target, events)
    assert None not in found
    for text in [*map(text_of, found), repr(target), repr(target._auth), repr(transport.requests)]:
        assert not [each for each in (CANARY, SECRET, "token.1") if each in text]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"api_version": "66"}, "api_version"),
        ({"sobject": "../x"}, "must be a name"),
        ({"external_id": "Other__c"}, "a source for 'Other__c'"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        crm(**arguments)


@pytest.mark.parametrize("url", ["http://acme.my.salesforce.com", "acme", ""])
def test_the_domain_is_https(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        SalesforceAuth(url, "key", SECRET)


@pytest.mark.real_time
async def test_over_http() -> None:
    stub = SalesforceStub(SECRET, fields=("LastName", "Tags__c"))
    with served(stub) as origin:
        auth = SalesforceAuth(origin, "consumer-key", SECRET)
        async with opened(Salesforce(auth, MAPPING, external_id="Dialog__c")) as target:
            results = await target.deliver([call(1), call(2, "INVALID"), call(3)])
            stub.expire_tokens()
            assert await target.deliver([call(4)]) == [None]
    assert kinds(results) == ["", "EventRejectedError", ""]
    assert sorted(stub.records) == ["d-1", "d-3", "d-4"]
