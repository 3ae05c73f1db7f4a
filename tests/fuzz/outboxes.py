"""Mutated files of an outbox, as a process left them, for commands and for the next process."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio

from cognigy_async import ApiKey, AsyncStateClient, CognigyError, UpdateEvent
from cognigy_async.crm import DeliveryError, Outbox, TargetUnavailableError, inspection

from .cells import change
from .files import Answers, InFolder
from .mutations import mutate

UPDATES = 12


class Target:
    """A target that is away, or takes all and reads it."""

    name = "crm"
    batch_size = 3
    linger = 0.0
    concurrency = 4

    def __init__(self, *, away: bool) -> None:
        self._away = away
        self.taken = 0

    async def open(self) -> None:
        pass

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        if self._away:
            return [TargetUnavailableError("away", 3600)] * len(events)
        for event in events:
            repr(event)
            str(event.payload)
            self.taken += 1
        return [None] * len(events)

    async def aclose(self) -> None:
        pass


class Outboxes(InFolder):
    """A mutated file: read, corrected and taken over."""

    def __enter__(self) -> Outboxes:
        self._outbox = self.folder / "outbox"
        anyio.run(self._use, Target(away=True), UPDATES, 0.0)
        [path] = self._outbox.glob("*.sqlite3")
        self._name, self._original = path.name, path.read_bytes()
        return self

    async def _use(self, target: Target, updates: int, seconds: float) -> None:
        outbox = Outbox(self._outbox)
        outbox.deliver_to(target)
        client = AsyncStateClient(
            "http://localhost", auth=ApiKey("c4nary"), transport=Answers(), outbox=outbox
        )
        async with client:
            for number in range(updates):
                values = {"a": number, "b": {"c": ["text", None, 2.5]}}
                await client.update(f"d-{number % 3}", session=values, metadata={"order": "7"})
            await anyio.sleep(seconds)
            await client.aclose(timeout=2.0)

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        shutil.rmtree(self._outbox)
        self._outbox.mkdir(0o700)
        path = self._outbox / self._name
        if chance.randrange(3):
            path.write_bytes(self._original)
            change(path, chance)
        else:
            path.write_bytes(mutate(self._original, chance))
        path.chmod(0o600)
        folder = self._outbox
        commands: list[Callable[[], object]] = [
            lambda: inspection.status(folder),
            lambda: repr(list(inspection.entries(folder))),
            lambda: [
                inspection.show(folder, each.update_id) for each in inspection.entries(folder)
            ],
        ]
        if not chance.randrange(4):
            commands.append(lambda: inspection.retry(folder))
            commands.append(lambda: inspection.drop(folder, dialog="d-1"))
        failed = 0
        for command in commands:
            try:
                command()
            except CognigyError as error:
                str(error)
                failed += 1
        target = Target(away=False)
        with suppress(CognigyError):
            anyio.run(self._use, target, 1, 0.05)
            return (
                f"taken over; reads failed: {failed > 0}; all delivered: {target.taken > UPDATES}"
            )
        return f"refused; reads failed: {failed > 0}"
