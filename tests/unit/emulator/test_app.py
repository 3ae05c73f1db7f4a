"""The emulator as an ASGI app: paths, methods, lifespan, unknown dialogs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cognigy_async.emulator import Emulator, Rules
from tests.unit.emulator._client import KEY, Bare, bare_client, path_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "dialog_id", ["a/b", "a?b=c", "..", "%", "%2F", "ünï code", "a#b", "state", "a/state", "::"]
)
async def test_a_dialog_id_is_one_percent_encoded_segment(dialog_id: str) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        assert (await client.patch(dialog_id=dialog_id)).json()["dialogId"] == dialog_id
        assert (await client.get(dialog_id)).json()["version"] == 1
        shown = await client.http.get("/_emulator" + path_of(dialog_id)[11:-6])
    assert list(emulator.dialogs) == [dialog_id]
    assert shown.json()["dialogId"] == dialog_id


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("PATCH", "/runtime/v2/dialogs//state", 404),
        ("PATCH", "/runtime/v2/dialogs/a/b/state", 404),
        ("PATCH", "/runtime/v2/dialogs/a", 404),
        ("PATCH", "/runtime/v1/dialogs/a/state", 404),
        ("GET", "/runtime/v2/dialogs/%FF/state", 400),
        ("PUT", "/runtime/v2/dialogs/a/state", 405),
        ("POST", "/runtime/v2/dialogs/a/state", 405),
        ("DELETE", "/runtime/v2/dialogs/a/state", 405),
    ],
)
async def test_unknown_paths_and_methods_are_refused(method: str, path: str, status: int) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        answer = await client.http.request(method, path, headers=client.headers, json={})
    assert answer.status_code == status
    assert answer.json()["traceId"] == "emulator-1"
    assert answer.headers.get("allow") == ("GET, PATCH" if status == 405 else None)
    assert (emulator.stats.requests, emulator.stats.answers) == (1, {status: 1})


async def test_create_dialogs_false_answers_unknown_dialogs_with_404() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(create_dialogs=False))
    dialog = emulator.add_dialog("d-1", session={"a": 1}, user={"b": 2}, next_step="start")
    assert emulator.dialogs == {"d-1": dialog}
    with pytest.raises(ValueError, match="exists already"):
        emulator.add_dialog("d-1")
    async with bare_client(emulator) as client:
        assert (await client.get("d-2")).status_code == 404
        assert (await client.patch(dialog_id="d-2")).status_code == 404
        state = (await client.get()).json()
        assert (await client.patch()).json()["version"] == 1
    assert (state["version"], state["session"], state["user"]) == (0, {"a": 1}, {"b": 2})
    assert state["transition"] == {"nextStep": "start"}
    assert list(emulator.dialogs) == ["d-1"]


@pytest.mark.parametrize("rules", [None, Rules(merge="recursive")])
async def test_strict_answers_unknown_dialogs_with_404(rules: Rules | None) -> None:
    emulator = Emulator(api_key=KEY, rules=rules, strict=True)
    emulator.add_dialog("d-1", session={"a": {"b": 1}})
    async with bare_client(emulator) as client:
        assert (await client.patch(dialog_id="d-2")).status_code == 404
        assert (await client.get("d-2")).status_code == 404
        assert (await client.patch({"session": {"a": {"c": 2}}})).status_code == 200
    assert list(emulator.dialogs) == ["d-1"]
    merged = {"b": 1, "c": 2} if rules else {"c": 2}
    assert emulator.dialogs["d-1"].session == {"a": merged}


async def test_the_app_may_be_mounted_below_a_path() -> None:
    emulator = Emulator(api_key=KEY)
    transport = httpx.ASGITransport(app=emulator, root_path="/below")
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator/below") as http:
        assert (await Bare(http).get()).status_code == 200


async def test_the_lifespan_protocol() -> None:
    sent: list[str] = []
    phases = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(phases)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await Emulator()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="not websocket"):
        await Emulator()({"type": "websocket"}, receive, send)


async def test_a_write_of_another_client_makes_a_version() -> None:
    emulator = Emulator(api_key=KEY)
    dialog = emulator.write("d-1", session={"a": 1, "seq": 1}, user={"b": 2}, next_step="n")
    assert (dialog.version, dialog.session, dialog.user, dialog.next_step) == (
        1,
        {"a": 1, "seq": 1},
        {"b": 2},
        "n",
    )
    async with bare_client(emulator) as client:
        assert (await client.patch(if_match='"0"')).status_code == 409
        assert (await client.patch(if_match='"1"')).status_code == 200
        await client.patch({"session": {"seq": 1}})
        emulator.write("d-1", session={"a": 3})
        assert (await client.patch(if_match='"3"')).status_code == 409
    assert emulator.dialogs["d-1"] is dialog
    assert [entry.competitor for entry in dialog.history] == [True, False, False, True]
    # What another client wrote is no repeat of an update of this one.
    assert emulator.stats.violations() == {}


def test_a_write_that_the_server_would_refuse() -> None:
    emulator = Emulator(strict=True, rules=Rules(flow_nodes={"n"}))
    with pytest.raises(ValueError, match="no dialog 'd-1': add it with add_dialog"):
        emulator.write("d-1", session={"a": 1})
    emulator.add_dialog("d-1")
    with pytest.raises(ValueError, match="the flow has no node"):
        emulator.write("d-1", next_step="other")
    with pytest.raises(ValueError, match="identifier"):
        emulator.write("d-1", session={"not a name": 1})
    assert emulator.dialogs["d-1"].version == 0
