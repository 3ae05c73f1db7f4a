"""`BulkJob` over a client with callbacks: deliveries in the journal."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from cognigy_async import AsyncStateClient, UpdateEvent
from cognigy_async.bulk import JobResult, explain_dialog
from cognigy_async.cli.app import app
from tests.simulation.test_bulk_job import Folder, counts, folder, refusing, rows_of
from tests.simulation.world import Wire, client_of, never

__all__ = ["folder"]


def named(name: str, function: Callable[[UpdateEvent], Any]) -> Callable[[UpdateEvent], Any]:
    """A callback that is called so in logs and journals."""

    async def callback(event: UpdateEvent) -> None:
        await function(event)

    callback.__qualname__ = name
    return callback


DAY = 86_400.0


async def taken(_: UpdateEvent) -> None:
    pass


async def takes_long(_: UpdateEvent) -> None:
    await anyio.sleep(3.0)


async def hung(_: UpdateEvent) -> None:
    await anyio.sleep_forever()


class Broken:
    """A callback that fails so many times, with a text that must stay out of the journal."""

    def __init__(self, times: float = math.inf) -> None:
        self.left = times

    async def __call__(self, event: UpdateEvent) -> None:
        if self.left > 0:
            self.left -= 1
            raise ConnectionError(f"canary-77 {event.payload}")


def timeline(folder: Folder, dialog_id: str) -> list[tuple[int, str]]:
    return [(one.line, one.what) for one in explain_dialog(folder.journal, dialog_id)]


def hooks(folder: Folder, dialog_id: str) -> list[tuple[int, str]]:
    return [(line, what) for line, what in timeline(folder, dialog_id) if what.startswith("hook")]


async def run(folder: Folder, client: AsyncStateClient, **options: Any) -> JobResult:
    async with client:
        return await folder.job(**options).run(client)


async def test_each_delivery_stands_in_the_timeline_after_its_row_is_settled(
    folder: Folder,
) -> None:
    folder.write(rows_of(4, dialogs=2))
    client = client_of(Wire(takes=1.0))
    client.on_state_updated(named("sync_crm", taken), concurrency=1)
    client.on_state_updated(named("slow", takes_long))
    result = await run(folder, client)
    assert (counts(result), result.notes) == ((4, 4, 0, 0, 0), ())
    moments = explain_dialog(folder.journal, "d1")
    for line in (2, 4):
        one = [moment for moment in moments if moment.line == line]
        whats = [moment.what for moment in one]
        assert whats[:3] == ["queued", "sent", "settled: applied"]
        assert sorted(whats[3:]) == ["hook slow: delivered", "hook sync_crm: delivered"]
        last = next(moment for moment in one if "slow" in moment.what)
        assert last.at >= one[2].at + 3.0
        assert last.until is None


async def test_the_command_prints_them(folder: Folder) -> None:
    folder.write(rows_of(2, dialogs=1))
    client = client_of(Wire())
    client.on_state_updated(named("crm.sync", taken))
    await run(folder, client)
    shown = CliRunner().invoke(app, ["bulk", "explain", str(folder.journal), "d0"])
    assert shown.exit_code == 0
    lines = [line for line in shown.stdout.splitlines() if "hook" in line]
    assert [line.split("  ")[1] for line in lines] == [
        "line 1: hook crm.sync: delivered",
        "line 2: hook crm.sync: delivered",
    ]


async def test_a_timeline_shows_days_and_the_order_within_a_millisecond(
    folder: Folder,
) -> None:
    folder.write(rows_of(2, dialogs=1))
    await run(folder, client_of(Wire()))
    noon = datetime(2020, 2, 28, 12).astimezone().timestamp()
    with closing(sqlite3.connect(folder.journal)) as journal, journal:
        change = "UPDATE outcomes SET queued = ?, sent = ?, settled = ? WHERE line = ?"
        journal.execute(change, (noon + 0.0009, noon + 0.0009, noon + 0.0009, 1))
        journal.execute(change, (noon + 0.0001, noon + 0.0001, noon + DAY, 2))
        event = "INSERT INTO events VALUES (2, 'd0', ?, 'throttled', ?)"
        journal.execute(event, (noon + 1, DAY))
    shown = CliRunner().invoke(app, ["bulk", "explain", str(folder.journal), "d0"])
    assert shown.stdout.splitlines() == [
        "2020-02-28:",
        "12:00:00.000  line 1: queued",
        "12:00:00.000  line 1: sent",
        "12:00:00.000  line 1: settled: applied",
        "12:00:00.000  line 2: queued",
        "12:00:00.000  line 2: sent",
        "12:00:01.000  line 2: 429, waits until 2020-02-29 12:00:01.000",
        "2020-02-29:",
        "12:00:00.000  line 2: settled: applied",
    ]


@pytest.mark.parametrize(
    ("callback", "options", "what"),
    [
        (Broken(1), {}, "delivered by call 2"),
        (Broken(), {"retries": 2}, "not delivered, ConnectionError after 3 calls"),
        (
            hung,
            {"retries": 0, "timeout": 7.0},
            "not delivered, TimeoutError after 1 call",
        ),
    ],
    ids=["repeated", "broken", "hanging"],
)
async def test_a_failed_delivery_is_recorded_with_the_type_of_its_error(
    folder: Folder, callback: Any, options: dict[str, Any], what: str
) -> None:
    if isinstance(callback, Broken):
        callback = Broken(callback.left)
    folder.write(rows_of(1))
    client = client_of(Wire())
    client.on_state_updated(named("crm", callback), **options)
    assert (await run(folder, client)).ok
    assert hooks(folder, "d0") == [(1, f"hook crm: {what}")]
    for file in folder.journal.parent.glob("job.journal*"):
        assert b"canary-77" not in file.read_bytes()


async def test_events_that_do_not_fit_in_the_queue_are_recorded(folder: Folder) -> None:
    folder.write(rows_of(5, dialogs=5))
    client = client_of(Wire())
    client.on_state_updated(named("slow", takes_long), max_queue=2, overflow="dead_letter")
    assert (await run(folder, client)).ok
    whats = [what for n in range(5) for _, what in hooks(folder, f"d{n}")]
    assert sorted(whats) == [
        "hook slow: delivered",
        "hook slow: delivered",
        *["hook slow: not delivered, the queue of slow is full"] * 3,
    ]


async def test_failed_rows_go_to_the_callbacks_for_failures(folder: Folder) -> None:
    folder.write(rows_of(4, dialogs=1))
    client = client_of(Wire(answer=refusing(2)))
    client.on_state_updated(named("good", taken))
    client.on_update_failed(named("bad", taken))
    assert counts(await run(folder, client)) == (4, 3, 1, 0, 0)
    assert hooks(folder, "d0") == [
        (1, "hook good: delivered"),
        (2, "hook good: delivered"),
        (3, "hook bad: delivered"),
        (4, "hook good: delivered"),
    ]
    assert timeline(folder, "d0")[-2:] == [
        (4, "settled: applied"),
        (4, "hook good: delivered"),
    ]


async def test_each_row_of_a_request_has_its_delivery(folder: Folder) -> None:
    folder.write(rows_of(20, dialogs=2))
    wire = Wire(takes=1.0)
    client = client_of(wire, max_in_flight=1)
    client.on_state_updated(named("crm", taken))
    assert (await run(folder, client, coalesce=True)).ok
    assert len(wire.writes()) < 20
    assert hooks(folder, "d0") == [(n, "hook crm: delivered") for n in range(1, 20, 2)]


async def test_each_row_of_a_request_that_is_sent_again_has_its_delivery(folder: Folder) -> None:
    folder.write(rows_of(20, dialogs=1))
    await folder.cut_off(Wire(answer=never), 1, coalesce=True)
    wire = Wire()
    wire.script(503)
    client = client_of(wire)
    client.on_state_updated(named("crm", taken))
    assert (await run(folder, client, coalesce=True)).ok
    assert sorted(hooks(folder, "d0")) == [(n, "hook crm: delivered") for n in range(1, 21)]
    assert (1, "503") in timeline(folder, "d0")


async def test_a_job_without_callbacks_writes_nothing_of_them(folder: Folder) -> None:
    folder.write(rows_of(20))
    await folder.run(Wire())
    with closing(sqlite3.connect(folder.journal)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


class Tried:
    """A job over a client with a callback that hangs for a day, and what is done meanwhile."""

    def __init__(self, folder: Folder, wire: Wire) -> None:
        self.client = client_of(wire, max_in_flight=5)
        self.client.on_state_updated(taken)
        self.client.on_state_updated(hung, timeout=DAY, retries=0)
        self.job = folder.job()
        self.scope = anyio.CancelScope()
        self.ended = math.inf

    async def run(self, when: Callable[[], bool], do: Callable[[], Any]) -> JobResult | None:
        result = None
        async with self.client, anyio.create_task_group() as tasks:
            tasks.start_soon(self._meanwhile, when, do)
            with self.scope:
                result = await self.job.run(self.client)
            self.ended = anyio.current_time()
            tasks.cancel_scope.cancel()
        return result

    async def _meanwhile(self, when: Callable[[], bool], do: Callable[[], Any]) -> None:
        # Threads read and write files, and virtual time does not wait for them: it goes on in
        # small steps meanwhile, or it would be the next day.
        while not when():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        acted = do()
        if acted is not None:
            await acted
        while True:  # noqa: ASYNC110
            await anyio.sleep(0.01)

    @property
    def is_waiting(self) -> bool:
        """Whether it has nothing left to do but to wait for callbacks."""
        run = self.job._run
        return run is not None and run.receipts._finished is not None


async def test_stop_gives_the_callbacks_a_few_seconds(folder: Folder) -> None:
    folder.write(rows_of(100, dialogs=100))
    wire = Wire(takes=1.0)
    tried = Tried(folder, wire)
    result = await tried.run(lambda: len(wire.sent) >= 10, tried.job.stop)
    assert result is not None
    assert (result.ended, result.succeeded) == ("interrupted", 10)
    (note,) = result.notes
    assert note.startswith("The run ended before callbacks had taken 10 events of its rows.")
    assert tried.ended < DAY / 10
    assert hooks(folder, "d3") == [(4, "hook taken: delivered")]


async def test_stop_while_only_callbacks_are_left_leaves_the_job_complete(folder: Folder) -> None:
    folder.write(rows_of(10))
    tried = Tried(folder, Wire())
    result = await tried.run(lambda: tried.is_waiting, tried.job.stop)
    assert result is not None
    assert result.ok
    assert tried.ended < DAY / 10


async def test_a_job_that_is_cancelled_waits_for_no_callback(folder: Folder) -> None:
    folder.write(rows_of(10))
    tried = Tried(folder, Wire())
    assert await tried.run(lambda: tried.is_waiting, tried.scope.cancel) is None
    assert tried.scope.cancelled_caught
    assert tried.ended < DAY / 10
    assert counts(await folder.run(Wire())) == (10, 10, 0, 0, 0)


async def test_a_client_that_closes_does_not_keep_a_job_waiting(folder: Folder) -> None:
    folder.write(rows_of(10))
    tried = Tried(folder, Wire())
    result = await tried.run(lambda: tried.is_waiting, lambda: tried.client.aclose(timeout=1.0))
    assert result is not None
    assert result.ok
    assert tried.ended < DAY / 10
    closed = "hook hung: not delivered, the client was closed before the event was delivered"
    assert hooks(folder, "d3")[-1][1].startswith(closed)
