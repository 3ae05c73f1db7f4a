"""What goes wrong around an update: one update may bear it, and never the client."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AccessToken,
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    ClientClosedError,
    ConfigurationError,
    RetryPolicy,
    RuntimeApi,
    UpdateEvent,
    UpdateValidationError,
)

from .world import DROPPED, KEY, Wire, at_once, client_of, every, never, outcome_of


async def test_an_outage_with_a_full_queue_of_a_callback_ends_with_the_server() -> None:
    """Those that wait for the server have the places; one without must not be the probe."""
    wire = Wire(answer=503)
    client = client_of(wire, max_in_flight=8, retry=every(0.5))

    @client.on_state_updated(max_queue=8)
    async def look(_: UpdateEvent) -> None:
        pass

    rows = [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(100)]
    async with client, anyio.create_task_group() as tasks:

        async def mend() -> None:
            await anyio.sleep(20)
            wire.answers(None)

        tasks.start_soon(mend)
        with anyio.fail_after(600):
            outcomes = [outcome async for outcome in client.update_many(rows)]
            await client.update("live", session={"n": 1})
    assert [outcome.ok for outcome in outcomes] == [True] * 100


@pytest.fixture
def records_that_cannot_be_made() -> Iterator[None]:
    """An application's record factory that has a name of ours for something else."""
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = before(*args, **options)
        record.dialog_id = "the application's own"
        return record

    logging.setLogRecordFactory(factory)
    yield
    logging.setLogRecordFactory(before)


async def test_a_log_record_that_cannot_be_made_ends_nothing(
    records_that_cannot_be_made: None, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire()
    wire.script(400)
    caplog.set_level(logging.INFO, logger="cognigy_async")
    async with client_of(wire) as client:
        await outcome_of(client.update("a", session={"n": 1}))
        assert (await client.update("b", session={"n": 1})).attempts == 1
    assert "update failed" in caplog.text, "without its fields"


class Breaks(RuntimeApi):
    """An API of a user's own with a fault in it."""

    def etag(self, response: Any) -> str | None:
        raise LookupError("canary")


async def test_what_breaks_in_the_midst_is_borne_by_its_update_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = Wire(takes=1.0)
    async with client_of(wire, api=Breaks(), retry=at_once(max_attempts=1)) as client:
        async with anyio.create_task_group() as tasks:
            outcomes: list[Any] = []

            async def write(dialog_id: str) -> None:
                outcomes.append(await outcome_of(client.update(dialog_id, session={"n": 1})))

            for dialog_id in ("a", "b"):
                tasks.start_soon(write, dialog_id)
        assert [type(outcome) for outcome in outcomes] == [AmbiguousUpdateError] * 2
        assert client.is_open
        assert (client.metrics.pending, client.metrics.in_flight) == (0, 0)
    assert "canary" not in caplog.text


class Unravels(RuntimeApi):
    """One whose fault is found only where a failure is dealt with."""

    def error(self, request: Any, response: Any, wall_clock: float) -> Any:
        return "no exception"


async def test_what_breaks_after_the_answer_is_borne_as_well() -> None:
    wire = Wire()
    wire.script(503)
    async with client_of(wire, api=Unravels()) as client:
        error = await outcome_of(client.update("a", session={"n": 1}))
        assert isinstance(error, AmbiguousUpdateError)
        assert (await client.update("a", session={"n": 2})).attempts == 1


async def test_who_is_woken_by_the_end_of_the_engine_does_not_come_in_again(
    anyio_backend_name: str,
) -> None:
    """It would wait for ever."""
    if anyio_backend_name == "trio":
        pytest.skip("a nursery belongs to the task that opened it, and nobody else can end it")
    client = client_of(Wire(answer=never), max_in_flight=1)
    seen: list[Any] = []

    async def insist(dialog_id: str) -> None:
        for number in range(3):
            seen.append(await outcome_of(client.update(dialog_id, session={"n": number})))

    async with client, anyio.create_task_group() as tasks:
        for dialog_id in ("a", "b"):
            tasks.start_soon(insist, dialog_id)
        await anyio.sleep(1)
        (owner,) = (
            task for task in asyncio.all_tasks() if task.get_name() == "cognigy_async client"
        )
        owner.cancel()
    kinds = [type(outcome) for outcome in seen]
    assert kinds.count(AmbiguousUpdateError) == 1
    assert kinds.count(ClientClosedError) == 5


@pytest.mark.parametrize("kind", ["modify", "transition"])
async def test_a_precondition_that_is_looked_at_before_the_key_doubles_nothing(kind: str) -> None:
    """The write is applied, its answer lost, and the repeat meets its own version."""
    wire = Wire()
    applied: list[int] = []

    async def lose(request: Any) -> Any:
        applied.append(1)
        wire.script(412)
        raise DROPPED

    wire.script(409, lose) if kind == "transition" else wire.script(lose)
    api = RuntimeApi(honours_idempotency_keys=True)
    async with client_of(wire, api=api, retry=at_once()) as client:
        call = (
            client.modify("d", lambda _: {"session": {"n": 1}})
            if kind == "modify"
            else client.update("d", next_step="pay")
        )
        assert isinstance(await outcome_of(call), AmbiguousUpdateError)
    assert len(applied) == 1
    assert wire.applied == []


class Place(str, enum.Enum):  # noqa: UP042 (a StrEnum formats itself as its text)
    MAIN = "d-1"


async def test_an_enum_is_the_text_that_it_stands_for() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        await client.update(Place.MAIN, next_step=Place.MAIN, update_id=Place.MAIN)
        await client.get_state(Place.MAIN)
        await client.modify(Place.MAIN, lambda _: {"next_step": Place.MAIN})
    assert {sent.dialog_id for sent in wire.sent} == {"d-1"}
    assert wire.writes()[0].key == "d-1"
    assert [write.body["transition"] for write in wire.writes()] == [{"nextStep": "d-1"}] * 2


class NeverAnswers:
    """A token provider that hangs."""

    async def get_token(self) -> AccessToken:
        await anyio.sleep_forever()
        raise AssertionError

    def invalidate(self, token: AccessToken) -> None: ...

    async def aclose(self) -> None: ...


async def test_leaving_does_not_wait_for_a_token_that_nobody_needs() -> None:
    client = client_of(Wire(), auth=NeverAnswers())
    with pytest.raises(LookupError):
        async with client:
            for number in range(3):
                client.submit_nowait({"dialog_id": f"d-{number}", "session": {"n": 1}})
            await anyio.sleep(1)
            raise LookupError
    assert anyio.current_time() == 1
    assert client.close_report is not None
    assert len(client.close_report.unsent) == 3


async def test_what_callbacks_write_while_the_client_closes_is_carried_out() -> None:
    wire = Wire(takes=0.1)
    client = client_of(wire, max_pending=2)

    @client.on_state_updated
    async def mirror(event: UpdateEvent) -> None:
        await anyio.sleep(0.1)
        if event.dialog_id.startswith("d"):
            await client.update(f"mirror-{event.dialog_id}", session={"n": 1})

    async with client:
        for number in range(3):
            await client.submit({"dialog_id": f"d-{number}", "session": {"n": 1}})
    assert {sent.dialog_id for sent in wire.applied} >= {"mirror-d-0", "mirror-d-1", "mirror-d-2"}
    assert client.close_report is not None
    assert (client.close_report.applied, client.close_report.undelivered) == (6, 0)
    error = await outcome_of(client.update("d", session={"n": 1}))
    assert isinstance(error, ClientClosedError)


async def test_events_that_no_callback_took_are_in_the_report() -> None:
    client = client_of(Wire())

    @client.on_state_updated(retries=0)
    async def fail(_: UpdateEvent) -> None:
        raise ConnectionError

    async with client:
        await client.update("d", session={"n": 1})
        await client.flush()
    assert client.close_report is not None
    assert client.close_report.undelivered == 1


@pytest.mark.parametrize("drain", [True, False])
async def test_a_second_close_may_be_in_a_greater_hurry(drain: bool) -> None:
    wire = Wire(takes=0.2)
    async with client_of(wire, max_in_flight=1) as client:
        for number in range(50):
            client.submit_nowait({"dialog_id": f"d-{number}", "session": {"n": 1}})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.aclose)
            await anyio.sleep(0.3)
            report = await client.aclose(drain=drain, timeout=1.0)
        assert report is client.close_report
        assert anyio.current_time() <= 1.5
        assert report.applied + report.ambiguous + len(report.unsent) == 50
        assert len(report.unsent) >= 40


