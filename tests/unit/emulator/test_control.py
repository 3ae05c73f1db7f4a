"""The control endpoint of the emulator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cognigy_async.emulator import Emulator, Faults, Throttling
from tests.unit.emulator._client import KEY, bare_client

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


async def test_a_dialog_is_added() -> None:
    emulator = Emulator(api_key=KEY, strict=True)
    added = {"session": {"a": 1}, "user": {"b": 2}, "next_step": "start"}
    async with bare_client(emulator) as client:
        answer = await client.http.put("/_emulator/dialogs/a%2Fb", json=added)
        assert answer.status_code == 200
        assert (await client.patch({"session": {"c": 3}}, "a/b")).status_code == 200
        again = await client.http.put("/_emulator/dialogs/a%2Fb", json=added)
        assert (await client.http.put("/_emulator/dialogs/d-2", json={})).status_code == 200
    assert answer.json()["session"] == {"a": 1}
    assert answer.json()["history"] == []
    assert (again.status_code, again.json()["message"]) == (400, "dialog 'a/b' exists already")
    dialog = emulator.dialogs["a/b"]
    assert (dialog.session, dialog.user, dialog.next_step) == ({"a": 1, "c": 3}, {"b": 2}, "start")
    assert list(emulator.dialogs) == ["a/b", "d-2"]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("dialogs/", {}, "segment"),
        ("dialogs/a/b", {}, "segment"),
        ("dialogs/%FF", {}, "UTF-8"),
        ("dialogs/d-1", [], "JSON object"),
        ("dialogs/d-1", {"sesion": {}}, "unknown member sesion"),
        ("dialogs/d-1", {"session": 1}, "session must be"),
        ("dialogs/d-1", {"user": []}, "user must be"),
        ("dialogs/d-1", {"next_step": 1}, "next_step must be"),
    ],
)
async def test_a_dialog_that_is_invalid_is_not_added(path: str, body: object, reason: str) -> None:
    emulator = Emulator()
    async with bare_client(emulator) as client:
        answer = await client.http.put(f"/_emulator/{path}", json=body)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]
    assert emulator.dialogs == {}
