"""A client and the server it talks to, in one process: the emulator, or a wire that is scripted."""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import httpx
import pytest
from tenacity import wait_fixed, wait_none

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    Endpoint,
    HttpxTransport,
    NoResponseError,
    NotSentError,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
    SessionsApi,
    StateApi,
)
from cognigy_async.emulator import Emulator, HistoryEntry, Rules, Throttling

BASE_URL = "http://127.0.0.1"
KEY = "the-key"
URL_TOKEN = "the-url-token"

T = TypeVar("T")

APIS: Mapping[str, Callable[[], StateApi]] = {
    "runtime": RuntimeApi,
    "sessions": lambda: SessionsApi(user_id="u-1", reads_state=True),
}


class Spoken:
    """The API that clients speak for which a test names none; see `each_api` in conftest.py."""

    api: Callable[[], StateApi] = RuntimeApi


def on_each_api(test: T) -> T:
    """Run a test whichever API is spoken; quickly with each API and each event loop once."""
    quick = pytest.mark.quick("runtime-asyncio*", "sessions-trio*")
    marked: T = pytest.mark.usefixtures("each_api")(quick(test))
    return marked


def emulator(**options: Any) -> Emulator:
    """Return an emulator that accepts `KEY`; options may be fields of its rules and throttling."""
    for name, config in (("rules", Rules), ("throttling", Throttling)):
        names = {field.name for field in fields(config)} & options.keys()
        options[name] = config(**{field: options.pop(field) for field in names})
    return Emulator(**{"api_key": KEY, "url_token": URL_TOKEN} | options)


def transport_to(server: Emulator) -> HttpxTransport:
    """In the process, and so in virtual time."""
    return HttpxTransport(httpx.AsyncClient(transport=httpx.ASGITransport(app=server)))


def client_of(server: Emulator | Wire, **options: Any) -> AsyncStateClient:
    """A client that is not yet open."""
    transport = server if isinstance(server, Wire) else transport_to(server)
    given: dict[str, Any] = {"auth": ApiKey(KEY), "transport": transport, "api": Spoken.api()}
    given["endpoint"] = Endpoint(BASE_URL, URL_TOKEN)
    return AsyncStateClient(BASE_URL, **given | options)


def oauth(server: Emulator, **changes: Any) -> OAuthTokenProvider:
    """Tokens of the emulator, which expire by the clock of the event loop, as on its side."""
    config: dict[str, Any] = {
        "token_url": f"{BASE_URL}/oauth/token",
        "client_id": "emulator-client",
        "client_secret": "emulator-secret",
        "scopes": ["runtime:write", "session:manage", "dialog:read"],
    }
    return OAuthTokenProvider(
        OAuthConfig(**config | changes), transport=transport_to(server), clock=anyio.current_time
    )


def at_once(**options: Any) -> RetryPolicy:
    """Repeats without a pause, so that everything happens without a timer."""
    return RetryPolicy(**{"wait": wait_none()} | options)


def every(seconds: float, **options: Any) -> RetryPolicy:
    """Repeats after so many seconds, always."""
    return RetryPolicy(**{"wait": wait_fixed(seconds)} | options)


def applied(server: Emulator, dialog_id: str) -> list[HistoryEntry]:
    """What clients wrote to a dialog, in order."""
    dialog = server.dialogs.get(dialog_id)
    return [item for item in dialog.history if not item.competitor] if dialog else []


def seqs(server: Emulator, dialog_id: str) -> list[int | None]:
    """The sequence numbers that were applied, in order."""
    return [item.seq for item in applied(server, dialog_id)]


# A scripted transport.

MESSAGE_IN = re.compile(r".*/(inject|notify)/[^/]+").fullmatch
DIALOG_IN = re.compile(r".*/(?:dialogs|sessions|profiles)/([^/]+)").match

