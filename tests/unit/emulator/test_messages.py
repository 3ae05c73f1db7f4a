"""The emulated endpoint service: messages to the flow and to the user."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults, Throttling
from tests.unit.emulator._client import KEY, Bare, bare_client

pytestmark = pytest.mark.anyio

TOKEN = "emulator-url-token"
BODY: dict[str, Any] = {"userId": "u-1", "sessionId": "s-1", "text": "hi", "data": {"seq": 1}}


async def post(
    client: Bare, body: Any = None, kind: str = "inject", token: str = TOKEN
) -> httpx.Response:
    content = {"content": body} if isinstance(body, bytes) else {"json": body or BODY}
    return await client.http.post(f"/{kind}/{token}", **content)


async def test_a_message_is_shown_among_the_writes_of_its_dialog() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        await client.patch({"session": {"seq": 0}}, "s-1")
        files = [{"name": "a", "url": "https://files.example/a", "type": "file", "caption": "b"}]
        assert (await post(client)).json() == "sent to the flow"
        notify = BODY | {"attachments": files, "data": {"seq": 2}}
        assert (await post(client, notify, "notify")).json() == "sent to the user"
        shown = (await client.http.get("/_emulator/dialogs/s-1")).json()
    message = {"userId": "u-1", "text": "hi", "data": {"seq": 1}}
    assert [entry["body"] for entry in shown["history"]] == [
        {"session": {"seq": 0}},
        {"inject": message},
        {"notify": message | {"data": {"seq": 2}, "attachments": files}},
    ]
    dialog = emulator.dialogs["s-1"]
    assert [entry.seq for entry in dialog.history] == [0, 1, 2]
    assert dialog.messages[0] == {"kind": "inject", **message}
    assert dialog.messages[1]["kind"] == "notify"
    assert (dialog.version, dialog.session, dialog.user_id) == (3, {"seq": 0}, "u-1")
    assert (emulator.stats.writes, emulator.stats.applied) == (3, 3)
    assert emulator.stats.violations() == {}


async def test_the_url_token_is_the_only_credential() -> None:
    emulator = Emulator(api_key=KEY, url_token="another")
    async with bare_client(emulator) as client:
        assert (await post(client)).status_code == 404
        assert (await post(client, token="an%6Fther")).status_code == 200
        assert (await post(client, token="")).status_code == 404
        assert (await post(client, token="another/")).status_code == 404
        assert (await post(client, kind="send", token="another")).status_code == 404
        assert (await client.http.get("/inject/another")).status_code == 405
    assert len(emulator.dialogs["s-1"].messages) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"userId": None}, "userId must be a string"),
        ({"sessionId": ""}, "sessionId must be a string"),
        ({"text": None}, "text must be a string"),
        ({"data": []}, "data must be an object"),
        ({"more": 1}, "unknown member more"),
        ({"attachments": []}, "unknown member attachments"),
    ],
)
async def test_a_body_that_is_not_valid(changes: dict[str, Any], problem: str) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        answer = await post(client, BODY | changes)
        assert (answer.status_code, problem in answer.json()["message"]) == (400, True)
        assert (await post(client, b"nonsense")).status_code == 400
        bad = BODY | {"attachments": [1]}
        assert (await post(client, bad, "notify")).status_code == 400
        large = BODY | {"text": "x" * 60_000}
        assert (await post(client, large)).status_code == 413
    assert emulator.dialogs == {}


async def test_a_session_that_does_not_exist() -> None:
    emulator = Emulator(api_key=KEY, strict=True)
    async with bare_client(emulator) as client:
        assert (await post(client)).status_code == 404
        emulator.add_dialog("s-1")
        assert (await post(client)).status_code == 200


async def test_messages_meet_the_faults_and_quotas_of_writes() -> None:
    throttling = Throttling(dialog_quota=(3, 100.0))
    emulator = Emulator(api_key=KEY, throttling=throttling)
    emulator.script(503, "token_expiry", dialog_id="s-1")
    async with bare_client(emulator) as client:
        statuses = [(await post(client)).status_code for _ in range(4)]
    # There is no token that could expire.
    assert statuses == [503, 200, 200, 429]
    emulator = Emulator(api_key=KEY, faults=Faults(drop_after=1.0))
    async with bare_client(emulator) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client)
    assert len(emulator.dialogs["s-1"].messages) == 1


async def test_a_message_that_comes_twice_or_too_late_is_a_violation() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        await post(client)
        await post(client)
        assert emulator.stats.violations() == {"double_applies": 1}
        await client.patch({"session": {"seq": 5}}, "s-1")
        await post(client, BODY | {"data": {"seq": 4}})
    assert emulator.stats.violations() == {"double_applies": 1, "reordered": 1}
