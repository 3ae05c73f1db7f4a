"""Credentials of the emulator: tokens, scopes, API keys."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async.emulator import Emulator, Rules
from tests.unit.emulator._client import KEY, bare_client

pytestmark = pytest.mark.anyio


async def test_a_token_by_http_basic_with_encoded_parts() -> None:
    emulator = Emulator(client_id="a b:c", client_secret="p%+ä", rules=Rules(token_lifetime=60))
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


async def test_a_token_by_form_fields() -> None:
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
async def test_an_invalid_form_is_refused(form: dict[str, str], status: int, error: str) -> None:
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
async def test_an_invalid_token_request_is_refused(
    request_: dict[str, Any], status: int, reason: str
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


async def test_scopes_decide_what_a_token_may_do() -> None:
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


async def test_a_missing_unknown_or_expired_token_is_401() -> None:
    emulator = Emulator(rules=Rules(token_lifetime=2.5))
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


async def test_revoked_tokens_and_the_api_key() -> None:
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


async def test_no_api_key_is_accepted_by_default() -> None:
    async with bare_client(Emulator()) as client:
        client.headers = {"X-API-Key": ""}
        assert (await client.get()).status_code == 401


async def test_tokens_that_have_expired_are_forgotten() -> None:
    emulator = Emulator(rules=Rules(token_lifetime=1))
    async with bare_client(emulator) as client:
        for _ in range(1000):
            await client.token()
        await anyio.sleep(2)
        await client.log_in()
        assert (await client.get()).status_code == 200
    assert len(emulator._tokens._issued) == 1
