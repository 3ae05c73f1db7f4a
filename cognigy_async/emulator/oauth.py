"""The token endpoint: ``POST /oauth/token`` with client credentials."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from .answers import Answer, Header, answer_json
from .asgi import Request
from .faults import FaultSource
from .tokens import TokenError, Tokens
from .watch import Watch

NO_STORE: Header = (b"cache-control", b"no-store")
LARGEST_FORM = 64 * 1024


class TokenEndpoint:
    """Answers token requests, with the latency and the failures of `Faults`."""

    def __init__(self, tokens: Tokens, faults: FaultSource, watch: Watch) -> None:
        self._tokens = tokens
        self._faults = faults
        self._watch = watch

    async def handle(self, request: Request) -> None:
        """Answer one request."""
        content = await request.read(LARGEST_FORM)
        arrival = self._watch.token_request_arrives(request.connection)
        try:
            fails = self._faults.of_token()
            if self._faults.faults.token_latency:
                await anyio.sleep(self._faults.faults.token_latency)
            elif request.connection is None:
                await anyio.lowlevel.checkpoint()
            answer = self._failed() if fails else self._answer(request, content)
        finally:
            self._watch.token_request_leaves(arrival)
        self._watch.stats.token_answers[answer.status] += 1
        await request.answer(answer)

    def _failed(self) -> Answer:
        self._watch.stats.faults["token_failure"] += 1
        return answer_json(500, {"error": "server_error"}, NO_STORE)

    def _answer(self, request: Request, content: bytes | None) -> Answer:
        try:
            if request.method != "POST":
                raise TokenError(405, "invalid_request", "a token is asked for by POST")
            if content is None:
                raise TokenError(413, "invalid_request", "the form is too large")
            token = self._tokens.issue(request.headers, content, anyio.current_time())
        except TokenError as error:
            headers: list[Header] = [NO_STORE]
            if error.status == 401:
                headers.append((b"www-authenticate", b'Basic realm="emulator"'))
            if error.status == 405:
                headers.append((b"allow", b"POST"))
            body = {"error": error.error, "error_description": error.description}
            return answer_json(error.status, body, *headers)
        self._watch.stats.tokens_issued += 1
        lifetime = self._tokens.lifetime
        return answer_json(
            200,
            {
                "access_token": token.text,
                "token_type": "Bearer",
                "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
                "scope": " ".join(token.scopes),
            },
            NO_STORE,
        )