@pytest.mark.parametrize(
    "arguments",
    [
        {"retry": 5},
        {"limits": 5},
        {"transport": 5},
        {"api": 5},
        {"timeout": "5"},
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        AsyncStateClient(**{"base_url": "http://localhost", "auth": ApiKey(KEY)} | arguments)


async def test_a_policy_of_a_wrong_kind_is_refused_before_anything_is_accepted() -> None:
    wire = Wire()
    wrong: Any = 5

    async def decide(_: object) -> None: ...

    async with client_of(wire, max_pending=1) as client:
        with pytest.raises(ConfigurationError, match="retry"):
            await client.update("d", session={"n": 1}, retry=wrong)
        with pytest.raises(ConfigurationError, match="retry"):
            await client.submit({"dialog_id": "d", "session": {"n": 1}}, retry=wrong)
        with pytest.raises(ConfigurationError, match="timeout"):
            await client.update("d", session={"n": 1}, timeout=wrong and "5")
        with pytest.raises(TypeError, match="async"):
            await client.modify("d", decide)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="async"):
            await client.modify("d", lambda state: decide(state))  # type: ignore[arg-type, return-value]
        assert client.metrics.pending == 0
        # The room that was taken is given back.
        assert (await client.update("d", session={"n": 1}, retry=RetryPolicy())).attempts == 1
    assert len(wire.writes()) == 1


async def test_a_value_with_a_hundred_thousand_faults_has_a_message_to_read() -> None:
    async with client_of(Wire()) as client:
        with pytest.raises(UpdateValidationError) as caught:
            await client.update("d", session={"values": [object()] * 100_000})
    assert len(str(caught.value)) < 10_000
    assert str(caught.value).endswith("and 980 more")
    assert len(caught.value.faults) == 1000


async def test_a_dialog_id_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire()
    wire.script(503)
    with caplog.at_level(logging.DEBUG, "cognigy_async"):
        async with client_of(wire, retry=at_once()) as client:
            await client.update("d\nERROR forged", session={"n": 1})
    assert "retry update" in caplog.text
    assert not any("\n" in record.getMessage() for record in caplog.records)
