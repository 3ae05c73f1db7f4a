"""Half an hour of load over sockets that fail now and then: nothing grows.

`nox -s soak -- -k grows --minutes 2` is a shorter one.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async import (
    AiohttpTransport,
    ApiKey,
    AsyncStateClient,
    CognigyError,
    HttpxTransport,
    RateLimit,
    Transport,
    UpdateEvent,
)
from cognigy_async.emulator import Emulator, Faults, Rules, serve
from tests.process import descriptors, measured, memory

KEY = "the-key"
CALLERS = 24
DIALOGS = 200
PAUSE = 0.05
"""Longest seconds between two calls of a caller."""
SAMPLES = 20
WARM = 8
"""Samples until caches, pools and buffers have their size."""
MORE_MEMORY = 12 << 20
"""Bytes by which the last samples may exceed the first warm ones: fragments of the allocator."""

FAULTS = Faults(
    latency=0.002,
    latency_jitter=0.02,
    error_500=0.002,
    error_503=0.005,
    drop_before=0.005,
    drop_after=0.005,
    conflict=0.01,
    competitor=0.01,
    malformed=0.002,
)


class Sample(NamedTuple):
    """What the process has of each."""

    memory: int
    descriptors: int
    tasks: int
    threads: int


def sample() -> Sample:
    gc.collect()
    return Sample(memory(), descriptors(), len(asyncio.all_tasks()), threading.active_count())


async def call(client: AsyncStateClient, chance: random.Random, until: float) -> None:
    """Use what a service uses, and cancel now and then, as a client that hangs up does."""
    while time.monotonic() < until:
        dialog, number = f"d-{chance.randrange(DIALOGS)}", chance.randrange(1000)
        patience = 0.01 if chance.random() < 0.05 else 60
        kind = chance.choice(("update", "update", "step", "modify", "read", "many"))
        with anyio.move_on_after(patience):
            try:
                if kind == "read":
                    await client.get_state(dialog)
                elif kind == "modify":
                    await client.modify(dialog, lambda state: {"session": {"n": len(state.user)}})
                elif kind == "many":
                    rows = ({"dialog_id": f"{dialog}-{n}", "session": {"n": n}} for n in range(5))
                    async with client.update_many(rows) as outcomes:
                        async for _ in outcomes:
                            pass
                else:
                    step = "next" if kind == "step" else None
                    text = "x" * chance.randrange(200)
                    await client.update(dialog, session={"n": number, "t": text}, next_step=step)
            except CognigyError:
                pass
        await anyio.sleep(chance.random() * PAUSE)


@measured
@pytest.mark.real_time
@pytest.mark.timeout(2 * 3600 * 3)
@pytest.mark.parametrize("make", [HttpxTransport, AiohttpTransport])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_grows(
    make: Callable[[], Transport], request: pytest.FixtureRequest, anyio_backend: str
) -> None:
    minutes: float = request.config.getoption("--minutes")
    seed = time.time_ns()
    print(f"seed {seed}")
    rules = Rules(history_limit=2)
    emulator = Emulator(api_key=KEY, seed=seed, faults=FAULTS, rules=rules)
    samples: list[Sample] = []
    events = 0

    async def count(event: UpdateEvent) -> None:
        nonlocal events
        events += 1

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as url,
    ):
        # A quota that is not reached, for the bookkeeping of one.
        limit = RateLimit(10_000, per=10)
        client = AsyncStateClient(url, auth=ApiKey(KEY), transport=make(), rate_limit=limit)
        async with client:
            client.on_state_updated(count)
            until = time.monotonic() + minutes * 60
            async with anyio.create_task_group() as tasks:
                for number in range(CALLERS):
                    chance = random.Random(f"{seed}-{number}")
                    tasks.start_soon(call, client, chance, until)
                for _ in range(SAMPLES):
                    await anyio.sleep(minutes * 60 / SAMPLES * 0.97)
                    samples.append(sample())
            await client.flush()
            assert client.metrics.pending == client.metrics.in_flight == 0
            metrics = client.metrics.snapshot()
        assert emulator.stats.double_applies == emulator.stats.overlapping_writes == 0
    print(f"{metrics.requests} requests, {metrics.applied} applied, {events} events")
    for each in samples:
        print(each)
    before, after = samples[WARM : (WARM + SAMPLES) // 2], samples[(WARM + SAMPLES) // 2 :]
    assert min(each.memory for each in after) <= min(each.memory for each in before) + MORE_MEMORY
    for name in ("descriptors", "tasks", "threads"):
        most = max(getattr(each, name) for each in before)
        assert min(getattr(each, name) for each in after) <= most, name
