"""Looking at a folder and correcting it, while a process uses it and afterwards."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from cognigy_async import OutboxError, StateUpdate, UpdateEvent
from cognigy_async.crm import (
    DeliveryError,
    EventRejectedError,
    Outbox,
    TargetUnavailableError,
    inspection,
)
from cognigy_async.crm.adoption import adoption_turn
from cognigy_async.crm.folder import files_of
from tests.unit._builders import CANARY
from tests.unit.crm._driver import (
    Client,
    Collector,
    collecting,
    eventually,
    let_pass,
    opened,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def rejecting(*keys: str) -> Collector:
    """Return a target that takes no event with one of these ids, and waits with the others."""

    def answer(event: UpdateEvent, _: int) -> DeliveryError | None:
        if event.update_id in keys:
            return EventRejectedError("no such contact")
        return TargetUnavailableError("down", 3600)

    return Collector("crm", answer=answer)


async def fill(client: Client) -> None:
    """Record an event of d-1 that is rejected, two that wait, and an intent."""
    await client.apply("d-1", "u-1", session={"card": CANARY})
    folder = client.outbox.folder
    await eventually(lambda: inspection.status(folder).targets[0].dead_letters == 1)
    await client.apply("d-2", "u-2", session={"card": CANARY})
    await client.apply("d-1", "u-3", session={"card": CANARY})
    await client.intend(StateUpdate("d-3", session={"card": CANARY}), "u-4")


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_folder_and_its_entries(folder: Path, is_running: bool) -> None:
    outbox = Outbox(folder)
    collecting(outbox, rejecting("u-1"))
    if is_running:
        async with opened(outbox) as client:
            await fill(client)
            check(folder, is_running=True)
    else:
        async with opened(outbox) as client:
            await fill(client)
        before = sorted(os.listdir(folder))
        check(folder, is_running=False)
        assert sorted(os.listdir(folder))[: len(before)] == before


def check(folder: Path, *, is_running: bool) -> None:
    found = inspection.status(folder)
    (target,) = found.targets
    assert (target.name, target.depth, target.dead_letters) == ("crm", 2, 1)
    assert target.oldest_at is not None
    assert (found.unresolved, found.processes, found.abandoned) == (1, is_running, not is_running)
    assert found.size > 0
    entries = {entry.update_id: entry for entry in inspection.entries(folder)}
    assert list(entries) == ["u-1", "u-2", "u-3", "u-4"]
    assert [entry.state for entry in entries.values()] == ["applied"] * 3 + ["unresolved"]
    assert entries["u-2"].pending == ("crm",)
    assert entries["u-4"].settled_at is None
    (dead,) = entries["u-1"].dead
    assert (dead.target, dead.attempts, dead.error) == ("crm", 1, "no such contact")
    assert CANARY not in repr(entries)
    of_dialog = inspection.entries(folder, dialog="d-1")
    assert [entry.update_id for entry in of_dialog] == ["u-1", "u-3"]
    of_target = inspection.entries(folder, target="crm")
    assert [entry.update_id for entry in of_target] == ["u-1", "u-2", "u-3"]
    assert list(inspection.entries(folder, target="other")) == []
    shown = inspection.show(folder, "u-3")
    assert shown is not None
    assert shown[0] == entries["u-3"]
    assert shown[1].payload == {"session": {"card": CANARY}}
    assert shown[1].result is not None
    intent = inspection.show(folder, "u-4")
    assert intent is not None
    assert (intent[1].result, intent[1].error) == (None, None)
    assert inspection.show(folder, "u-9") is None


@pytest.mark.parametrize("dialog", [None, "d-1"])
async def test_a_running_process_delivers_retried_dead_letters(
    folder: Path, dialog: str | None
) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, rejecting("u-1", "u-2"))
    async with opened(outbox) as client:
        await client.apply_many([("d-1", "u-1"), ("d-2", "u-2"), ("d-1", "u-3")])
        await eventually(lambda: inspection.status(folder).targets[0].dead_letters == 2)
        target.answer = lambda *_: None
        assert inspection.retry(folder, dialog=dialog, target="other") == 0
        retried = ["u-1"] if dialog else ["u-1", "u-2"]
        assert inspection.retry(folder, dialog=dialog, target="crm") == len(retried)
        await eventually(lambda: set(retried) < set(target.ids()))
        await eventually(lambda: outbox.status()[0].depth == 0)
        assert outbox.status()[0].dead_letters == 2 - len(retried)
    assert sorted(target.ids()) == [*retried, "u-3"]
    # Nothing was delivered twice.
    assert len(target.events) == len(retried) + 1


async def test_a_running_process_forgets_dropped_events(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, rejecting("u-1"))
    other = collecting(outbox, Collector("other"))
    async with opened(outbox) as client:
        await fill(client)
        await other.until(lambda: len(other.ids()) == 3)
        await let_pass(30)
        assert inspection.drop(folder, dialog="d-1", target="crm") == 2
        await eventually(lambda: outbox.status()[0].depth == 1)
        assert outbox.status()[0].dead_letters == 0
        assert inspection.drop(folder) == 1
        # An update without outcome stays.
        assert [entry.update_id for entry in inspection.entries(folder)] == ["u-4"]
        await eventually(lambda: outbox.status()[0].depth == 0)
        target.answer = lambda *_: None
        await let_pass(4000)
        await client.apply("d-1", "u-5")
        await target.until(lambda: target.ids() == ["u-5"])


async def test_the_folder_of_dead_processes_can_be_corrected(folder: Path) -> None:
    outbox = Outbox(folder)
    collecting(outbox, rejecting("u-1"))
    async with opened(outbox) as client:
        await fill(client)
    assert inspection.retry(folder) == 1
    assert inspection.drop(folder, dialog="d-2") == 1
    outbox = Outbox(folder)
    target = collecting(outbox, Collector("crm"))
    async with opened(outbox):
        await target.until(lambda: target.ids() == ["u-1", "u-3"])


async def test_many_entries_are_read_and_changed_in_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "PAGE", 10)
    outbox = Outbox(folder)
    collecting(outbox, rejecting())
    async with opened(outbox) as client:
        ids = [(f"d-{number % 7}", f"u-{number}") for number in range(95)]
        await client.apply_many(ids)
    assert [entry.update_id for entry in inspection.entries(folder)] == [key for _, key in ids]
    assert inspection.drop(folder, dialog="d-1") == 14
    assert inspection.drop(folder) == 81
    assert list(inspection.entries(folder)) == []


async def test_what_cannot_be_read_is_an_error(folder: Path) -> None:
    with pytest.raises(OutboxError, match="there is no outbox"):
        inspection.status(folder)
    with pytest.raises(OutboxError, match="there is no outbox"):
        inspection.retry(folder)
    os.mkdir(folder, 0o700)
    assert inspection.status(folder).targets == ()
    path = folder / "outbox-0.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE x (y)")
    for call in (inspection.status, inspection.drop, lambda each: list(inspection.entries(each))):
        with pytest.raises(OutboxError, match="is no file of an outbox"):
            call(folder)


async def test_a_damaged_entry_becomes_a_dead_letter(folder: Path) -> None:
    outbox = Outbox(folder)
    collecting(outbox, rejecting())
    async with opened(outbox) as client:
        await client.apply_many([("d-1", "u-1"), ("d-1", "u-2")])
    (path,) = files_of(folder)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE entries SET content = 'x' WHERE update_id = 'u-1'")
    with pytest.raises(OutboxError, match="is damaged"):
        inspection.show(folder, "u-1")
    outbox = Outbox(folder)
    target = collecting(outbox, Collector("crm"))
    async with opened(outbox):
        await target.until(lambda: target.ids() == ["u-2"])
        await anyio.sleep(1)
        assert outbox.status()[0].dead_letters == 1
    (entry,) = inspection.entries(folder)
    assert "damaged" in entry.dead[0].error


async def test_changes_wait_for_a_process_that_adopts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(folder)
    collecting(outbox, rejecting())
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
    monkeypatch.setattr(inspection, "PATIENCE", 0.1)
    with adoption_turn(folder) as is_ours:
        assert is_ours
        with pytest.raises(OutboxError, match="busy"):
            inspection.drop(folder)
    assert inspection.drop(folder) == 1
