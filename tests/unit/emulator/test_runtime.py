"""The emulated runtime API: states, versions, keys, constraints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from cognigy_async import Limits
from cognigy_async.emulator import Emulator, Merging, Rules
from cognigy_async.emulator.state import Dialog
from tests.unit.emulator._client import KEY, bare_client

pytestmark = pytest.mark.anyio


async def test_a_patch_assigns_variables_and_a_get_reads_them() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        first = await client.patch(
            {
                "session": {"cart": {"total": 1.5}, "kept": 1},
                "user": {"orders": 12},
                "transition": {"nextStep": "checkout"},
            }
        )
        assert first.status_code == 200
        assert first.headers["etag"] == '"1"'
        assert first.headers["content-type"] == "application/json"
        assert first.json() == {"dialogId": "d-1", "version": 1, "message": "state updated"}
        second = await client.patch({"session": {"cart": {"items": []}}})
        assert second.headers["etag"] == '"2"'
        state = await client.get()
    assert state.headers["etag"] == '"2"'
    assert state.json() == {
        "dialogId": "d-1",
        "version": 2,
        "session": {"cart": {"items": []}, "kept": 1},
        "user": {"orders": 12},
        "transition": {"nextStep": "checkout"},
    }
    dialog = emulator.dialogs["d-1"]
    assert (dialog.version, dialog.next_step) == (2, "checkout")
    assert dialog.session == {"cart": {"items": []}, "kept": 1}
    assert dialog.user == {"orders": 12}


async def test_merging_recursively_keeps_the_other_members_and_the_history() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(merge="recursive"))
    async with bare_client(emulator) as client:
        await client.patch({"session": {"a": {"x": {"deep": 1}, "list": [1]}, "b": {"y": 1}}})
        await client.patch({"session": {"a": {"x": {"er": 2}, "list": [2]}, "b": 5}})
    dialog = emulator.dialogs["d-1"]
    assert dialog.session == {"a": {"x": {"deep": 1, "er": 2}, "list": [2]}, "b": 5}
    assert dialog.history[0].body["session"]["a"] == {"x": {"deep": 1}, "list": [1]}
    assert dialog.history[1].body["session"]["a"] == {"x": {"er": 2}, "list": [2]}


async def test_the_history_has_the_write_of_each_version() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        await client.patch({"session": {"seq": 1}}, key="k-1")
        await anyio.sleep(2)
        await client.patch({"user": {"b": 2}}, key="k-2", if_match='"1"')
        emulator.script("competitor")
        await client.patch({"user": {"b": 3}})
        shown = (await client.http.get("/_emulator/dialogs/d-1")).json()
    history = emulator.dialogs["d-1"].history
    assert [(e.version, e.key, e.if_match, e.competitor) for e in history] == [
        (1, "k-1", None, False),
        (2, "k-2", '"1"', False),
        (3, None, None, True),
        (4, None, None, False),
    ]
    assert [entry.body for entry in history] == [
        {"session": {"seq": 1}},
        {"user": {"b": 2}},
        {"session": {"competitor": 1}},
        {"user": {"b": 3}},
    ]
    assert [entry.seq for entry in history] == [1, None, None, None]
    assert history[1].at - history[0].at == pytest.approx(2, abs=0.1)
    assert shown["version"] == 4
    assert shown["session"] == {"seq": 1, "competitor": 1}
    assert shown["history"][1] == {
        "version": 2,
        "key": "k-2",
        "body": {"user": {"b": 2}},
        "ifMatch": '"1"',
        "competitor": False,
    }


async def test_a_limited_history_forgets_the_oldest_entry_and_its_key() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(history_limit=2, honour_idempotency_keys=True))
    async with bare_client(emulator) as client:
        for number in range(3):
            await client.patch({"session": {"seq": number}}, key=f"k-{number}")
        dialog = emulator.dialogs["d-1"]
        assert [entry.version for entry in dialog.history] == [2, 3]
        assert (await client.patch({"session": {"seq": 2}}, key="k-2")).json()["version"] == 3
        assert (await client.patch({"session": {"seq": 0}}, key="k-0")).json()["version"] == 4


async def test_a_reused_key_refers_to_its_newer_entry() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(history_limit=2, honour_idempotency_keys=False))
    async with bare_client(emulator) as client:
        for key in ("k", "k", "other", "k"):
            await client.patch({"session": {"a": 1}}, key=key)
    # The fourth write forgets the first one, but not the second one.
    assert emulator.stats.repeat_applies == 2


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        ('"1"', 200),
        ('"7", "1"', 200),
        ("*", 200),
        ('"2"', 409),
        ('""', 409),
        ('W/"1"', 409),
        ("1", 400),
        ("", 400),
        ('"', 400),
    ],
)
async def test_if_match(if_match: str, status: int) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        await client.patch()
        answer = await client.patch({"session": {"b": 2}}, if_match=if_match)
    assert answer.status_code == status
    assert emulator.dialogs["d-1"].version == (2 if status == 200 else 1)
    if status == 409:
        assert answer.headers["etag"] == '"1"'
        assert (answer.json()["version"], answer.json()["dialogId"]) == (1, "d-1")
        assert answer.json()["message"] == "the state has version 1"


async def test_if_match_of_a_dialog_never_written() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(conflict_status=412))
    async with bare_client(emulator) as client:
        assert (await client.get()).headers["etag"] == '"0"'
        assert emulator.dialogs == {}
        assert (await client.patch(if_match="*")).status_code == 412
        assert (await client.patch(if_match='"1"')).status_code == 412
        assert emulator.dialogs == {}
        assert (await client.patch(if_match='"0"')).status_code == 200


async def test_a_key_that_was_applied_is_answered_and_not_applied_again() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(honour_idempotency_keys=True))
    step = {"session": {"n": 1}, "transition": {"nextStep": "a"}}
    async with bare_client(emulator) as client:
        first = await client.patch(step, key="k", if_match='"0"')
        await client.patch({"session": {"n": 2}}, key="other")
        again = await client.patch(step, key="k", if_match='"0"')
        assert again.status_code == 200
        assert (again.content, again.headers["etag"]) == (first.content, '"1"')
        elsewhere = await client.patch(step, "d-2", key="k")
        assert elsewhere.json() == {"dialogId": "d-2", "version": 1, "message": "state updated"}
        reused = await client.patch({"session": {"n": 3}}, key="k")
        assert reused.status_code == 422
        assert "Idempotency-Key" in reused.json()["message"]
    assert emulator.dialogs["d-1"].session == {"n": 2}
    assert emulator.stats.replayed == 1
    assert emulator.stats.reused_keys == 1
    assert emulator.stats.applied == 3


async def test_by_default_keys_are_ignored_as_the_client_assumes() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        await client.patch(key="k")
        assert (await client.patch(key="k")).json()["version"] == 2
        assert (await client.patch({"session": {"n": 3}}, key="k")).json()["version"] == 3
    assert emulator.stats.replayed == 0
    assert emulator.stats.reused_keys == 1


DEEP = {"a": {"b": {"c": {"d": 1}}}}
BAD_BODIES: list[tuple[Any, str]] = [
    (b"", "EOF"),
    (b"{", "EOF"),
    (b"\xff", "expected value"),
    (b'{"session": {"a": NaN}}', "expected value"),
    ([], "must be a JSON object"),
    ({}, "carries nothing"),
    ({"session": {}}, "carries nothing"),
    ({"session": {"a": 1}, "metadata": {}}, "unknown member metadata"),
    ({"session": None}, "session must be an object"),
    ({"user": [1]}, "user must be an object"),
    ({"session": {"a": None}}, "session.a: a variable cannot be None"),
    ({"session": {"_cognigy_x": 1}}, "session._cognigy_x: the name begins with a reserved"),
    ({"user": {"cognigy_x": 1}}, "user.cognigy_x: the name begins with a reserved"),
    ({"session": {"not-a-name": 1}}, "session.not-a-name: a variable's name must be an identifier"),
    ({"session": {"v": DEEP}}, "session.v.a.b.c: objects and lists are nested deeper"),
    ({"session": {"v": 2**53}}, "session.v: the integer is beyond"),
    ({"transition": None}, "transition must be an object"),
    ({"transition": {}}, "transition must be an object"),
    ({"transition": {"nextStep": "a", "x": 1}}, "transition must be an object"),
    ({"transition": {"nextStep": 1}}, "transition.nextStep must be a string"),
    ({"transition": {"nextStep": ""}}, "next_step: is empty"),
]


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES, ids=[reason for _, reason in BAD_BODIES])
async def test_a_bad_body_is_refused_with_a_reason(body: Any, reason: str) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        answer = await client.patch(body)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]
    assert answer.json()["traceId"] == "emulator-1"
    assert emulator.dialogs == {}
    assert emulator.stats.applied == 0


async def test_limits_and_flow_nodes_can_be_configured() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(limits=Limits(max_depth=1), flow_nodes=("a", "b")))
    async with bare_client(emulator) as client:
        assert (await client.patch({"session": {"v": {"w": []}}})).status_code == 400
        assert (await client.patch({"session": {"v": {"w": 1}}})).status_code == 200
        assert (await client.patch({"transition": {"nextStep": "a"}})).status_code == 200
        unknown = await client.patch({"transition": {"nextStep": "c"}})
    assert unknown.status_code == 400
    assert "no node 'c'" in unknown.json()["message"]


async def test_a_body_above_the_size_limit_is_413() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(max_body_bytes=100))
    fits = json.dumps({"session": {"v": "x" * 100}}).encode()
    body = fits.replace(b"x" * 100, b"x" * (200 - len(fits)))
    assert len(body) == 100
    async with bare_client(emulator) as client:
        assert (await client.patch(body)).status_code == 200
        too_large = await client.patch(body.replace(b"xx", b"xxx", 1))
        assert (await client.patch()).status_code == 200
    assert too_large.status_code == 413
    assert too_large.json()["message"] == "the body has more than 100 bytes"
    whole = json.dumps({"session": {f"v{n}": "x" * 1024 for n in range(1100)}}).encode()
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        assert (await client.patch(whole)).status_code == 413
        assert (await client.patch(_in_pieces(whole))).status_code == 413
        assert (await client.patch(_in_pieces(b'{"session":', b'{"a":1}}'))).status_code == 200


async def _in_pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_merging_may_end_at_a_level_and_may_include_lists() -> None:
    first = {"x": {"deep": {"a": 1}, "b": 1}, "list": [{"a": 1}, 2, 3]}
    second = {"x": {"deep": {"c": 1}}, "list": [{"c": 1}]}
    expected = {
        Merging(0): second,
        Merging(1): second,
        Merging(2): {"x": {"deep": {"c": 1}, "b": 1}, "list": [{"c": 1}]},
        Merging(): {"x": {"deep": {"a": 1, "c": 1}, "b": 1}, "list": [{"c": 1}]},
        Merging(lists=True): {
            "x": {"deep": {"a": 1, "c": 1}, "b": 1},
            "list": [{"a": 1, "c": 1}, 2, 3],
        },
    }
    for merge, found in expected.items():
        emulator = Emulator(api_key=KEY, rules=Rules(merge=merge))
        async with bare_client(emulator) as client:
            await client.patch({"session": {"v": first}})
            await client.patch({"session": {"v": second}})
            await client.patch({"session": {"v": [1]}})
            await client.patch({"session": {"v": [2, 3]}})
        history = emulator.dialogs["d-1"].history
        assert [entry.body["session"]["v"] for entry in history[:2]] == [first, second]
        state = Dialog("d")
        for entry in history[:2]:
            state.assign(entry.body, merge=merge, at=0.0)
        assert state.session == {"v": found}
        assert emulator.dialogs["d-1"].session == {"v": [2, 3]}


async def test_reads_may_be_missing() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(reads_state=False))
    async with bare_client(emulator) as client:
        assert (await client.patch()).status_code == 200
        assert (await client.get()).status_code == 404


async def test_reads_may_be_late_and_show_one_version_after_the_other() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(read_delay=1.0))
    async with bare_client(emulator) as client:
        start = anyio.current_time()
        for n, moment in enumerate((0.0, 0.4, 0.8)):
            await anyio.sleep_until(start + moment)
            await client.patch({"session": {"n": n, f"v{n}": True}, "user": {"n": n}})
        seen = []
        for moment in (0.9, 1.1, 1.3, 1.5, 1.9):
            await anyio.sleep_until(start + moment)
            state = await client.get()
            body = state.json()
            assert state.headers["etag"] == f'"{body["version"]}"'
            assert body["session"].get("n") == body["user"].get("n")
            seen.append(body["version"])
    assert seen == [0, 1, 1, 2, 3]
    assert emulator.dialogs["d-1"].session == {"n": 2, "v0": True, "v1": True, "v2": True}


@pytest.mark.parametrize(
    ("etags", "if_match", "own", "stale"),
    [
        ("strong", "strong", 200, 409),
        ("strong", "ignored", 200, 200),
        ("weak", "strong", 409, 409),
        ("weak", "weak", 200, 409),
        ("weak", "ignored", 200, 200),
    ],
)
async def test_etags_may_be_weak_and_if_match_ignored(
    etags: Any, if_match: Any, own: int, stale: int
) -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(etags=etags, if_match=if_match))
    async with bare_client(emulator) as client:
        first = (await client.patch()).headers["etag"]
        assert first == ('W/"1"' if etags == "weak" else '"1"')
        assert (await client.get()).headers["etag"] == first
        assert (await client.patch(if_match=first)).status_code == own
        await client.patch()
        refused = await client.patch(if_match=first)
        assert refused.status_code == stale
        if stale == 409:
            assert refused.headers["etag"].startswith("W/") == (etags == "weak")


async def test_there_may_be_no_etags() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(etags="none"))
    async with bare_client(emulator) as client:
        assert "etag" not in (await client.patch()).headers
        assert "etag" not in (await client.get()).headers


async def test_the_token_endpoint_may_have_one_path() -> None:
    emulator = Emulator(rules=Rules(token_paths=("/auth/oauth2/token",)))
    async with bare_client(emulator) as client:
        assert (await client.token()).status_code == 404
    async with bare_client(Emulator()) as client:
        assert (await client.token()).status_code == 200
