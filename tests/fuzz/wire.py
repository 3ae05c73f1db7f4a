"""Mutated answers of a server, over each transport."""

from __future__ import annotations

import gzip
import random
from contextlib import ExitStack
from typing import Self

import anyio
from anyio.from_thread import start_blocking_portal

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    CognigyError,
    NotSentError,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    RetryPolicy,
    Transport,
)
from tests.integration.transport_cases import CASES, backend_of, name_of, opened
from tests.integration.transport_servers import Connection, Server, serving

from .mutations import mutate

KINDS = tuple(map(name_of, CASES))

TIMEOUT = 0.15
"""Seconds for one request; most answers end with their connection."""

STATE = b'{"session": {"a": 1, "b": [true, null]}, "context": {}}'
TOKEN = b'{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600, "scope": "a b"}'
PROBLEM = b'{"type": "about:blank", "title": "No", "status": 400, "detail": "session.a", "code": 7}'


def answer(status: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Type: application/json", *fields]
    if b"Transfer-Encoding: chunked" in fields:
        body = b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    elif not status.startswith(b"204"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


ANSWERS = (
    answer(b"200 OK", b"{}", b'ETag: "7"'),
    answer(b"200 OK", STATE, b'ETag: W/"7"', b"Date: Mon, 02 Mar 2026 10:00:00 GMT"),
    answer(b"200 OK", gzip.compress(STATE), b"Content-Encoding: gzip"),
    answer(b"200 OK", STATE, b"Transfer-Encoding: chunked"),
    answer(b"204 No Content"),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(b"200 OK", b"{}"),
    answer(b"400 Bad Request", PROBLEM),
    answer(b"401 Unauthorized", PROBLEM, b"WWW-Authenticate: Bearer"),
    answer(b"404 Not Found", b"<html>nothing here</html>"),
    answer(b"409 Conflict", PROBLEM, b'ETag: "8"'),
    answer(b"412 Precondition Failed"),
    answer(b"429 Too Many Requests", b"", b"Retry-After: 2", b"RateLimit-Reset: 2"),
    answer(b"302 Found", b"", b"Location: /elsewhere"),
    answer(b"503 Service Unavailable", b"away", b"Retry-After: Mon, 02 Mar 2026 10:00:00 GMT"),
)
TOKENS = (answer(b"200 OK", TOKEN), answer(b"400 Bad Request", b'{"error": "invalid_client"}'))
CLEAN = "/clean"


class KeptOpen:
    """A transport that outlives the clients that use it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, request: Request, *, timeout: float) -> Response:
        return await self._transport.send(request, timeout=timeout)

    async def aclose(self) -> None:
        pass


class Answers:
    """Sends a request, which gets a mutated answer, and then one that must get its own answer."""

    def __init__(self, name: str) -> None:
        [self._case] = [case for case in CASES if name_of(case) == name]
        self._answer = b""
        self._keeps = False
        self._number = 0
        self._arrived = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        backend, options = backend_of(self._case)
        self._portal = self._stack.enter_context(start_blocking_portal(backend, options))
        enter = self._portal.wrap_async_context_manager
        self._server = self._stack.enter_context(enter(serving(self._talk)))
        self._transport = KeptOpen(self._stack.enter_context(enter(opened(self._case))))
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        kind = chance.choice(("update", "modify", "get_state", "token"))
        base = chance.choice(TOKENS if kind == "token" else ANSWERS)
        self._answer = mutate(base, chance)
        self._keeps = chance.random() < 0.2
        return self._portal.call(self._try, kind)

    async def _try(self, kind: str) -> str:
        arrived, failure = self._arrived, None
        try:
            await self._send(kind)
        except CognigyError as error:
            failure = error
        if kind == "update" and isinstance(failure, NotSentError):
            assert self._arrived == arrived, "it was sent"
        outcome = "done" if failure is None else type(failure).__name__
        self._number += 1
        request = Request("GET", f"{self._server.url}{CLEAN}", {"number": str(self._number)})
        response = await self._transport.send(request, timeout=5)
        assert response.content == b"%d" % self._number, "this is the answer of another request"
        return f"{kind}: {outcome}"

    async def _send(self, kind: str) -> None:
        url = self._server.url
        if kind == "token":
            config = OAuthConfig(token_url=f"{url}/token", client_id="me", client_secret="c4nary")
            auth = OAuthTokenProvider(config, transport=self._transport)
            try:
                with anyio.fail_after(TIMEOUT):
                    await auth.get_token()
            except TimeoutError:
                pass
            finally:
                await auth.aclose()
            return
        client = AsyncStateClient(
            url,
            auth=ApiKey("c4nary"),
            transport=self._transport,
            timeout=TIMEOUT,
            retry=RetryPolicy(max_attempts=1),
        )
        async with client:
            if kind == "update":
                await client.update("d-1", session={"a": 1}, deadline=TIMEOUT)
            elif kind == "modify":
                await client.modify("d-1", lambda state: {"session": {"a": 2}}, deadline=TIMEOUT)
            else:
                await client.get_state("d-1", deadline=TIMEOUT)

    async def _talk(self, connection: Connection, server: Server) -> None:
        while request := await connection.request():
            if CLEAN.encode() not in request.partition(b"\r\n")[0]:
                self._arrived += 1
                await connection.send(self._answer)
                if not self._keeps:
                    return
                continue
            [line] = [line for line in request.split(b"\r\n") if line.lower().startswith(b"number")]
            await connection.send(answer(b"200 OK", line.partition(b":")[2].strip()))
