"""Throttling by the emulator: quotas, their headers, `Retry-After`, early requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults, Throttling
from cognigy_async.emulator.rules import RetryAfter
from cognigy_async.emulator.throttle import Throttle
from tests.unit.emulator._client import KEY, bare_client

pytestmark = pytest.mark.anyio

HEADERS = {"x-api-key": KEY}


@asynccontextmanager
async def http_to(
    emulator: Emulator, address: str = "10.0.0.1"
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=emulator, client=(address, 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://e", headers=HEADERS) as http:
        yield http


async def read(http: httpx.AsyncClient, dialog_id: str = "d") -> httpx.Response:
    return await http.get(f"/runtime/v2/dialogs/{dialog_id}/state")


async def test_each_calling_address_has_a_quota_of_its_own() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(address_quota=(2, 10)))
    async with http_to(emulator) as one, http_to(emulator, "10.0.0.2") as other:
        assert [(await read(one, d)).status_code for d in "abc"] == [200, 200, 429]
        assert [(await read(other, d)).status_code for d in "abc"] == [200, 200, 429]
        refused = await read(one)
        assert "address" in refused.json()["message"]
        assert "x-ratelimit-scope" not in refused.headers
        await anyio.sleep(10)
        assert (await read(one)).status_code == 200


async def test_early_requests_of_an_address_are_counted() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(address_quota=(1, 10), notice=0.1))
    async with http_to(emulator) as one, http_to(emulator, "10.0.0.2") as other:
        for _ in range(2):
            await read(one)
        await anyio.sleep(5)
        await read(other)
        assert emulator.stats.early_requests == 0
        await read(one)
        assert emulator.stats.early_requests == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", {}),
        ("ietf", {"ratelimit-policy": '"default";q=3;w=10', "ratelimit": '"default";r=1;t=6'}),
        (
            "ietf-early",
            {"ratelimit-limit": "3", "ratelimit-remaining": "1", "ratelimit-reset": "6"},
        ),
        (
            "x",
            {"x-ratelimit-limit": "3", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "6"},
        ),
    ],
)
@pytest.mark.parametrize("quota", ["tenant_quota", "address_quota"])
async def test_every_response_announces_the_quota(
    quota: str, kind: Any, expected: dict[str, str]
) -> None:
    throttling = Throttling(quota_headers=kind, **{quota: (3, 10)})  # type: ignore[arg-type]
    emulator = Emulator(api_key=KEY, throttling=throttling)
    async with http_to(emulator) as http:
        await read(http)
        await anyio.sleep(4.5)
        answer = await read(http)
        headers = {name: text for name, text in answer.headers.items() if "ratelimit" in name}
        assert headers == expected
        await read(http)
        refused = await read(http)
        assert refused.status_code == 429
        assert set(expected) <= set(refused.headers)


async def test_requests_above_the_tenant_quota_are_429() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(tenant_quota=(2, 10)))
    async with bare_client(emulator) as client:
        await client.patch(dialog_id="d-1")
        await anyio.sleep(3.5)
        await client.get("d-2")
        refused = await client.patch(dialog_id="d-3")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "7"
        assert refused.headers["x-ratelimit-scope"] == "tenant"
        assert refused.json()["message"] == "too many requests for this tenant"
        await anyio.sleep(7)
        assert (await client.patch(dialog_id="d-3")).status_code == 200
        assert (await client.patch(dialog_id="d-3")).status_code == 200
        assert (await client.patch(dialog_id="d-3")).status_code == 429
    assert emulator.stats.answers == {200: 4, 429: 2}


async def test_a_dialog_has_a_quota_of_its_own() -> None:
    emulator = Emulator(
        api_key=KEY, throttling=Throttling(dialog_quota=(1, 4), retry_after="decimal")
    )
    async with bare_client(emulator) as client:
        await client.patch()
        await anyio.sleep(0.5)
        refused = await client.patch()
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-scope"] == "dialog"
        assert float(refused.headers["retry-after"]) == pytest.approx(3.5, abs=0.1)
        assert len(refused.headers["retry-after"].partition(".")[2]) == 3
        assert (await client.patch(dialog_id="d-2")).status_code == 200


async def test_retry_after_as_a_date() -> None:
    emulator = Emulator(
        api_key=KEY,
        throttling=Throttling(
            tenant_quota=(1, 10), retry_after="date", wall_clock=lambda: 1e9 + 0.4
        ),
    )
    async with bare_client(emulator) as client:
        await client.get()
        headers = (await client.get()).headers
    assert headers["retry-after"] == "Sun, 09 Sep 2001 01:46:51 GMT"
    assert headers["date"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert parsedate_to_datetime(headers["retry-after"]).timestamp() == 1e9 + 11


async def test_retry_after_can_be_omitted() -> None:
    emulator = Emulator(
        api_key=KEY, throttling=Throttling(tenant_quota=(1, 10), retry_after="none")
    )
    async with bare_client(emulator) as client:
        await client.get()
        refused = await client.get()
    assert refused.status_code == 429
    assert "retry-after" not in refused.headers


async def test_windows_of_many_dialogs_are_forgotten() -> None:
    emulator = Emulator(
        api_key=KEY, throttling=Throttling(dialog_quota=(1, 1), tenant_quota=(10**9, 1000))
    )
    throttle = emulator._throttle
    for number in range(1998):
        assert throttle.admit(f"d-{number}", 0.0) is None
    assert throttle.admit("d-0", 0.5) is not None
    assert throttle.admit("late", 2.0) is None
    assert len(throttle._windows) == 2000
    assert throttle.admit("later", 2.5) is None
    assert throttle._windows == {
        ("tenant", None): (1000.0, 2001),
        ("dialog", "late"): (3.0, 1),
        ("dialog", "later"): (3.5, 1),
    }


async def test_early_requests_to_a_throttled_tenant() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(tenant_quota=(1, 1.5), notice=0))
    stats = emulator.stats
    async with bare_client(emulator) as client:
        await client.patch()
        assert (await client.patch()).headers["retry-after"] == "2"
        assert stats.early_requests == 0
        await anyio.sleep(1.8)
        assert (await client.get("d-2")).status_code == 200
        assert stats.early_requests == 1
        await anyio.sleep(0.3)
        assert (await client.get("d-3")).status_code == 429
        assert stats.early_requests == 1
        assert stats.violations() == {"early_requests": 1}


async def test_early_requests_to_a_throttled_dialog() -> None:
    emulator = Emulator(
        api_key=KEY, faults=Faults(throttle_seconds=2), throttling=Throttling(notice=0)
    )
    stats = emulator.stats
    async with bare_client(emulator) as client:
        emulator.script("throttle_dialog")
        await client.patch()
        await anyio.sleep(1)
        await client.patch(dialog_id="d-2")
        assert stats.early_requests == 0
        await client.get()
        assert stats.early_requests == 1
        await anyio.sleep(1.1)
        await client.patch()
        assert stats.early_requests == 1


async def test_requests_sent_before_the_notice_are_not_early() -> None:
    emulator = Emulator(
        api_key=KEY, faults=Faults(throttle_seconds=5, latency=4), throttling=Throttling(notice=1)
    )
    stats = emulator.stats
    async with bare_client(emulator) as client:
        emulator.script("throttle_tenant")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.patch)
            await anyio.sleep(3)
            # No client knows of the pause yet.
            tasks.start_soon(client.get)
            await anyio.sleep(1.5)
            # It may have been sent before the response arrived.
            tasks.start_soon(client.get)
            await anyio.sleep(0.3)
            assert stats.early_requests == 0
    assert stats.answers == {429: 3}
    assert stats.early_requests == 0


async def test_every_notice_counts_until_its_moment() -> None:
    emulator = Emulator(
        api_key=KEY, throttling=Throttling(notice=0.1, tenant_quota=(1, 3), retry_after="decimal")
    )
    stats = emulator.stats
    async with bare_client(emulator) as client:
        await client.get()
        assert (await client.get()).status_code == 429
        for _ in range(9):
            await anyio.sleep(0.31)
            assert (await client.get()).status_code == 429
        assert stats.early_requests == 9
        await anyio.sleep(0.25)
        assert (await client.get()).status_code == 200
        assert stats.early_requests == 9


async def test_no_request_is_early_without_retry_after() -> None:
    emulator = Emulator(
        api_key=KEY, throttling=Throttling(notice=0, tenant_quota=(1, 10), retry_after="none")
    )
    async with bare_client(emulator) as client:
        for _ in range(3):
            await client.get()
            await anyio.sleep(1)
    assert emulator.stats.answers == {200: 1, 429: 2}
    assert emulator.stats.early_requests == 0


@pytest.mark.parametrize("quota", ["tenant_quota", "address_quota", "dialog_quota"])
@pytest.mark.parametrize("style", ["ietf", "ietf-early", "x"])
async def test_requests_before_the_reset_in_quota_headers_are_early(style: str, quota: str) -> None:
    throttling = Throttling(
        notice=0,
        retry_after="none",
        quota_headers=style,
        **{quota: (1, 10)},  # type: ignore[arg-type]
    )
    emulator = Emulator(api_key=KEY, throttling=throttling)
    async with bare_client(emulator) as client:
        for _ in range(3):
            await client.get()
            await anyio.sleep(1)
        await anyio.sleep(8)
        await client.get()
    assert emulator.stats.answers == {200: 2, 429: 2}
    # The headers announce no quota of dialogs.
    assert emulator.stats.early_requests == (quota != "dialog_quota")


async def test_requests_before_the_date_in_retry_after_are_early() -> None:
    def wall_clock() -> float:
        return 1e9 + 0.25 + anyio.current_time() - start

    emulator = Emulator(
        api_key=KEY,
        throttling=Throttling(
            notice=0, tenant_quota=(1, 10), retry_after="date", wall_clock=wall_clock
        ),
    )
    stats = emulator.stats
    async with bare_client(emulator) as client:
        start = anyio.current_time()
        await client.get()
        await client.get()
        await anyio.sleep(10.1)
        await client.get()
        assert stats.early_requests == 1
        await anyio.sleep(0.4)
        await client.get()
        assert stats.early_requests == 1
        assert stats.answers == {200: 2, 429: 2}


async def test_a_response_that_was_not_sent_gives_no_notice() -> None:
    emulator = Emulator(
        api_key=KEY, faults=Faults(throttle_seconds=5, latency=2), throttling=Throttling(notice=0)
    )
    emulator.script("throttle_tenant")
    async with bare_client(emulator) as client:
        with anyio.move_on_after(1):
            await client.patch()
        await client.patch()
    assert emulator.stats.answers == {429: 1}
    assert emulator.stats.early_requests == 0


class TestNotices:
    """Precise to the microsecond, unlike tests on an event loop."""

    def throttle(self, style: RetryAfter = "seconds") -> Throttle:
        return Throttle(Throttling(tenant_quota=(1, 8), retry_after=style, notice=0.5))

    @pytest.mark.parametrize("style", ["seconds", "decimal"])
    def test_a_request_is_early_up_to_the_grace_of_timers(self, style: RetryAfter) -> None:
        throttle = self.throttle(style)
        throttle.record(throttle.pause(None, 4, 0), 0)
        early = [
            now for now in (0.5, 0.51, 3.999998, 3.9999995, 4.0) if throttle.is_early("d", now)
        ]
        assert early == [0.51, 3.999998]

    def test_redundant_notices_are_not_kept(self) -> None:
        throttle = self.throttle("decimal")
        assert throttle.admit("d", 0) is None
        for step in range(100):
            notice = throttle.admit("d", 1 + step / 100)
            assert notice is not None
            throttle.record(notice, 3)
        (notices,) = throttle._notices.values()
        assert len(notices) < 4
        throttle.record(throttle.pause(None, 4, 20), 20)
        assert [round(known, 3) for known, _ in throttle._notices.popitem()[1]] == [20.5]

    def test_a_later_notice_is_kept_beside_an_earlier_one(self) -> None:
        throttle = self.throttle()
        throttle.record(throttle.pause(None, 4, 0), 0)
        throttle.record(throttle.pause(None, 4, 1), 1)
        assert [throttle.is_early("d", now) for now in (1.2, 3.9, 4.5, 5.0)] == [True] * 3 + [False]

    def test_notices_to_many_dialogs_are_forgotten(self) -> None:
        throttle = self.throttle()
        for number in range(1000):
            throttle.record(throttle.pause(f"d-{number}", 1 + number % 2, 0), 0)
        throttle.record(throttle.pause("last", 5, 1.5), 1.5)
        assert len(throttle._notices) == 501
        assert throttle.is_early("d-1", 1.9)


async def test_an_update_repeated_before_the_retry_after_of_its_503() -> None:
    emulator = Emulator(
        api_key=KEY, faults=Faults(retry_after_503=2), throttling=Throttling(notice=0)
    )
    stats = emulator.stats
    emulator.script(503, "error_503", dialog_id="d-1")
    async with bare_client(emulator) as client:
        await client.patch(key="k-1")
        await anyio.sleep(1)
        await client.patch(key="k-2", dialog_id="d-2")
        assert (stats.early_repeats, stats.early_requests) == (0, 0)
        await client.patch(key="k-1")
        assert stats.early_repeats == 1
        await anyio.sleep(2.1)
        await client.patch(key="k-1")
        await client.patch(key=None)
    assert stats.early_repeats == 1
    assert stats.violations() == {"early_repeats": 1}


@pytest.mark.parametrize("retry_after", ["seconds", "date"])
async def test_every_answer_may_have_a_date_by_the_clock_of_the_server(
    retry_after: RetryAfter,
) -> None:
    throttling = Throttling(
        dates=True,
        wall_clock=lambda: 1_700_000_000.9,
        tenant_quota=(1, 10),
        retry_after=retry_after,
    )
    async with http_to(Emulator(api_key=KEY, throttling=throttling)) as http:
        for status in (200, 429):
            answer = await read(http)
            assert answer.status_code == status
            dates = answer.headers.get_list("date")
            assert [parsedate_to_datetime(date).timestamp() for date in dates] == [1_700_000_000]
    async with http_to(Emulator(api_key=KEY)) as http:
        assert "date" not in (await read(http)).headers
