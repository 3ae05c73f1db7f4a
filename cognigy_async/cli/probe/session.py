"""The session that a probe writes to, and the requests to it: no retries, one at a time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from cognigy_async import (
    DialogState,
    Request,
    Response,
    RuntimeApi,
    SessionsApi,
    StateUpdate,
    TokenProvider,
)

from .tally import TallyTransport

TIMEOUT = 15.0
FAILURES = frozenset({401, 403, 429, 502, 503, 504})
"""Statuses that say nothing about the request itself."""


class Target(NamedTuple):
    """A session; of the runtime API, a dialog."""

    base_url: str
    api: RuntimeApi | SessionsApi
    session_id: str
    user_id: str | None = None


class ProbedSession:
    """Sends requests to a session.

    Args:
        target: the session.
        provider: source of the credentials.
        transport: sends the requests.
    """

    def __init__(self, target: Target, provider: TokenProvider, transport: TallyTransport) -> None:
        self.target = target
        self.is_runtime = isinstance(target.api, RuntimeApi)
        self._provider = provider
        self._transport = transport

    async def read(self) -> DialogState | None:
        """Return the state; None if this installation cannot read it."""
        api = self.target.api
        request = api.read(self.target.base_url, self.target.session_id)
        response = await self._exchange(request)
        if response.status in FAILURES - {403}:
            raise self._error(request, response)
        return api.state(self.target.session_id, response) if _is_success(response) else None

    async def write(self, variables: Mapping[str, Any]) -> Response:
        """Assign session variables.

        Raises:
            UpdateError: the server did not apply them.
        """
        return await self._send(self.write_request(variables))

    async def write_if(self, variables: Mapping[str, Any], etag: str) -> Response:
        """Assign session variables if the state has a version; return any answer about it."""
        request = self.write_request(variables)
        request.headers["if-match"] = etag
        return await self._send(request, refusable=True)

    async def write_body(self, request: Request) -> Response:
        """Send a write whose body may be too large; return any answer about it."""
        response = await self._exchange(request)
        if response.status in (401, 403, 429):
            raise self._error(request, response)
        return response

    def write_request(self, variables: Mapping[str, Any]) -> Request:
        """Return the request that assigns session variables."""
        return self._request(StateUpdate(**self._fields(), session=variables))

    async def inject_state(self, state: str) -> Response:
        """Inject a state; return any answer about it."""
        request = self._request(StateUpdate(**self._fields(), next_step=state))
        return await self._send(request, refusable=True)

    async def inject_context(self, context: Mapping[str, Any]) -> Response:
        """Inject a context that the server sent before, with any names and values."""
        request = self.write_request({"probe_kept": 0})
        body = json.loads(request.content) | {"context": context}
        request.content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return await self._send(request, refusable=True)

    async def reset(self, what: Literal["context", "state"]) -> Response:
        """Reset the context or the state; return any answer about it."""
        target = self.target
        request = target.api.reset(target.base_url, target.session_id, what, target.user_id)
        return await self._send(request, refusable=True)

    def _fields(self) -> dict[str, Any]:
        fields = {"dialog_id": self.target.session_id}
        if self.target.user_id is not None and not self.is_runtime:
            fields["user_id"] = self.target.user_id
        return fields

    def _request(self, update: StateUpdate) -> Request:
        self.target.api.check(update)
        key = f"probe-{secrets.token_hex(8)}"
        return self.target.api.writes(self.target.base_url, update, key)[0]

    async def _send(self, request: Request, *, refusable: bool = False) -> Response:
        """Send a request; raise `UpdateError` if it failed, or was refused and may not be."""
        response = await self._exchange(request)
        if _is_success(response) or (refusable and response.status not in FAILURES):
            return response
        raise self._error(request, response)

    async def _exchange(self, request: Request) -> Response:
        token = await self._provider.get_token()
        request.headers[token.header] = token.value
        return await self._transport.send(request, timeout=TIMEOUT)

    def _error(self, request: Request, response: Response) -> Exception:
        error = self.target.api.error(request, response, self._transport.wall_clock())
        error.dialog_id = self.target.session_id
        return error


def _is_success(response: Response) -> bool:
    return 200 <= response.status < 300
