"""P14: however the server fails, repeats stay few; bulk waits for it and live updates do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async import (
    AccessToken,
    AmbiguousUpdateError,
    AsyncStateClient,
    AuthenticationError,
    NotSentError,
    RetryPolicy,
    ServerError,
    SessionsApi,
    UnexpectedAnswerError,
    UpdateError,
)
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
    Wire,
    all_of,
    client_of,
    emulator,
    every,
    named,
    never,
    oauth,
    on_each_api,
    throttled,
)

WORKERS = 32
OUTAGES: dict[str, dict[str, Any]] = {
    "500": {"faults": Faults(error_500=1.0, latency=0.05)},
    "502": {"faults": Faults(error_502=1.0, latency=0.05)},
    "503": {"faults": Faults(error_503=1.0, latency=0.05)},
    "504": {"faults": Faults(error_504=1.0, latency=0.05)},
    "dropped": {"faults": Faults(drop_before=1.0, latency=0.05)},
    "refused": {"faults": Faults(drop_before=1.0), "drop_error": httpx.ConnectError},
    "silent": {"faults": Faults(hang=1.0)},
}
ENDS = {
    "dropped": AmbiguousUpdateError,
    "silent": AmbiguousUpdateError,
    "refused": NotSentError,
}


def bound(first: int, workers: int = WORKERS) -> float:
    return 0.2 * first + workers + 10


def repeats_of(server: Emulator, first: int) -> int:
    return server.stats.writes - first


@pytest.mark.quick("runtime-*-503", "sessions-*-dropped", "*-silent", "runtime-*-refused")
@on_each_api
@pytest.mark.parametrize("outage", OUTAGES)
async def test_p14_no_storm_of_live_updates_in_a_total_outage(outage: str) -> None:
    server = emulator(**OUTAGES[outage])
    updates = 2000 if outage == "503" else 700
    async with client_of(server, max_in_flight=WORKERS, timeout=5) as client:
        # They come over some seconds, as they would; the default policy would try each five times.
        async def write(number: int) -> object:
            await anyio.sleep(number % 100 / 10)
            return await client.update(f"d-{number}", session={"a": number})

        outcomes = await all_of(*(partial(write, number) for number in range(updates)))
        kinds = Counter(type(outcome) for outcome in outcomes)
        assert kinds == {ENDS.get(outage, ServerError): updates}
        assert all(isinstance(e, UpdateError) and e.dialog_id and e.update_id for e in outcomes)
        repeats = repeats_of(server, updates)
        assert WORKERS + 10 <= repeats <= bound(updates)
        server.faults = Faults()
        for number in range(50):
            await client.update(f"d-{number}", session={"a": 0})
    assert client.metrics.failed + client.metrics.ambiguous == updates
    assert client.metrics.applied == 50


async def test_p14_no_storm_whatever_the_policy_of_single_updates_says() -> None:
    wire = Wire(answer=503)
    policy = every(0.5, max_attempts=1000)
    async with client_of(wire, max_in_flight=4) as client:
        calls = [
            partial(client.update, f"d-{n}", session={"a": 1}, retry=policy) for n in range(200)
        ]
        outcomes = await all_of(*calls)
    assert all(isinstance(outcome, ServerError) for outcome in outcomes)
    assert 14 <= len(wire.sent) - 200 <= bound(200, 4)


async def test_p14_no_storm_the_budget_is_never_deeper_than_at_the_start() -> None:
    wire = Wire()
    async with client_of(wire, max_in_flight=4) as client:
        # Many good ones before do not save up for a larger storm.
        for number in range(500):
            await client.update(f"d-{number}", session={"a": 1})
        wire.answers(500)
        before = len(wire.sent)
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(40)))
    assert len(wire.sent) - before - 40 <= 0.2 * 40 + 4 + 10


async def test_p14_no_storm_of_reads_either() -> None:
    wire = Wire(answer=503)
    async with client_of(wire, max_in_flight=4) as client:
        outcomes = await all_of(*(partial(client.get_state, f"d-{n}") for n in range(200)))
    assert all(isinstance(outcome, ServerError) for outcome in outcomes)
    assert len(wire.sent) - 200 <= bound(200, 4)


@on_each_api
async def test_p14_no_storm_faults_here_and_there_are_repeated_as_they_should() -> None:
    server = emulator(faults=Faults(error_503=0.1, latency=0.01))
    policy = RetryPolicy(max_attempts=12)
    async with client_of(server, max_in_flight=WORKERS, retry=policy) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(1000))
        )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.stats.answers[503] > 50


# Bulk.


def rows_of(count: int, updates: int = 1, **more: Any) -> Iterator[dict[str, Any]]:
    for seq in range(updates):
        for number in range(count):
            yield {"dialog_id": f"d-{number}", "session": {"seq": seq}, **more}


async def read_all(client: AsyncStateClient, rows: Iterator[dict[str, Any]]) -> Counter[str]:
    async with client.update_many(rows) as outcomes:
        return Counter([type(outcome.error).__name__ async for outcome in outcomes])


@pytest.mark.quick("runtime-*-503", "sessions-*-dropped", "*-silent", "runtime-*-refused")
@on_each_api
@pytest.mark.parametrize("outage", ["502", "503", "504", "dropped", "refused", "silent"])
async def test_p14_no_storm_bulk_waits_for_a_server_that_is_away(outage: str) -> None:
    options = OUTAGES[outage]
    calm = Faults(latency=0.05)
    server = emulator(**options | {"faults": calm})
    down = (2.0, 302.0)
    async with (
        client_of(server, max_in_flight=8, timeout=5) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(down[0])
            server.faults = options["faults"]
            await anyio.sleep(down[1] - down[0])
            server.faults = calm

        tasks.start_soon(weather)
        told = await read_all(client, rows_of(500, 2))
    assert told == {"NoneType": 1000}
    assert client.metrics.failed == client.metrics.ambiguous == 0
    assert server.stats.violations() == {}
    assert all(dialog.session["seq"] == 1 for dialog in server.dialogs.values())
    # One probe per backoff, which is some seconds long after the first ones; not 8 per backoff.
    assert 10 <= server.stats.writes - 1000 <= 8 + 10 + 8 + 0.2 * 1000 + 60
    assert anyio.current_time() < down[1] + 60


@pytest.mark.parametrize("reply", [503, 502, DROPPED, REFUSED], ids=named)
async def test_p14_no_storm_one_probe_per_backoff_and_they_take_turns(reply: Reply) -> None:
    wire = Wire()
    backoff = 10.0
    async with (
        client_of(wire, max_in_flight=4, retry=every(backoff)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(1000.5)
            wire.answers(None)

        wire.answers(reply)
        tasks.start_soon(weather)
        told = await read_all(client, rows_of(300))
    assert told == {"NoneType": 300}
    outage = [sent for sent in wire.sent if sent.at <= 1000.5]
    # At first the budget is spent. From then on it is one at a time, in the whole tenant.
    probes = [sent for sent in outage if sent.at >= 100]
    gaps = [b.at - a.at for a, b in pairwise(probes)]
    assert len(probes) == pytest.approx(90, abs=3)
    assert min(gaps) >= backoff * 0.999
    # Taking turns: all that were in flight when the budget was empty, before one has a second turn,
    # and then one that had not failed yet.
    names = [sent.dialog_id for sent in probes]
    assert len(set(names)) > 4
    assert all(len(set(names[i : i + 4])) == 4 for i in range(len(names) - 3))
    assert client.metrics.applied == 300


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
async def test_p14_no_storm_nobody_is_forgotten_when_the_server_is_back(count: int) -> None:
    wire = Wire(answer=503)
    async with (
        client_of(wire, max_in_flight=2, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(300)
            wire.answers(None)

        tasks.start_soon(weather)
        assert await read_all(client, rows_of(count)) == {"NoneType": count}
    assert anyio.current_time() < 400


async def test_p14_no_storm_a_stream_that_holds_thousands_of_dialogs_waits_as_well() -> None:
    wire = Wire()
    dialogs = 3000
    async with client_of(wire, max_in_flight=8, retry=every(10)) as client:
        # Each dialog by itself is told to wait, so that the stream reads on and holds them all.
        wire.answers(throttled("60", dialog=True))
        async with anyio.create_task_group() as tasks:

            async def weather() -> None:
                await anyio.sleep(30)
                assert client.metrics.pending == dialogs
                wire.answers(503)
                await anyio.sleep(330)
                wire.answers(None)

            tasks.start_soon(weather)
            told = await read_all(client, rows_of(dialogs))
    assert told == {"NoneType": dialogs}
    during = [sent for sent in wire.sent if 30 < sent.at < 360]
    # The budget, what was in flight, and one probe every ten seconds; not thousands.
    assert len(during) <= 8 + 10 + 8 + 8 + 33
    late = [sent for sent in during if sent.at > 100]
    # They take turns: none comes again before some others had theirs.
    names = [sent.dialog_id for sent in late]
    assert len(names) > 20
    assert all(len(set(names[i : i + 5])) == 5 for i in range(len(names) - 4))


async def test_p14_no_storm_live_updates_are_not_made_to_wait_by_bulk_in_an_outage() -> None:
    wire = Wire(answer=503)
    async with (
        client_of(wire, max_in_flight=4, retry=every(10)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def bulk() -> None:
            assert await read_all(client, rows_of(100)) == {"NoneType": 100}

        tasks.start_soon(bulk)
        await anyio.sleep(200)
        # The budget is empty: it is told at once.
        began = anyio.current_time()
        outcomes = await all_of(partial(client.update, "live", session={"a": 1}))
        assert isinstance(outcomes[0], ServerError)
        assert anyio.current_time() - began < 1
        wire.answers(None)
        # The success of a live update says that the server is back.
        await client.update("live", session={"a": 1})
    assert anyio.current_time() < 245


async def test_p14_no_storm_bulk_500s_spend_attempts_and_end_as_errors() -> None:
    wire = Wire(answer=500)
    async with client_of(wire, max_in_flight=4, retry=every(5, max_attempts=3)) as client:
        told = await read_all(client, rows_of(60))
        assert told == {"ServerError": 60}
        wire.answers(None)
        assert await read_all(client, rows_of(5)) == {"NoneType": 5}
    assert len(wire.sent) <= 60 * 3 + 5


async def test_p14_no_storm_a_probe_that_is_left_alone_does_not_end_all_probing() -> None:
    wire = Wire(answer=503, takes=4)
    async with (
        client_of(wire, max_in_flight=2, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):
        told: list[Counter[str]] = []

        async def left() -> None:
            # It leaves at some moment; over the runs, also while its probe is in flight.
            with anyio.move_on_after(102):
                await read_all(client, rows_of(20))

        async def other() -> None:
            rows = ({"dialog_id": f"o-{n}", "session": {"seq": 0}} for n in range(20))
            told.append(await read_all(client, rows))

        tasks.start_soon(left)
        tasks.start_soon(other)
        await anyio.sleep(400)
        wire.answers(None)
    assert told == [{"NoneType": 20}]


@pytest.mark.parametrize("leave_at", [100.0, 100.5, 101.0, 101.5, 102.0, 102.5, 103.0])
async def test_p14_no_storm_leaving_a_stream_at_any_moment_of_an_outage(leave_at: float) -> None:
    wire = Wire(answer=503, takes=1)
    async with client_of(wire, max_in_flight=2, retry=every(3)) as client:
        with anyio.move_on_after(leave_at + 0.25):
            await read_all(client, rows_of(30))
        wire.answers(None)
        with anyio.fail_after(60):
            assert await read_all(client, rows_of(30)) == {"NoneType": 30}


AFTERWARDS: dict[str, Reply] = {
    "refused": 400,
    "conflict": 409,
    "throttled": throttled("3"),
    "throttled-dialog": throttled("3", dialog=True),
    "dropped": DROPPED,
    "fault": 500,
    "credentials": 401,
}


@pytest.mark.parametrize("end", AFTERWARDS)
@pytest.mark.parametrize("step", [{}, {"next_step": "s"}], ids=["variables", "transition"])
async def test_p14_no_storm_whatever_the_probe_meets_the_others_go_on(
    end: str, step: dict[str, Any]
) -> None:
    wire = Wire(answer=503)
    async with (
        client_of(wire, max_in_flight=2, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(300.1)
            wire.script(AFTERWARDS[end])
            wire.answers(None)

        tasks.start_soon(weather)
        told = await read_all(client, rows_of(40, **step))
    assert anyio.current_time() < 400
    assert told["NoneType"] >= 39
    assert told.total() == 40


class AlwaysFresh:
    """Another token after each one that was refused."""

    def __init__(self) -> None:
        self._token = AccessToken("Authorization", "Bearer 0")

    async def get_token(self) -> AccessToken:
        return self._token

    def invalidate(self, token: AccessToken) -> None:
        self._token = AccessToken("Authorization", token.value + "0")

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_p14_no_storm_a_probe_whose_tokens_are_refused_gives_its_turn_to_the_next() -> None:
    wire = Wire(answer=503)
    async with (
        client_of(wire, auth=AlwaysFresh(), max_in_flight=2, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(300.1)
            # The one that probes then is refused with its token, and with a fresh one as well.
            wire.script(401, 401)
            wire.answers(None)

        tasks.start_soon(weather)
        assert await read_all(client, rows_of(40)) == {"NoneType": 40}
    assert anyio.current_time() < 400


async def test_p14_no_storm_an_outage_that_ends_with_all_tokens_gone() -> None:
    server = emulator(faults=Faults(error_503=1.0))
    async with (
        client_of(server, auth=oauth(server), max_in_flight=4, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def weather() -> None:
            await anyio.sleep(300)
            server.revoke_tokens()
            server.faults = Faults()

        tasks.start_soon(weather)
        assert await read_all(client, rows_of(100)) == {"NoneType": 100}
    assert server.stats.token_requests == 2
    assert anyio.current_time() < 345


async def test_p14_no_storm_while_the_token_endpoint_is_away() -> None:
    server = emulator(faults=Faults(token_failure=1.0))
    async with client_of(server, auth=oauth(server), max_in_flight=8) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(300))
        )
        assert all(isinstance(outcome, AuthenticationError) for outcome in outcomes)
        # Each refresh asks three times; the updates share what came of it.
        assert server.stats.token_requests <= 3 * 60
        assert server.stats.requests == 0
        server.faults = Faults()
        await anyio.sleep(60)
        await client.update("d", session={"a": 1})


async def test_p14_no_storm_when_answers_stop_coming() -> None:
    wire = Wire(answer=never)
    policy = RetryPolicy(max_attempts=100)
    async with client_of(wire, max_in_flight=4, timeout=1, retry=policy) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(100))
        )
    assert all(isinstance(outcome, AmbiguousUpdateError) for outcome in outcomes)
    assert len(wire.sent) - 100 <= bound(100, 4)


# A row that fails while others are served.


@on_each_api
@pytest.mark.parametrize(
    "fault", ["408", "500", "502", "503", "520", "dropped", "silent", "refused"]
)
@pytest.mark.parametrize("bad", [[0], [13], [99], [13, 57, 58]], ids=str)
async def test_p14_no_storm_of_a_row_that_fails_while_others_are_served(
    fault: str, bad: list[int]
) -> None:
    """A row that the server always fails on ends after `max_attempts`, as does the job."""
    replies: dict[str, Reply] = {"dropped": DROPPED, "silent": never, "refused": REFUSED}
    reply = replies[fault] if fault in replies else int(fault)
    wire = Wire(takes=0.01)
    for number in bad:
        wire.script(*[reply] * 50, dialog_id=f"d{number}")
    rows = [{"dialog_id": f"d{number}", "session": {"a": 1}} for number in range(100)]
    async with client_of(wire, timeout=5) as client:
        with anyio.fail_after(3600):
            async with client.update_many(rows) as outcomes:
                failed = [one.index async for one in outcomes if not one.ok]
    assert sorted(failed) == bad
    for number in bad:
        assert len(wire.writes(f"d{number}")) == 5
    # Reads of other dialogs show that the server is there when no other row is left.
    assert {sent.dialog_id for sent in wire.sent if sent.method == "GET"}.isdisjoint(
        f"d{number}" for number in bad
    )


@pytest.mark.parametrize("fault", [502, DROPPED], ids=named)
async def test_p14_no_storm_of_such_a_row_where_states_cannot_be_read(fault: Reply) -> None:
    wire = Wire(takes=0.01)
    wire.script(*[fault] * 50, dialog_id="d13")
    rows = [{"dialog_id": f"d{number}", "session": {"a": 1}} for number in range(100)]
    async with client_of(wire, api=SessionsApi(user_id="u-1")) as client:
        with anyio.fail_after(3600):
            async with client.update_many(rows) as outcomes:
                failed = [one.index async for one in outcomes if not one.ok]
    assert failed == [13]
    assert len(wire.writes("d13")) == 5


async def test_p14_no_storm_a_probe_that_fails_costs_a_row_nothing() -> None:
    wire = Wire(takes=0.01)
    async with client_of(wire, retry=every(1.0)) as client:
        await client.update("other", session={"a": 1})
        wire.script(*[502] * 60)
        wire.script(*[502, 500, 504, 503] * 10, *[DROPPED] * 18, method="GET")
        async with client.update_many([{"dialog_id": "d", "session": {"a": 1}}]) as outcomes:
            assert [one.ok async for one in outcomes] == [True]
    # In turns, so that a row is not held up where only reads fail.
    methods = [sent.method for sent in wire.sent[1:]]
    assert methods == [*["PATCH", "GET"] * 60, "PATCH"]
    assert {sent.dialog_id for sent in wire.sent if sent.method == "GET"} == {"other"}


@pytest.mark.parametrize("fault", [502, DROPPED], ids=named)
async def test_p14_no_storm_a_server_that_goes_away_is_waited_for(fault: Reply) -> None:
    """Rows that fail when an outage begins, also the last ones, are not blamed for it."""
    wire = Wire(takes=0.01)
    rows = [{"dialog_id": f"d{number}", "session": {"a": 1}} for number in range(2000)]
    async with client_of(wire) as client, anyio.create_task_group() as tasks:

        async def go_away(at: float) -> None:
            await anyio.sleep(at)
            wire.answers(fault)
            await anyio.sleep(3600)
            wire.answers(None)

        tasks.start_soon(go_away, 0.2)
        async with client.update_many(rows) as outcomes:
            ends = [one.error async for one in outcomes]
    assert ends == [None] * len(rows)
    assert anyio.current_time() > 3600


@pytest.mark.quick("asyncio-True", "trio-False")
@pytest.mark.parametrize("asking", [False, True])
async def test_p14_no_storm_of_rows_while_a_server_serves_nothing_but_reads(asking: bool) -> None:
    """No row fails while the state can be read and not be written, whoever else reads it."""
    wire = Wire(takes=0.01)
    rows = [{"dialog_id": f"d{number}", "session": {"a": 1}} for number in range(1000)]
    async with client_of(wire) as client, anyio.create_task_group() as tasks:

        async def refuse_writes() -> None:
            await anyio.sleep(0.05)
            wire.script(*[503] * 10_000)
            for _ in range(480):
                await anyio.sleep(15)
                if asking:
                    await client.get_state("other")
            wire.forget()

        tasks.start_soon(refuse_writes)
        async with client.update_many(rows) as outcomes:
            ends = [one.error async for one in outcomes]
    assert ends == [None] * len(rows)
    assert anyio.current_time() > 7200


async def test_p14_no_storm_a_lone_row_waits_for_a_server_that_never_served() -> None:
    wire = Wire(takes=0.01, answer=502)
    async with client_of(wire) as client:
        with anyio.move_on_after(7200) as patience:
            async with client.update_many([{"dialog_id": "d", "session": {"a": 1}}]) as outcomes:
                async for _ in outcomes:
                    raise AssertionError("it must wait")
    assert patience.cancelled_caught


@pytest.mark.parametrize("refusal", [501, 505, 421, 425])
async def test_p14_no_storm_of_refusals(refusal: int) -> None:
    wire = Wire(answer=refusal)
    rows = [{"dialog_id": f"d{number}", "session": {"a": 1}} for number in range(100)]
    async with client_of(wire) as client, client.update_many(rows) as outcomes:
        errors = [one.error async for one in outcomes]
    assert len(wire.sent) == len(errors) == 100
    assert {type(error) for error in errors} == {
        ServerError if refusal > 500 else UnexpectedAnswerError
    }
