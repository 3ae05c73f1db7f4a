"""`cognigy-async outbox`: what it prints of a folder, and what it changes there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import ApiKey, AsyncStateClient, UpdateEvent
from cognigy_async.crm import EventRejectedError, Outbox
from cognigy_async.emulator import Emulator, serve

from .conftest import Command

VALUE = "the-value-of-a-variable"
KEY = "emulator-key"


async def _is_down(event: UpdateEvent) -> None:
    raise OSError("the CRM is down")


async def _refuses(event: UpdateEvent) -> None:
    raise EventRejectedError("it has no address")


@pytest.fixture
def folder(tmp_path: Path, command: Command) -> Path:
    """Return an outbox whose targets did not get two updates."""
    folder = tmp_path / "crm-outbox"

    async def fill() -> None:
        outbox = Outbox(folder)
        outbox.deliver_to(_is_down, name="down")
        outbox.deliver_to(_refuses, name="strict")
        emulator = Emulator(api_key=KEY)
        async with (
            serve(emulator) as base_url,
            AsyncStateClient(base_url, auth=ApiKey(KEY), outbox=outbox) as client,
        ):
            for number in (1, 2):
                await client.update(
                    f"d-{number}",
                    session={"note": VALUE, "seq": number},
                    update_id=f"u-{number}",
                    metadata={"source": VALUE},
                )
            with anyio.fail_after(10):
                while outbox.status()[1].dead_letters < 2:  # noqa: ASYNC110
                    await anyio.sleep(0.01)

    anyio.run(fill)
    return folder


def lines(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.out.splitlines()]


def test_the_status_of_an_outbox(folder: Path, command: Command) -> None:
    assert command("outbox", "status", str(folder)) == 1
    found = re.sub(r"the oldest for [^;]+|[\d,]+ bytes", "…", command.out)
    assert found.splitlines() == [
        "down: 2 events waiting, …; 0 dead letters",
        "strict: 0 events waiting; 2 dead letters",
        "no process uses it; …",
        "1 file of ended processes: the next client that uses the folder goes on with them",
    ]
    assert command("outbox", "status", str(folder), "--json") == 1
    record = command.json
    assert record.pop("bytes") > 0
    assert 0 <= record["targets"][0].pop("oldest_age") < 60
    assert record == {
        "targets": [
            {"name": "down", "depth": 2, "dead_letters": 0},
            {"name": "strict", "depth": 0, "oldest_age": 0.0, "dead_letters": 2},
        ],
        "unresolved": 0,
        "processes": 0,
        "abandoned": 1,
    }


def test_the_entries_of_an_outbox_have_no_values(folder: Path, command: Command) -> None:
    assert command("outbox", "list", str(folder)) == 0
    first, second = command.out.splitlines()
    expected = "d-1  u-1  applied; waits for down; dead letter for strict after 1 attempt: "
    assert first.endswith(f"{expected}it has no address")
    assert "d-2  u-2  applied" in second
    assert VALUE not in command.out
    assert command("outbox", "list", str(folder), "--json", "--dialog", "d-2") == 0
    (entry,) = lines(command)
    assert (entry["dialog_id"], entry["update_id"], entry["state"]) == ("d-2", "u-2", "applied")
    assert (entry["pending"], entry["dead"][0]["target"]) == (["down"], "strict")
    assert VALUE not in command.out
    assert command("outbox", "list", str(folder), "--json", "--target", "strict", "--dead") == 0
    assert [each["update_id"] for each in lines(command)] == ["u-1", "u-2"]
    assert command("outbox", "list", str(folder), "--dialog", "d-3") == 1
    assert "no such events" in command.err


def test_values_are_printed_if_asked_for(folder: Path, command: Command) -> None:
    assert command("outbox", "show", str(folder), "u-1") == 0
    assert VALUE not in command.out
    assert command.json["payload"] == {"session": ["note", "seq"]}
    assert command.json["metadata"] == ["source"]
    assert command("outbox", "show", str(folder), "u-1", "--values") == 0
    assert command.json["payload"] == {"session": {"note": VALUE, "seq": 1}}
    assert (command.json["metadata"], command.json["status"]) == ({"source": VALUE}, 200)
    assert command("outbox", "show", str(folder), "u-9") == 1
    assert "'u-9'" in command.err


def test_dead_letters_are_delivered_again(folder: Path, command: Command) -> None:
    assert command("outbox", "retry", str(folder), "--dialog", "d-1") == 0
    assert command.out == "1 dead letter to be delivered again\n"
    assert command("outbox", "retry", str(folder), "--target", "down") == 1
    got: list[str] = []

    async def take(event: UpdateEvent) -> None:
        got.append(event.update_id)

    async def deliver() -> None:
        outbox = Outbox(folder)
        outbox.deliver_to(take, name="strict")
        outbox.deliver_to(_is_down, name="down")
        async with AsyncStateClient("http://localhost", auth=ApiKey(KEY), outbox=outbox):
            with anyio.fail_after(10):
                while not got:  # noqa: ASYNC110
                    await anyio.sleep(0.01)

    anyio.run(deliver)
    assert got == ["u-1"]
    assert command("outbox", "list", str(folder), "--dead", "--json") == 0
    assert [each["update_id"] for each in lines(command)] == ["u-2"]


def test_events_are_dropped(folder: Path, command: Command) -> None:
    assert command("outbox", "drop", str(folder)) == 2
    assert "--all" in command.err
    assert command("outbox", "drop", str(folder), "--dialog", "d-1") == 0
    assert command.out == "2 deliveries dropped\n"
    assert command("outbox", "drop", str(folder), "--target", "strict") == 0
    assert command.out == "1 delivery dropped\n"
    assert command("outbox", "drop", str(folder), "--all") == 0
    assert command("outbox", "drop", str(folder), "--all") == 1
    assert command("outbox", "list", str(folder)) == 1


@pytest.mark.parametrize("name", ["status", "list", "retry", "drop --all", "show u-1"])
def test_a_folder_that_is_no_outbox(name: str, tmp_path: Path, command: Command) -> None:
    action, *more = name.split()
    assert command("outbox", action, str(tmp_path / "missing"), *more) == 2
    assert str(tmp_path / "missing") in command.err
    (tmp_path / "empty").mkdir()
    assert command("outbox", action, str(tmp_path / "empty"), *more) in (0, 1)
    assert list((tmp_path / "empty").iterdir()) == []
