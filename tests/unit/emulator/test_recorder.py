"""Counters of the emulator, and detection of violations."""

from __future__ import annotations

from contextlib import suppress

import anyio
import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults, Rules, Stats
from tests.unit.emulator._client import KEY, Bare, bare_client

pytestmark = pytest.mark.anyio


def seq(number: int) -> dict[str, dict[str, int]]:
    return {"session": {"seq": number}}


STEP = {"session": {"seq": 1}, "transition": {"nextStep": "a"}}


async def test_requests_are_counted_by_kind_and_answer() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        for _ in range(3):
            await client.patch()
        for _ in range(2):
            await client.get()
        await client.patch({})
    stats = emulator.stats
    assert (stats.requests, stats.writes, stats.reads, stats.applied) == (6, 4, 2, 3)
    assert stats.answers == {200: 5, 400: 1}
    assert stats.violations() == {}


async def test_in_flight_max_is_the_peak() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(latency=1))
    async with bare_client(emulator) as client:
        for size in (3, 5, 2):
            async with anyio.create_task_group() as tasks:
                for number in range(size):
                    tasks.start_soon(client.get, f"d-{number}")
    assert emulator.stats.in_flight_max == 5


async def test_token_requests_overlapping_is_a_peak_of_its_own() -> None:
    emulator = Emulator(faults=Faults(token_latency=1))
    async with bare_client(emulator) as client:
        await client.token()
        assert emulator.stats.token_requests_overlapping == 1
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.token)
        await client.token()
    stats = emulator.stats
    assert stats.token_requests_overlapping == 3
    assert (stats.token_requests, stats.tokens_issued, stats.token_answers) == (5, 5, {200: 5})
    assert (stats.requests, stats.in_flight_max) == (0, 0)


async def test_overlapping_writes_of_a_dialog() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(latency=1))
    stats = emulator.stats
    async with bare_client(emulator) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.patch, None, "d-1")
            tasks.start_soon(client.patch, None, "d-2")
            tasks.start_soon(client.get, "d-1")
        await client.patch()
        assert stats.overlapping_writes == 0
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.patch)
        assert stats.overlapping_writes == 2
        assert stats.violations() == {"overlapping_writes": 2}


async def test_without_latency_requests_still_overlap_in_the_process() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(client.patch)
            tasks.start_soon(client.token)
    assert emulator.stats.token_requests_overlapping == 2
    assert emulator.stats.overlapping_writes == 1
    assert emulator.stats.in_flight_max == 2


async def test_a_request_that_was_cancelled_is_not_in_flight() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(latency=10))
    async with bare_client(emulator) as client:
        for _ in range(3):
            with anyio.move_on_after(1):
                await client.patch()
    assert emulator._recorder._writes == {}
    assert emulator.stats.abandoned == 3
    assert emulator.stats.in_flight_max == 1
    assert emulator.stats.overlapping_writes == 0
    assert emulator.stats.answers == {}


@pytest.mark.parametrize("step", ["drop_before", "drop_after", 503, "ok"])
async def test_the_order_of_sequence_numbers_counts_at_arrival(step: str | int) -> None:
    emulator = Emulator(api_key=KEY)
    stats = emulator.stats
    async with bare_client(emulator) as client:
        for number in (1, 2, 2, 5):
            await client.patch(seq(number))
        assert (stats.repeated, stats.reordered) == (1, 0)
        emulator.script(step)  # type: ignore[arg-type]
        with suppress(httpx.TransportError):
            await client.patch(seq(7))
        await client.patch(seq(6))
        await client.patch(seq(7))
        await client.patch(seq(3), "d-2")
        await client.patch({"user": {"seq": 1}})
        await client.patch({"session": {"seq": "1"}})
        await client.patch({"session": {"seq": True}})
    assert (stats.repeated, stats.reordered) == (2, 1)
    assert stats.violations() == {"reordered": 1}


async def test_refused_writes_count_for_the_order() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        nobody = Bare(client.http)
        nobody.headers = {}
        await nobody.patch(seq(2))
        await client.patch(seq(1))
    assert emulator.stats.reordered == 1


async def test_a_repeated_assignment_is_no_violation() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(honour_idempotency_keys=False))
    async with bare_client(emulator) as client:
        await client.patch({"session": {"a": 1}}, key="k")
        await client.patch({"session": {"a": 1}}, key="k")
        await client.patch({"session": {"a": 1}})
        await client.patch({"session": {"a": 1}})
    assert emulator.stats.repeat_applies == 1
    assert emulator.stats.violations() == {}


async def test_a_transition_applied_twice_is_detected_by_its_key() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(honour_idempotency_keys=False))
    transition = {"transition": {"nextStep": "a"}}
    async with bare_client(emulator) as client:
        for key in ("k", "k", "other", None, None):
            await client.patch(transition, key=key)
        await client.patch(transition, "d-2", key="k")
    assert emulator.stats.double_applies == 1
    assert emulator.stats.violations() == {"double_applies": 1}


async def test_a_transition_applied_twice_is_detected_by_its_seq() -> None:
    emulator = Emulator(api_key=KEY, rules=Rules(honour_idempotency_keys=True))
    async with bare_client(emulator) as client:
        await client.patch(STEP, key="k-1")
        await client.patch(STEP, key="k-1")
        assert emulator.stats.double_applies == 0
        await client.patch(STEP, key="k-2")
        assert emulator.stats.double_applies == 1
        assert emulator.stats.repeat_applies == 1
        await client.patch(seq(1))
        assert emulator.stats.double_applies == 1
        assert emulator.stats.repeat_applies == 2
        await client.patch(STEP, key="k-3")
    assert emulator.stats.double_applies == 2


def test_violations_are_among_the_counters() -> None:
    stats = Stats(overlapping_writes=1, early_requests=2, early_repeats=3, reused_keys=4)
    stats.reordered, stats.double_applies = 5, 6
    stats.repeated = stats.repeat_applies = stats.abandoned = stats.replayed = 9
    violations = stats.violations()
    assert sorted(violations.values()) == [1, 2, 3, 4, 5, 6]
    counters = stats.as_dict()
    assert counters["violations"] == violations
    assert {name: counters[name] for name in violations} == violations
    assert type(counters["answers"]) is dict
