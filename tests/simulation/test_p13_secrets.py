"""P13: no token, secret, key or variable in anything that is printed, logged or raised."""

from __future__ import annotations

import base64
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    CognigyError,
    DeadLetter,
    Endpoint,
    HttpxTransport,
    Limits,
    MemoryAudit,
    NotSentError,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    StateUpdate,
    UpdateEvent,
    UpdateOutcome,
)
from cognigy_async.emulator import Emulator
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
    Wire,
    at_once,
    never,
    outcome_of,
    state,
    throttled,
    turns,
)

CLIENT_SECRET = "canary-client-secret/+%"
API_KEY = "canary-api-key-123"
TOKEN = "canary-access-token-456"
URL_TOKEN = "canary-url-token-789"
BASIC = base64.b64encode(f"client:{quote(CLIENT_SECRET, safe='')}".encode()).decode()
SECRETS = [CLIENT_SECRET, quote(CLIENT_SECRET, safe=""), API_KEY, TOKEN, BASIC, URL_TOKEN]

VALUES: dict[str, Any] = {
    "text": "canary-value-of-a-text",
    "number": 8765432198765,
    "decimal": 31415.92653,
    "inner": {"name": "canary-value-inside", "list": ["canary-value-in-a-list", 5566778899]},
    "long": "canary-long-" + "x" * 500,
}
SHOWN = [
    "canary-value-of-a-text",
    "8765432198765",
    "31415.92653",
    "canary-value-inside",
    "canary-value-in-a-list",
    "5566778899",
    "canary-long-",
]
FORBIDDEN = [*SECRETS, *SHOWN]


def check(text: str, where: str) -> None:
    found = [canary for canary in FORBIDDEN if canary in text]
    assert not found, f"{found} in {where}: {text[:300]}"


def parts_of(thing: object, seen: set[int]) -> Iterator[str]:
    """Every text that can be reached from an exception without going through its traceback."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, bytes):
        yield thing.decode("latin-1")
    elif isinstance(thing, int | float):
        yield str(thing)
    elif isinstance(thing, Mapping):
        for key, value in list(thing.items()):
            yield from parts_of(key, seen)
            yield from parts_of(value, seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for item in thing:
            yield from parts_of(item, seen)
    elif isinstance(thing, TracebackType | type) or thing is None:
        return
    else:
        yield repr(thing)
        yield str(thing)
        if isinstance(thing, BaseException):
            yield from parts_of(thing.args, seen)
            yield from parts_of(thing.__cause__, seen)
            # Hidden by `from None`, and there all the same for whoever looks.
            yield from parts_of(thing.__context__, seen)
            yield from parts_of(getattr(thing, "__notes__", ()), seen)
            yield from parts_of(getattr(thing, "exceptions", ()), seen)
        yield from parts_of(getattr(thing, "__dict__", {}), seen)
        for kind in type(thing).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if not name.startswith("__"):
                    yield from parts_of(getattr(thing, name, None), seen)


def check_error(error: BaseException, where: str) -> None:
    for text in parts_of(error, set()):
        check(text, f"{type(error).__name__} of {where}")


STANDARD = vars(logging.makeLogRecord({})).keys()


class Journal(logging.Handler):
    """Every record of every logger of the library, with all that a formatter could print."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Kept for later: a handler that raises harms whoever logs.
        self.texts.append(logging.Formatter().format(record))
        self.texts += [f"{argument!r}" for argument in record.args or ()]
        extra = {name: value for name, value in vars(record).items() if name not in STANDARD}
        self.texts += parts_of(extra, set())

    def check(self) -> None:
        for text in self.texts:
            check(text, "the log")


@pytest.fixture
def journal() -> Iterator[Journal]:
    names = [name for name in logging.root.manager.loggerDict if name.startswith("cognigy_async")]
    loggers = [logging.getLogger(name) for name in {*names, "cognigy_async"}]
    handler = Journal()
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger("cognigy_async").addHandler(handler)
    yield handler
    logging.getLogger("cognigy_async").removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
    handler.check()


