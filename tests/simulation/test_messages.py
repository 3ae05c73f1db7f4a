"""`inject` and `notify`: messages to the flow and to the user, in order with a dialog's writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AuthenticationError,
    BadRequestError,
    CognigyError,
    DialogNotFoundError,
    DialogPausedError,
    Endpoint,
    MemoryAudit,
    PermissionDeniedError,
    RateLimit,
    Request,
    RetryPolicy,
    RuntimeApi,
    ServerError,
    SessionsApi,
    StateUpdate,
    UnexpectedAnswerError,
    UnsupportedByApiError,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    BASE_URL,
    DROPPED,
    REFUSED,
    URL_TOKEN,
    Reply,
    Wire,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    named,
    never,
    oauth,
    on_each_api,
    outcome_of,
    seqs,
    status,
    throttled,
    until,
)

USER = {"user_id": "u-1"}


def targets(wire: Wire) -> list[str]:
    """Return what each request was: a message, or the method of another request."""
    return [sent.message or sent.method for sent in wire.sent]


@on_each_api
async def test_a_message_reaches_the_endpoint_and_nothing_else_does() -> None:
    server = emulator()
    async with client_of(server) as client:
        result = await client.inject("s/1 x", text="document ready", data={"pages": 3}, **USER)
        assert isinstance(result, UpdateResult)
        assert (result.status, result.attempts, result.etag, result.version) == (200, 1, None, None)
        files = [{"name": "invoice", "url": "https://files.example/1", "type": "file"}]
        await client.notify("s/1 x", text="Shipped.", attachments=files, **USER)
    assert server.dialogs["s/1 x"].messages == [
        {"kind": "inject", "userId": "u-1", "text": "document ready", "data": {"pages": 3}},
        {
            "kind": "notify",
            "userId": "u-1",
            "text": "Shipped.",
            "data": {},
            "attachments": files,
        },
    ]
    assert server.stats.violations() == {}


@pytest.mark.parametrize("auth", ["key", "token"])
async def test_the_url_token_is_the_only_credential_of_a_message(auth: str) -> None:
    wire = Wire()
    wire.script(503, 503)
    changes = {} if auth == "key" else {"auth": oauth(emulator())}
    endpoint = Endpoint("https://endpoint.example/base/", URL_TOKEN)
    async with client_of(wire, endpoint=endpoint, retry=at_once(), **changes) as client:
        await client.update("d", session={"a": 1}, inject={"text": "go"}, **USER)
    write, message = wire.applied
    assert targets(wire) == ["PATCH", "PATCH", "PATCH", "inject"]
    assert write.headers.keys() & {"Authorization", "X-API-Key"}
    assert message.url == f"https://endpoint.example/base/inject/{URL_TOKEN}"
    assert message.headers.keys() == {"accept", "content-type"}
    assert message.body == {"userId": "u-1", "sessionId": "d", "text": "go", "data": {}}
    assert write.body == {"session": {"a": 1}}


@on_each_api
async def test_a_message_has_its_place_among_the_writes() -> None:
    wire = Wire(takes=1)
    async with client_of(wire) as client:
        rows: list[dict[str, Any]] = [
            {"session": {"seq": 0}},
            {"inject": {"data": {"seq": 1}}},
            {"session": {"seq": 2}, "notify": {"data": {"seq": 3}}},
            {"notify": {"data": {"seq": 4}}},
            {"next_step": "s"},
            {"session": {"seq": 5}},
        ]
        owner = {} if isinstance(client.api, SessionsApi) else USER
        handles = []
        for row in rows:
            mine = owner if "inject" in row or "notify" in row else {}
            handles.append(client.submit_nowait({"dialog_id": "d", **row, **mine}))
        other = client.submit_nowait({"dialog_id": "e", "inject": {"text": "x"}, **USER})
        await until(lambda: len(wire.sent) == 2)
        for handle in [*handles, other]:
            await handle
    mine = [sent for sent in wire.sent if sent.dialog_id == "d"]
    assert [sent.seq for sent in mine] == [0, 1, 2, 3, 4, None, 5]
    # One at a time for a dialog, and both dialogs at once.
    assert all(two.at - one.at >= 1 for one, two in itertools.pairwise(mine))
    assert wire.peak == 2


def titled(reply: Reply) -> str:
    return "silent" if reply is never else named(reply)


FAILURES: list[Reply] = [503, REFUSED, throttled("30"), throttled("30", dialog=True)]


@on_each_api
@pytest.mark.parametrize("failure", FAILURES, ids=named)
async def test_nothing_overtakes_a_message_that_backs_off(failure: Reply) -> None:
    wire = Wire()
    wire.script(failure, failure, failure)
    async with client_of(wire, retry=every(10)) as client:
        first = client.submit_nowait({"dialog_id": "d", "inject": {"data": {"seq": 0}}, **USER})
        await until(lambda: wire.sent)
        second = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        await first
        await second
    assert [sent.seq for sent in wire.sent] == [0, 0, 0, 0, 1]


@on_each_api
@pytest.mark.parametrize("lost", [DROPPED, never, 500, 502, 504, 408], ids=titled)
@pytest.mark.parametrize("known", [True, False], ids=["version-known", "version-unknown"])
async def test_a_message_that_may_have_arrived_is_never_repeated(lost: Reply, known: bool) -> None:
    wire = Wire()
    async with client_of(wire, retry=at_once(), timeout=2) as client:
        if known:
            await client.update("d", session={"a": 1})
        wire.script(503, lost)
        outcome = await outcome_of(client.inject("d", text="hello", **USER))
        assert isinstance(outcome, AmbiguousUpdateError)
        assert (outcome.dialog_id, outcome.attempts) == ("d", 2)
        await client.update("d", session={"a": 2})
    assert targets(wire).count("inject") == 2
    assert not any("if-match" in sent.headers for sent in wire.sent if sent.message)
    assert client.metrics.ambiguous == 1


async def test_a_message_is_not_repeated_where_writes_are_by_their_keys() -> None:
    wire = Wire()
    api = RuntimeApi(honours_idempotency_keys=True)
    async with client_of(wire, api=api, retry=at_once()) as client:
        wire.script(DROPPED, 200, DROPPED)
        row = {"session": {"a": 1}, "inject": {"text": "x"}}
        outcome = await outcome_of(client.update("d", **row, **USER))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert outcome.applied_parts == 1
    assert targets(wire) == ["PATCH", "PATCH", "inject"]


async def test_a_message_after_which_the_version_is_not_known() -> None:
    wire = Wire()
    async with client_of(wire, retry=at_once()) as client:
        await client.update("d", session={"a": 1})
        await client.inject("d", text="x", **USER)
        wire.script(DROPPED)
        # The flow may have written the state: the version before it is no condition.
        outcome = await outcome_of(client.update("d", next_step="s"))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert "if-match" not in wire.sent[-1].headers


REFUSALS: list[tuple[int, type[CognigyError], str]] = [
    (400, BadRequestError, "Check the user id, the session id"),
    (401, AuthenticationError, "does not accept the URL token"),
    (403, PermissionDeniedError, "does not accept the URL token"),
    (404, DialogNotFoundError, "no endpoint with this URL token"),
    (409, UnexpectedAnswerError, "refused the message"),
    (412, UnexpectedAnswerError, "refused the message"),
    (302, UnexpectedAnswerError, "redirect"),
    (501, ServerError, "does not implement"),
]


@pytest.mark.parametrize(("number", "kind", "text"), REFUSALS, ids=[str(r[0]) for r in REFUSALS])
async def test_a_refusal_of_a_message_names_the_endpoint(
    number: int, kind: type[CognigyError], text: str
) -> None:
    wire = Wire()
    wire.script(number)
    async with client_of(wire, retry=at_once(), auth=oauth(emulator())) as client:
        outcome = await outcome_of(client.notify("d", text="x", **USER))
        assert type(outcome) is kind
        assert text in str(outcome)
        # The token of the API is not in doubt.
        assert await client.update("d", session={"a": 1})
    assert targets(wire) == ["notify", "PATCH"]
    assert client.metrics.token_refreshes == 0


async def test_callbacks_observers_and_audit_get_a_message_like_an_update() -> None:
    events: list[UpdateEvent] = []
    observed: list[tuple[str, str, str]] = []
    audit = MemoryAudit()

    class Watch:
        def accepted(self, operation: Any, dialog_id: str, update_id: str) -> Watch:
            observed.append((operation, dialog_id, update_id))
            return self

        def request_starts(self, request: Request, attempt: int) -> None:
            request.headers["traceparent"] = "00-1"
            observed.append((request.method, request.url, repr(request)))

        def request_ends(self, request: Request, response: Any, error: Any) -> None:
            observed.append((request.method, request.url, repr(request)))

        def settled(self, error: Any, attempts: int) -> None:
            pass

    wire = Wire()
    client = client_of(wire, audit=audit)
    client.add_observer(Watch())

    @client.on_state_updated
    @client.on_update_failed
    async def note(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        await client.inject(
            "d", text="t", data={"a": 1}, update_id="u", metadata={"by": "x"}, **USER
        )
        wire.script(DROPPED)
        await outcome_of(client.notify("d", text="t", **USER))
    first, second = events
    assert first.result is not None
    assert first.payload == {"inject": {"text": "t", "data": {"a": 1}}}
    assert first.update is not None
    assert (first.update.inject, first.update.notify) == ({"text": "t", "data": {"a": 1}}, {})
    assert (first.update_id, first.metadata) == ("u", {"by": "x"})
    assert isinstance(second.error, AmbiguousUpdateError)
    one, two = audit.records
    assert (one.outcome, one.update_id, two.outcome) == ("applied", "u", "ambiguous")
    assert one.payload_sha256 != two.payload_sha256
    assert one.payload_bytes == len(json.dumps(first.payload, separators=(",", ":")))
    url = f"{BASE_URL}/inject/REDACTED"
    size = len(json.dumps(wire.sent[0].body, separators=(",", ":")))
    request = ("POST", url, f"<Request POST {url} {size} bytes>")
    assert observed[:3] == [("inject", "d", "u"), request, request]
    assert observed[3][0] == "notify"
    assert wire.sent[0].headers["traceparent"] == "00-1"


async def test_a_failed_message_pauses_its_dialog() -> None:
    wire = Wire()
    wire.script(DROPPED)
    async with client_of(wire, on_failure="pause") as client:
        await outcome_of(client.inject("d", text="x", **USER))
        with pytest.raises(DialogPausedError):
            await client.inject("d", text="y", **USER)
        client.resume("d")
        await client.inject("d", text="z", **USER)
    assert [sent.body["text"] for sent in wire.sent] == ["x", "z"]


async def test_messages_count_in_the_quota_and_are_not_coalesced() -> None:
    wire = Wire()
    limit, api = RateLimit(3, per=100), SessionsApi(user_id="u-1")
    async with client_of(wire, rate_limit=limit, coalesce=True, api=api) as client:
        message = {"inject": {"text": "x"}}
        contents: list[dict[str, Any]] = [{"session": {"a": 1}}, message, message]
        contents += [{"session": {"b": 1}}, {"session": {"c": 1}}]
        rows = [{"dialog_id": "d", **content} for content in contents]
        async with client.update_many(rows) as stream:
            report = await stream.drain()
    assert report.applied == 5
    assert targets(wire) == ["POST", "inject", "inject", "POST"]
    assert wire.sent[-1].session == {"b": 1, "c": 1}
    assert wire.sent[-1].at >= 100


async def test_bulk_messages_wait_for_an_endpoint_that_is_away_while_the_api_is_not() -> None:
    back = 1000.0
    wire = Wire()

    async def answer(request: Request) -> Any:
        is_away = "/inject/" in request.url and anyio.current_time() < back
        return status(503) if is_away else wire._succeed(wire.sent[-1])

    wire.answers(answer)
    policy = RetryPolicy(max_attempts=3)
    rows: list[Mapping[str, Any]] = []
    for number in range(40):
        rows.append({"dialog_id": f"d-{number}", "inject": {"text": "x"}, **USER})
        rows.append({"dialog_id": f"e-{number}", "session": {"a": 1}})
    async with client_of(wire, retry=policy) as client:
        async with client.update_many(rows) as stream:
            report = await stream.drain()
        assert report.applied == 80, report.failures
    assert anyio.current_time() >= back


async def test_a_message_that_the_endpoint_never_takes_ends_while_others_are_served() -> None:
    wire = Wire()

    async def answer(request: Request) -> Any:
        is_poison = json.loads(request.content).get("text") == "poison"
        return status(503) if is_poison else wire._succeed(wire.sent[-1])

    wire.answers(answer)
    rows: list[dict[str, Any]] = [{"dialog_id": "p", "inject": {"text": "poison"}, **USER}]
    rows += [
        {"dialog_id": f"d-{number % 9}", "inject": {"text": "x"}, **USER} for number in range(900)
    ]
    policy = RetryPolicy(max_attempts=3)
    async with (
        client_of(wire, retry=policy, rate_limit=RateLimit(10, per=10)) as client,
        client.update_many(rows) as stream,
    ):
        report = await stream.drain()
    assert (report.applied, report.failed) == (900, 1)
    assert isinstance(report.failures[0].error, ServerError)


@pytest.mark.parametrize("what", ["session", "message"])
async def test_a_token_that_is_refused_does_not_touch_messages(what: str) -> None:
    server = emulator(faults=Faults(token_expiry=0.3, latency=0.01))
    async with client_of(server, auth=oauth(server), max_in_flight=4) as client:
        for number in range(30):
            mine = {"session": {"seq": number}} if what == "session" else {}
            message = {"inject": {"data": {"seq": number}}, **USER}
            await outcome_of(client.update("d", **mine, **message))
    messages = [entry.seq for entry in applied(server, "d") if "inject" in entry.body]
    assert server.stats.violations() == {}
    if what == "message":
        assert messages == list(range(30))


async def test_a_cancelled_message_that_was_not_sent_is_withdrawn() -> None:
    wire = Wire(takes=1)
    async with client_of(wire) as client:
        first = client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        with anyio.move_on_after(0.5):
            await client.inject("d", data={"seq": 1}, **USER)
        await first
    assert [sent.seq for sent in wire.sent] == [0]
    assert client.metrics.withdrawn == 1


async def test_a_client_without_an_endpoint_says_what_to_pass() -> None:
    wire = Wire()
    async with client_of(wire, endpoint=None) as client:
        for call in (
            client.inject("d", text="x", **USER),
            client.update("d", session={"a": 1}, notify={"text": "x"}, **USER),
        ):
            outcome = await outcome_of(call)
            assert isinstance(outcome, UnsupportedByApiError)
            assert "pass endpoint=Endpoint(url, token) to the client" in str(outcome)
        update = StateUpdate("d", inject={"text": "x"}, user_id="u")
        (outcome,) = [one async for one in client.update_many([update])]
        assert isinstance(outcome.error, UnsupportedByApiError)
    assert not wire.sent


@on_each_api
async def test_the_user_of_a_message_is_named_or_that_of_the_api() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        outcome = await outcome_of(client.inject("d", text="x"))
        if isinstance(client.api, SessionsApi):
            assert isinstance(outcome, UpdateResult)
            assert wire.sent[0].body["userId"] == "u-1"
        else:
            assert isinstance(outcome, UpdateValidationError)
            assert "user_id: is missing; inject requires it" in str(outcome)
            assert not wire.sent


@pytest.mark.parametrize("way", ["bulk", "live"])
async def test_an_endpoint_that_is_another_host_is_reached_by_the_same_rules(way: str) -> None:
    server = emulator(faults=Faults(latency=0.05, drop_after=0.1), seed=3)
    rows = [
        {"dialog_id": f"d-{n % 20}", "notify": {"data": {"seq": n}}, **USER} for n in range(400)
    ]
    async with client_of(server) as client:
        if way == "bulk":
            async with client.update_many(rows) as stream:
                report = await stream.drain()
            ambiguous = report.ambiguous
        else:
            outcomes = [
                await outcome_of(client.notify(**row | row.pop("notify")))  # type: ignore[arg-type]
                for row in rows
            ]
            ambiguous = sum(isinstance(one, AmbiguousUpdateError) for one in outcomes)
    assert ambiguous == server.stats.dropped > 10
    assert server.stats.violations() == {}
    for number in range(20):
        assert seqs(server, f"d-{number}") == list(range(number, 400, 20))
