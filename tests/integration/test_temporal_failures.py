"""Workers and servers that die, on real processes: nothing is lost, nothing out of order."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from benchmarks.harness.temporal import TenantServer
from cognigy_async import AmbiguousUpdateError
from cognigy_async.temporal import DurableStateClient
from tests.integration.commands import CommandProcess, command_environment
from tests.integration.temporal_server import TemporalServer

pytestmark = [pytest.mark.real_time, pytest.mark.temporal, pytest.mark.timeout(600)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TemporalServer]:
    """A Temporal server of one test, which may be killed."""
    server = TemporalServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def tenant() -> AsyncIterator[TenantServer]:
    async with TenantServer() as server:
        yield server


class Workers:
    """Processes of ``cognigy-async worker``."""

    def __init__(self, folder: Path, address: str, base_url: str) -> None:
        self._folder = folder
        self._variables = command_environment(
            TEMPORAL_ADDRESS=address, COGNIGY_BASE_URL=base_url, COGNIGY_API_KEY="a-key"
        )
        self.processes: list[CommandProcess] = []

    def start(self, *options: str) -> CommandProcess:
        place = self._folder / f"worker-{len(self.processes)}"
        process = CommandProcess(["worker", *options], self._folder, self._variables, place)
        self.processes.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        place = self._folder / "command"
        process = CommandProcess(list(arguments), self._folder, self._variables, place)
        try:
            return process.result(120)
        finally:
            process.end()

    def end(self) -> None:
        for process in self.processes:
            process.end()


@pytest.fixture
def workers(
    tmp_path: Path, temporal_server: TemporalServer, tenant: TenantServer
) -> Iterator[Workers]:
    found = Workers(tmp_path, temporal_server.address, tenant.base_url)
    yield found
    found.end()


async def test_a_worker_drains_on_sigterm_and_dialog_show_tells_what_waits(
    workers: Workers, temporal_server: TemporalServer, tenant: TenantServer
) -> None:
    process = workers.start()
    client = await Client.connect(temporal_server.address)
    tenant.delay = 0.2
    async with DurableStateClient(client) as durable:
        updates = [await durable.submit(row("d-show", n)) for n in range(5)]
        async with asyncio.timeout(120):
            await tenant.written.wait()
        process.send_signal(signal.SIGTERM)
        status, _, err = await asyncio.to_thread(process.result, 120)
        assert status == 0, err
        assert "Drained" in err
        sent = tenant.sent("d-show")
        assert 0 < len(sent) < 5
        workers.start()
        for update in updates:
            await update
    assert tenant.sent("d-show") == list(range(5))
    status, out, err = await asyncio.to_thread(workers.run, "dialog", "show", "d-show")
    assert status == 0, err
    shown = json.loads(out)
    assert (shown["status"], shown["waiting"], shown["dead_letters"]) == ("running", 0, [])
    status, _, err = await asyncio.to_thread(workers.run, "dialog", "show", "unknown")
    assert status == 1
    assert "NOT_FOUND" in err


TARGETS = """
from pathlib import Path


class File:
    name, batch_size, linger, concurrency = "file", 10, 0.0, 1

    async def open(self): ...

    async def aclose(self): ...

    async def deliver(self, events):
        with Path("taken").open("a") as file:
            for event in events:
                file.write(f"{event.dialog_id} {event.payload['session']['n']} ")
        return [None] * len(events)


def targets():
    return [File()]


nothing = 1
"""


async def test_the_command_worker_hands_updates_to_targets(
    tmp_path: Path, workers: Workers, temporal_server: TemporalServer
) -> None:
    (tmp_path / "shop.py").write_text(TARGETS)
    status, _, err = await asyncio.to_thread(workers.run, "worker", "--targets", "shop:nothing")
    assert (status, "no list of targets" in err) == (2, True)
    status, _, err = await asyncio.to_thread(workers.run, "worker", "--targets", "shop")
    assert (status, "MODULE:NAME" in err) == (2, True)
    workers.start("--targets", "shop:targets")
    client = await Client.connect(temporal_server.address)
    taken = tmp_path / "taken"
    async with DurableStateClient(client) as durable:
        await write_in_order(durable, "d-target", 3)
        async with asyncio.timeout(120):
            while not taken.exists() or taken.read_text().count("d-target") < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert taken.read_text() == "d-target 0 d-target 1 d-target 2 "


@pytest.mark.thorough
async def test_nothing_is_lost_when_workers_and_the_server_die(
    tmp_path: Path, own_server: TemporalServer, tenant: TenantServer
) -> None:
    workers = Workers(tmp_path, own_server.address, tenant.base_url)
    tenant.delay = 0.02
    try:
        first, second, third = (workers.start() for _ in range(3))
        client = await Client.connect(own_server.address)
        async with DurableStateClient(client) as durable:
            for round_, disturb in enumerate((first.kill, own_server.kill, None)):
                tasks = [
                    asyncio.create_task(write_in_order(durable, f"d-{round_}-{d}", 10))
                    for d in range(30)
                ]
                await tenant.after(60 + len(tenant.writes))
                began = asyncio.get_running_loop().time()
                if disturb is None:
                    # Longer than the timeouts of heartbeats and of workflow tasks.
                    second.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(15)
                    frozen = len(tenant.writes)
                    second.send_signal(signal.SIGCONT)
                else:
                    await asyncio.to_thread(disturb)
                    if disturb == own_server.kill:
                        await asyncio.to_thread(own_server.start)
                await asyncio.gather(*tasks)
                print(f"round {round_}: {asyncio.get_running_loop().time() - began:.1f} s")
            assert frozen
    finally:
        workers.end()
    for round_ in range(3):
        for d in range(30):
            assert tenant.sent(f"d-{round_}-{d}") == list(range(10))
    # Requests that were in flight, or past the check, may come late or twice, with the same key.
    keys = {write.key for write in tenant.writes}
    assert len(keys) == 3 * 30 * 10
    assert all(write.key in keys for write in tenant.stale())
    print(f"{len(tenant.stale())} stale, {tenant.repeated()} repeated")
    assert len(tenant.stale()) <= 32
    assert third is not None


@pytest.mark.thorough
async def test_a_transition_of_a_worker_that_died_is_ambiguous_and_the_dialog_goes_on(
    workers: Workers, temporal_server: TemporalServer, tenant: TenantServer
) -> None:
    first = workers.start()
    tenant.delay = 1.0
    client = await Client.connect(temporal_server.address)
    async with DurableStateClient(client) as durable:
        transition = await durable.submit(row("d-moved", 0) | {"next_step": "pay"})
        later = await durable.submit(row("d-moved", 1))
        async with asyncio.timeout(120):
            await tenant.arrived.wait()
        first.kill()
        workers.start()
        with pytest.raises(AmbiguousUpdateError, match="worker that sent it has stopped"):
            await transition
        assert (await later).status == 200
    assert tenant.sent("d-moved") == [0, 1]
    assert tenant.repeated() == 0


async def write_in_order(durable: DurableStateClient, dialog_id: str, count: int) -> None:
    for n in range(count):
        await durable.update(dialog_id, session={"n": n})


def row(dialog_id: str, n: int) -> dict[str, Any]:
    return {"dialog_id": dialog_id, "session": {"n": n}}
