"""A bare client for tests of the emulator, without retries or waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

from cognigy_async.emulator import Emulator

KEY = "the-api-key"
SEQ = {"session": {"seq": 1}}


def path_of(dialog_id: str) -> str:
    # Clients resolve dot segments, so dots are encoded as well.
    return f"/runtime/v2/dialogs/{quote(dialog_id, safe='').replace('.', '%2E')}/state"


class Bare:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.headers: dict[str, str] = {"X-API-Key": KEY}

    async def patch(
        self,
        body: Any = None,
        dialog_id: str = "d-1",
        *,
        key: str | None = None,
        if_match: str | None = None,
    ) -> httpx.Response:
        headers = dict(self.headers)
        if key is not None:
            headers["Idempotency-Key"] = key
        if if_match is not None:
            headers["If-Match"] = if_match
        content: dict[str, Any] = (
            {"json": SEQ if body is None else body}
            if body is None or isinstance(body, dict | list)
            else {"content": body}
        )
        return await self.http.patch(path_of(dialog_id), headers=headers, **content)

    async def get(self, dialog_id: str = "d-1") -> httpx.Response:
        return await self.http.get(path_of(dialog_id), headers=self.headers)

    async def token(
        self,
        form: Mapping[str, str] | None = None,
        *,
        auth: tuple[str, str] | None = ("emulator-client", "emulator-secret"),
    ) -> httpx.Response:
        data = {"grant_type": "client_credentials"} if form is None else dict(form)
        basic = httpx.BasicAuth(*auth) if auth else httpx.Auth()
        return await self.http.post("/oauth/token", data=data, auth=basic)

    async def log_in(self, scope: str = "runtime:write session:manage dialog:read") -> str:
        """Replace the API key by a token, and return it."""
        answer = await self.token({"grant_type": "client_credentials", "scope": scope})
        token: str = answer.json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}
        return token


@asynccontextmanager
async def bare_client(emulator: Emulator, base_url: str | None = None) -> AsyncIterator[Bare]:
    """Connect in the process, or over sockets if there is a base URL."""
    transport = httpx.ASGITransport(app=emulator) if base_url is None else None
    async with httpx.AsyncClient(
        transport=transport, base_url=base_url or "http://emulator", trust_env=False
    ) as http:
        yield Bare(http)
