"""The emulated sessions API: calls, errors, credentials, rules."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from cognigy_async import Limits
from cognigy_async.emulator import Emulator, Faults, Rules, Throttling
from tests.unit.emulator._client import KEY, Bare, bare_client

pytestmark = pytest.mark.anyio

PROFILE = "0123456789abcdef01234567"
USER = {"userId": "u-1"}


async def post(
    client: Bare, operation: str, body: Any = None, session_id: str = "s-1"
) -> httpx.Response:
    """Call an operation of a session, by default as `USER`."""
    segment = quote(session_id, safe="").replace(".", "%2E")
    path = f"/new/v2.0/sessions/{segment}/{operation}"
    content = {"content": body} if isinstance(body, bytes) else {"json": USER | (body or {})}
    return await client.http.post(path, headers=client.headers, **content)


def is_problem(answer: httpx.Response, status: int, code: int) -> bool:
    """Return whether it is a problem by RFC 7807, with the members of the sessions API."""
    problem = answer.json()
    return (
        (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        and all(problem[name] for name in ("type", "title", "detail", "instance"))
        and problem["traceId"].startswith("api--")
        and problem["details"] == {}
    )


async def test_injecting_and_resetting() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        first = await post(client, "context/inject", {"context": {"a": {"x": 1}, "b": 1}})
        assert (first.status_code, first.json()) == (200, {"a": {"x": 1}, "b": 1})
        assert "etag" not in first.headers
        second = await post(client, "context/inject", {"context": {"a": {"y": 1}}})
        assert second.json() == {"a": {"y": 1}, "b": 1}
        assert (await post(client, "state/inject", {"state": "pay"})).json() == {"state": "pay"}
        read = await client.http.get("/new/v2.0/sessions/s-1/state", headers=client.headers)
        assert read.json() == {
            "sessionId": "s-1",
            "userId": "u-1",
            "context": {"a": {"y": 1}, "b": 1},
            "state": "pay",
        }
        assert (await post(client, "state/reset")).json() == {}
        assert emulator.dialogs["s-1"].next_step == "default"
        flow = {"flowReferenceId": "f", "entrypoint": "e"}
        assert (await post(client, "context/reset", flow)).json() == {}
    assert emulator.dialogs["s-1"].session == {}
    assert emulator.stats.writes == emulator.stats.applied == 5
    assert emulator.stats.reads == 1


@pytest.mark.parametrize(
    ("options", "context"),
    [
        ({"merge": "recursive"}, {"a": {"x": 1, "y": 1}, "b": 1}),
        ({"inject": "replace"}, {"a": {"y": 1}}),
    ],
)
async def test_other_ways_to_inject(options: dict[str, Any], context: dict[str, Any]) -> None:
    async with bare_client(Emulator(api_key=KEY, rules=Rules(**options))) as client:
        await post(client, "context/inject", {"context": {"a": {"x": 1}, "b": 1}})
        answer = await post(client, "context/inject", {"context": {"a": {"y": 1}}})
    assert answer.json() == context


async def test_profiles() -> None:
    emulator = Emulator(api_key=KEY)
    path = f"/new/v2.0/profiles/{PROFILE}"
    async with bare_client(emulator) as client:
        patched = await client.http.patch(
            path, headers=client.headers, json={"profile": {"a": 1}, "contactIds": ["u-1"]}
        )
        assert (patched.status_code, patched.content) == (204, b"")
        assert "content-length" not in patched.headers
        await client.http.patch(path, headers=client.headers, json={"profile": {"b": 2}})
        read = await client.http.get(path, headers=client.headers)
        expected = {
            "_id": PROFILE,
            "profile": {"a": 1, "b": 2},
            "active": True,
            "contactIds": ["u-1"],
        }
        assert read.json() == expected
        for body in ({"x": 1}, {"profile": 1}, {"active": 1}, {"contactIds": [1]}, []):
            answer = await client.http.patch(path, headers=client.headers, json=body)
            assert is_problem(answer, 400, 1005)
    assert len(emulator.profiles[PROFILE].patches) == 2
    assert emulator.stats.overlapping_writes == 0


async def test_creating_profiles() -> None:
    emulator = Emulator(api_key=KEY)
    path, project = "/new/v2.0/profiles", "a" * 24
    emulator.add_profile(f"{2:024x}")
    async with bare_client(emulator) as client:
        body = {"projectId": project, "profile": {"a": 1}, "contactIds": ["u-1"]}
        created = await client.http.post(path, headers=client.headers, json=body)
        assert created.status_code == 201
        profile_id = created.json()["_id"]
        assert created.json() == {
            "_id": profile_id,
            "profile": {"a": 1},
            "active": True,
            "contactIds": ["u-1"],
        }
        read = await client.http.get(f"{path}/{profile_id}", headers=client.headers)
        assert read.json() == created.json()
        again = await client.http.post(path, headers=client.headers, json={"projectId": project})
        assert again.json()["_id"] != profile_id
        for invalid, code in (
            ({}, 1000),
            ({"projectId": "p"}, 1005),
            ({"projectId": 7}, 1005),
            ({"projectId": project, "contactIds": "u-1"}, 1005),
            ({"projectId": project, "x": 1}, 1005),
        ):
            answer = await client.http.post(path, headers=client.headers, json=invalid)
            assert is_problem(answer, 400, code)
        listed = await client.http.get(path, headers=client.headers)
        assert is_problem(listed, 405, 1013)
        none = await client.http.post(f"{path}/", headers=client.headers, json=body)
        assert is_problem(none, 404, 1002)
    assert len(profile_id) == 24
    assert len(emulator.profiles) == 3
    assert emulator.profiles[profile_id].project_id == project
    assert emulator.stats.applied == 2


@pytest.mark.parametrize(
    ("operation", "body", "status", "code"),
    [
        ("context/inject", {"userId": None, "context": {}}, 400, 1000),
        ("context/inject", {"userId": "", "context": {}}, 400, 1005),
        ("context/inject", {"userId": 7, "context": {}}, 400, 1005),
        ("context/inject", {}, 400, 1000),
        ("context/inject", {"context": [1]}, 400, 1005),
        ("context/inject", b"{", 400, 1005),
        ("context/inject", b"[]", 400, 1005),
        ("context/inject", {"context": {"a": "x" * 60_000}}, 413, 413),
        ("state/inject", {}, 400, 1000),
        ("state/inject", {"state": 7}, 400, 1005),
        ("state/inject", {"state": "nowhere"}, 400, 1005),
        ("context/reset", {"userId": None}, 400, 1000),
        ("context", {}, 404, 1002),
        ("context/inject/x", {}, 404, 1002),
        ("profile", {}, 404, 1002),
        ("state", {}, 405, 1013),
    ],
)
async def test_invalid_requests_are_refused(
    operation: str, body: Any, status: int, code: int
) -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(flow_nodes=["pay"]))
    async with bare_client(emulator) as client:
        answer = await post(client, operation, body)
    assert is_problem(answer, status, code)
    assert emulator.dialogs == {}


async def test_a_context_has_a_maximum_size() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(limits=Limits(max_context_bytes=100)))
    async with bare_client(emulator) as client:
        assert (await post(client, "context/inject", {"context": {"a": "x" * 60}})).is_success
        answer = await post(client, "context/inject", {"context": {"b": "x" * 60}})
        assert is_problem(answer, 400, 1005)
        assert (await post(client, "context/inject", {"context": {"a": "y" * 60}})).is_success


async def test_create_dialogs_false_answers_unknown_sessions_and_profiles_with_404() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(create_dialogs=False))
    emulator.add_dialog("s-1")
    emulator.add_profile(PROFILE, profile={"a": 1})
    with pytest.raises(ValueError, match="exists already"):
        emulator.add_profile(PROFILE)
    async with bare_client(emulator) as client:
        assert (await post(client, "state/inject", {"state": "x"})).is_success
        assert is_problem(await post(client, "state/reset", session_id="s-2"), 404, 1002)
        there = await client.http.get(f"/new/v2.0/profiles/{PROFILE}", headers=client.headers)
        assert there.json()["profile"] == {"a": 1}
        missing = await client.http.get("/new/v2.0/profiles/x", headers=client.headers)
        assert is_problem(missing, 404, 1002)


@pytest.mark.parametrize("name", ["a/b", "?", "#", "%", "..", "a b", "é"])
async def test_a_session_id_is_one_segment(name: str) -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        assert (await post(client, "state/reset", session_id=name)).is_success
        bad = await client.http.post("/new/v2.0/sessions/%FF/state/reset", json=USER)
        assert is_problem(bad, 400, 400)
    assert list(emulator.dialogs) == [name]


async def test_tokens_and_api_keys_are_accepted() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        form = {
            "grant_type": "client_credentials",
            "client_id": "emulator-client",
            "client_secret": "emulator-secret",
        }
        token = await client.http.post("/auth/oauth2/token", data=form)
        bearer = {"Authorization": f"Bearer {token.json()['access_token']}"}
        for headers, status in (
            (client.headers, 200),
            (bearer, 200),
            ({"X-API-Key": "other"}, 401),
            ({"Authorization": "Bearer other"}, 401),
            ({}, 401),
        ):
            client.headers = headers
            answer = await post(client, "state/reset")
            assert answer.status_code == status
            if status == 401:
                assert is_problem(answer, 401, 401)
        wrong = await client.http.post("/auth/oauth2/token", data=form | {"client_secret": "no"})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")


async def test_faults_and_quotas_are_answered_as_problems() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(tenant_quota=(4, 100)))
    async with bare_client(emulator) as client:
        for step, status, code in (
            ("conflict", 409, 1004),
            (500, 500, 1008),
            ("error_504_applied", 504, 504),
            (418, 418, 418),
        ):
            emulator.script(step)  # type: ignore[arg-type]
            answer = await post(client, "context/inject", {"context": {"a": 1}})
            assert is_problem(answer, status, code)
        answer = await post(client, "state/reset")
        assert is_problem(answer, 429, 429)
        assert int(answer.headers["retry-after"]) >= 100
    assert len(emulator.dialogs["s-1"].history) == 1
    emulator.reset()
    emulator.faults = Faults(drop_after=1)
    async with bare_client(emulator) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client, "context/inject", {"context": {"seq": 1}})
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client, "context/inject", {"context": {"seq": 0}})
    assert emulator.stats.violations() == {"reordered": 1}