Reply: TypeAlias = "int | Response | Exception | Callable[[Request], Awaitable[Response]]"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, as it came to the wire at the moment `at`."""

    at: float
    method: str
    dialog_id: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    url: str = ""

    @property
    def message(self) -> str | None:
        """``inject`` or ``notify``; None for anything else."""
        found = MESSAGE_IN(self.url)
        return None if found is None else found[1]

    @property
    def key(self) -> str | None:
        """Its `Idempotency-Key`."""
        return self.headers.get("idempotency-key")

    @property
    def seq(self) -> Any:
        """The session variable `seq` of a write, or `seq` in the data of a message."""
        return self.session.get("seq", self.body.get("data", {}).get("seq"))

    @property
    def session(self) -> dict[str, Any]:
        """The session variables of a write, as either API carries them."""
        session: dict[str, Any] = self.body.get("session") or self.body.get("context") or {}
        return session

    @property
    def moves(self) -> bool:
        """Whether it is a write that moves the dialog."""
        return "transition" in self.body or "state" in self.body


class Wire:
    """A `Transport` without a network. Without a script, every request succeeds.

    Args:
        takes: seconds for one request.
        steps: turns of the event loop before the server has the request, and as many after.
        answer: what a request gets for which nothing is scripted.

    Attributes:
        sent: every request, in order.
        applied: those that were answered 2xx and are writes.
        peak: most requests at one time.
    """

    def __init__(self, *, takes: float = 0.0, steps: int = 1, answer: Reply | None = None) -> None:
        self._takes = takes
        self._steps = steps
        self._answer = answer
        self._scripts: dict[tuple[str, str | None], deque[Reply]] = {}
        self.sent: list[Sent] = []
        self.applied: list[Sent] = []
        self.versions: dict[str, int] = {}
        self.in_flight = 0
        self.peak = 0
        self.torn_down = 0
        self.closed = 0

    def script(self, *replies: Reply, dialog_id: str | None = None, method: str = "PATCH") -> None:
        """What the next requests get, those of a dialog or of any; PATCH stands for every write."""
        self._scripts.setdefault((method, dialog_id), deque()).extend(replies)

    def forget(self) -> None:
        """What was scripted is not answered any more."""
        self._scripts.clear()

    def answers(self, reply: Reply | None) -> None:
        """What everything gets from now on for which nothing is scripted; None for success."""
        self._answer = reply

    def writes(self, dialog_id: str | None = None) -> list[Sent]:
        """PATCH or POST, all or those of a dialog."""
        return [
            sent
            for sent in self.sent
            if sent.method != "GET" and dialog_id in (None, sent.dialog_id)
        ]

    async def send(self, request: Request, *, timeout: float) -> Response:
        """As the protocol says."""
        body = json.loads(request.content) if request.content else {}
        if MESSAGE_IN(request.url):
            dialog_id = body["sessionId"]
        else:
            dialog_id = unquote(DIALOG_IN(request.url)[1])  # type: ignore[index]
        at, headers = anyio.current_time(), dict(request.headers)
        sent = Sent(at, request.method, dialog_id, headers, body, request.url)
        self.sent.append(sent)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            with anyio.move_on_after(timeout):
                return await self._answered(request, sent)
            raise NoResponseError("no answer in time", timed_out=True)
        except anyio.get_cancelled_exc_class():
            self.torn_down += 1
            raise
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        """As the protocol says."""
        self.closed += 1

    async def _answered(self, request: Request, sent: Sent) -> Response:
        await self._travel()
        reply = self._next(sent)
        if callable(reply):
            response = await reply(request)
        elif isinstance(reply, Exception):
            # A fresh one each time: who raises one object twice mixes up its contexts.
            raise type(reply)(*reply.args)
        elif isinstance(reply, int):
            response = status(reply) if reply != 200 else self._succeed(sent)
        else:
            response = reply or self._succeed(sent)
        await self._travel()
        return response

    def _next(self, sent: Sent) -> Reply | None:
        for dialog_id in (sent.dialog_id, None):
            method = "GET" if sent.method == "GET" else "PATCH"
            replies = self._scripts.get((method, dialog_id))
            if replies:
                return replies.popleft()
        return self._answer

    def _succeed(self, sent: Sent) -> Response:
        version = self.versions.get(sent.dialog_id, 0)
        if sent.method != "GET":
            version += 1
            self.versions[sent.dialog_id] = version
            self.applied.append(sent)
        return state(version)

    async def _travel(self) -> None:
        if self._takes:
            await anyio.sleep(self._takes / 2)
        for _ in range(self._steps):
            await anyio.lowlevel.checkpoint()


def status(number: int, headers: Mapping[str, str] | None = None, **body: Any) -> Response:
    """An answer that is no success."""
    return Response(number, dict(headers or {}), json.dumps(body).encode())


def throttled(retry_after: str | None, *, dialog: bool = False) -> Response:
    """A 429 of the tenant, or of the dialog alone."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    if dialog:
        headers["x-ratelimit-scope"] = "dialog"
    return status(429, headers)


def state(version: int, **session: Any) -> Response:
    """A success: of a write, or of a read."""
    body = {"version": version, "session": session, "context": session, "user": {}}
    return Response(200, {"etag": f'"{version}"'}, json.dumps(body).encode())


async def never(_: Request) -> Response:
    """No answer, ever."""
    await anyio.sleep_forever()
    raise AssertionError("unreachable")


DROPPED = NoResponseError("the connection was closed")
REFUSED = NotSentError("no connection")


def named(reply: Reply) -> str:
    """For the name of a test."""
    if isinstance(reply, Response):
        return f"{reply.status}-{'-'.join(reply.headers.values())}"
    return type(reply).__name__ if isinstance(reply, Exception) else str(reply)


# Time.


async def turns(count: int) -> None:
    """Let the event loop turn, without letting time pass."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], object], most: int = 10_000) -> None:
    """Turn the event loop until something is so, which must need no time."""
    for _ in range(most):
        if condition():
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("it does not come about")


async def eventually(condition: Callable[[], object]) -> None:
    """Wait in real time until a thread or a socket has made something so."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def outcome_of(call: Awaitable[T]) -> T | Exception:
    """What it returns, or the exception that it raises."""
    try:
        return await call
    except Exception as error:
        return error


async def all_of(*calls: Callable[[], Awaitable[T]]) -> list[T | Exception]:
    """Call all at the same time: what each one returns, or raises."""
    outcomes: list[Any] = [None] * len(calls)

    async def one(index: int, call: Callable[[], Awaitable[T]]) -> None:
        outcomes[index] = await outcome_of(call())

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            tasks.start_soon(one, index, call)
    return outcomes


def shuffled(items: list[T], seed: int) -> Iterator[T]:
    """In an order that is the same in each run."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return iter(order)
