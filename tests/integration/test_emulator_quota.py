"""The emulator's quotas by tenant and address, its headers that tell of them, its brown-out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults

KEY = {"x-api-key": "k"}


@asynccontextmanager
async def http_to(
    emulator: Emulator, address: str = "10.0.0.1"
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=emulator, client=(address, 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://e", headers=KEY) as http:
        yield http


async def read(http: httpx.AsyncClient, dialog_id: str = "d") -> httpx.Response:
    return await http.get(f"/runtime/v2/dialogs/{dialog_id}/state")


async def test_each_calling_address_has_a_quota_of_its_own() -> None:
    emulator = Emulator(api_key="k", address_quota=(2, 10))
    async with http_to(emulator) as one, http_to(emulator, "10.0.0.2") as other:
        assert [(await read(one, d)).status_code for d in "abc"] == [200, 200, 429]
        assert [(await read(other, d)).status_code for d in "abc"] == [200, 200, 429]
        refused = await read(one)
        assert "address" in refused.json()["message"]
        assert "x-ratelimit-scope" not in refused.headers
        await anyio.sleep(10)
        assert (await read(one)).status_code == 200


async def test_who_comes_back_early_from_an_address_is_seen() -> None:
    emulator = Emulator(api_key="k", address_quota=(1, 10), notice=0.1)
    async with http_to(emulator) as one, http_to(emulator, "10.0.0.2") as other:
        for _ in range(2):
            await read(one)
        await anyio.sleep(5)
        await read(other)
        assert emulator.stats.early_requests == 0
        await read(one)
        assert emulator.stats.early_requests == 1


@pytest.mark.parametrize(
    ("kind", "told"),
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
async def test_every_answer_tells_how_the_quota_stands(
    quota: str, kind: Any, told: dict[str, str]
) -> None:
    limits: dict[str, Any] = {quota: (3, 10)}
    emulator = Emulator(api_key="k", quota_headers=kind, **limits)
    async with http_to(emulator) as http:
        await read(http)
        await anyio.sleep(4.5)
        answer = await read(http)
        headers = {name: text for name, text in answer.headers.items() if "ratelimit" in name}
        assert headers == told
        await read(http)
        refused = await read(http)
        assert refused.status_code == 429
        assert set(told) <= set(refused.headers)


def test_no_other_headers_are_known() -> None:
    with pytest.raises(ValueError, match="ietf-early"):
        Emulator(quota_headers="y")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="address_quota"):
        Emulator(address_quota=(0, 1))


async def test_a_brown_out_is_slow_and_fails_now_and_then_and_ends() -> None:
    faults = Faults(brown_out=1, brown_out_seconds=20, brown_out_latency=2, brown_out_errors=0.5)
    emulator = Emulator(api_key="k", faults=faults)
    async with http_to(emulator) as http:
        statuses = []
        for _ in range(10):
            began = anyio.current_time()
            statuses.append((await read(http)).status_code)
            assert anyio.current_time() - began == pytest.approx(2)
            emulator.faults = Faults(brown_out_latency=2, brown_out_errors=0.5)
        assert set(statuses) == {200, 503}
        await anyio.sleep(1)
        began = anyio.current_time()
        assert {(await read(http)).status_code for _ in range(20)} == {200}
        assert anyio.current_time() == began


@pytest.mark.parametrize("name", ["brown_out", "brown_out_errors"])
def test_shares_of_a_brown_out_are_probabilities(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=2"):
        Faults(**{name: 2})
