"""The control endpoint of the emulator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cognigy_async.emulator import Emulator, Faults, Throttling
from tests.unit.emulator._client import bare_client

pytestmark = pytest.mark.anyio


async def test_faults_are_read_and_replaced() -> None:
    emulator = Emulator(faults=Faults(latency=0.5))
    async with bare_client(emulator) as client:
        shown = await client.http.get("/_emulator/faults")
        assert shown.json()["latency"] == 0.5
        put = await client.http.put("/_emulator/faults", json={"drop_after": 0.25})
    assert put.json() == emulator.faults.as_dict() == Faults(drop_after=0.25).as_dict()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"drop_after": 1.5}', "drop_after=1.5"),
        (b'{"drop_after": "1"}', "drop_after='1'"),
        (b'{"latency": -1}', "latency=-1"),
        (b'{"drop": 1}', "no field 'drop'"),
        (b"[]", "JSON object"),
        (b"{", "EOF"),
    ],
)
async def test_bad_faults_are_400_and_change_nothing(body: bytes, reason: str) -> None:
    emulator = Emulator(faults=Faults(latency=0.5))
    async with bare_client(emulator) as client:
        answer = await client.http.put("/_emulator/faults", content=body)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]
    assert emulator.faults == Faults(latency=0.5)


async def test_a_script_and_a_revocation() -> None:
    emulator = Emulator()
    async with bare_client(emulator) as client:
        await client.log_in()
        script = {"steps": [418, "ok"], "dialog_id": "d-1", "method": "GET"}
        assert (await client.http.post("/_emulator/script", json=script)).status_code == 200
        assert (await client.get()).status_code == 418
        assert (await client.http.post("/_emulator/revoke")).status_code == 200
        assert (await client.get()).status_code == 401


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"steps": "ok"}, "must be a list"),
        ({"steps": ["no_such"]}, "no step 'no_such'"),
        ({"steps": [[]]}, "unhashable"),
        ({"steps": [200]}, "no step 200"),
        ({"steps": [True]}, "no step True"),
        ({"steps": ["ok"], "method": "PUT"}, "must be PATCH or GET"),
        ({"steps": ["ok"], "dialog_id": 1}, "dialog_id must be"),
        ({"steps": ["ok"], "dialog": "d-1"}, "unknown member dialog"),
    ],
)
async def test_bad_scripts_are_400(script: Any, reason: str) -> None:
    async with bare_client(Emulator()) as client:
        answer = await client.http.post("/_emulator/script", json=script)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]


async def test_stats_and_reset() -> None:
    emulator = Emulator(faults=Faults(latency=0.1), throttling=Throttling(tenant_quota=(3, 1000)))
    stats, dialogs = emulator.stats, emulator.dialogs
    async with bare_client(emulator) as client:
        await client.log_in()
        emulator.faults = Faults()
        await client.patch({"session": {"seq": 2}})
        await client.patch({"session": {"seq": 1}})
        await client.get()
        emulator.script("error_503")
        await client.patch()
        shown = (await client.http.get("/_emulator/stats")).json()
        assert shown == json.loads(json.dumps(stats.as_dict()))
        assert shown["violations"] == {"reordered": 2}
        assert shown["answers"] == {"200": 3, "429": 1}
        assert (await client.http.post("/_emulator/reset")).status_code == 200
        assert emulator.stats is stats
        assert emulator.dialogs is dialogs
        assert dialogs == {}
        assert stats == type(stats)()
        assert emulator.faults == Faults(latency=0.1)
        refused = await client.patch({"session": {"seq": 0}})
        assert (refused.status_code, refused.json()["traceId"]) == (401, "emulator-1")
        await client.log_in()
        assert (await client.patch({"session": {"seq": 1}})).status_code == 200
    assert stats.violations() == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "stats", 404),
        ("GET", "nothing", 404),
        ("GET", "dialogs/none", 404),
        ("GET", "dialogs/a/b", 404),
        ("GET", "dialogs/%FF", 400),
    ],
)
async def test_unknown_control_paths_are_refused(method: str, path: str, status: int) -> None:
    emulator = Emulator()
    emulator.add_dialog("a/b")
    async with bare_client(emulator) as client:
        answer = await client.http.request(method, f"/_emulator/{path}")
    assert answer.status_code == status
    assert answer.json()["message"]
    assert emulator.stats.requests == 0