def echoing(number: int, **headers: str) -> Callable[[Request], Any]:
    """An answer that says back everything that it was told, in every member it could be in."""

    async def answer(request: Request) -> Response:
        told = request.content.decode()
        body = json.loads(told) if told else {}
        texts = [*request.headers.values(), request.url, told, *_leaves(body)]
        said = " and ".join(map(str, texts))
        content: dict[str, Any] = {
            "message": f"bad request: {said}",
            "detail": said,
            "error_description": said,
            "details": body,
            "version": 3,
        }
        credentials = request.headers.get("Authorization") or request.headers.get("X-API-Key")
        # A message has no credentials but the end of its URL.
        secret = (credentials or request.url.rpartition("/")[2]).split()[-1]
        more = {"etag": '"3"', "x-request-id": secret} | headers
        if body:
            # In turns, as the one goes before the other.
            content["traceId"] = texts[-1]
        return Response(number, more, json.dumps(content).encode())

    return answer


async def quoting_the_path(request: Request) -> Response:
    """Answer as many servers do for a path that they do not have."""
    path = request.url.partition("//")[2].partition("/")[2]
    content = {"message": f"Cannot {request.method} /{path}", "traceId": path.rpartition("/")[2]}
    return Response(404, {}, json.dumps(content).encode())


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]


async def _broken(request: Request) -> Response:
    raise RuntimeError(f"cannot send {request.headers} {request.content!r}")


FAULTS: dict[str, list[Reply]] = {
    "200": [echoing(200)],
    "nonsense": [Response(200, {}, json.dumps(VALUES).encode()[:80])],
    "400": [echoing(400)],
    "401": [echoing(401)] * 2,
    "403": [echoing(403)],
    "404": [echoing(404)],
    "404-path": [quoting_the_path],
    "409": [echoing(409)] * 2,
    "412": [echoing(412)] * 2,
    "413": [echoing(413)],
    "418": [echoing(418)],
    "429": [echoing(429, **{"retry-after": "1"})] * 2,
    "429-far": [echoing(429, **{"retry-after": "9999"})],
    "500": [echoing(500)] * 9,
    "502": [echoing(502)] * 9,
    "503": [echoing(503)] * 9,
    "302": [echoing(302, location=f"https://elsewhere.test/?token={TOKEN}")],
    "dropped": [DROPPED] * 9,
    "refused": [REFUSED] * 9,
    "silent": [never] * 9,
    "broken": [_broken] * 9,
    "throttled": [throttled("1")],
}


class Onlooker:
    """An observer that prints what it gets before the credentials of the API are there."""

    def accepted(self, operation: Any, dialog_id: str, update_id: str) -> Onlooker:
        return self

    def request_starts(self, request: Request, attempt: int) -> None:
        reprs(request, request.url)

    def request_ends(self, request: Request, response: Any, error: Any) -> None:
        reprs(request, request.url, response)

    def settled(self, error: Any, attempts: int) -> None:
        pass


class TokenWire:
    """A token endpoint that gives the canary."""

    def __init__(self, number: int = 200) -> None:
        self.number = number

    async def send(self, request: Request, *, timeout: float) -> Response:
        if self.number == 200:
            body = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
            return Response(200, {}, json.dumps(body).encode())
        if self.number == 0:
            raise NotSentError(f"failed to send {request.headers} {request.content!r}")
        said = f"bad {request.headers} {request.content!r}"
        content = {"error": said, "error_description": said}
        return Response(self.number, {}, json.dumps(content).encode())

    async def aclose(self) -> None:
        pass


def provider(number: int = 200, **changes: Any) -> OAuthTokenProvider:
    config = OAuthConfig(
        token_url="https://api.cognigy.test/oauth/token",
        client_id="client",
        client_secret=CLIENT_SECRET,
        **changes,
    )
    check(f"{config!r} {config}", "OAuthConfig")
    return OAuthTokenProvider(config, transport=TokenWire(number), clock=anyio.current_time)


def auths() -> dict[str, Callable[[], Any]]:
    return {"key": partial(ApiKey, API_KEY), "token": provider}


def reprs(*things: object) -> None:
    for thing in things:
        check(f"{thing!r} {thing}", f"the repr of {type(thing).__name__}")


