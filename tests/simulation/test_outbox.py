"""An outbox knows of each update before the server does, and of each outcome before the caller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
import sniffio

from cognigy_async import (
    AccessToken,
    AmbiguousUpdateError,
    BadRequestError,
    ClientClosedError,
    CognigyError,
    DeadlineExceededError,
    DialogPausedError,
    Limits,
    MemoryAudit,
    OutboxError,
    RateLimit,
    StateConflictError,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from tests.simulation.outbox import MemoryOutbox
from tests.simulation.world import (
    DROPPED,
    Reply,
    Wire,
    all_of,
    at_once,
    client_of,
    emulator,
    every,
    never,
    on_each_api,
    outcome_of,
    turns,
    until,
)

DELAYS = [None, 0.5]


def verbs(outbox: MemoryOutbox) -> list[str]:
    return [verb for verb, _ in outbox.log]


@on_each_api
@pytest.mark.parametrize("delay", DELAYS)
async def test_the_intent_comes_before_the_request_and_the_outcome_before_the_result(
    delay: float | None,
) -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=delay)
    seen: list[tuple[str, int]] = []
    outbox._watch = lambda verb, _: seen.append((verb, len(wire.sent)))
    async with client_of(wire, outbox=outbox) as client:
        result = await client.update("d", session={"a": 1}, update_id="u-1", metadata={"m": "x"})
        assert seen == [("intend", 0), ("intended", 0), ("settle", 1), ("settled", 1)]
        (event,) = outbox.events
        assert isinstance(event, UpdateEvent)
        assert (event.dialog_id, event.update_id) == ("d", "u-1")
        assert (event.result, event.error) == (result, None)
        assert event.metadata == {"m": "x"}
        assert event.payload == {"session": {"a": 1}}
        assert outbox.intents == {}
    assert outbox.closed
    assert not outbox.running


async def test_an_intent_has_all_that_is_needed_to_send_it_again() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=1.0)
    async with client_of(wire, outbox=outbox) as client:
        await client.update("d", session={"a": 1})
        policy = at_once(ambiguous="raise")
        pending = await client.submit(
            {"dialog_id": "d", "session": {"a": 2}, "metadata": {"m": "x"}},
            retry=policy,
            deadline=60.0,
        )
        await anyio.sleep(1.5)
        (intent,) = outbox.intents.values()
        assert intent.update_id == intent.key == pending.update_id
        assert (intent.dialog_id, intent.metadata) == ("d", {"m": "x"})
        # The version that the first update left.
        assert (intent.etag, intent.repeatable) == ('"1"', False)
        assert intent.deadline is not None
        assert intent.deadline - intent.recorded_at == pytest.approx(60.0)
        await pending
        await outcome_of(client.update("d", session={"a": 3}, if_match='"7"'))
        assert outbox.log[-1][0] == "settled"


async def test_updates_of_one_dialog_keep_their_order_and_others_go_on() -> None:
    wire, outbox = Wire(takes=0.1), MemoryOutbox(delay=1.0)
    async with client_of(wire, outbox=outbox, max_in_flight=1) as client:
        one = [client.submit_nowait({"dialog_id": "d", "session": {"seq": i}}) for i in range(3)]
        others = [client.submit_nowait({"dialog_id": f"o-{i}", "next_step": "s"}) for i in range(5)]
        await anyio.sleep(2.0)
        # No worker is held: the only one has served all dialogs while the records were written.
        assert {sent.dialog_id for sent in wire.sent} == {"d", *(f"o-{i}" for i in range(5))}
        for pending in [*one, *others]:
            await pending
    assert [sent.seq for sent in wire.writes("d")] == [0, 1, 2]
    own = [verb for verb, ids in outbox.log if ids[0] in {each.update_id for each in one}]
    assert own == ["intend", "intended", "settle", "settled"] * 3
    assert wire.peak == 1


async def test_dialogs_are_served_in_the_order_of_their_records() -> None:
    wire, outbox = Wire(takes=1.0), MemoryOutbox(delay=0.01)
    async with client_of(wire, outbox=outbox, max_in_flight=1) as client:
        for number in range(20):
            client.submit_nowait({"dialog_id": f"d-{number:02}", "session": {"a": 1}})
            await anyio.sleep(0.5)
        await client.flush()
    served = [sent.dialog_id for sent in wire.sent]
    assert served == sorted(served)


async def test_merged_updates_have_one_request_and_an_intent_each() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=0.5)
    async with client_of(wire, outbox=outbox, coalesce=True) as client:
        rows = [client.submit_nowait({"dialog_id": "d", "session": {f"v{i}": i}}) for i in range(3)]
        await anyio.sleep(0.2)
        # Merging is over when the intents are: this one waits for the next request.
        late = client.submit_nowait({"dialog_id": "d", "session": {"v0": 9}})
        assert [row.withdraw() for row in rows] == [False] * 3
        await anyio.sleep(0.4)
        assert len(outbox.intents) == 3
        assert {intent.key for intent in outbox.intents.values()} == {wire.sent[0].key}
        results = [await row for row in rows]
        assert [result.merged for result in results] == [3, 3, 3]
        # The record counts as waiting.
        assert [result.latency for result in results] == [0.0] * 3
        assert [result.queued for result in results] == [pytest.approx(0.5)] * 3
        await late
    ids = tuple(row.update_id for row in rows)
    own = [verb for verb, recorded in outbox.log if recorded == ids]
    assert own == ["intend", "intended", "settle", "settled"]
    assert [event.update_id for event in outbox.events] == [*ids, late.update_id]
    assert len(wire.sent) == 2


async def test_updates_with_one_id_do_not_share_a_request() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=0.5)
    updates = [{"dialog_id": "d", "update_id": "u", "session": {f"v{i}": i}} for i in range(2)]
    async with client_of(wire, outbox=outbox, coalesce=True) as client:
        rows = [client.submit_nowait(update) for update in updates]
        for row in rows:
            await row
    assert [sent.session for sent in wire.sent] == [{"v0": 0}, {"v1": 1}]
    assert [event.payload["session"] for event in outbox.events] == [{"v0": 0}, {"v1": 1}]


async def test_a_recorded_update_is_not_merged_any_more() -> None:
    wire, outbox = Wire(takes=1.0), MemoryOutbox(delay=0.1)
    limit = RateLimit(1, per=10.0)
    async with client_of(wire, outbox=outbox, coalesce=True, rate_limit=limit) as client:
        first = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await anyio.sleep(0.05)
        second = client.submit_nowait({"dialog_id": "d", "session": {"b": 2}})
        await first
        await second
    assert [sent.session for sent in wire.sent] == [{"a": 1}, {"b": 2}]


ROADS: dict[str, tuple[Reply, ...]] = {
    "fault": (500,),
    "unavailable": (503, 503),
    "throttled": (429,),
    "conflict": (409,),
    "dropped": (DROPPED,),
    "unauthorized": (401,),
}


class NewTokens:
    """Has another token each time."""

    async def get_token(self) -> AccessToken:
        return AccessToken("authorization", "Bearer x")

    def invalidate(self, token: AccessToken) -> None:
        pass


@on_each_api
@pytest.mark.parametrize("road", ROADS)
async def test_a_retry_needs_no_new_intent(road: str) -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=0.01)
    wire.script(*ROADS[road])
    async with client_of(wire, auth=NewTokens(), outbox=outbox, retry=at_once()) as client:
        await client.update("d", session={"a": 1})
    assert len(wire.writes()) == len(ROADS[road]) + 1
    assert verbs(outbox) == ["intend", "intended", "settle", "settled"]


@on_each_api
async def test_a_failure_is_recorded_too() -> None:
    wire, outbox = Wire(answer=400), MemoryOutbox(delay=0.01)
    async with client_of(wire, outbox=outbox) as client:
        with pytest.raises(BadRequestError) as raised:
            await client.update("d", session={"a": 1})
    (event,) = outbox.events
    assert event.result is None
    assert event.error is raised.value


async def test_parts_transitions_strict_writes_and_messages_are_one_update_each() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=0.01)
    small = Limits(safe_payload_bytes=300)
    async with client_of(wire, outbox=outbox, limits=small) as client:
        await client.update("d", session={"a": "x" * 200, "b": "x" * 200}, next_step="s")
        assert (len(wire.sent), len(outbox.events)) == (2, 1)
        await client.update("d", next_step="t")
        await client.update("d", session={"a": 1}, if_match='"3"')
        await client.inject("d", text="hello", user_id="u")
        assert (len(wire.sent), len(outbox.events)) == (5, 4)
    assert verbs(outbox) == ["intend", "intended", "settle", "settled"] * 4


async def test_a_strict_conflict_is_recorded_with_its_etag() -> None:
    server, outbox = emulator(), MemoryOutbox(delay=0.01)
    server.add_dialog("d")
    etags: list[Any] = []
    outbox._watch = lambda verb, ids: etags.extend(
        outbox.intents[one].etag for one in ids if verb == "intended"
    )
    async with client_of(server, outbox=outbox) as client:
        with pytest.raises(StateConflictError):
            await client.update("d", session={"a": 1}, if_match='"7"')
    assert etags == ['"7"']
    assert [type(event.error) for event in outbox.events] == [StateConflictError]


async def test_merged_updates_hold_slots_of_callbacks_while_they_are_recorded() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=1.0)
    client = client_of(wire, outbox=outbox, coalesce=True)
    served: list[tuple[str, int]] = []

    @client.on_state_updated(max_queue=3, timeout=60.0)
    async def slow(event: UpdateEvent) -> None:
        await anyio.sleep(10.0)
        served.append((event.dialog_id, len(wire.sent)))

    async with client:
        for dialog in "de":
            for number in range(3):
                client.submit_nowait({"dialog_id": dialog, "session": {f"v{number}": number}})
        await client.flush()
    # The next request waits until the callback has taken an event.
    assert served[0] == ("d", 1)
    assert len(served) == 6


async def test_bulk_work_with_an_outbox_goes_on_after_an_outage() -> None:
    wire, outbox = Wire(answer=503), MemoryOutbox(delay=0.1)
    rows: list[Any] = [{"dialog_id": f"d-{i}", "session": {"a": 1}} for i in range(40)]
    async with client_of(wire, outbox=outbox, max_in_flight=2) as client:
        for number, row in enumerate(rows):
            await client.submit(row, priority="bulk")
            if number == 20:
                # Those after it are not recorded when it is their turn to ask the server.
                await anyio.sleep(3600.0)
        await anyio.sleep(3600.0)
        assert {sent.dialog_id for sent in wire.sent} >= {"d-21", "d-22"}
        wire.answers(None)
        await client.flush()
        assert client.metrics.applied == 40
    assert (len(outbox.events), outbox.intents) == (40, {})


async def test_an_update_that_may_be_applied_is_ambiguous_whatever_ends_it() -> None:
    class Watch:
        calls = 0

        async def before_send(self, indexes: Any, key: str, etag: str | None) -> None:
            self.calls += 1
            if self.calls == 2:
                raise CognigyError("the journal is full")

        def retrying(self, *_: Any) -> None:
            pass

        def published(self, *_: Any) -> None:
            pass

    wire, outbox = Wire(), MemoryOutbox(delay=0.1)
    async with client_of(wire, outbox=outbox, retry=at_once()) as client:
        await client.update("d", session={"a": 1})
        wire.script(DROPPED)
        row = {"dialog_id": "d", "next_step": "s"}
        error = await outcome_of(await client.submit(row, watch=Watch()))
    assert isinstance(error, AmbiguousUpdateError)
    assert [type(event.error) for event in outbox.events] == [type(None), AmbiguousUpdateError]
    assert outbox.intents == {}


async def test_modify_records_its_decision_and_each_new_one() -> None:
    server, outbox = emulator(), MemoryOutbox(delay=0.01)
    server.script("competitor", "competitor", "ok")
    recorded: list[tuple[Any, ...]] = []

    def note(verb: str, ids: tuple[str, ...]) -> None:
        if verb == "intended":
            (intent,) = outbox.intents.values()
            recorded.append((intent.key.partition("/")[2], intent.etag, intent.update.session))

    outbox._watch = note
    async with client_of(server, outbox=outbox, retry=at_once()) as client:
        await client.modify(
            "d", lambda state: {"session": {"n": state.session.get("competitor", 0) + 1}}
        )
        assert await client.modify("d", lambda _: None) is None
        await client.get_state("d")
    # Nothing is recorded before the function has decided; a conflict replaces the intent.
    assert recorded == [("", '"0"', {"n": 1}), ("r1", '"1"', {"n": 2}), ("r2", '"2"', {"n": 3})]
    assert verbs(outbox).count("withdrawn") == 2
    assert outbox.intents == {}
    (event,) = outbox.events
    assert event.payload == {"session": {"n": 3}}
    assert server.stats.violations() == {}


async def test_modify_that_decides_for_nothing_after_a_conflict_leaves_no_intent() -> None:
    server, outbox = emulator(), MemoryOutbox(delay=0.01)
    server.script("competitor", "ok")
    decisions: list[Any] = [{"session": {"n": 1}}, None]
    async with client_of(server, outbox=outbox, retry=at_once()) as client:
        assert await client.modify("d", lambda _: decisions.pop(0)) is None
    assert (outbox.intents, outbox.events) == ({}, [])


async def test_reads_resets_and_profiles_are_not_recorded() -> None:
    outbox = MemoryOutbox()
    async with client_of(Wire(), outbox=outbox) as client:
        await client.get_state("d")
    assert outbox.log == []


# Failures of the outbox.


@pytest.mark.parametrize("delay", DELAYS)
async def test_an_update_that_cannot_be_recorded_is_not_sent(delay: float | None) -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=delay)
    full = OutboxError("the disk is full", "/outbox")
    outbox.fails = lambda verb, _: full if verb == "intend" else None
    async with client_of(wire, outbox=outbox) as client:
        with pytest.raises(OutboxError, match=r"dialog 'd' was not sent.*disk is full") as e:
            await client.update("d", session={"a": 1})
        assert (e.value.path, e.value.__cause__) == ("/outbox", full)
        assert (wire.sent, client.metrics.failed, client.metrics.pending) == ([], 1, 0)
        outbox.fails = lambda verb, _: None
        await client.update("d", session={"a": 2})
    assert [sent.session for sent in wire.sent] == [{"a": 2}]


async def test_an_update_that_cannot_be_recorded_pauses_its_dialog() -> None:
    wire, outbox = Wire(), MemoryOutbox()
    outbox.fails = lambda verb, _: OutboxError("full") if verb == "intend" else None
    async with client_of(wire, outbox=outbox, on_failure="pause") as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
        outbox.fails = lambda verb, _: None
        with pytest.raises(DialogPausedError) as raised:
            await client.update("d", session={"a": 2})
        assert raised.value.__cause__ is error
        client.resume("d")
        await client.update("d", session={"a": 3})
    assert [sent.session for sent in wire.sent] == [{"a": 3}]


@pytest.mark.parametrize("answer", [200, 400])
@pytest.mark.parametrize("delay", DELAYS)
async def test_an_outcome_that_cannot_be_recorded_is_ambiguous(
    answer: int, delay: float | None
) -> None:
    wire, outbox, audit = Wire(answer=answer), MemoryOutbox(delay=delay), MemoryAudit()
    full = OutboxError("the disk is full")
    outbox.fails = lambda verb, _: full if verb == "settle" else None
    client = client_of(wire, outbox=outbox, audit=audit)
    events: list[UpdateEvent] = []

    @client.on_state_updated
    @client.on_update_failed
    async def heard(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        with pytest.raises(AmbiguousUpdateError, match="could not record its outcome") as raised:
            await client.update("d", session={"a": 1})
        assert raised.value.__cause__ is full
        assert (raised.value.status, raised.value.dialog_id) == (answer, "d")
        await client.flush()
        assert [event.error for event in events] == [raised.value]
        assert (client.metrics.applied, client.metrics.ambiguous) == (0, 1)
    # The next process resolves it.
    assert list(outbox.intents) == [raised.value.update_id]
    assert [record.outcome for record in audit.records] == ["ambiguous"]


async def test_all_members_of_a_group_are_ambiguous_if_their_outcome_is_not_recorded() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=0.1)
    outbox.fails = lambda verb, _: OutboxError("no") if verb == "settle" else None
    async with client_of(wire, outbox=outbox, coalesce=True) as client:
        rows = [client.submit_nowait({"dialog_id": "d", "session": {f"v{i}": i}}) for i in range(3)]
        errors: list[Any] = [await outcome_of(row) for row in rows]
    assert [error.update_id for error in errors] == [row.update_id for row in rows]
    assert {type(error) for error in errors} == {AmbiguousUpdateError}
    assert len(outbox.intents) == 3


@pytest.mark.parametrize("verb", ["intend", "settle"])
async def test_an_outbox_that_raises_fails_its_update_alone(verb: str) -> None:
    wire = Wire()

    class Broken(MemoryOutbox):
        broken = True

        def intend(self, *args: Any) -> None:
            if verb == "intend" and self.broken:
                raise RuntimeError("a bug")
            super().intend(*args)

        def settle(self, *args: Any) -> None:
            if verb == "settle" and self.broken:
                raise RuntimeError("a bug")
            super().settle(*args)

    outbox = Broken()
    async with client_of(wire, outbox=outbox) as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
        expected: Any = OutboxError if verb == "intend" else AmbiguousUpdateError
        assert isinstance(error, expected)
        outbox.broken = False
        await client.update("d", session={"a": 2})


@pytest.mark.parametrize("error", [None, OutboxError("lost"), RuntimeError("a bug")])
async def test_an_outbox_that_ends_leaves_no_update_hanging(error: Exception | None) -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=math.inf)
    outbox.run_error = error
    async with client_of(wire, outbox=outbox) as client:
        waiting = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await until(lambda: outbox.log)
        outbox.stop.set()
        with pytest.raises(OutboxError, match="the outbox"):
            await waiting
        with pytest.raises(OutboxError, match="was not sent"):
            await client.update("d", session={"a": 2})
    assert wire.sent == []
    assert outbox.closed


async def test_an_outbox_that_ends_while_an_outcome_is_recorded() -> None:
    wire, outbox = Wire(), MemoryOutbox()
    async with client_of(wire, outbox=outbox) as client:
        outbox.hang_after("intended")
        waiting = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await until(lambda: verbs(outbox)[-1:] == ["settle"])
        assert not waiting.done()
        outbox.stop.set()
        with pytest.raises(AmbiguousUpdateError) as raised:
            await waiting
        assert isinstance(raised.value.__cause__, OutboxError)
    assert len(outbox.intents) == 1


async def test_a_client_whose_outbox_does_not_open_leaves_nothing_behind() -> None:
    wire, outbox = Wire(), MemoryOutbox()
    outbox.open_error = OutboxError("another program holds the file", "/outbox")
    client = client_of(wire, outbox=outbox, audit=MemoryAudit())
    with pytest.raises(OutboxError) as raised:
        async with client:
            raise AssertionError("it is not open")
    assert raised.value is outbox.open_error
    assert (wire.closed, outbox.closed, client.is_open) == (1, [], False)
    with pytest.raises(ClientClosedError):
        await client.update("d", session={"a": 1})
    await client.aclose()


# Withdrawing, deadlines, cancellation.


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_withdrawn_update_is_struck_out(recorded: bool) -> None:
    wire, outbox = Wire(takes=1.0), MemoryOutbox(delay=0.1)
    limit = RateLimit(1, per=100.0) if recorded else None
    async with client_of(wire, outbox=outbox, rate_limit=limit) as client:
        if recorded:
            # The next one is recorded, and then waits for the quota.
            client.submit_nowait({"dialog_id": "o", "session": {"a": 1}})
        pending = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        after = client.submit_nowait({"dialog_id": "d", "session": {"a": 2}})
        await anyio.sleep(0.5 if recorded else 0.05)
        assert (pending.update_id in outbox.intents) is recorded
        assert pending.withdraw()
        assert pending.done()
        with pytest.raises(UpdateWithdrawnError):
            await pending
        await after
    assert [sent.session for sent in wire.writes("d")] == [{"a": 2}]
    assert outbox.intents == {}
    assert pending.update_id not in [event.update_id for event in outbox.events]


@pytest.mark.parametrize("coalesce", [False, True])
async def test_an_update_that_expires_before_it_is_sent_is_struck_out(coalesce: bool) -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=10.0)
    async with client_of(wire, outbox=outbox, coalesce=coalesce) as client:
        calls = [partial(client.update, "d", session={"a": n}, deadline=5.0) for n in range(2)]
        outcomes = await all_of(*calls)
        assert {type(outcome) for outcome in outcomes} == {DeadlineExceededError}
        await anyio.sleep(30.0)
    assert (wire.sent, outbox.intents, outbox.events) == ([], {}, [])


async def test_an_outcome_that_is_being_recorded_does_not_expire() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=3.0)
    async with client_of(wire, outbox=outbox) as client:
        result = await client.update("d", session={"a": 1}, deadline=5.0)
        assert isinstance(result, UpdateResult)
        assert anyio.current_time() > 5.0


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize(
    ("at", "sent"), [(0.5, 0), (1.25, 1), (2.0, 1)], ids=["intent", "flight", "outcome"]
)
async def test_cancellation_at_each_stage(at: float, sent: int, coalesce: bool) -> None:
    wire, outbox = Wire(takes=0.5), MemoryOutbox(delay=1.0)
    async with client_of(wire, outbox=outbox, coalesce=coalesce) as client:
        with anyio.move_on_after(at):
            await all_of(
                *(partial(client.update, "d", session={f"v{i}": i}) for i in range(1 + coalesce))
            )
        assert len(wire.sent) == sent
        await client.update("d", session={"a": 2})
        assert client.metrics.pending == 0
    own = 1 + coalesce if sent else 0
    assert [event.result is not None for event in outbox.events] == [True] * (own + 1)
    assert len(wire.sent) == sent + 1
    assert outbox.intents == {}


async def test_cancellation_of_modify_while_its_intent_is_recorded() -> None:
    wire, outbox = Wire(), MemoryOutbox(delay=1.0)
    async with client_of(wire, outbox=outbox) as client:
        with anyio.move_on_after(0.5):
            await client.modify("d", lambda _: {"session": {"a": 1}})
        await client.flush()
    assert [sent.method for sent in wire.sent] == ["GET"]
    assert (outbox.intents, outbox.events) == ({}, [])


async def test_cancellation_between_attempts_records_the_failure() -> None:
    wire, outbox = Wire(answer=503), MemoryOutbox(delay=0.1)
    async with client_of(wire, outbox=outbox, retry=every(10.0)) as client:
        with anyio.move_on_after(5.0):
            await client.update("d", session={"a": 1})
        await client.flush()
        assert client.metrics.failed == 1
    assert len(wire.sent) == 1
    (event,) = outbox.events
    assert event.error is not None
    assert outbox.intents == {}


async def test_flush_waits_for_records() -> None:
    outbox = MemoryOutbox(delay=2.0)
    async with client_of(Wire(), outbox=outbox) as client:
        client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await client.flush()
        assert anyio.current_time() == pytest.approx(4.0)
        assert len(outbox.events) == 1


async def test_a_stream_takes_no_more_input_than_the_outbox_can_record() -> None:
    outbox, taken = MemoryOutbox(delay=math.inf), 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for taken in range(1, 2001):
            yield {"dialog_id": f"d-{taken}", "session": {"a": 1}}

    async with client_of(Wire(), outbox=outbox, max_in_flight=4) as client:
        with anyio.move_on_after(60.0):
            await client.update_many(rows()).drain()
        # Two chunks of 64 may be taken at a time.
        assert taken < 200
        await client.aclose(drain=False)


# Closing.


async def test_a_close_with_drain_waits_for_records() -> None:
    outbox = MemoryOutbox(delay=2.0)
    client = client_of(Wire(), outbox=outbox)
    async with client:
        rows = [client.submit_nowait({"dialog_id": "d", "session": {"a": i}}) for i in range(2)]
        report = await client.aclose()
    assert (report.applied, report.unsent) == (2, ())
    assert all(row.done() for row in rows)
    assert outbox.closed == [pytest.approx(30.0 - 8.0)]
    assert (len(outbox.events), outbox.intents, outbox.running) == (2, {}, False)


async def test_the_transport_is_closed_after_the_outbox() -> None:
    class Slow(MemoryOutbox):
        async def close(self, timeout: float) -> None:
            await anyio.sleep(1.0)
            assert wire.closed == 0
            await super().close(timeout)

    wire, outbox = Wire(), Slow()
    async with client_of(wire, outbox=outbox):
        pass
    assert (wire.closed, len(outbox.closed)) == (1, 1)


async def test_a_close_without_drain_strikes_out_what_was_not_sent() -> None:
    wire, outbox = Wire(takes=1.0), MemoryOutbox(delay=1.0)
    client = client_of(wire, outbox=outbox)
    async with client:
        sent = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        behind = client.submit_nowait({"dialog_id": "d", "session": {"a": 2}})
        await anyio.sleep(1.5)
        unsent = client.submit_nowait({"dialog_id": "e", "session": {"a": 3}})
        await until(lambda: len(outbox.log) == 3)
        report = await client.aclose(drain=False)
    assert isinstance(await sent, UpdateResult)
    for pending in (behind, unsent):
        with pytest.raises(ClientClosedError):
            await pending
    assert [update.session for update in report.unsent] == [{"a": 2}, {"a": 3}]
    assert [event.update_id for event in outbox.events] == [sent.update_id]
    assert outbox.intents == {}


async def test_a_close_gives_up_what_backs_off_and_records_that() -> None:
    wire, outbox = Wire(answer=503), MemoryOutbox(delay=0.5)
    client = client_of(wire, outbox=outbox, retry=every(60.0))
    async with client:
        pending = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await anyio.sleep(2.0)
        report = await client.aclose(drain=False)
        assert pending.done()
    assert (report.failed, report.unsent) == (1, ())
    assert [event.update_id for event in outbox.events] == [pending.update_id]
    assert outbox.intents == {}


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("at", ["intend", "settle"])
async def test_a_close_is_bounded_while_records_hang(at: str, drain: bool) -> None:
    wire, outbox = Wire(), MemoryOutbox()
    client = client_of(wire, outbox=outbox)
    async with client:
        if at == "intend":
            outbox.delay = math.inf
        else:
            outbox.hang_after("intended")
        pending = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await until(lambda: verbs(outbox)[-1:] == [at])
        began = anyio.current_time()
        report = await client.aclose(drain=drain, timeout=5.0)
        assert anyio.current_time() - began <= 10.0
    error = await outcome_of(pending)
    if at == "intend":
        assert isinstance(error, ClientClosedError)
        assert len(report.unsent) == 1
        assert outbox.intents == {}
    else:
        assert isinstance(error, AmbiguousUpdateError)
        assert isinstance(error.__cause__, OutboxError)
        assert report.ambiguous == 1
        assert len(outbox.intents) == 1


async def test_what_a_close_cuts_off_is_recorded_as_ambiguous() -> None:
    wire, outbox = Wire(answer=never), MemoryOutbox(delay=0.5)
    client = client_of(wire, outbox=outbox, timeout=1000.0)
    async with client:
        pending = client.submit_nowait({"dialog_id": "d", "session": {"a": 1}})
        await anyio.sleep(1.0)
        report = await client.aclose(timeout=2.0)
    assert isinstance(await outcome_of(pending), AmbiguousUpdateError)
    assert report.ambiguous == 1
    (event,) = outbox.events
    assert isinstance(event.error, AmbiguousUpdateError)
    assert outbox.intents == {}


@pytest.mark.parametrize("at", ["intend", "flight", "settle"])
async def test_a_client_whose_task_is_cancelled_gives_each_update_an_outcome(at: str) -> None:
    """As `asyncio.run` does at the end of its main function."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("on trio a nursery shields the client")
    wire, outbox = Wire(takes=1.0), MemoryOutbox(delay=1.0)
    client = client_of(wire, outbox=outbox)
    await client.__aenter__()
    rows = [client.submit_nowait({"dialog_id": "d", "session": {"a": i}}) for i in range(2)]
    await anyio.sleep({"intend": 0.5, "flight": 1.5, "settle": 2.5}[at])
    task = client._lifecycle._background._task
    assert task is not None
    task.cancel()
    errors: list[Any] = [await outcome_of(row) for row in rows]
    with suppress(BaseException):
        await client.__aexit__(None, None, None)
    assert isinstance(errors[1], ClientClosedError)
    if at == "intend":
        assert isinstance(errors[0], ClientClosedError)
        assert outbox.intents == {}
    else:
        # The outcome is recorded meanwhile: the one that was cut off is ambiguous.
        (event,) = outbox.events
        expected: Any = AmbiguousUpdateError if at == "flight" else UpdateResult
        assert isinstance(errors[0] if at == "flight" else await rows[0], expected)
        assert event.update_id == rows[0].update_id
    assert outbox.closed
    assert client.metrics.pending == 0


async def test_a_close_is_bounded_if_the_outbox_does_not_close() -> None:
    class Hanging(MemoryOutbox):
        async def close(self, timeout: float) -> None:
            await anyio.sleep_forever()

    client = client_of(Wire(), outbox=Hanging())
    async with client:
        began = anyio.current_time()
        await client.aclose(timeout=5.0)
        assert anyio.current_time() - began <= 10.0


async def test_an_update_that_fails_in_its_own_code_leaves_the_client_serving() -> None:
    """An exception of a retry strategy."""
    wire, outbox = Wire(), MemoryOutbox(delay=0.01)
    wire.script(503)

    def wait(_: Any) -> float:
        raise RuntimeError("a bug")

    async with client_of(wire, outbox=outbox) as client:
        await outcome_of(client.update("d", session={"a": 1}, retry=at_once(wait=wait)))
        await client.update("d", session={"a": 2})
    assert [event.result is not None for event in outbox.events] == [False, True]
    await turns(3)
