"""P4: every accepted update ends in exactly one outcome; after `aclose` nothing is unsettled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    CloseReport,
    CognigyError,
    PendingUpdate,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
    ServerError,
    StateUpdate,
    UpdateError,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    DROPPED,
    Wire,
    all_of,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    never,
    outcome_of,
    shuffled,
)


def handles_of(client: AsyncStateClient, dialogs: int, updates: int) -> list[PendingUpdate]:
    return [
        client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": seq}})
        for seq in range(updates)
        for number in range(dialogs)
    ]


async def told_by(handles: list[PendingUpdate]) -> Counter[str]:
    """Their outcomes by type; all of them are there."""
    assert all(handle.done() for handle in handles)
    return Counter([type(await outcome_of(handle)).__name__ for handle in handles])


WEATHER = Faults(
    latency=0.1,
    latency_jitter=0.1,
    error_500=0.05,
    error_502=0.05,
    error_503=0.05,
    error_504=0.05,
    error_applies=0.5,
    drop_before=0.03,
    drop_after=0.03,
    competitor=0.05,
    conflict=0.05,
    hang=0.02,
    malformed=0.03,
    throttle_dialog=0.02,
    throttle_tenant=0.002,
    token_expiry=0.02,
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("drain", [True, False])
async def test_p4_settled_whatever_happened_when_the_client_closes(seed: int, drain: bool) -> None:
    server = emulator(faults=WEATHER, seed=seed, honour_idempotency_keys=False)
    chance = Random(seed)
    client = client_of(server, max_in_flight=8, timeout=2, retry=RetryPolicy(max_attempts=3))
    events: Counter[str] = Counter()
    told: list[Any] = []

    @client.on_state_updated
    @client.on_update_failed
    async def count(event: UpdateEvent) -> None:
        events[event.update_id] += 1

    async def write(number: int) -> None:
        step: dict[str, Any] = {"next_step": "s"} if number % 4 == 0 else {}
        dialog_id, session = f"d-{number % 9}", {"a": number}
        told.append(await outcome_of(client.update(dialog_id, session=session, **step)))

    async def modify(number: int) -> None:
        told.append(
            await outcome_of(
                client.modify(f"d-{number % 9}", lambda state: {"session": {"m": number}})
            )
        )

    async def bulk() -> None:
        rows = [{"dialog_id": f"d-{number % 9}", "session": {"b": number}} for number in range(40)]
        try:
            async for outcome in client.update_many(rows):
                one = outcome.result or outcome.error
                told.append(one)
        except ClientClosedError:
            # The rest of the input was not accepted any more.
            pass

    async with client, anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(write, number)
            tasks.start_soon(modify, number)
        tasks.start_soon(bulk)
        await anyio.sleep(chance.uniform(0, 4))
        report = await client.aclose(drain=drain, timeout=chance.choice([0.01, 1, 1000]))
    metrics = client.metrics
    assert metrics.pending == metrics.in_flight == 0
    kinds = Counter(type(one).__name__ for one in told)
    assert all(isinstance(one, UpdateResult | CognigyError) for one in told), kinds
    # What the report counts is what the callers were told.
    assert report.applied == metrics.applied == kinds["UpdateResult"]
    assert report.ambiguous == metrics.ambiguous == kinds["AmbiguousUpdateError"]
    assert report is client.close_report is await client.aclose()
    # One event for each that was sent, none for the others.
    sent = report.applied + report.failed + report.ambiguous
    assert all(count == 1 for count in events.values())
    assert len(events) + report.undelivered == sent
    assert len(set(map(id, report.unsent))) == len(report.unsent) <= kinds["ClientClosedError"]


async def test_p4_settled_draining_applies_everything() -> None:
    server = emulator(faults=Faults(latency=0.1, error_503=0.2))
    async with client_of(server, max_in_flight=4) as client:
        handles = handles_of(client, 10, 5)
        report = await client.aclose()
    assert await told_by(handles) == {"UpdateResult": 50}
    assert (report.applied, report.failed, report.ambiguous) == (50, 0, 0)
    assert report.unsent == ()
    assert repr(report) == (
        "<CloseReport 50 applied, 0 failed, 0 ambiguous, 0 unsent, 0 events undelivered>"
    )


async def test_p4_settled_what_was_not_sent_is_returned_and_can_be_sent_later() -> None:
    wire = Wire(takes=1)
    client = client_of(wire, max_in_flight=3)
    with pytest.raises(KeyError):
        async with client:
            handles = handles_of(client, 5, 4)
            await anyio.sleep(0.5)
            raise KeyError
    # Leaving by an exception does not drain, and what is in flight ends.
    assert anyio.current_time() == pytest.approx(1, abs=0.1)
    assert await told_by(handles) == {"UpdateResult": 3, "ClientClosedError": 17}
    report = client.close_report
    assert report is not None
    assert report.applied == 3
    rest = [
        {"dialog_id": f"d-{number}", "session": {"seq": seq}}
        for seq in range(4)
        for number in range(5)
    ][3:]
    assert [update.fields() for update in report.unsent] == rest
    assert all(isinstance(update, StateUpdate) for update in report.unsent)
    async with client_of(wire) as other:
        for update in report.unsent:
            other.submit_nowait(update)
    for number in range(5):
        assert [sent.seq for sent in wire.writes(f"d-{number}")] == [0, 1, 2, 3]


@pytest.mark.parametrize("drain", [True, False])
async def test_p4_settled_what_is_cut_off_is_ambiguous(drain: bool) -> None:
    wire = Wire(answer=never)
    client = client_of(wire, max_in_flight=3, timeout=1000)
    events: list[UpdateEvent] = []

    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        handles = handles_of(client, 5, 2)
        await anyio.sleep(1)
        report = await client.aclose(drain=drain, timeout=10)
        assert anyio.current_time() == pytest.approx(11, abs=0.1)
    assert await told_by(handles) == {"AmbiguousUpdateError": 3, "ClientClosedError": 7}
    assert (report.applied, report.failed, report.ambiguous) == (0, 0, 3)
    assert len(report.unsent) == 7
    assert len(events) + report.undelivered == 3
    assert wire.torn_down == 3
    assert wire.closed == 1


async def test_p4_settled_between_attempts_with_the_last_failure() -> None:
    wire = Wire(answer=503)
    async with client_of(wire, retry=every(1000, max_elapsed=1e6)) as client:
        handles = handles_of(client, 3, 2)
        await anyio.sleep(1)
        report = await client.aclose(drain=False)
        assert anyio.current_time() == pytest.approx(1, abs=0.1)
    assert await told_by(handles) == {"ServerError": 3, "ClientClosedError": 3}
    assert (report.failed, report.ambiguous, len(report.unsent)) == (3, 0, 3)


async def test_p4_settled_a_withdrawn_update_has_its_outcome() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        handles = handles_of(client, 1, 3)
        assert handles[1].withdraw()
        assert not handles[1].withdraw()
        assert handles[1].done()
        with pytest.raises(UpdateWithdrawnError):
            await handles[1]
        await handles[2]
        assert not handles[0].withdraw()
    assert [sent.seq for sent in wire.sent] == [0, 2]
    assert client.metrics.withdrawn == 1
    assert client.close_report == CloseReport(2, 0, 0, (), 0)


class SomethingElse(Exception):  # noqa: N818
    """What no protocol mentions."""


class Breaking(RuntimeApi):
    """An API that fails in one of its steps."""

    def __init__(self, step: str) -> None:
        super().__init__(is_dialog_throttle=lambda _: self.fail("is_dialog_throttle"))
        self.step = step

    def fail(self, step: str) -> bool:
        if step == self.step:
            raise SomethingElse
        return False

    def writes(self, *args: Any) -> list[Request]:
        self.fail("writes")
        return super().writes(*args)

    def classify(self, response: Response) -> Any:
        self.fail("response_kind")
        return super().classify(response)

    def error(self, *args: Any) -> UpdateError:
        self.fail("error")
        return super().error(*args)

    def etag(self, response: Response) -> str | None:
        self.fail("etag")
        return super().etag(response)


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("writes", 200),
        ("response_kind", 200),
        ("etag", 200),
        ("error", 503),
        ("error", 400),
        ("error", 401),
        ("is_dialog_throttle", 429),
    ],
)
async def test_p4_settled_although_the_api_fails_in_its_own_code(step: str, answer: int) -> None:
    wire = Wire(answer=answer)
    api = Breaking(step)
    async with client_of(wire, api=api, retry=at_once(max_attempts=2)) as client:
        with anyio.fail_after(600):
            error = await outcome_of(client.update("d", session={"a": 1}))
        assert isinstance(error, UpdateError)
        assert error.dialog_id == "d"
        api.step = ""
        wire.answers(None)
        await client.update("d", session={"a": 1})
    assert client.metrics.pending == 0


async def _break(_: Request) -> Response:
    raise SomethingElse


async def _break_all(_: Request) -> Response:
    raise BaseExceptionGroup("several", [SomethingElse(), ValueError()])


async def _break_off(_: Request) -> Response:
    raise asyncio.CancelledError


async def _answer_nonsense(_: Request) -> Response:
    return Response(0, {}, b"")


@pytest.mark.parametrize("reply", [_break, _break_all, _break_off, _answer_nonsense])
async def test_p4_settled_although_the_transport_breaks_its_protocol(
    reply: Callable[[Request], Any], anyio_backend_name: str
) -> None:
    if reply is _break_off and anyio_backend_name == "trio":
        pytest.skip("only asyncio has a cancellation that anybody can raise")
    wire = Wire()
    wire.script(*[reply] * 4, dialog_id="ill")
    async with client_of(wire, retry=at_once(max_attempts=2)) as client:
        error = await outcome_of(client.update("ill", session={"a": 1}))
        assert isinstance(error, CognigyError)
        await client.update("well", session={"a": 1})
    assert client.metrics.pending == 0


class NoTokens:
    """A provider that fails, first in one way and then in none."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.asked = 0

    async def get_token(self) -> Any:
        from cognigy_async import AccessToken

        self.asked += 1
        assert self.asked < 10_000, "it is asked without a pause"
        if self.error is not None:
            raise self.error
        return AccessToken("X-API-Key", "k")

    def invalidate(self, token: Any) -> None:
        raise AssertionError("nothing was refused")

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    "error",
    [
        SomethingElse(),
        AuthenticationError("no"),
        AuthenticationError("not now", transient=True),
        AuthenticationError("not now", transient=True, retry_after=2.5),
    ],
    ids=["unforeseen", "refused", "transient", "later"],
)
async def test_p4_settled_although_there_is_no_token(error: Exception) -> None:
    wire = Wire()
    provider = NoTokens(error)
    async with client_of(wire, auth=provider, retry=every(1)) as client:
        calls = [partial(client.update, f"d-{number}", session={"a": 1}) for number in range(100)]
        outcomes = await all_of(*calls, partial(client.get_state, "d"))
        assert all(isinstance(outcome, AuthenticationError) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 101
        assert wire.sent == []
        provider.error = None
        await client.update("d", session={"a": 1})
    assert client.metrics.failed == 100


async def test_p4_settled_bulk_waits_for_a_token_without_asking_all_the_time() -> None:
    wire = Wire()
    provider = NoTokens(AuthenticationError("not now", transient=True))
    rows = [{"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(300)]
    async with (
        client_of(wire, auth=provider, max_in_flight=4, retry=every(5)) as client,
        anyio.create_task_group() as tasks,
    ):

        async def mend() -> None:
            await anyio.sleep(600)
            provider.error = None

        tasks.start_soon(mend)
        assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 300
    assert provider.asked < 1000
    assert anyio.current_time() < 700


async def test_p4_settled_a_strategy_that_raises_fails_its_update_alone() -> None:
    def broken(_: Any) -> float:
        raise SomethingElse

    wire = Wire()
    wire.script(503, 503, dialog_id="ill")
    async with client_of(wire) as client:
        for policy in (RetryPolicy(wait=broken), at_once(stop=broken)):
            error = await outcome_of(client.update("ill", session={"a": 1}, retry=policy))
            assert isinstance(error, ServerError)
        await client.update("well", session={"a": 1})


async def test_p4_settled_after_a_random_closing_order() -> None:
    """Handles that nobody awaits are settled like the others."""
    wire = Wire(takes=0.5)
    wire.script(503, DROPPED, 409, 400)
    async with client_of(wire, max_in_flight=2, retry=every(1)) as client:
        handles = handles_of(client, 8, 3)
        for handle in shuffled(handles, 5):
            handle.withdraw()
            await anyio.sleep(0.05)
        await client.aclose(drain=False, timeout=0.2)
    told = await told_by(handles)
    assert sum(told.values()) == 24
    assert set(told) <= {
        "UpdateResult",
        "UpdateWithdrawnError",
        "ClientClosedError",
        "ServerError",
        "BadRequestError",
        "AmbiguousUpdateError",
        "StateConflictError",
    }
    assert told["UpdateWithdrawnError"] == client.metrics.withdrawn > 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_p4_settled_unsent_work_of_a_stream_is_listed_too(asynchronous: bool) -> None:
    wire = Wire(takes=1)
    rows = [{"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(100)]

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for row in rows:
            yield row

    client = client_of(wire, max_in_flight=2)
    told: Counter[str] = Counter()
    async with client, anyio.create_task_group() as tasks:

        async def bulk() -> None:
            stream = client.update_many(slowly() if asynchronous else rows)
            try:
                async for outcome in stream:
                    told[type(outcome.error).__name__] += 1
            except ClientClosedError:
                told["the end"] += 1

        tasks.start_soon(bulk)
        await anyio.sleep(2.5)
        report = await client.aclose(drain=False)
    assert report.applied == told["NoneType"] == 6
    assert len(report.unsent) == told["ClientClosedError"] > 0
    # What was not even accepted is the source's: the reader is told that the client is closed.
    assert told["the end"] == 1
    assert told.total() < 100


async def test_p4_settled_a_lost_worker_takes_nothing_with_it() -> None:
    """What ends a worker, as a `KeyboardInterrupt` does: nobody waits for good."""

    class Bug(GeneratorExit):
        pass

    async def stop(_: Request) -> Response:
        raise Bug

    wire = Wire(takes=1)
    wire.script(stop, dialog_id="ill")
    client = client_of(wire, max_in_flight=2)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with client:
            handles = handles_of(client, 3, 2)
            ill = client.submit_nowait({"dialog_id": "ill", "session": {"a": 1}})
            await outcome_of(ill)
            with pytest.raises(ClientClosedError):
                client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
    assert _holds(caught.value, Bug)
    told = await told_by([*handles, ill])
    assert set(told) <= {"UpdateResult", "AmbiguousUpdateError", "ClientClosedError"}
    assert isinstance(await outcome_of(ill), AmbiguousUpdateError)
    assert client.close_report is not None


def _holds(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_holds(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)


async def test_p4_settled_what_was_not_sent_is_logged_by_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    canary = "canary-4711"
    client = client_of(Wire(takes=1), max_in_flight=1)
    row = {"dialog_id": "d-bulk", "session": {"a": canary}}
    async with client, anyio.create_task_group() as tasks:
        first = await client.submit({"dialog_id": "d-1", "session": {"a": canary}})
        second = await client.submit({"dialog_id": "d-1", "session": {"a": canary}})
        named = {"dialog_id": "d-2", "session": {"a": canary}, "update_id": "named"}
        third = await client.submit(named)
        for call in (
            lambda: client.modify("d-3", lambda state: row),
            lambda: client.get_state("d-4"),
            lambda: anext(client.update_many([row])),
        ):
            tasks.start_soon(_closed, call)
        await anyio.sleep(0.5)
        await client.aclose(drain=False)
    assert first.done()
    records = [each for each in caplog.records if "was not sent" in each.getMessage()]
    assert {each.levelname for each in records} == {"WARNING"}
    told = [(vars(each)["dialog_id"], vars(each)["update_id"]) for each in records]
    # Neither reads nor the rows of a stream, whose reader has their outcomes.
    assert told[:2] == [("d-1", second.update_id), ("d-2", third.update_id)]
    assert [dialog_id for dialog_id, _ in told[2:]] == ["d-3"]
    assert canary not in caplog.text


async def _closed(call: Callable[[], Any]) -> None:
    try:
        await call()
    except ClientClosedError:
        return


async def test_p4_settled_keys_of_unsent_updates_never_reached_the_server() -> None:
    server = emulator(faults=Faults(latency=0.2))
    async with client_of(server, max_in_flight=3) as client:
        handles = handles_of(client, 6, 6)
        await anyio.sleep(0.5)
        await client.aclose(drain=False)
    there = {item.key for number in range(6) for item in applied(server, f"d-{number}")}
    for handle in handles:
        told = await outcome_of(handle)
        assert (handle.update_id in there) is isinstance(told, UpdateResult)


async def test_a_failure_tells_its_times_as_a_result_does() -> None:
    wire = Wire(takes=2.0)
    wire.script(200, 400)
    async with client_of(wire) as client:
        before = client.submit_nowait({"dialog_id": "d-1", "session": {"seq": 0}})
        refused = client.submit_nowait({"dialog_id": "d-1", "session": {"seq": 1}})
        await before
        with pytest.raises(BadRequestError) as caught:
            await refused
        assert (caught.value.queued, caught.value.latency) == pytest.approx((2.0, 2.0))
    assert UpdateError("never sent").latency is None
