"""`HubSpot`: batches, limits, and the meaning of its errors."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async import ConfigurationError, NoResponseError, UpdateEvent
from cognigy_async.crm import HubSpot, TargetGoneError, TargetUnavailableError
from cognigy_async.crm.hubspot import SHARE, _Pace
from tests.stubs.hubspot import HubSpotStub, error, limit
from tests.stubs.transport import InProcess, Redirected, Reply, served
from tests.unit._builders import CANARY
from tests.unit.crm._events import event, kinds, opened, outcomes, text_of

TOKEN = "pat-canary-token"
MAPPING = {"email": "metadata.email", "total": "session.total", "tags": "session.tags"}


def crm(**arguments: Any) -> tuple[HubSpot, HubSpotStub, InProcess]:
    stub = HubSpotStub(TOKEN, properties=("total", "tags"))
    transport = InProcess(stub)
    given = {"id_property": "email", "transport": transport} | arguments
    return HubSpot(TOKEN, given.pop("mapping", MAPPING), **given), stub, transport


def sale(number: int, total: Any = None, *, email: str | None = None, at: int = 0) -> UpdateEvent:
    email = f"c{number}@shop.example" if email is None else email
    session = {"total": number if total is None else total}
    return event(f"d-{number}", at, session=session, metadata={"email": email})


async def test_contacts_are_upserted_in_one_request() -> None:
    target, stub, transport = crm()
    async with opened(target):
        assert await target.deliver([sale(n) for n in range(100)]) == [None] * 100
    assert stub.sizes == [100]
    assert stub.contacts["c7@shop.example"] == {"email": "c7@shop.example", "total": "7"}
    assert transport.requests[0].url == (
        "https://api.hubapi.com/crm/objects/2026-03/contacts/batch/upsert"
    )


@pytest.mark.parametrize(
    ("version", "path"),
    [("v3", "crm/v3/objects/contacts"), ("2026-09", "crm/objects/2026-09/contacts")],
)
async def test_the_version_is_a_setting(version: str, path: str) -> None:
    target, _, transport = crm(api_version=version)
    async with opened(target):
        await target.deliver([sale(1)])
    assert transport.requests[0].url == f"https://api.hubapi.com/{path}/batch/upsert"


async def test_values_are_texts() -> None:
    target, stub, _ = crm()
    values: list[Any] = [True, 1.5, "a", ["x", "y"], {"k": "ü"}]
    async with opened(target):
        await target.deliver([sale(n, value) for n, value in enumerate(values)])
    totals = [stub.contacts[f"c{n}@shop.example"]["total"] for n in range(5)]
    assert totals == ["true", "1.5", "a", "x;y", '{"k": "\\u00fc"}']


async def test_one_contact_stands_once_in_a_batch() -> None:
    target, stub, _ = crm()
    events = [sale(1, 1), sale(2, 1), sale(1, 2, at=1, email=" C1@shop.example")]
    async with opened(target):
        assert await target.deliver(events) == [None] * 3
    assert stub.sizes == [2]
    assert stub.history["c1@shop.example"] == [{"email": "c1@shop.example", "total": "2"}]


@pytest.mark.parametrize("multi_status", [False, True])
async def test_one_bad_contact_does_not_fail_its_batch(multi_status: bool) -> None:
    target, stub, _ = crm()
    stub.multi_status = multi_status
    events = [sale(n, email="no-mail" if n == 63 else None) for n in range(100)]
    async with opened(target):
        results = await target.deliver(events)
    assert [n for n, each in enumerate(results) if each is not None] == [63]
    assert kinds([results[63]]) == ["EventRejectedError"]
    assert "dialog 'd-63': HubSpot refused the contact" in str(results[63])
    assert len(stub.contacts) == 99
    assert len(stub.sizes) == (1 if multi_status else 15)


@pytest.mark.parametrize("multi_status", [False, True])
async def test_a_conflict_is_repeated_later(multi_status: bool) -> None:
    target, stub, _ = crm()
    stub.multi_status = multi_status
    stub.conflicts = {"c2@shop.example"}
    async with opened(target):
        results = await target.deliver([sale(n) for n in range(4)])
    assert kinds(results) == ["", "", "DeliveryError", ""]


async def test_a_multi_status_that_names_nobody_is_split() -> None:
    target, stub, _ = crm()
    stub.replies = [Reply(207, {"results": [], "errors": [error("CONFLICT", "?")]})]
    async with opened(target):
        assert await target.deliver([sale(1), sale(2)]) == [None, None]
    assert stub.sizes == [1, 1]


@pytest.mark.parametrize("multi_status", [False, True])
async def test_an_unknown_property_stops_the_target(multi_status: bool) -> None:
    target, stub, _ = crm(mapping=MAPPING | {"missing": "session.total"})
    stub.multi_status = multi_status
    async with opened(target):
        found = await outcomes(target, [sale(n, CANARY) for n in range(50)])
    assert set(kinds(found)) == {"TargetGoneError"}
    assert "PROPERTY_DOESNT_EXIST missing" in str(found[0])
    assert stub.calls == 1


async def test_a_property_that_is_not_unique_stops_the_target() -> None:
    target, _, _ = crm(id_property="total")
    async with opened(target):
        (found,) = await outcomes(target, [sale(1)])
    assert isinstance(found, TargetGoneError)
    assert "total is no property with unique values" in str(found)


async def test_a_code_in_the_form_of_the_new_versions_is_read() -> None:
    target, stub, _ = crm()
    detail = {"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["tags"]}}
    stub.replies = [Reply(400, error("VALIDATION_ERROR", "no") | {"errors": [detail]})]
    async with opened(target):
        (found,) = await outcomes(target, [sale(1)])
    assert "PROPERTY_DOESNT_EXIST tags" in str(found)


async def test_a_value_cannot_stop_the_target() -> None:
    target, _, _ = crm()
    bad = sale(1, email='x", "error": "PROPERTY_DOESNT_EXIST')
    async with opened(target):
        assert kinds(await target.deliver([bad, sale(2)])) == ["EventRejectedError", ""]


@pytest.mark.parametrize(
    ("reply", "kind", "wait"),
    [
        (Reply(401, error("INVALID_AUTHENTICATION", "x")), "TargetGoneError", None),
        (Reply(401, error("EXPIRED_AUTHENTICATION", "x")), "TargetGoneError", None),
        (Reply(403, error("MISSING_SCOPES", "x")), "TargetGoneError", None),
        (Reply(403), "TargetUnavailableError", None),
        (Reply(404), "TargetGoneError", None),
        (Reply(423), "TargetUnavailableError", 2.0),
        (Reply(429, limit("TEN_SECONDLY_ROLLING", "x")), "TargetUnavailableError", 10.0),
        (Reply(429, limit("SECONDLY", "x")), "TargetUnavailableError", 1.0),
        (Reply(429, limit("DAILY", "x")), "TargetUnavailableError", 3600.0),
        (Reply(429, limit("DAILY", "x"), {"retry-after": "9"}), "TargetUnavailableError", 9.0),
        (Reply(429), "TargetUnavailableError", 10.0),
        (Reply(477, None, {"retry-after": "86400"}), "TargetUnavailableError", 3600.0),
        (Reply(500), "TargetUnavailableError", None),
        (Reply(502), "TargetUnavailableError", None),
        (Reply(504), "TargetUnavailableError", None),
        (Reply(521), "TargetUnavailableError", None),
        (Reply(307), "DeliveryError", None),
        (Reply(418), "DeliveryError", None),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
async def test_statuses(reply: Reply, kind: str, wait: float | None) -> None:
    target, stub, transport = crm()
    stub.replies = [reply]
    async with opened(target):
        results = await outcomes(target, [sale(1), sale(2)])
    assert kinds(results) == [kind] * 2
    assert getattr(results[0], "retry_after", None) == wait
    assert len(transport.requests) == 1


async def test_a_batch_that_is_too_large_is_split() -> None:
    target, stub, _ = crm()
    stub.replies = [Reply(413)]
    async with opened(target):
        assert await target.deliver([sale(1), sale(2)]) == [None, None]
    assert stub.sizes == [1, 1]


async def test_throttling_amid_a_split_keeps_what_is_written() -> None:
    target, stub, transport = crm()
    stub.replies = [None, None, Reply(429, limit("TEN_SECONDLY_ROLLING", "x"))]
    events = [sale(n, email="bad" if n == 3 else None) for n in range(4)]
    async with opened(target):
        results = await target.deliver(events)
    assert kinds(results) == ["", "", "TargetUnavailableError", "TargetUnavailableError"]
    assert list(stub.contacts) == ["c0@shop.example", "c1@shop.example"]
    assert len(transport.requests) == 3


async def test_requests_stay_under_the_burst_limit() -> None:
    target, stub, _ = crm()
    stub.burst = 20

    async def send(number: int) -> None:
        for at in range(75):
            assert await target.deliver([sale(number, at=at)]) == [None]

    async with opened(target), anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(send, number)
    assert stub.calls == 300
    assert 10 * 300 / 20 - 10 <= anyio.current_time() <= 10 * 300 / (20 * SHARE) + 10


async def test_the_pace_belongs_to_the_clock_of_its_event_loop() -> None:
    target, _, _ = crm()
    target._pace._not_before = 1e9
    async with opened(target):
        assert await target.deliver([sale(1)]) == [None]
    assert anyio.current_time() < 1


async def test_the_pace_slows_down_where_others_use_the_limit() -> None:
    pace = _Pace()
    pace.learn({"x-hubspot-ratelimit-max": "100", "x-hubspot-ratelimit-remaining": "5"})
    await pace.wait()
    assert anyio.current_time() == pytest.approx(1.0)


async def test_the_daily_limit_pauses_until_it_is_reset() -> None:
    target, stub, _ = crm()
    stub.daily = 2
    todo, pauses = [sale(n) for n in range(5)], 0
    async with opened(target):
        while todo:
            (found,) = await outcomes(target, todo[:1])
            if found is None:
                todo.pop(0)
                continue
            assert isinstance(found, TargetUnavailableError)
            await anyio.sleep(found.retry_after or 0)
            pauses += 1
            if anyio.current_time() > 8 * 3600:
                stub.daily = 250_000
    assert len(stub.contacts) == 5
    assert pauses <= 10


async def test_no_token_and_no_value_is_in_an_error_or_a_repr() -> None:
    target, stub, transport = crm()
    events = [sale(1, CANARY, email=CANARY)]
    found = []
    async with opened(target):
        found += await outcomes(target, events)
        stub.conflicts = {f"{CANARY}@b.example"}
        found += await outcomes(target, [sale(1, email=f"{CANARY}@b.example")])
        for reply in (Reply(500, CANARY), Reply(401, error(CANARY, CANARY)), Reply(302, CANARY)):
            stub.replies = [reply]
            found += await outcomes(target, events)
        transport.failures = [NoResponseError("closed")]
        found += await outcomes(target, events)
    assert None not in found
    for text in [*map(text_of, found), repr(target), repr(transport.requests)]:
        assert CANARY not in text
        assert TOKEN not in text


async def test_an_answer_that_is_no_json_is_as_good_as_its_status() -> None:
    class Odd(HubSpotStub):
        def handle(self, *_: Any) -> Reply:
            return Reply(200, "<html>")

    target = HubSpot(TOKEN, MAPPING, id_property="email", transport=InProcess(Odd(TOKEN)))
    async with opened(target):
        assert await target.deliver([sale(1)]) == [None]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"api_version": "2026"}, "api_version"),
        ({"api_version": "../x"}, "api_version"),
        ({"id_property": "other"}, "a source for 'other'"),
        ({"id_property": "a/b"}, "must be a name"),
        ({"mapping": {}}, "at least one field"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        crm(**arguments)


@pytest.mark.real_time
async def test_over_http() -> None:
    stub = HubSpotStub(TOKEN, properties=("total",))
    stub.replies = [Reply(502)]
    with served(stub) as origin:
        transport = Redirected(origin)
        target = HubSpot(TOKEN, MAPPING, id_property="email", transport=transport)
        events = [sale(n, email="bad" if n == 3 else None) for n in range(10)]
        async with opened(target):
            assert set(kinds(await outcomes(target, events))) == {"TargetUnavailableError"}
            results = await target.deliver(events)
        await transport.aclose()
    assert [n for n, each in enumerate(results) if each is not None] == [3]
    assert len(stub.contacts) == 9
