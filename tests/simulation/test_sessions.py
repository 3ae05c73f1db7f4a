"""The sessions API end to end: several requests for an update, resets, what is not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    DialogPausedError,
    MemoryAudit,
    NoResponseError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    SessionsApi,
    StateConflictError,
    UnsupportedByApiError,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
    plan,
    probe_inject,
)
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    DROPPED,
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
    outcome_of,
    status,
    throttled,
    until,
)

PROFILE = "0123456789abcdef01234567"
ALL: dict[str, Any] = {
    "session": {"a": 1},
    "user": {"b": 2},
    "next_step": "pay",
    "profile_id": PROFILE,
}


@pytest.mark.parametrize("inject", ["merge", "replace"])
async def test_coalescing_ends_as_sending_one_by_one_does(
    inject: Literal["merge", "replace"],
) -> None:
    server = emulator(inject=inject)
    api = SessionsApi(user_id="u-1", inject=inject)
    rows = [{"dialog_id": "s", "session": {f"v{n}": n}} for n in range(6)]
    async with sessions(server, api, coalesce=True, max_in_flight=1) as client:
        handles = [client.submit_nowait(row) for row in rows]
        merged = [(await handle).merged for handle in handles]
    whole = {f"v{n}": n for n in range(6)}
    assert server.dialogs["s"].session == (whole if inject == "merge" else {"v5": 5})
    assert max(merged) == (6 if inject == "merge" else 1)
    assert plan(rows, coalesce=True, api=api).requests == (1 if inject == "merge" else 6)


def sessions(server: Emulator | Wire, /, api: SessionsApi | None = None, **options: Any) -> Any:
    return client_of(server, **{"api": api or SessionsApi(user_id="u-1")} | options)


def parts(wire: Wire) -> list[str]:
    """What was sent, by what it writes."""
    return [
        next(name for name in ("context", "state", "profile", "userId") if name in sent.body)
        for sent in wire.writes()
    ]


# Several requests, one outcome.


async def test_sessions_an_update_writes_context_state_and_profile() -> None:
    server = emulator()
    async with sessions(server) as client:
        result = await client.update("s", **ALL)
        assert (result.attempts, result.status, result.etag, result.version) == (3, 204, None, None)
        assert result.body is None
    dialog = server.dialogs["s"]
    assert (dialog.session, dialog.next_step, dialog.user_id) == ({"a": 1}, "pay", "u-1")
    assert server.profiles[PROFILE].profile == {"b": 2}
    assert server.stats.violations() == {}
    assert client.metrics.applied == 1
    assert client.metrics.requests == 3


async def test_sessions_the_body_of_a_result_is_the_last_answer() -> None:
    server = emulator()
    async with sessions(server) as client:
        first = await client.update("s", session={"version": 7})
        moved = await client.update("s", session={"a": 1}, next_step="pay")
    assert first.body == {"version": 7}
    # A variable of that name is no version.
    assert first.version is None
    assert moved.body == {"state": "pay"}


async def test_sessions_the_parts_of_an_update_keep_its_place() -> None:
    wire = Wire(takes=1)
    async with sessions(wire) as client:
        first = client.submit_nowait({"dialog_id": "s", **ALL})
        second = client.submit_nowait({"dialog_id": "s", "session": {"seq": 1}})
        await until(lambda: wire.sent)
        third = client.submit_nowait({"dialog_id": "s", "next_step": "end"})
        other = client.submit_nowait({"dialog_id": "t", "session": {"a": 1}})
        for handle in (first, second, third, other):
            await handle
    assert [sent.dialog_id for sent in wire.sent][:2] == ["s", "t"]
    mine = [sent.body for sent in wire.sent if sent.dialog_id != "t"]
    assert mine == [
        {"userId": "u-1", "context": {"a": 1}},
        {"userId": "u-1", "state": "pay"},
        {"profile": {"b": 2}},
        {"userId": "u-1", "context": {"seq": 1}},
        {"userId": "u-1", "state": "end"},
    ]


RETRYABLE: list[Reply] = [503, 409, throttled("30"), throttled(None), throttled("2", dialog=True)]


@pytest.mark.parametrize("failure", [*RETRYABLE, 500, 502, 504, DROPPED], ids=named)
@pytest.mark.parametrize("part", [0, 1, 2], ids=["context", "state", "profile"])
async def test_sessions_a_repeat_goes_on_with_the_part_that_failed(
    failure: Reply, part: int
) -> None:
    wire = Wire()
    wire.script(*[200] * part, failure)
    async with sessions(wire, retry=every(1)) as client:
        behind = client.submit_nowait({"dialog_id": "s", **ALL})
        after = client.submit_nowait({"dialog_id": "s", "session": {"seq": 1}})
        outcome = await outcome_of(behind)
        await after
    names = ["context", "state", "profile"]
    if part == 1 and failure not in RETRYABLE:
        # The state may have been moved, and nobody can tell.
        assert isinstance(outcome, AmbiguousUpdateError)
        assert isinstance(outcome.__cause__, NoResponseError | ServerError)
        assert outcome.applied_parts == 1
        assert "applied parts: 1" in str(outcome)
        names = names[:2]
    else:
        assert isinstance(outcome, UpdateResult)
        assert outcome.attempts == 4
        names.insert(part, names[part])
    assert parts(wire) == [*names, "context"]


async def test_sessions_an_ambiguous_update_tells_what_support_asks_for() -> None:
    wire = Wire(answer=status(500, code=1008, traceId="api--5"))
    async with sessions(wire) as client:
        with pytest.raises(AmbiguousUpdateError) as caught:
            await client.update("s", next_step="pay")
    assert (caught.value.code, caught.value.trace_id) == (1008, "api--5")


async def test_sessions_a_conflict_that_stays_ends_by_its_attempts() -> None:
    wire = Wire(answer=status(409, code=1004))
    async with sessions(wire, retry=every(1, max_attempts=3)) as client:
        with pytest.raises(StateConflictError, match="Another client is writing") as caught:
            await client.update("s", session={"a": 1})
    assert caught.value.attempts == len(wire.sent) == 3


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_sessions_a_failure_midway_says_what_was_applied(part: int) -> None:
    wire = Wire()
    wire.script(*[200] * part, status(400, code=1005, detail="no", traceId="api--1"))
    async with sessions(wire) as client:
        with pytest.raises(BadRequestError) as caught:
            await client.update("s", **ALL)
    error = caught.value
    assert (error.applied_parts, error.code, error.trace_id) == (part, 1005, "api--1")
    assert (error.detail, error.dialog_id, error.attempts) == ("no", "s", part + 1)


async def test_sessions_a_large_update_is_split_and_measured_as_it_is_sent() -> None:
    server = emulator()
    big = {f"v{n}": "x" * 1000 for n in range(62)}
    async with sessions(server) as client:
        result = await client.update("s", session=big, next_step="pay")
        assert result.attempts == 3
        # What no request can carry is told before, and so is what no session can hold.
        for name, size in (("one", 60_000), ("many", 66_000)):
            with pytest.raises(UpdateValidationError):
                await client.update("s", session={name: "x" * size})
    assert server.dialogs["s"].session == big
    assert dict(server.stats.answers) == {200: 3}


async def test_sessions_a_lost_injection_is_repeated_unless_inject_replaces() -> None:
    for inject, outcome in (("merge", UpdateResult), ("replace", AmbiguousUpdateError)):
        wire = Wire()
        wire.script(never)
        api = SessionsApi(user_id="u", inject=inject)  # type: ignore[arg-type]
        async with sessions(wire, api, timeout=2, retry=at_once()) as client:
            assert type(await outcome_of(client.update("s", session={"a": 1}))) is outcome
            # A failure by which nothing was applied is repeated all the same.
            wire.script(503)
            await client.update("s", session={"a": 2})


APPLIED, AMBIGUOUS = "applied", "ambiguous"
TABLE = """
fault              context      state        reset
drop_before        applied 1    ambiguous 0  ambiguous 0
drop_after         applied 2    ambiguous 1  ambiguous 1
hang               applied 1    ambiguous 0  ambiguous 0
hang_applied       applied 2    ambiguous 1  ambiguous 1
error_500          applied 1    ambiguous 0  ambiguous 0
error_500_applied  applied 2    ambiguous 1  ambiguous 1
error_502          applied 1    ambiguous 0  ambiguous 0
error_504_applied  applied 2    ambiguous 1  ambiguous 1
error_503          applied 1    applied 1    applied 1
conflict           applied 1    applied 1    applied 1
competitor         applied 1    applied 1    applied 1
malformed          applied 1    applied 1    applied 1
throttle_dialog    applied 1    applied 1    applied 1
throttle_tenant    applied 1    applied 1    applied 1
refused            applied 1    applied 1    applied 1
"""
CASES = {
    fault: tuple(zip(cells[::2], map(int, cells[1::2]), strict=True))
    for fault, *cells in map(str.split, TABLE.splitlines()[2:])
}
KINDS: tuple[Literal["context", "state", "reset"], ...] = ("context", "state", "reset")


@pytest.mark.parametrize("fault", CASES)
@pytest.mark.parametrize("kind", KINDS)
async def test_sessions_p12_ambiguity_of_each_fault(
    fault: str, kind: Literal["context", "state", "reset"]
) -> None:
    end, times = CASES[fault][KINDS.index(kind)]
    options = {"drop_error": httpx.ConnectError} if fault == "refused" else {}
    server = emulator(**options)
    calls: dict[str, Callable[[AsyncStateClient], Awaitable[UpdateResult]]] = {
        "context": lambda client: client.update("s", session={"a": 1}),
        "state": lambda client: client.update("s", next_step="pay"),
        "reset": lambda client: client.reset_context("s"),
    }
    async with sessions(server, timeout=3) as client:
        step: Any = {"refused": "drop_before"}.get(fault, fault)
        server.script(step)
        outcome = await outcome_of(calls[kind](client))
    assert type(outcome) is {APPLIED: UpdateResult, AMBIGUOUS: AmbiguousUpdateError}[end]
    assert len(applied(server, "s")) == times
    assert server.stats.violations() == {}
    # There is nothing to read it back by.
    assert server.stats.reads == 0


# Resets.


async def test_sessions_resets_keep_their_place_among_the_writes() -> None:
    server = emulator(faults=Faults(latency=0.1))
    async with sessions(server, max_in_flight=4) as client:
        handles = [client.submit_nowait({"dialog_id": "s", "session": {"a": 1}, "next_step": "x"})]
        result = await client.reset_context("s", flow_reference_id="f", entrypoint="e")
        handles.append(client.submit_nowait({"dialog_id": "s", "session": {"b": 2}}))
        await client.reset_state("s", user_id="u-2")
        for handle in handles:
            await handle
    assert result.body == {}
    assert [item.body for item in applied(server, "s")] == [
        {"session": {"a": 1}},
        {"transition": {"nextStep": "x"}},
        {"session": {}},
        {"session": {"b": 2}},
        {"transition": {"nextStep": "default"}},
    ]
    dialog = server.dialogs["s"]
    assert (dialog.session, dialog.next_step, dialog.user_id) == ({"b": 2}, "default", "u-2")
    assert server.stats.overlapping_writes == 0


async def test_sessions_a_reset_reaches_the_callbacks_in_order() -> None:
    server = emulator()
    events: list[UpdateEvent] = []
    async with sessions(server) as client:

        @client.on_state_updated
        async def keep(event: UpdateEvent) -> None:
            events.append(event)

        await client.update("s", session={"a": 1})
        await client.reset_context("s")
        await client.update("s", session={"b": 1})
    assert [event.payload for event in events] == [{"session": {"a": 1}}, {}, {"session": {"b": 1}}]
    assert [event.update is None for event in events] == [False, True, False]
    assert client.metrics.applied == 3


async def test_sessions_a_reset_is_repeated_and_given_up_like_an_update() -> None:
    wire = Wire()
    wire.script(503, throttled("1"), 400)
    async with sessions(wire, retry=at_once(), on_failure="pause") as client:
        with pytest.raises(BadRequestError):
            await client.reset_state("s")
        with pytest.raises(DialogPausedError):
            await client.reset_state("s")
    assert len(wire.sent) == 3
    with pytest.raises(ClientClosedError):
        await client.reset_state("s")


@pytest.mark.parametrize(
    "arguments",
    [{"user_id": ""}, {"user_id": 3}, {"flow_reference_id": " "}, {"entrypoint": b"e"}],
    ids=str,
)
async def test_sessions_a_reset_with_bad_input_is_not_sent(arguments: dict[str, Any]) -> None:
    wire = Wire()
    async with sessions(wire) as client:
        with pytest.raises(UpdateValidationError):
            await client.reset_context("s", **arguments)
        with pytest.raises(UpdateValidationError):
            await client.reset_context("")
        with pytest.raises(UpdateValidationError):
            await client.reset_state(7)
        # Nothing is held that the next one would wait for.
        assert client.metrics.pending == 0
    assert wire.sent == []


async def test_sessions_the_audit_has_resets_and_no_value_of_a_context() -> None:
    server = emulator()
    audit = MemoryAudit()
    async with sessions(server, audit=audit) as client:
        await client.update("s", session={"version": 7_654_321}, metadata={"by": "me"})
        await client.reset_context("s")
        server.script(409, 409, 409, 409, 409)
        await outcome_of(client.update("s", session={"a": 7_654_321}))
    written, reset, failed = audit.records
    assert (written.outcome, written.variables, written.version) == (
        "applied",
        ("session.version",),
        None,
    )
    assert (reset.outcome, reset.variables, reset.payload_sha256) == ("applied", (), None)
    assert reset.summary.startswith("reset: HTTP ")
    assert written.summary.startswith("applied: HTTP ")
    assert (failed.outcome, failed.status) == ("failed", 409)
    assert failed.trace_id is not None
    assert failed.trace_id.startswith("api--")
    assert "7654321" not in repr(audit.records)


# What is not there, or not said.


async def test_sessions_what_the_api_lacks_is_refused_before_anything_is_sent() -> None:
    wire = Wire()
    async with sessions(wire) as client:
        calls = (
            lambda: client.update("s", session={"a": 1}, if_match='"1"'),
            lambda: client.update("s", user={"a": 1}),
            lambda: client.submit({"dialog_id": "s", "session": {"a": 1}, "if_match": '"1"'}),
            lambda: client.modify("s", lambda _: None),
            lambda: client.get_state("s"),
        )
        for call in calls:
            with pytest.raises(UnsupportedByApiError):
                await call()
        row = {"dialog_id": "s", "session": {"a": 1}}
        outcomes = [o async for o in client.update_many([row | {"if_match": '"1"'}, row])]
        assert [type(outcome.error) for outcome in outcomes] == [UnsupportedByApiError, type(None)]
    assert len(wire.sent) == 1


async def test_sessions_a_user_is_needed_from_somewhere() -> None:
    wire = Wire()
    async with sessions(wire, SessionsApi()) as client:
        with pytest.raises(UpdateValidationError, match="user_id"):
            await client.update("s", session={"a": 1})
        await client.update("s", session={"a": 1}, user_id="u-7")
    assert [sent.body["userId"] for sent in wire.sent] == ["u-7"]


async def test_sessions_a_state_is_read_where_that_was_asked_for() -> None:
    server = emulator()
    async with sessions(server, SessionsApi(user_id="u", reads_state=True)) as client:
        await client.update("s", session={"a": [1]}, next_step="pay")
        state = await client.get_state("s")
    assert (state.session, state.next_step, state.etag) == ({"a": [1]}, "pay", None)


@pytest.mark.parametrize(
    "name", ["a/b", "?", "#", "%", "%2F", "a b", "..", "../../x", ".", "é/ü", "s?x=1#y"]
)
async def test_sessions_any_id_arrives_as_one_segment(name: str) -> None:
    server = emulator()
    async with sessions(server, SessionsApi(user_id="u", reads_state=True)) as client:
        await client.update(name, session={"a": 1}, next_step="pay")
        await client.reset_state(name)
        await client.get_state(name)
    assert list(server.dialogs) == [name]
    assert dict(server.stats.answers) == {200: 4}


# Credentials.


async def test_sessions_tokens_come_from_form_fields() -> None:
    server = emulator()
    auth = oauth(server, token_url="http://127.0.0.1/auth/oauth2/token", client_auth="post")
    async with sessions(server, auth=auth) as client:
        await client.update("s", session={"a": 1})
        server.revoke_tokens()
        await client.update("s", session={"a": 2})
    assert server.stats.tokens_issued == 2
    assert server.dialogs["s"].session == {"a": 2}


async def test_sessions_a_key_that_is_refused_says_that_it_is_the_key() -> None:
    wire = Wire(answer=status(401, code=401, traceId="api--9", detail="no"))
    async with sessions(wire) as client:
        with pytest.raises(AuthenticationError, match="API key") as caught:
            await client.update("s", session={"a": 1})
        assert (caught.value.trace_id, caught.value.code) == ("api--9", 401)
        wire.answers(403)
        with pytest.raises(PermissionDeniedError, match="API key"):
            await client.update("s", session={"a": 1})


async def test_sessions_a_throttle_that_lasts_too_long_is_told() -> None:
    wire = Wire(answer=throttled("3600"))
    async with sessions(wire) as client:
        with pytest.raises(RateLimitedError) as caught:
            await client.update("s", session={"a": 1})
    assert caught.value.retry_after == 3600


# The probe.


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "merge"),
        ({"merge": "recursive"}, "merge recursively"),
        ({"inject": "replace"}, "replace"),
    ],
)
async def test_sessions_the_probe_finds_out_what_inject_does(
    options: dict[str, Any], found: str
) -> None:
    server = emulator(**options)
    async with sessions(server, SessionsApi()) as client:
        await client.update("s", session={"probe_object": {"old": 1}}, user_id="u")
        assert await probe_inject(client, "s", user_id="u") == found


async def test_sessions_the_probe_says_when_it_cannot_tell() -> None:
    async with sessions(Wire()) as client:
        assert await probe_inject(client, "s") is None


# The base URL.


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "http://10.0.0.7:8080",
        "http://localhost.example.com",
        "http://notlocalhost",
    ],
)
def test_sessions_credentials_are_not_sent_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure=True"):
        AsyncStateClient(url, auth=oauth(emulator()))
    AsyncStateClient(url, auth=oauth(emulator()), allow_insecure=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "http://127.0.0.1:1",
        "http://127.9.9.9",
        "http://[::1]:80",
        "http://localhost:8080/",
        "http://LOCALHOST.",
        "http://a.localhost",
    ],
)
def test_sessions_this_machine_needs_no_tls(url: str) -> None:
    AsyncStateClient(url, auth=oauth(emulator()))
