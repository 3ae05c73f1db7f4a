"""P12: what may have been applied is repeated only where nobody could tell the difference."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Literal, get_args

import anyio
import httpx
import pytest
from anyio.abc import TaskGroup

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    BadRequestError,
    DialogState,
    Endpoint,
    NoResponseError,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
    ServerError,
    StateConflictError,
    UpdateResult,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    BASE_URL,
    DROPPED,
    KEY,
    MESSAGE_IN,
    URL_TOKEN,
    Reply,
    Wire,
    all_of,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    never,
    outcome_of,
    seqs,
    state,
    status,
)

# One write of each kind.

Kind = Literal[
    "variables", "transition", "transition-known", "strict", "modify", "inject", "notify"
]
KINDS: list[Kind] = list(get_args(Kind))


def visits(state: DialogState) -> dict[str, Any]:
    return {"session": {"visits": state.session.get("visits", 0) + 1}}


async def write(client: AsyncStateClient, kind: Kind) -> UpdateResult | None:
    match kind:
        case "variables":
            return await client.update("d", session={"a": 1})
        case "strict":
            return await client.update("d", session={"a": 1}, if_match='"1"')
        case "modify":
            return await client.modify("d", visits)
        case "inject":
            return await client.inject("d", text="hello", data={"a": 1}, user_id="u")
        case "notify":
            return await client.notify("d", text="hello", attachments=[{"url": "u"}], user_id="u")
        case _:
            return await client.update("d", session={"a": 1}, next_step="s")


APPLIED = "applied"
AMBIGUOUS = "ambiguous"
CONFLICT = "conflict"
REFUSED = "refused"

# What each kind ends with when its first write meets a fault, and how often it was applied then.
TABLE = """
fault              variables    transition   etag known   strict       modify       message
refused            applied 1    applied 1    applied 1    applied 1    applied 1    applied 1
error_503          applied 1    applied 1    applied 1    applied 1    applied 1    applied 1
throttle_dialog    applied 1    applied 1    applied 1    applied 1    applied 1    applied 1
token_expiry       applied 1    applied 1    applied 1    applied 1    applied 1    applied 1
competitor         applied 1    applied 1    applied 1    conflict 0   applied 1    applied 1
conflict           applied 1    applied 1    applied 1    conflict 0   applied 1    applied 1
400                refused 0    refused 0    refused 0    refused 0    refused 0    refused 0
malformed          applied 1    applied 1    applied 1    applied 1    applied 1    applied 1
drop_before        applied 1    ambiguous 0  applied 1    applied 1    applied 1    ambiguous 0
drop_after         applied 2    ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1
hang               applied 1    ambiguous 0  applied 1    applied 1    applied 1    ambiguous 0
hang_applied       applied 2    ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1
error_500          applied 1    ambiguous 0  applied 1    applied 1    applied 1    ambiguous 0
error_502          applied 1    ambiguous 0  applied 1    applied 1    applied 1    ambiguous 0
error_504          applied 1    ambiguous 0  applied 1    applied 1    applied 1    ambiguous 0
error_500_applied  applied 2    ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1
error_502_applied  applied 2    ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1
error_504_applied  applied 2    ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1  ambiguous 1
"""
CASES = {
    fault: tuple(zip(cells[::2], map(int, cells[1::2]), strict=True))
    for fault, *cells in map(str.split, TABLE.splitlines()[2:])
}
TELLING = {
    APPLIED: UpdateResult,
    AMBIGUOUS: AmbiguousUpdateError,
    CONFLICT: StateConflictError,
    REFUSED: BadRequestError,
}


@pytest.mark.parametrize("fault", CASES)
@pytest.mark.parametrize("kind", KINDS)
async def test_p12_ambiguity_of_each_fault_for_each_kind_of_write(fault: str, kind: Kind) -> None:
    # Messages to the flow and to the user are alike.
    end, times = CASES[fault][min(KINDS.index(kind), KINDS.index("inject"))]
    options = {"drop_error": httpx.ConnectError} if fault == "refused" else {}
    server = emulator(honour_idempotency_keys=False, **options)
    async with client_of(server, timeout=3, auth=Fresh()) as client:
        if kind != "transition":
            await client.update("d", session={"before": True})
        step: Any = {"refused": "drop_before", "400": 400}.get(fault, fault)
        server.script(step)
        outcome = await outcome_of(write(client, kind))
        assert type(outcome) is TELLING[end]
        work_items = [e for e in applied(server, "d") if "before" not in e.body.get("session", {})]
        assert len(work_items) == times
        # Nothing but the assignment of variables may be there twice, and then as the same update.
        assert server.stats.violations() == {}
        assert len({item.key for item in work_items}) <= 1
        if isinstance(outcome, AmbiguousUpdateError):
            assert isinstance(outcome.__cause__, NoResponseError | ServerError | StateConflictError)
            assert "Read the state" in str(outcome)
            assert outcome.dialog_id == "d"
        # The dialog goes on after it.
        await client.update("d", session={"after": True})
    assert client.metrics.ambiguous == (end == AMBIGUOUS)


class Fresh:
    """A key that the emulator takes, as a new token each time that it was refused."""

    def __init__(self) -> None:
        self._token: Any = None

    async def get_token(self) -> Any:
        from cognigy_async import AccessToken
        from tests.simulation.world import KEY

        self._token = self._token or AccessToken("X-API-Key", KEY)
        return self._token

    def invalidate(self, token: Any) -> None:
        self._token = None

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("fault", [fault for fault in CASES if fault not in ("400", "refused")])
@pytest.mark.parametrize("kind", ["variables", "transition", "transition-known"])
async def test_p12_ambiguity_is_none_where_the_server_honours_keys(fault: str, kind: Kind) -> None:
    server = emulator(honour_idempotency_keys=True)
    api = RuntimeApi(honours_idempotency_keys=True)
    async with client_of(server, api=api, timeout=3, auth=Fresh()) as client:
        if kind == "transition-known":
            await client.update("d", session={"before": True})
        server.script(fault)  # type: ignore[arg-type]
        outcome = await outcome_of(write(client, kind))
    assert isinstance(outcome, UpdateResult)
    work_items = [e for e in applied(server, "d") if "before" not in e.body.get("session", {})]
    assert len(work_items) == 1
    assert server.stats.violations() == {}


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "hang", "error_500", "error_503"])
async def test_p12_ambiguity_may_be_told_at_once_instead_of_repeating(fault: Any) -> None:
    server = emulator(honour_idempotency_keys=False)
    policy = RetryPolicy(ambiguous="raise")
    async with client_of(server, timeout=3, retry=policy) as client:
        server.script(fault)
        outcome = await outcome_of(client.update("d", session={"a": 1}))
    lost = not fault.startswith("error")
    assert isinstance(outcome, AmbiguousUpdateError if lost else UpdateResult)
    assert server.stats.writes == (1 if lost else 2)


async def test_p12_ambiguity_repeats_carry_the_same_key_and_body() -> None:
    wire = Wire()
    wire.script(DROPPED, 503, 500, 409, DROPPED)
    async with client_of(wire, retry=at_once(max_attempts=9)) as client:
        result = await client.update("d", session={"a": 1}, update_id="mine")
    writes = wire.writes()
    assert {sent.key for sent in writes} == {"mine"}
    assert len({str(sent.body) for sent in writes}) == 1
    assert result.update_id == "mine"
    assert result.attempts == len(wire.sent) == 7


async def test_p12_ambiguity_rounds_of_modify_are_writes_of_their_own() -> None:
    wire = Wire()
    wire.script(409, 412)
    wire.script(*(state(number) for number in range(3)), method="GET")
    async with client_of(wire, retry=at_once()) as client:
        await client.modify("d", visits)
    assert [sent.method for sent in wire.sent] == ["GET", "PATCH"] * 3
    keys = [sent.key for sent in wire.writes()]
    assert [key and key.partition("/")[2] for key in keys] == ["", "r1", "r2"]
    assert all("if-match" in sent.headers for sent in wire.writes())


async def test_p12_ambiguity_of_a_transition_is_resolved_by_its_condition() -> None:
    wire = Wire()
    async with client_of(wire, retry=at_once()) as client:
        await client.get_state("d")
        wire.script(DROPPED, 500, never)
        result = await client.update("d", next_step="s")
    # The first request cannot be applied after its repeat, which changes the version.
    assert [(sent.method, sent.headers.get("if-match")) for sent in wire.sent] == [
        ("GET", None),
        *[("PATCH", '"0"')] * 4,
    ]
    assert result.attempts == 4


@pytest.mark.parametrize("lost", ["closed", "timed out", "408", "500", "502", "504"])
@pytest.mark.parametrize("second", [409, 412], ids=str)
async def test_p12_ambiguity_stays_when_the_repeat_finds_another_version(
    lost: str, second: int
) -> None:
    replies: dict[str, Reply] = {"closed": DROPPED, "timed out": never}
    wire = Wire()
    async with client_of(wire, retry=at_once()) as client:
        await client.get_state("d")
        wire.script(replies[lost] if lost in replies else int(lost), second)
        outcome = await outcome_of(client.update("d", next_step="s"))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert len(wire.writes()) == 2


@pytest.mark.parametrize("kind", ["transition-known", "strict", "modify"])
@pytest.mark.parametrize("end", ["attempts", "deadline"])
async def test_p12_ambiguity_is_what_a_conditional_write_ends_with_after_a_5xx(
    kind: Kind, end: str
) -> None:
    for status_ in (500, 502, 504):
        wire = Wire()
        async with client_of(wire, retry=every(1.0, max_attempts=3)) as client:
            await client.get_state("d")
            wire.script(*[status_] * 9)
            limit = 1.5 if end == "deadline" else None
            match kind:
                case "modify":
                    call = client.modify("d", visits, deadline=limit)
                case "strict":
                    call = client.update("d", session={"a": 1}, if_match='"0"', deadline=limit)
                case _:
                    call = client.update("d", next_step="s", deadline=limit)
            outcome = await outcome_of(call)
        assert isinstance(outcome, AmbiguousUpdateError)
        assert f"answered {status_}" in str(outcome)
        assert len(wire.writes()) == (2 if end == "deadline" else 3)


@pytest.mark.parametrize("known", [True, False], ids=["version-known", "version-unknown"])
async def test_p12_ambiguity_of_a_408_is_that_of_a_lost_answer(known: bool) -> None:
    for fields, applies in (({"session": {"a": 1}}, True), ({"next_step": "s"}, known)):
        wire = Wire()
        async with client_of(wire, retry=at_once()) as client:
            if known:
                await client.get_state("d")
            wire.script(408)
            outcome = await outcome_of(client.update("d", **fields))
        assert isinstance(outcome, UpdateResult if applies else AmbiguousUpdateError)


async def test_p12_ambiguity_a_weak_etag_is_refused_twice_and_no_more() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        weak = status(200, {"etag": 'W/"7"'}, session={})
        wire.script(*[weak] * 9, method="GET")
        wire.script(*[412] * 9)
        outcome = await outcome_of(client.modify("d", visits))
        assert isinstance(outcome, StateConflictError)
        assert "does not accept the etag that it sends itself" in str(outcome)
        assert [sent.method for sent in wire.sent] == ["GET", "PATCH"] * 2


async def test_p12_ambiguity_of_a_lost_part_is_over_when_its_repeat_was_answered() -> None:
    from cognigy_async import Limits

    big = dict.fromkeys("abc", "x" * 150)
    limits = Limits(safe_payload_bytes=250)
    wire = Wire()
    async with client_of(wire, limits=limits, retry=at_once()) as client:
        wire.script(DROPPED, 200, 400)
        refused = await outcome_of(client.update("d", session=big))
        assert isinstance(refused, BadRequestError)
        assert refused.applied_parts == 1
        wire.script(DROPPED, 200, 200, 409)
        result = await client.update("e", session=big, next_step="s")
        assert result.attempts == 6


async def test_p12_ambiguity_reported_for_a_strict_write_tells_the_current_version() -> None:
    server = emulator(honour_idempotency_keys=False)
    async with client_of(server) as client:
        for _ in range(3):
            await client.update("d", session={"a": 1})
        error = await outcome_of(client.update("d", session={"a": 2}, if_match='"1"'))
        assert isinstance(error, StateConflictError)
        assert (error.current_etag, error.current_version) == ('"3"', 3)
    wire = Wire()
    wire.versions["d"] = 8
    wire.script(409)
    async with client_of(wire) as client:
        # The refusal does not tell, so that it is read.
        error = await outcome_of(client.update("d", session={"a": 2}, if_match='"1"'))
        assert isinstance(error, StateConflictError)
        assert (error.current_etag, error.current_version) == ('"8"', 8)


# All of it at once.


@pytest.mark.quick("asyncio-bulk-transition", "trio-live-inject", "asyncio-live-notify")
@pytest.mark.parametrize("what", ["transition", "inject", "notify"])
@pytest.mark.parametrize("way", ["bulk", "live"])
async def test_p12_ambiguity_in_a_storm_of_faults_nothing_is_doubled(way: str, what: str) -> None:
    server = emulator(
        honour_idempotency_keys=False,
        faults=Faults(
            latency=0.02,
            latency_jitter=0.03,
            error_500=0.03,
            error_503=0.03,
            error_applies=0.5,
            drop_before=0.03,
            drop_after=0.03,
            conflict=0.03,
            competitor=0.03,
        ),
    )
    dialogs, updates = (400, 15) if way == "bulk" else (100, 10)

    def content(seq: int) -> dict[str, Any]:
        if what == "transition":
            return {"session": {"seq": seq}, "next_step": f"step_{seq}"}
        # Variables and messages in turns: a message has its place among the writes.
        if seq % 2:
            return {"session": {"seq": seq}}
        return {what: {"data": {"seq": seq}}, "user_id": "u"}

    rows = [
        {"dialog_id": f"d-{number}", **content(seq)}
        for seq in range(updates)
        for number in range(dialogs)
    ]
    ends: list[tuple[dict[str, Any], Any]] = []
    async with client_of(server, retry=RetryPolicy(max_attempts=12)) as client:
        if way == "bulk":
            async with client.update_many(rows) as outcomes:
                ends = [(rows[one.index], one.result or one.error) async for one in outcomes]
        else:
            handles = [client.submit_nowait(row) for row in rows]
            ends = [(row, await outcome_of(one)) for row, one in zip(rows, handles, strict=True)]
    assert server.stats.violations() == {}
    kinds = Counter(type(end) for _, end in ends)
    assert set(kinds) == {UpdateResult, AmbiguousUpdateError}
    assert kinds[UpdateResult] + kinds[AmbiguousUpdateError] == dialogs * updates
    # About 500 and the drops that cannot be resolved, of 12%.
    assert 0.02 < kinds[AmbiguousUpdateError] / len(ends) < 0.12
    for number in range(dialogs):
        arrived = seqs(server, f"d-{number}")
        assert arrived == sorted(arrived)  # type: ignore[type-var]
    times: defaultdict[tuple[str, Any], int] = defaultdict(int)
    for number in range(dialogs):
        for item in applied(server, f"d-{number}"):
            times[f"d-{number}", item.seq] += 1
    uncertain = Counter[int]()
    for row, end in ends:
        only_variables = what != "transition" and "session" in row
        seq = row["session"]["seq"] if "session" in row else row[what]["data"]["seq"]
        count = times[row["dialog_id"], seq]
        if only_variables:
            assert isinstance(end, UpdateResult)
            assert count >= 1
        elif isinstance(end, UpdateResult):
            assert count == 1
        else:
            uncertain[count] += 1
    # Not certain is just what they are: some were applied, some were not, none twice.
    assert set(uncertain) == {0, 1}
    # Where the version was known, a lost request that was not applied was repeated; so were those
    # of variables.
    assert client.metrics.retries["no_response"] > 10


async def test_p12_ambiguity_two_processes_that_modify_lose_no_update() -> None:
    server = emulator(
        faults=Faults(latency=0.05, latency_jitter=0.1, error_503=0.05, conflict=0.05)
    )
    policy = RetryPolicy(max_attempts=30, max_elapsed=1e5)

    async def count(client: AsyncStateClient) -> None:
        async with client:
            calls: list[Callable[[], Awaitable[Any]]] = [lambda: client.modify("d", visits)] * 20
            outcomes = await all_of(*calls)
            assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]

    clients = [client_of(server, retry=policy) for _ in range(3)]
    outcomes = await all_of(*(lambda c=client: count(c) for client in clients))
    assert outcomes == [None] * 3
    assert server.dialogs["d"].session["visits"] == 60


# A server whose backend carries requests out after their connections were closed.


class LateServer:
    """A `Transport` to a gateway with a slow backend and another writer.

    Of the writes, 5% are carried out one to three seconds after their connection was closed, 5%
    are answered 504 after they were applied, 1% are lost before they arrive. `If-Match` is compared
    when a request is carried out. Before 3% of the writes another client writes the dialog.
    """

    def __init__(self, backend: TaskGroup, chance: Random) -> None:
        self._backend = backend
        self._chance = chance
        self._versions: defaultdict[str, int] = defaultdict(int)
        self.carried_out: Counter[str] = Counter()
        self.late = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        await anyio.sleep(0.01 + 0.02 * self._chance.random())
        is_message = MESSAGE_IN(request.url) is not None
        dialog_id = _session_of(request) if is_message else request.url.split("/")[-2]
        if request.method == "GET":
            return state(self._versions[dialog_id])
        fate = self._chance.random()
        if self._chance.random() < 0.03:
            self._versions[dialog_id] += 1
        if fate < 0.05:
            self._backend.start_soon(self._carry_out_late, dialog_id, request)
            raise NoResponseError("the connection was closed")
        if fate < 0.06:
            raise NoResponseError("the connection was closed")
        applied = self._carry_out(dialog_id, request)
        if fate < 0.11:
            return status(504)
        return state(self._versions[dialog_id]) if applied else status(412)

    async def aclose(self) -> None:
        pass

    async def _carry_out_late(self, dialog_id: str, request: Request) -> None:
        request = Request(request.method, request.url, dict(request.headers), request.content)
        await anyio.sleep(1 + 2 * self._chance.random())
        self.late += self._carry_out(dialog_id, request)

    def _carry_out(self, dialog_id: str, request: Request) -> bool:
        body = json.loads(request.content)
        if MESSAGE_IN(request.url):
            self.carried_out[body["text"]] += 1
            return True
        condition = request.headers.get("if-match")
        if condition not in (None, f'"{self._versions[dialog_id]}"'):
            return False
        self._versions[dialog_id] += 1
        self.carried_out[body["transition"]["nextStep"]] += 1
        return True


def _session_of(request: Request) -> str:
    session_id: str = json.loads(request.content)["sessionId"]
    return session_id


@pytest.mark.quick("asyncio-bulk-transition", "trio-live-inject")
@pytest.mark.parametrize("what", ["transition", "inject", "notify"])
@pytest.mark.parametrize("way", ["bulk", "live"])
async def test_p12_ambiguity_of_requests_that_are_carried_out_late(way: str, what: str) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(10_000):
        row: dict[str, Any] = {"dialog_id": f"d-{number % 500}", "update_id": f"step-{number}"}
        if what == "transition":
            row["next_step"] = row["update_id"]
        else:
            row |= {"user_id": "u", what: {"text": row["update_id"]}}
        rows.append(row)
    ends: list[tuple[str, Any]] = []
    async with anyio.create_task_group() as backend:
        server = LateServer(backend, Random(7))
        endpoint = Endpoint(BASE_URL, URL_TOKEN)
        async with AsyncStateClient(
            BASE_URL, auth=ApiKey(KEY), transport=server, endpoint=endpoint
        ) as client:
            if way == "bulk":
                async with client.update_many(rows) as outcomes:
                    ends = [
                        (rows[one.index]["update_id"], one.result or one.error)
                        async for one in outcomes
                    ]
            else:
                handles = [await client.submit(row) for row in rows]
                ends = [
                    (row["update_id"], await outcome_of(handle))
                    for row, handle in zip(rows, handles, strict=True)
                ]
    # The backend has ended by now.
    assert server.late > 10
    found = Counter((type(end), server.carried_out[step]) for step, end in ends)
    assert max(server.carried_out.values()) == 1
    assert {(kind, count) for kind, count in found if kind is not AmbiguousUpdateError} == {
        (UpdateResult, 1)
    }
    # Most lost answers are resolved: a lost request is repeated on condition of the same version.
    lost = client.metrics.retries["no_response"] + client.metrics.retries["gateway"]
    assert lost > 300 if what == "transition" else lost == 0
