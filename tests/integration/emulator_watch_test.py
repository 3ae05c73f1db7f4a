"""What the emulator says that a client did: counters, and what no client may do."""

from __future__ import annotations

from contextlib import suppress

import anyio
import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults, Stats
from cognigy_async.emulator.throttle import RetryAfter, Throttle
from tests.integration.emulator_client import KEY, Bare, bare_client

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


async def test_in_flight_is_counted_at_its_highest() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(latency=1))
    async with bare_client(emulator) as client:
        for size in (3, 5, 2):
            async with anyio.create_task_group() as tasks:
                for number in range(size):
                    tasks.start_soon(client.get, f"d-{number}")
    assert emulator.stats.in_flight_max == 5


async def test_token_requests_are_counted_at_their_highest_and_apart() -> None:
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
    assert emulator._watch._writes == {}
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


async def test_a_repeated_assignment_is_no_double() -> None:
    emulator = Emulator(api_key=KEY, honour_idempotency_keys=False)
    async with bare_client(emulator) as client:
        await client.patch({"session": {"a": 1}}, key="k")
        await client.patch({"session": {"a": 1}}, key="k")
        await client.patch({"session": {"a": 1}})
        await client.patch({"session": {"a": 1}})
    assert emulator.stats.repeat_applies == 1
    assert emulator.stats.violations() == {}


async def test_a_transition_applied_twice_is_told_by_its_key() -> None:
    emulator = Emulator(api_key=KEY, honour_idempotency_keys=False)
    transition = {"transition": {"nextStep": "a"}}
    async with bare_client(emulator) as client:
        for key in ("k", "k", "other", None, None):
            await client.patch(transition, key=key)
        await client.patch(transition, "d-2", key="k")
    assert emulator.stats.double_applies == 1
    assert emulator.stats.violations() == {"double_applies": 1}


async def test_a_transition_applied_twice_is_told_by_its_number() -> None:
    emulator = Emulator(api_key=KEY)
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


async def test_early_requests_to_a_throttled_tenant() -> None:
    emulator = Emulator(api_key=KEY, tenant_quota=(1, 1.5), notice=0)
    stats = emulator.stats
    async with bare_client(emulator) as client:
        await client.patch()
        assert (await client.patch()).headers["retry-after"] == "2"
        assert stats.early_requests == 0
        await anyio.sleep(1.8)
        assert (await client.get("d-2")).status_code == 200
        assert stats.early_requests == 1
        await anyio.sleep(0.3)
        assert (await client.get("d-3")).status_code == 429
        assert stats.early_requests == 1
        assert stats.violations() == {"early_requests": 1}


async def test_early_requests_to_a_throttled_dialog() -> None:
    emulator = Emulator(api_key=KEY, notice=0, faults=Faults(throttle_seconds=2))
    stats = emulator.stats
    async with bare_client(emulator) as client:
        emulator.script("throttle_dialog")
        await client.patch()
        await anyio.sleep(1)
        await client.patch(dialog_id="d-2")
        assert stats.early_requests == 0
        await client.get()
        assert stats.early_requests == 1
        await anyio.sleep(1.1)
        await client.patch()
        assert stats.early_requests == 1


async def test_requests_on_their_way_are_not_early() -> None:
    emulator = Emulator(api_key=KEY, notice=1, faults=Faults(throttle_seconds=5, latency=4))
    stats = emulator.stats
    async with bare_client(emulator) as client:
        emulator.script("throttle_tenant")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.patch)
            await anyio.sleep(3)
            # Nobody has been told yet.
            tasks.start_soon(client.get)
            await anyio.sleep(1.5)
            # It may have been sent before the answer came.
            tasks.start_soon(client.get)
            await anyio.sleep(0.3)
            assert stats.early_requests == 0
    assert stats.answers == {429: 3}
    assert stats.early_requests == 0


async def test_every_moment_named_counts_until_it_has_come() -> None:
    emulator = Emulator(api_key=KEY, notice=0.1, tenant_quota=(1, 3), retry_after="decimal")
    stats = emulator.stats
    async with bare_client(emulator) as client:
        await client.get()
        assert (await client.get()).status_code == 429
        for _ in range(9):
            await anyio.sleep(0.31)
            assert (await client.get()).status_code == 429
        assert stats.early_requests == 9
        await anyio.sleep(0.25)
        assert (await client.get()).status_code == 200
        assert stats.early_requests == 9


async def test_where_no_time_was_named_nobody_is_early() -> None:
    emulator = Emulator(api_key=KEY, notice=0, tenant_quota=(1, 10), retry_after="none")
    async with bare_client(emulator) as client:
        for _ in range(3):
            await client.get()
            await anyio.sleep(1)
    assert emulator.stats.answers == {200: 1, 429: 2}
    assert emulator.stats.early_requests == 0