@pytest.mark.parametrize("auth", ["key", "token"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_p13_secrets_stay_where_they_are_through_every_fault(
    fault: str, auth: str, journal: Journal
) -> None:
    wire = Wire(takes=0.1)
    audit = MemoryAudit()
    credentials = auths()[auth]()
    client = AsyncStateClient(
        "https://api.cognigy.test",
        auth=credentials,
        transport=wire,
        timeout=2,
        max_in_flight=2,
        retry=at_once(max_attempts=3),
        limits=Limits(safe_payload_bytes=2000),
        endpoint=Endpoint("https://endpoint.cognigy.test", URL_TOKEN),
        audit=audit,
    )
    client.add_observer(Onlooker())
    kept: list[Any] = []

    @client.on_state_updated(retries=0)
    @client.on_update_failed(retries=1)
    async def watch(event: UpdateEvent) -> None:
        reprs(event)
        kept.append(event)
        # A user's callback that says everything: only the user's own exception may hold it.
        raise LookupError("no such customer")

    errors: list[BaseException] = []
    async with client:
        reprs(client, credentials)

        async def meet(call: Callable[[], Any], *methods: str) -> None:
            for method in methods:
                wire.script(*FAULTS[fault], method=method)
            outcome = await outcome_of(call())
            if isinstance(outcome, BaseException):
                errors.append(outcome)
                assert isinstance(outcome, CognigyError)
            reprs(outcome, client, client.metrics, client.metrics.snapshot())
            # What was not met is not for the next one.
            wire._scripts.clear()

        write = partial(client.update, "d", session=VALUES, user={"mail": VALUES["text"]})
        await meet(write, "PATCH")
        await meet(partial(write, next_step="s"), "PATCH")
        await meet(partial(write, if_match='"1"'), "PATCH", "GET")
        await meet(partial(client.modify, "d", lambda _: {"session": VALUES}), "PATCH")
        await meet(partial(client.modify, "d", lambda _: {"session": VALUES}), "GET")
        await meet(partial(client.get_state, "d"), "GET")
        big = {f"v{number}": "canary-long-" + "y" * 900 for number in range(4)}
        await meet(partial(client.update, "d", session=big), "PATCH")
        message = {"text": VALUES["text"], "data": VALUES, "user_id": "u"}
        await meet(partial(client.inject, "d", **message), "PATCH")
        files = [{"url": "canary-value-inside"}]
        await meet(partial(client.notify, "d", attachments=files, **message), "PATCH")
        handle = client.submit_nowait({"dialog_id": "d", "session": VALUES})
        reprs(handle, await outcome_of(handle))
        wire.script(*FAULTS[fault])
        stream = client.update_many([{"dialog_id": "d", "session": VALUES}])
        reprs(stream)
        async for outcome in stream:
            assert isinstance(outcome, UpdateOutcome)
            reprs(outcome)
            if outcome.error is not None:
                errors.append(outcome.error)
        wire._scripts.clear()
        # In flight, between attempts and unsent at the close.
        wire.answers(never)
        for number in range(4):
            client.submit_nowait({"dialog_id": f"e-{number}", "session": VALUES})
            row = {"dialog_id": f"f-{number}", "inject": {"data": VALUES}, "user_id": "u"}
            client.submit_nowait(row)
        await turns(20)
        reprs(
            client._lifecycle.engine.queues, client._hooks, client._lifecycle.engine.pending_limit
        )
        report = await client.aclose(drain=False, timeout=0.5)
        reprs(report, client)
    for error in errors:
        # The transport that breaks the protocol quotes the request in an exception of its own,
        # which is not the library's to change; it is there as a cause for whoever asks.
        if fault == "broken":
            reprs(error)
        else:
            check_error(error, fault)
    for record in audit.records:
        check(str(record.fields()), "an audit record")
    assert kept
    assert len(audit.records) > 10
    assert len(journal.texts) > 5


@pytest.mark.parametrize("number", [0, 200, 302, 400, 401, 429, 500, 503])
@pytest.mark.parametrize("client_auth", ["basic", "post"])
async def test_p13_secrets_of_a_token_request(
    number: int, client_auth: Any, journal: Journal
) -> None:
    credentials = provider(number, client_auth=client_auth)
    wire = Wire()
    client = AsyncStateClient(
        "https://api.cognigy.test", auth=credentials, transport=wire, retry=at_once(max_attempts=2)
    )
    async with client:
        outcome = await outcome_of(client.update("d", session=VALUES))
        reprs(credentials, credentials.statistics(), outcome, client)
        if number != 200:
            assert isinstance(outcome, CognigyError)
            check_error(outcome, f"a token request answered {number}")
        else:
            token = await credentials.get_token()
            reprs(token)
            assert TOKEN in token.value
    for sent in wire.sent:
        # The one place where it belongs.
        assert TOKEN in sent.headers["Authorization"]


BAD: list[tuple[str, Any]] = [
    ("not JSON", {"session": {"text": {"canary-value-inside"}}}),
    ("NaN", {"session": {"inner": {"canary": float("nan"), "name": "canary-value-inside"}}}),
    ("too deep", {"session": {"a": [[[["canary-value-inside"]]]]}}),
    ("bad name", {"session": {"1a": "canary-value-inside"}}),
    ("no mapping", {"session": ["canary-value-inside"]}),
    ("unknown part", {"session": {"a": 1}, "canary": "canary-value-inside"}),
    ("wrong step", {"session": {"a": "canary-value-inside"}, "next_step": 5566778899}),
    ("wrong etag", {"session": {"a": "canary-value-inside"}, "if_match": "canary-value-inside\n"}),
    ("too large", {"session": {"a": "canary-long-" + "x" * 3_000_000}}),
    ("too large a number", {"session": {"a": 87654321987654321}}),
    ("surrogate", {"session": {"a": "canary-value-inside\ud800"}}),
]


@pytest.mark.parametrize(("name", "fields"), BAD, ids=[name for name, _ in BAD])
async def test_p13_secrets_values_of_refused_input(
    name: str, fields: dict[str, Any], journal: Journal
) -> None:
    async with AsyncStateClient("https://a.test", auth=ApiKey(API_KEY), transport=Wire()) as client:
        made: list[Callable[[], Any]] = [
            lambda: StateUpdate(dialog_id="d", **fields),
            lambda: client.submit_nowait({"dialog_id": "d", **fields}),
        ]
        for make in made:
            # An unknown keyword is Python's own to refuse.
            with pytest.raises((CognigyError, TypeError)) as caught:
                make()
            check_error(caught.value, name)
        (outcome,) = [one async for one in client.update_many([{"dialog_id": "d", **fields}])]
        assert outcome.error is not None
        check_error(outcome.error, name)
        reprs(outcome)
        modified = await outcome_of(client.modify("d", lambda _: fields))
        assert isinstance(modified, CognigyError)
        check_error(modified, name)


async def test_p13_secrets_the_repr_of_an_update_is_the_one_exception() -> None:
    update = StateUpdate(dialog_id="d", session=VALUES)
    assert "canary-value-of-a-text" in repr(update)
    async with AsyncStateClient("https://a.test", auth=ApiKey(API_KEY), transport=Wire()) as client:
        result = await (await client.submit(update))
        reprs(result, await client.get_state("d"))


async def test_p13_secrets_of_a_dead_letter(journal: Journal) -> None:
    letters: list[DeadLetter] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    wire = Wire()
    async with AsyncStateClient("https://a.test", auth=ApiKey(API_KEY), transport=wire) as client:

        @client.on_state_updated(retries=1, on_dead_letter=bury)
        async def broken(event: UpdateEvent) -> None:
            # Its message is the user's own; the library neither prints nor logs it.
            raise ValueError(f"cannot store {event.payload}")

        await client.update("d", session=VALUES)
        await client.flush()
    assert len(letters) == 1
    check(str(letters[0].error), "a dead letter's error")
    assert len(journal.texts) > 2


async def test_p13_secrets_of_a_redirect_are_not_sent_anywhere() -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.test/"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=True)
    transport = HttpxTransport(http)
    client = AsyncStateClient("https://a.test", auth=ApiKey(API_KEY), transport=transport)
    async with http, client:
        for call in (partial(client.update, "d", session=VALUES), partial(client.get_state, "d")):
            assert "redirect" in str(await outcome_of(call()))
    assert hosts == ["a.test", "a.test"]


@pytest.mark.parametrize("raised", [httpx.ConnectError, httpx.ReadError, httpx.LocalProtocolError])
async def test_p13_secrets_of_what_the_http_library_raises(
    raised: type[httpx.TransportError], journal: Journal
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise raised(f"failed: {request.headers.raw} {request.content!r}", request=request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncStateClient(
        "https://a.test",
        auth=ApiKey(API_KEY),
        transport=HttpxTransport(http),
        retry=at_once(max_attempts=2),
    )
    async with http, client:
        error = await outcome_of(client.update("d", session=VALUES))
        assert isinstance(error, CognigyError)
        check_error(error, raised.__name__)


async def test_p13_secrets_are_not_in_the_log_of_the_http_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200 if len(paths) > 1 else 503)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncStateClient(
        "https://a.test",
        auth=ApiKey(API_KEY),
        transport=HttpxTransport(http),
        retry=at_once(),
        endpoint=Endpoint("https://endpoint.test", URL_TOKEN),
    )
    async with http, client:
        await client.inject("d", text="x", user_id="u")
    # The one place where it belongs.
    assert paths == [f"/inject/{URL_TOKEN}"] * 2
    assert "https://endpoint.test/inject/REDACTED" in caplog.text
    check(caplog.text, "the log of httpx")


async def test_p13_secrets_are_not_in_urls() -> None:
    wire = Wire()
    urls: list[str] = []

    async def note(request: Request) -> Response:
        urls.append(request.url)
        reprs(request)
        answer = state(1)
        reprs(answer)
        return answer

    wire.answers(note)
    for make in auths().values():
        client = AsyncStateClient("https://a.test", auth=make(), transport=wire)
        async with client:
            await client.update("d", session=VALUES)
            await client.get_state("d")
    assert len(urls) == 4
    check(" ".join(urls), "a URL")


def contents(thing: object, seen: dict[int, object]) -> Iterator[object]:
    """Yield an object and all that `vars` of it and of our objects in it show."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    yield thing
    inside: list[object] = []
    if type(thing).__module__.startswith("cognigy_async"):
        inside += getattr(thing, "__dict__", {}).values()
    if isinstance(thing, Mapping):
        inside += [*thing, *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        inside += thing
    for each in inside:
        yield from contents(each, seen)


async def test_p13_secrets_are_not_in_the_vars_of_public_objects() -> None:
    # Nothing in it is escaped in a pattern.
    secret = "canaryofvars"
    emulator = Emulator(api_key=API_KEY, client_secret=secret, url_token=secret)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator))
    oauth = OAuthTokenProvider(
        OAuthConfig(
            token_url="https://a.test/oauth/token",
            client_id="emulator-client",
            client_secret=secret,
        ),
        transport=HttpxTransport(http),
    )
    async with http:
        for auth in (ApiKey(API_KEY), oauth):
            transport = HttpxTransport(http)
            endpoint = Endpoint("https://a.test", secret)
            client = AsyncStateClient(
                "https://a.test", auth=auth, transport=transport, endpoint=endpoint
            )
            async with client:
                await client.update("d", session={"a": 1})
                await client.inject("d", text="x", user_id="u")
                found = list(contents([client, auth, emulator], {}))
                assert len(found) > 100
                token = (await auth.get_token()).value.removeprefix("Bearer ")
            for thing in found:
                text = repr(thing)
                check(text, f"the vars of a {type(auth).__name__} and its client")
                assert secret not in text
                assert token not in text
        await oauth.aclose()


def test_p13_secrets_of_a_configuration_that_is_refused() -> None:
    for build in (
        lambda: ApiKey(f"{API_KEY}\n"),
        lambda: ApiKey(API_KEY, header="bad header"),
        lambda: OAuthConfig(token_url="nonsense", client_id="c", client_secret=CLIENT_SECRET),
        lambda: OAuthConfig(
            token_url="https://a.test/t", client_id="c", client_secret=f"{CLIENT_SECRET}\n"
        ),
        lambda: AsyncStateClient(f"https://user:{API_KEY}@a.test", auth=ApiKey(API_KEY)),
        lambda: AsyncStateClient(f"https://a.test?key={API_KEY}", auth=ApiKey(API_KEY)),
        lambda: AsyncStateClient("https://a.test", auth=API_KEY),  # type: ignore[arg-type]
        lambda: Endpoint(f"https://a.test/{URL_TOKEN}", URL_TOKEN),
        lambda: Endpoint("https://a.test", f"{URL_TOKEN}/"),
    ):
        with pytest.raises(CognigyError) as caught:
            build()
        check_error(caught.value, "a configuration")


def test_p13_secrets_canaries_would_be_noticed() -> None:
    """The check itself: it finds what it is for, wherever it hides."""
    hidden = ValueError("fine")
    hidden.__context__ = LookupError({"deep": [b"x canary-access-token-456 y"]})
    with pytest.raises(AssertionError):
        check_error(hidden, "a test")
    noted = ValueError()
    noted.add_note("canary-value-inside")
    with pytest.raises(AssertionError):
        check_error(noted, "a test")
    with pytest.raises(AssertionError):
        reprs(SHOWN)
