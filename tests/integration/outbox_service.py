"""A service with a client, its outbox and two targets, to be killed.

It says "open" to who started it, and "here" when it has stopped at its point. An update has its
dialog and a number as its name, which is in its metadata. The file `reported` has the names of
updates that were reported as applied, `failed` those of others, each with its error.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import httpx

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    DialogState,
    HttpxTransport,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    RetryPolicy,
    StateUpdate,
    UpdateEvent,
)
from cognigy_async.crm import DeliveryError, Outbox, TargetUnavailableError, Webhook
from tests.integration.services import CLIENT_ID, CRM_SECRET, SECRET

DIALOGS = 8
RUN = 100_000
"""Numbers of updates of one run."""
POINTS = ("before-send", "after-answer", "before-delivery", "after-delivery")


def append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


class Stop:
    """Stops the whole process the second time that it passes its point."""

    def __init__(self, point: str, say: Connection) -> None:
        self._point = point
        self._say = say
        self._passed = 0

    def passes(self, point: str) -> None:
        self._passed += point == self._point
        if self._passed == 2:
            self._say.send("here")
            time.sleep(600)


class StoppingTransport(HttpxTransport):
    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    async def send(self, request: Request, *, timeout: float) -> Response:
        is_write = request.method == "PATCH"
        if is_write:
            self._stop.passes("before-send")
        response = await super().send(request, timeout=timeout)
        if is_write and response.status < 300:
            self._stop.passes("after-answer")
        return response


def target_of(origin: str, http: httpx.AsyncClient, stop: Stop) -> Any:
    async def crm(event: UpdateEvent) -> None:
        stop.passes("before-delivery")
        outcome = "applied" if event.error is None else type(event.error).__name__
        body = {"name": event.metadata["name"], "id": event.update_id, "outcome": outcome}
        try:
            answer = await http.post(f"{origin}/function", json=body)
        except httpx.TransportError:
            raise DeliveryError("no answer") from None
        if answer.status_code == 503:
            raise TargetUnavailableError("down", 1.0)
        if answer.status_code >= 300:
            raise DeliveryError("no")
        stop.passes("after-delivery")

    return crm


def node_of(number: int) -> str | None:
    """Return the node to which an update goes."""
    return f"node-{number}" if number % 11 == 5 else None


def is_modify(number: int) -> bool:
    """Return whether an update depends on the state before it."""
    return number % 13 == 7


def _decide(values: dict[str, int], _: DialogState) -> dict[str, Any]:
    return {"session": values}


async def load(client: AsyncStateClient, folder: Path, run: int, seconds: float) -> None:
    chance = random.Random(run)
    end = anyio.current_time() + seconds

    async def wait_for(name: str, outcome: Awaitable[object]) -> None:
        try:
            await outcome
            append(folder / "reported", name)
        except CognigyError as error:
            append(folder / "failed", f"{name} {type(error).__name__} {error}")

    async def write(dialog_id: str, numbers: range) -> None:
        """Write updates one after another, without waiting for the first before the last."""
        handles = []
        for number in numbers:
            name = f"{dialog_id}:{number}"
            # A few numbers are kept, so that a request that carries several updates shows them all.
            values = {"n": number, f"v{number % 8}": number}
            node = node_of(number)
            if is_modify(number):
                decide = partial(_decide, values)
                modified = client.modify(dialog_id, decide, metadata={"name": name})
                await wait_for(name, modified)
                continue
            update = StateUpdate(dialog_id, session=values, next_step=node, metadata={"name": name})
            handles.append((name, await client.submit(update, coalesce=number % 3 > 0)))
        for name, handle in handles:
            await wait_for(name, handle)

    async def talk(dialog_id: str) -> None:
        number = run * RUN
        while anyio.current_time() < end:
            following = number + chance.choice((1, 1, 3, 5))
            await write(dialog_id, range(number, following))
            number = following
            await anyio.sleep(chance.random() / 20)

    async with anyio.create_task_group() as dialogs:
        for number in range(DIALOGS):
            dialogs.start_soon(talk, f"d-{number}")


async def main(
    say: Connection, url: str, origin: str, folder: Path, run: int, seconds: float, point: str
) -> None:
    stop = Stop(point, say)
    config = OAuthConfig(
        token_url=f"{url}/oauth/token",
        client_id=CLIENT_ID,
        client_secret=SECRET,
        scopes=["runtime:write", "dialog:read"],
    )
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        outbox = Outbox(folder / "outbox")
        outbox.deliver_to(target_of(origin, http, stop), name="function", failures=True)
        outbox.deliver_to(Webhook(f"{origin}/events", CRM_SECRET), failures=True)
        transport = StoppingTransport(stop)
        client = AsyncStateClient(
            url,
            auth=OAuthTokenProvider(config),
            transport=transport,
            outbox=outbox,
            # No update fails because of a few faults in a row.
            retry=RetryPolicy(max_attempts=20, budget=10),
        )
        async with client:
            say.send("open")
            if seconds:
                await load(client, folder, run, seconds)
            else:
                await client.flush()
                while any(each.depth for each in outbox.status()):  # noqa: ASYNC110
                    await anyio.sleep(0.1)
        await transport.aclose()


def serve(
    say: Connection, url: str, origin: str, folder: Path, run: int, seconds: float, point: str
) -> None:
    """Run the service.

    Args:
        say: gets what the service says.
        url, origin: of the emulator and of the CRM.
        run: number of the run; each third one is on trio.
        seconds: how long it writes; 0 to deliver what is left.
        point: one of `POINTS`, or "nowhere".
    """
    backend = "trio" if run % 3 == 2 else "asyncio"
    anyio.run(main, say, url, origin, folder, run, seconds, point, backend=backend)
