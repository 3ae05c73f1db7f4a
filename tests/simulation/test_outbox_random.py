"""Whatever fails, is cancelled or dies: the outbox knows what was sent, and loses no outcome."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    HttpxTransport,
    OutboxError,
    Request,
    Response,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.emulator import Emulator, Faults
from cognigy_async.spi import Intent, Receipt
from tests.simulation.outbox import MemoryOutbox
from tests.simulation.world import client_of, emulator, every, transport_to

DIALOGS = 4
CALLS = 30

FAULTS = Faults(
    latency=0.02,
    latency_jitter=0.1,
    error_500=0.03,
    error_503=0.03,
    error_504=0.03,
    error_applies=0.5,
    drop_before=0.03,
    drop_after=0.03,
    conflict=0.03,
    competitor=0.03,
    throttle_dialog=0.02,
)


class Mortal(MemoryOutbox):
    """Writes nothing any more after `die`, as the file of a dead process."""

    dead = False

    def die(self) -> None:
        self.dead = True
        self._work.clear()

    def intend(self, intents: Sequence[Intent], receipt: Receipt) -> None:
        if not self.dead:
            super().intend(intents, receipt)

    def settle(self, events: Sequence[UpdateEvent], receipt: Receipt) -> None:
        if not self.dead:
            super().settle(events, receipt)

    def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
        if not self.dead:
            super().withdraw(dialog_id, update_ids)


class Line:
    """The way to the server, which ends with the process; no write comes before its intent."""

    def __init__(self, inner: HttpxTransport, outbox: Mortal) -> None:
        self._inner = inner
        self._outbox = outbox

    async def send(self, request: Request, *, timeout: float) -> Response:
        if self._outbox.dead:
            await anyio.sleep_forever()
        if request.method != "GET":
            key = request.headers["idempotency-key"]
            intents = self._outbox.intents.values()
            assert any(key == one.key or key.startswith(f"{one.key}/") for one in intents), key
        return await self._inner.send(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()


class History:
    """All lives of a service on one server."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = emulator(faults=FAULTS, seed=seed)
        self.events: list[UpdateEvent] = []
        self.applied: set[str] = set()
        self.left: list[Intent] = []
        self.seq = 0
        self.ends: Counter[str] = Counter()

    async def life(self, end: str) -> None:
        chance = self.chance
        outbox = Mortal(delay=chance.choice([None, 0.01, 0.3]), left=self.left)
        if end == "failing":
            outbox.fails = lambda verb, _: (
                OutboxError("full") if verb != "withdraw" and chance.random() < 0.1 else None
            )
        client = client_of(
            self.server,
            transport=Line(transport_to(self.server), outbox),
            outbox=outbox,
            coalesce=chance.random() < 0.5,
            max_in_flight=chance.choice([1, 8]),
            retry=every(0.1),
            # What waits behind a failure stays for the next process.
            on_failure="continue" if end == "drain" else chance.choice(["continue", "pause"]),
        )
        with suppress(anyio.get_cancelled_exc_class()):
            async with client, anyio.create_task_group() as tasks:
                for _ in range(CALLS):
                    tasks.start_soon(self.call, client, outbox)
                    await anyio.sleep(chance.choice([0.0, 0.0, 0.05]))
                await anyio.sleep(chance.random() * 2.0)
                if end == "crash":
                    outbox.die()
                client.resume()
                await client.aclose(drain=end in ("drain", "failing"), timeout=30.0)
        assert client.metrics.pending == client.metrics.in_flight == 0
        self.events += outbox.events
        self.left = list(outbox.intents.values())
        if end == "drain":
            assert self.left == []

    async def call(self, client: AsyncStateClient, outbox: Mortal) -> None:
        chance = self.chance
        dialog = f"d-{chance.randrange(DIALOGS)}"
        self.seq += 1
        session = {"seq": self.seq, chance.choice("abc"): self.seq}
        update_id = f"u-{self.seq}"
        kind = chance.choice(["update", "update", "modify", "withdraw", "step", "deadline"])
        result: UpdateResult | None = None
        with suppress(CognigyError), anyio.move_on_after(chance.choice([0.05, 0.3, 60.0])):
            if kind == "modify":
                result = await client.modify(dialog, lambda _: {"session": session})
            elif kind == "withdraw":
                pending = client.submit_nowait({"dialog_id": dialog, "session": session})
                await anyio.sleep(chance.random())
                pending.withdraw()
                result = await pending
            else:
                more: dict[str, Any] = {}
                if kind == "step":
                    more["next_step"] = update_id
                elif kind == "deadline":
                    more["deadline"] = chance.random()
                result = await client.update(dialog, session=session, update_id=update_id, **more)
        if result is not None and not outbox.dead:
            self.applied.add(result.update_id)
            # It is recorded before its caller knows.
            assert any(event.update_id == result.update_id for event in outbox.events)

    def check(self) -> None:
        ids = Counter(event.update_id for event in self.events)
        assert set(ids.values()) == {1}
        succeeded = {event.update_id for event in self.events if event.result is not None}
        assert self.applied <= succeeded
        written = keys_of(self.server)
        for event in self.events:
            if event.result is not None:
                assert event.result.carried_by in written, event
        for number in range(DIALOGS):
            own = [event for event in self.events if event.dialog_id == f"d-{number}"]
            order = [event.payload["session"]["seq"] for event in own if event.result is not None]
            assert order == sorted(order)
        violations = self.server.stats.violations()
        # A process does not know of the pauses of the one before it.
        assert violations.keys() <= {"early_requests", "early_repeats"}


def keys_of(server: Emulator) -> set[str]:
    """The keys of all writes, without conflicts of `modify` and parts."""
    keys = {item.key for dialog in server.dialogs.values() for item in dialog.history if item.key}
    return keys | {key.rpartition("/")[0] for key in keys}


MORE = [pytest.param(seed, marks=pytest.mark.thorough) for seed in range(6, 60)]


@pytest.mark.parametrize("seed", [*range(6), *MORE])
async def test_every_intent_ends_and_no_outcome_is_lost(seed: int) -> None:
    history = History(seed)
    ends = ["crash", history.chance.choice(["crash", "abort", "failing"])]
    for end in [*ends, "drain"]:
        await history.life(end)
    history.check()