async def test_a_date_is_the_moment_named() -> None:
    def wall_clock() -> float:
        return 1e9 + 0.25 + anyio.current_time() - start

    emulator = Emulator(
        api_key=KEY, notice=0, tenant_quota=(1, 10), retry_after="date", wall_clock=wall_clock
    )
    stats = emulator.stats
    async with bare_client(emulator) as client:
        start = anyio.current_time()
        await client.get()
        await client.get()
        await anyio.sleep(10.1)
        await client.get()
        assert stats.early_requests == 1
        await anyio.sleep(0.4)
        await client.get()
        assert stats.early_requests == 1
        assert stats.answers == {200: 2, 429: 2}


async def test_a_lost_answer_names_no_moment() -> None:
    emulator = Emulator(api_key=KEY, notice=0, faults=Faults(throttle_seconds=5, latency=2))
    emulator.script("throttle_tenant")
    async with bare_client(emulator) as client:
        with anyio.move_on_after(1):
            await client.patch()
        await client.patch()
    assert emulator.stats.answers == {429: 1}
    assert emulator.stats.early_requests == 0


class TestNotices:
    """To the microsecond, which no test on an event loop can see."""

    def throttle(self, style: RetryAfter = "seconds") -> Throttle:
        return Throttle((1, 8), None, style, 0.5, lambda: 1e9)

    @pytest.mark.parametrize("style", ["seconds", "decimal"])
    def test_a_moment_named_is_early_up_to_the_grace_of_timers(self, style: RetryAfter) -> None:
        throttle = self.throttle(style)
        throttle.tell(throttle.pause(None, 4, 0), 0)
        early = [
            now for now in (0.5, 0.51, 3.999998, 3.9999995, 4.0) if throttle.is_early("d", now)
        ]
        assert early == [0.51, 3.999998]

    def test_notices_that_say_nothing_new_are_not_kept(self) -> None:
        throttle = self.throttle("decimal")
        assert throttle.admit("d", 0) is None
        for step in range(100):
            notice = throttle.admit("d", 1 + step / 100)
            assert notice is not None
            throttle.tell(notice, 3)
        (told,) = throttle._told.values()
        assert len(told) < 4
        throttle.tell(throttle.pause(None, 4, 20), 20)
        assert [round(known, 3) for known, _ in throttle._told.popitem()[1]] == [20.5]

    def test_a_later_moment_is_kept_besides_an_earlier_one(self) -> None:
        throttle = self.throttle()
        throttle.tell(throttle.pause(None, 4, 0), 0)
        throttle.tell(throttle.pause(None, 4, 1), 1)
        assert [throttle.is_early("d", now) for now in (1.2, 3.9, 4.5, 5.0)] == [True] * 3 + [False]

    def test_notices_to_many_dialogs_are_forgotten(self) -> None:
        throttle = self.throttle()
        for number in range(1000):
            throttle.tell(throttle.pause(f"d-{number}", 1 + number % 2, 0), 0)
        throttle.tell(throttle.pause("last", 5, 1.5), 1.5)
        assert len(throttle._told) == 501
        assert throttle.is_early("d-1", 1.9)


async def test_an_update_repeated_before_the_time_its_503_named() -> None:
    emulator = Emulator(api_key=KEY, notice=0, faults=Faults(retry_after_503=2))
    stats = emulator.stats
    emulator.script(503, "error_503", dialog_id="d-1")
    async with bare_client(emulator) as client:
        await client.patch(key="k-1")
        await anyio.sleep(1)
        await client.patch(key="k-2", dialog_id="d-2")
        assert (stats.early_repeats, stats.early_requests) == (0, 0)
        await client.patch(key="k-1")
        assert stats.early_repeats == 1
        await anyio.sleep(2.1)
        await client.patch(key="k-1")
        await client.patch(key=None)
    assert stats.early_repeats == 1
    assert stats.violations() == {"early_repeats": 1}


def test_violations_are_among_the_counters() -> None:
    stats = Stats(overlapping_writes=1, early_requests=2, early_repeats=3, reused_keys=4)
    stats.reordered, stats.double_applies = 5, 6
    stats.repeated = stats.repeat_applies = stats.abandoned = stats.replayed = 9
    violations = stats.violations()
    assert sorted(violations.values()) == [1, 2, 3, 4, 5, 6]
    told = stats.as_dict()
    assert told["violations"] == violations
    assert {name: told[name] for name in violations} == violations
    assert type(told["answers"]) is dict
