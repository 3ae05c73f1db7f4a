"""A token endpoint as a `Transport` that records its requests, and helpers for callers."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from cognigy_async import (
    AuthenticationError,
    ClientClosedError,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    TokenProvider,
)

CLIENT_ID = "acme client"
SECRET = "c4nary/+ s3cret%"

Answer = Response | BaseException


def config(**changes: Any) -> OAuthConfig:
    given: dict[str, Any] = {
        "token_url": "https://api.cognigy.test/oauth/token",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
        "scopes": ["runtime:write", "session:manage", "dialog:read"],
    }
    return OAuthConfig(**given | changes)


def answer(status: int = 200, headers: Any = None, **body: Any) -> Response:
    return Response(status, headers or {}, json.dumps(body).encode())


def token(name: str, **body: Any) -> Response:
    reply = {"access_token": name, "token_type": "Bearer", "expires_in": 3600} | body
    return answer(200, None, **reply)


class Endpoint:
    """Respond from a script, then with tokens `t1`, `t2`, ... that live `lifetime` seconds.

    Args:
        script: one response for each request; an exception is raised.
        takes: seconds for one request.
        teardown: seconds that a cancelled request needs to end.

    Attributes:
        requests, times: the requests, and the time of each.
        under_way: requests in progress; `peak` is their highest number.
    """

    def __init__(
        self,
        *script: Answer,
        takes: float = 0.0,
        teardown: float = 0.0,
        lifetime: float = 3600,
        keeps_time: bool = True,
    ) -> None:
        self.script = list(script)
        self.takes = takes
        self.teardown = teardown
        self.lifetime = lifetime
        self.keeps_time = keeps_time
        self.requests: list[Request] = []
        self.times: list[float] = []
        self.timeouts: list[float] = []
        self.peak = 0
        self.under_way = 0
        self.issued = 0
        self.closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        self.timeouts.append(timeout)
        reply = self.script.pop(0) if self.script else None
        with self._busy():
            try:
                await anyio.sleep(self.takes)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(self.teardown)
                raise
        if isinstance(reply, BaseException):
            raise reply
        if reply is None:
            self.issued += 1
            reply = token(f"t{self.issued}", expires_in=self.lifetime)
        return reply

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1


def provider(
    endpoint: Endpoint,
    *,
    timeout: float = 10.0,
    clock: Callable[[], float] = anyio.current_time,
    **changes: Any,
) -> OAuthTokenProvider:
    return OAuthTokenProvider(config(**changes), transport=endpoint, timeout=timeout, clock=clock)


def form_of(request: Request) -> dict[str, str]:
    """Return the form fields of a request, decoded."""
    fields = parse_qs(request.content.decode(), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in fields.values())
    return {name: value for name, (value,) in fields.items()}


def basic_of(request: Request) -> tuple[str, str]:
    """Return id and secret of the Authorization header (RFC 6749, section 2.3.1)."""
    scheme, _, encoded = request.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    client_id, _, secret = base64.b64decode(encoded).decode("ascii").partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def all_text_of(error: BaseException) -> str:
    """Return all text of an exception and its causes, attributes included."""
    texts, found, seen = [], [error], set[int]()
    while found:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        found += [e for e in (one.__cause__, one.__context__) if e is not None]
    return "\n".join(texts)


class TokenServer:
    """A token endpoint on a socket, for providers that open their own transports.

    Attributes:
        url: where it listens.
    """

    def __init__(self, *, takes: float, lifetime: float) -> None:
        numbers = itertools.count(1)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                # A cancelled client has closed the connection.
                with suppress(ConnectionError):
                    self.rfile.read(int(self.headers["Content-Length"]))
                    time.sleep(takes)
                    body = token(f"t{next(numbers)}", expires_in=lifetime).content
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/oauth/token"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


EVERY_FORM_OF_THE_SECRET = (
    SECRET,
    "c4nary%2F%2B+s3cret%25",
    "c4nary/%2B%20s3cret%25",
    "YWNtZStjbGllbnQ6YzRuYXJ5JTJGJTJCK3MzY3JldCUyNQ==",
)


class Caller:
    """A task that gets a token and can be cancelled."""

    def __init__(self, group: TaskGroup, tokens: TokenProvider) -> None:
        self.scope = anyio.CancelScope()
        self.value: str | None = None
        self.error: AuthenticationError | None = None
        self.at: float | None = None
        group.start_soon(self._ask, tokens)

    async def _ask(self, tokens: TokenProvider) -> None:
        with self.scope:
            try:
                self.value = (await tokens.get_token()).value
            except AuthenticationError as error:
                self.error = error
            self.at = anyio.current_time()


async def value_of(tokens: TokenProvider) -> str:
    return (await tokens.get_token()).value


async def failure_of(tokens: TokenProvider) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        await tokens.get_token()
    return caught.value


async def tokens_are_closed(tokens: TokenProvider) -> None:
    with pytest.raises(ClientClosedError):
        await tokens.get_token()
