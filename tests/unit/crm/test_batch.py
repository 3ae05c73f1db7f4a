"""`deliver_records`: merging, and singling out what is refused, within a bound of requests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cognigy_async import ServerError, UpdateEvent
from cognigy_async.crm import (
    DeliveryError,
    EventRejectedError,
    TargetGoneError,
    TargetUnavailableError,
)
from cognigy_async.crm.batch import MAX_REQUESTS, Record, RefusedError, deliver_records
from cognigy_async.crm.mapping import FieldMapping
from tests.unit.crm._events import event, kinds

MAPPING = FieldMapping("Crm", {"id": "session.id", "x": "session.x", "y": "session.y"}, "id")


class Wire:
    """Refuses requests with a bad value, and keeps the others.

    Attributes:
        failures: by number of the request, from 0.
    """

    def __init__(self, **failures: DeliveryError) -> None:
        self.failures = {int(name[1:]): error for name, error in failures.items()}
        self.sent: list[list[str]] = []
        self.written: dict[str, dict[str, object]] = {}
        self.final: type[DeliveryError] = EventRejectedError

    async def send(self, records: Sequence[Record]) -> Sequence[DeliveryError | None]:
        number = len(self.sent)
        self.sent.append([record.key for record in records])
        if number in self.failures:
            raise self.failures[number]
        if any("bad" in record.fields.values() for record in records):
            raise RefusedError(self.final("refused"))
        for record in records:
            self.written.setdefault(record.key, {}).update(record.fields)
        return [
            DeliveryError("locked") if record.fields.get("x") == "locked" else None
            for record in records
        ]


def events_of(*values: object, key: object = None) -> list[UpdateEvent]:
    return [
        event(f"d-{number}", session={"id": str(number if key is None else key), "x": value})
        for number, value in enumerate(values)
    ]


async def deliver(wire: Wire, events: Sequence[UpdateEvent]) -> list[DeliveryError | None]:
    return await deliver_records(events, MAPPING, str, wire.send)


async def test_events_of_one_record_are_merged_to_the_later_state() -> None:
    wire = Wire()
    events = [
        event(number=0, session={"id": "1", "x": 1, "y": 1}),
        event(number=1, session={"id": "2", "x": 5}),
        event(number=2, session={"id": "1", "x": 2}),
    ]
    assert await deliver(wire, events) == [None, None, None]
    assert wire.sent == [["1", "2"]]
    assert wire.written == {"1": {"id": "1", "x": 2, "y": 1}, "2": {"id": "2", "x": 5}}


async def test_events_without_a_mapped_field_and_failed_updates_need_no_request() -> None:
    wire = Wire()
    failed = event(session={"id": "1", "x": 1}, error=ServerError("500"))
    assert await deliver(wire, [event(session={"other": 1}), failed]) == [None, None]
    assert wire.sent == []


async def test_an_event_without_its_key_is_rejected_and_the_others_are_sent() -> None:
    wire = Wire()
    results = await deliver(wire, [event(session={"x": 1}), *events_of(1)])
    assert kinds(results) == ["EventRejectedError", ""]
    assert wire.sent == [["0"]]


@pytest.mark.parametrize("bad", [0, 41, 99])
async def test_one_refused_record_of_a_hundred_costs_few_requests(bad: int) -> None:
    wire = Wire()
    results = await deliver(wire, events_of(*("bad" if n == bad else n for n in range(100))))
    assert [n for n, each in enumerate(results) if each is not None] == [bad]
    assert isinstance(results[bad], EventRejectedError)
    assert f"dialog 'd-{bad}'" in str(results[bad])
    assert len(wire.written) == 99
    assert len(wire.sent) <= 15


async def test_many_refused_records_do_not_multiply_requests() -> None:
    wire, todo, rounds = Wire(), events_of(*["bad"] * 100), 0
    while todo:
        results = await deliver(wire, todo)
        rest = [n for n, each in enumerate(results) if type(each) is DeliveryError]
        assert len(rest) < len(todo)
        todo = [todo[n] for n in rest]
        rounds += 1
        assert len(wire.sent) <= rounds * MAX_REQUESTS
    assert wire.written == {}


async def test_of_merged_events_only_the_refused_one_is_rejected() -> None:
    wire = Wire()
    events = [
        event(number=number, session={"id": "k", name: value})
        for number, (name, value) in enumerate([("x", 1), ("y", "bad"), ("x", 3)])
    ]
    assert kinds(await deliver(wire, events)) == ["", "EventRejectedError", ""]
    assert wire.written == {"k": {"id": "k", "x": 3}}


async def test_the_first_halves_go_first() -> None:
    wire = Wire()
    await deliver(wire, events_of(0, 1, 2, "bad"))
    assert wire.sent == [["0", "1", "2", "3"], ["0", "1"], ["2", "3"], ["2"], ["3"]]


@pytest.mark.parametrize("error", [TargetUnavailableError("down", 7.0), TargetGoneError("gone")])
async def test_a_target_that_stops_amid_a_split_keeps_what_it_has(error: DeliveryError) -> None:
    wire = Wire(n2=error)
    results = await deliver(wire, events_of(0, 1, 2, "bad", key=None))
    assert results[:2] == [None, None]
    assert results[2:] == [error, error]
    assert len(wire.sent) == 3


async def test_after_a_failure_of_a_record_its_later_events_wait() -> None:
    wire = Wire(n1=DeliveryError("lost"))
    events = [
        event("d-0", 0, session={"id": "a", "x": 1}),
        event("d-1", 0, session={"id": "b", "x": "bad"}),
        event("d-0", 1, session={"id": "a", "x": 2}),
        event("d-2", 0, session={"id": "c", "x": 2}),
    ]
    # Request 0 is refused; 1 is the first half, which fails; the second half has `a` again.
    results = await deliver(wire, events)
    assert kinds(results) == ["DeliveryError"] * 3 + [""]
    assert wire.sent == [["a", "b", "c"], ["a", "b"], ["c"]]
    assert list(wire.written) == ["c"]


async def test_a_failed_record_leaves_the_others_delivered() -> None:
    results = await deliver(Wire(), events_of(1, "locked", 3))
    assert kinds(results) == ["", "DeliveryError", ""]
    assert str(results[1]) == "dialog 'd-1': locked"


async def test_a_conflict_of_one_record_is_repeated_later() -> None:
    wire = Wire()
    wire.final = DeliveryError
    assert kinds(await deliver(wire, events_of(1, "bad", 3))) == ["", "DeliveryError", ""]
