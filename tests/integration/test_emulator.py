"""The emulator as a server: states, versions, keys, constraints, credentials, quotas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async import Limits
from cognigy_async.emulator import Emulator, Faults
from tests.integration.emulator_client import KEY, Bare, bare_client, path_of

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
    emulator = Emulator(api_key=KEY, merge="recursive")
    async with bare_client(emulator) as client:
        await client.patch({"session": {"a": {"x": {"deep": 1}, "list": [1]}, "b": {"y": 1}}})
        await client.patch({"session": {"a": {"x": {"er": 2}, "list": [2]}, "b": 5}})
    dialog = emulator.dialogs["d-1"]
    assert dialog.session == {"a": {"x": {"deep": 1, "er": 2}, "list": [2]}, "b": 5}
    assert dialog.history[0].body["session"]["a"] == {"x": {"deep": 1}, "list": [1]}
    assert dialog.history[1].body["session"]["a"] == {"x": {"er": 2}, "list": [2]}


async def test_the_history_tells_what_made_each_version() -> None:
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
    emulator = Emulator(api_key=KEY, history_limit=2)
    async with bare_client(emulator) as client:
        for number in range(3):
            await client.patch({"session": {"seq": number}}, key=f"k-{number}")
        dialog = emulator.dialogs["d-1"]
        assert [entry.version for entry in dialog.history] == [2, 3]
        assert (await client.patch({"session": {"seq": 2}}, key="k-2")).json()["version"] == 3
        assert (await client.patch({"session": {"seq": 0}}, key="k-0")).json()["version"] == 4


async def test_a_key_used_again_is_remembered_by_its_newer_entry() -> None:
    emulator = Emulator(api_key=KEY, history_limit=2, honour_idempotency_keys=False)
    async with bare_client(emulator) as client:
        for key in ("k", "k", "other", "k"):
            await client.patch({"session": {"a": 1}}, key=key)
    # At the fourth write the first one is forgotten, and the second one is not.
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
    emulator = Emulator(api_key=KEY, conflict_status=412)
    async with bare_client(emulator) as client:
        assert (await client.get()).headers["etag"] == '"0"'
        assert emulator.dialogs == {}
        assert (await client.patch(if_match="*")).status_code == 412
        assert (await client.patch(if_match='"1"')).status_code == 412
        assert emulator.dialogs == {}
        assert (await client.patch(if_match='"0"')).status_code == 200


async def test_a_key_that_was_applied_is_answered_and_not_applied_again() -> None:
    emulator = Emulator(api_key=KEY)
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


async def test_keys_may_be_ignored() -> None:
    emulator = Emulator(api_key=KEY, honour_idempotency_keys=False)
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


async def test_limits_and_flow_nodes_are_the_servers_own() -> None:
    emulator = Emulator(api_key=KEY, limits=Limits(max_depth=1), flow_nodes=("a", "b"))
    async with bare_client(emulator) as client:
        assert (await client.patch({"session": {"v": {"w": []}}})).status_code == 400
        assert (await client.patch({"session": {"v": {"w": 1}}})).status_code == 200
        assert (await client.patch({"transition": {"nextStep": "a"}})).status_code == 200
        unknown = await client.patch({"transition": {"nextStep": "c"}})
    assert unknown.status_code == 400
    assert "no node 'c'" in unknown.json()["message"]


async def test_a_body_over_the_largest_is_413() -> None:
    emulator = Emulator(api_key=KEY, max_body_bytes=100)
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
async def test_paths_and_methods_that_are_not_there(method: str, path: str, status: int) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        answer = await client.http.request(method, path, headers=client.headers, json={})
    assert answer.status_code == status
    assert answer.json()["traceId"] == "emulator-1"
    assert answer.headers.get("allow") == ("GET, PATCH" if status == 405 else None)
    assert (emulator.stats.requests, emulator.stats.answers) == (1, {status: 1})


async def test_unknown_dialogs_may_be_404() -> None:
    emulator = Emulator(api_key=KEY, create_dialogs=False)
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


async def test_the_app_may_be_mounted_below_a_path() -> None:
    emulator = Emulator(api_key=KEY)
    transport = httpx.ASGITransport(app=emulator, root_path="/below")
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator/below") as http:
        assert (await Bare(http).get()).status_code == 200


async def test_the_lifespan_protocol() -> None:
    said: list[str] = []
    phases = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(phases)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await Emulator()({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="not websocket"):
        await Emulator()({"type": "websocket"}, receive, send)


class TestCredentials:
    async def test_a_token_by_http_basic_with_encoded_parts(self) -> None:
        emulator = Emulator(client_id="a b:c", client_secret="p%+ä", token_lifetime=60)
        async with bare_client(emulator) as client:
            answer = await client.token(auth=("a+b%3Ac", "p%25%2B%C3%A4"))
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            body = answer.json()
            client.headers = {"Authorization": f"bearer {body.pop('access_token')}"}
            assert (await client.patch()).status_code == 200
            assert (await client.token(auth=("a b", "p%+ä"))).status_code == 401
        scope = "runtime:write session:manage dialog:read"
        assert body == {"token_type": "Bearer", "expires_in": 60, "scope": scope}

    async def test_a_token_by_form_fields(self) -> None:
        form = {
            "grant_type": "client_credentials",
            "client_id": "emulator-client",
            "client_secret": "emulator-secret",
        }
        async with bare_client(Emulator()) as client:
            assert (await client.token(form, auth=None)).status_code == 200
            both = await client.token(form)
            wrong = await client.token({**form, "client_secret": "x"}, auth=None)
            other = await client.token({**form, "client_id": "x"}, auth=None)
        assert (both.status_code, both.json()["error"]) == (400, "invalid_request")
        assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
        assert (other.status_code, other.json()["error"]) == (401, "invalid_client")

    @pytest.mark.parametrize(
        ("form", "status", "error"),
        [
            ({"grant_type": "password"}, 400, "unsupported_grant_type"),
            ({"scope": "runtime:write"}, 400, "invalid_request"),
            ({"grant_type": "client_credentials", "scope": "admin x"}, 400, "invalid_scope"),
        ],
    )
    async def test_a_bad_token_request(self, form: dict[str, str], status: int, error: str) -> None:
        emulator = Emulator()
        async with bare_client(emulator) as client:
            answer = await client.token(form)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert answer.json()["error_description"]
        assert emulator.stats.token_answers == {status: 1}
        assert (emulator.stats.token_requests, emulator.stats.tokens_issued) == (1, 0)

    @pytest.mark.parametrize(
        ("request_", "status", "reason"),
        [
            ({"method": "GET"}, 405, "by POST"),
            ({"json": {"grant_type": "client_credentials"}}, 400, "must be application/x-www-form"),
            ({"content": b"grant_type=%FF"}, 400, "does not parse"),
            ({"content": b"\xff=1"}, 400, "does not parse"),
            ({"content": b"grant_type=client_credentials&x=1&x=1"}, 400, "twice"),
            ({"content": b"x=" + b"y" * 70_000}, 413, "too large"),
            ({"content": b"grant_type=client_credentials", "basic": "%%"}, 401, "HTTP Basic"),
        ],
    )
    async def test_a_token_request_that_is_none(
        self, request_: dict[str, Any], status: int, reason: str
    ) -> None:
        basic = request_.get("basic", "ZW11bGF0b3ItY2xpZW50OmVtdWxhdG9yLXNlY3JldA==")
        headers = {"Authorization": f"Basic {basic}"}
        if "content" in request_:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        async with bare_client(Emulator()) as client:
            answer = await client.http.request(
                request_.get("method", "POST"),
                "/oauth/token",
                headers=headers,
                content=request_.get("content"),
                json=request_.get("json"),
            )
        assert reason in answer.json()["error_description"]
        assert answer.status_code == status
        challenge = 'Basic realm="emulator"' if status == 401 else None
        assert answer.headers.get("www-authenticate") == challenge
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)

    async def test_scopes_decide_what_a_token_may_do(self) -> None:
        async with bare_client(Emulator()) as client:
            granted = await client.token(
                {"grant_type": "client_credentials", "scope": "admin dialog:read"}
            )
            assert granted.json()["scope"] == "dialog:read"
            allowed = {}
            for scope in ("dialog:read", "runtime:write", "session:manage"):
                await client.log_in(scope)
                read, write = await client.get(), await client.patch()
                allowed[scope] = (read.status_code, write.status_code)
            assert "scope runtime:write" in write.json()["message"]
            assert "scope dialog:read or runtime:write" in read.json()["message"]
        assert allowed == {
            "dialog:read": (200, 403),
            "runtime:write": (200, 200),
            "session:manage": (403, 403),
        }

    async def test_a_missing_unknown_or_expired_token_is_401(self) -> None:
        emulator = Emulator(token_lifetime=2.5)
        async with bare_client(emulator) as client:
            refused = await client.get()
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            client.headers = {"Authorization": "Bearer made-up"}
            assert (await client.get()).status_code == 401
            client.headers = {"Authorization": "Basic made-up"}
            assert (await client.get()).status_code == 401
            assert (await client.token()).json()["expires_in"] == 2.5
            await client.log_in()
            await anyio.sleep(2.4)
            assert (await client.get()).status_code == 200
            await anyio.sleep(0.2)
            assert (await client.get()).status_code == 401
        assert emulator.stats.tokens_issued == 2

    async def test_revoked_tokens_and_the_api_key(self) -> None:
        emulator = Emulator(api_key=KEY)
        async with bare_client(emulator) as client:
            assert (await client.patch()).status_code == 200
            first = await client.log_in()
            assert await client.log_in() != first
            assert (await client.get()).status_code == 200
            emulator.revoke_tokens()
            assert (await client.get()).status_code == 401
            client.headers = {"X-API-Key": KEY + "x"}
            assert (await client.get()).status_code == 401
        assert KEY not in repr(emulator)
        assert "emulator-secret" not in repr(emulator)

    async def test_without_an_api_key_none_is_accepted(self) -> None:
        async with bare_client(Emulator()) as client:
            client.headers = {"X-API-Key": ""}
            assert (await client.get()).status_code == 401

    async def test_tokens_that_have_expired_are_forgotten(self) -> None:
        emulator = Emulator(token_lifetime=1)
        async with bare_client(emulator) as client:
            for _ in range(1000):
                await client.token()
            await anyio.sleep(2)
            await client.log_in()
            assert (await client.get()).status_code == 200
        assert len(emulator._tokens._issued) == 1


class TestQuotas:
    async def test_a_tenant_has_so_many_requests_in_a_window(self) -> None:
        emulator = Emulator(api_key=KEY, tenant_quota=(2, 10))
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

    async def test_a_dialog_has_a_quota_of_its_own(self) -> None:
        emulator = Emulator(api_key=KEY, dialog_quota=(1, 4), retry_after="decimal")
        async with bare_client(emulator) as client:
            await client.patch()
            await anyio.sleep(0.5)
            refused = await client.patch()
            assert refused.status_code == 429
            assert refused.headers["x-ratelimit-scope"] == "dialog"
            assert float(refused.headers["retry-after"]) == pytest.approx(3.5, abs=0.1)
            assert len(refused.headers["retry-after"].partition(".")[2]) == 3
            assert (await client.patch(dialog_id="d-2")).status_code == 200

    async def test_retry_after_as_a_date(self) -> None:
        emulator = Emulator(
            api_key=KEY, tenant_quota=(1, 10), retry_after="date", wall_clock=lambda: 1e9 + 0.4
        )
        async with bare_client(emulator) as client:
            await client.get()
            headers = (await client.get()).headers
        assert headers["retry-after"] == "Sun, 09 Sep 2001 01:46:51 GMT"
        assert headers["date"] == "Sun, 09 Sep 2001 01:46:40 GMT"
        assert parsedate_to_datetime(headers["retry-after"]).timestamp() == 1e9 + 11

    async def test_retry_after_may_be_missing(self) -> None:
        emulator = Emulator(api_key=KEY, tenant_quota=(1, 10), retry_after="none")
        async with bare_client(emulator) as client:
            await client.get()
            refused = await client.get()
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers

    async def test_windows_of_many_dialogs_are_forgotten(self) -> None:
        emulator = Emulator(api_key=KEY, dialog_quota=(1, 1), tenant_quota=(10**9, 1000))
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


class TestControl:
    async def test_faults_are_read_and_replaced(self) -> None:
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
    async def test_bad_faults_are_400_and_change_nothing(self, body: bytes, reason: str) -> None:
        emulator = Emulator(faults=Faults(latency=0.5))
        async with bare_client(emulator) as client:
            answer = await client.http.put("/_emulator/faults", content=body)
        assert answer.status_code == 400
        assert reason in answer.json()["message"]
        assert emulator.faults == Faults(latency=0.5)

    async def test_a_script_and_a_revocation(self) -> None:
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
    async def test_bad_scripts_are_400(self, script: Any, reason: str) -> None:
        async with bare_client(Emulator()) as client:
            answer = await client.http.post("/_emulator/script", json=script)
        assert answer.status_code == 400
        assert reason in answer.json()["message"]

    async def test_stats_and_reset(self) -> None:
        emulator = Emulator(tenant_quota=(3, 1000), faults=Faults(latency=0.1))
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
    async def test_what_is_not_there(self, method: str, path: str, status: int) -> None:
        emulator = Emulator()
        emulator.add_dialog("a/b")
        async with bare_client(emulator) as client:
            answer = await client.http.request(method, f"/_emulator/{path}")
        assert answer.status_code == status
        assert answer.json()["message"]
        assert emulator.stats.requests == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"merge": "deep"}, "merge='deep'"),
        ({"conflict_status": 400}, "conflict_status=400"),
        ({"retry_after": "minutes"}, "retry_after='minutes'"),
        ({"token_lifetime": 0}, "token_lifetime=0"),
        ({"token_lifetime": float("inf")}, "token_lifetime=inf"),
        ({"notice": -1}, "notice=-1"),
        ({"notice": float("nan")}, "notice=nan"),
        ({"max_body_bytes": 0}, "max_body_bytes=0"),
        ({"history_limit": 0}, "history_limit=0"),
        ({"tenant_quota": (0, 1)}, r"tenant_quota=\(0, 1\)"),
        ({"dialog_quota": (1, 0)}, r"dialog_quota=\(1, 0\)"),
        ({"dialog_quota": (1, float("inf"))}, r"dialog_quota=\(1, inf\)"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Emulator(**arguments)
