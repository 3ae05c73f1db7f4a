"""A process with an outbox, to be killed. Arguments: folder, name, run, seconds.

The "server" is the file `server`: an update is applied when its id stands there. The "CRM" is the
file `crm`. What was reported as applied stands in `reported`. Each line is written at once.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from cognigy_async import StateUpdate, UpdateEvent
from cognigy_async.crm import DeliveryError, Outbox
from cognigy_async.spi import Intent
from tests.unit.crm._driver import Client, Written, event_of

DIALOGS = 20


def append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


async def main(base: Path, name: str, run: int, seconds: float) -> None:
    outbox = Outbox(base / "outbox")
    chance = random.Random(run)

    async def crm(event: UpdateEvent) -> None:
        await anyio.sleep(chance.random() / 100)
        if chance.random() < 0.1:
            raise DeliveryError("no")
        assert event.error is None
        append(base / "crm", event.update_id)
        if chance.random() < 0.05:
            raise DeliveryError("taken, but the answer was lost")

    class Resolving(Client):
        def resolve(self, intents: Sequence[Intent]) -> None:
            applied = set((base / "server").read_text().split())
            for intent in intents:
                if intent.update_id in applied:
                    event = event_of(intent.update, intent.update_id)
                    outbox.settle([event], Written())
                else:
                    outbox.withdraw(intent.dialog_id, [intent.update_id])

    outbox.deliver_to(crm)
    client = Resolving(outbox)
    (base / "server").touch()
    await outbox.open(client)
    print("open", flush=True)
    end = anyio.current_time() + seconds

    async def write(dialog: str) -> None:
        number = 0
        while anyio.current_time() < end:
            key = f"{dialog}:{run}:{number}"
            update = StateUpdate(dialog, session={"n": number})
            await client.intend(update, key)
            append(base / "server", key)
            await client.settle(event_of(update, key))
            append(base / "reported", key)
            number += 1
            await anyio.sleep(chance.random() / 5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        async with anyio.create_task_group() as writers:
            for number in range(DIALOGS if seconds else 0):
                writers.start_soon(write, f"{name}-{number}")
        if not seconds:
            # Deliver what all others left, which takes a look for files of dead processes.
            await anyio.sleep(6)
            while any(each.depth for each in outbox.status()):  # noqa: ASYNC110
                await anyio.sleep(0.1)
        await outbox.close(10)
    print("done", flush=True)


if __name__ == "__main__":
    backend = "trio" if int(sys.argv[3]) % 3 == 2 else "asyncio"
    anyio.run(
        main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), backend=backend
    )
