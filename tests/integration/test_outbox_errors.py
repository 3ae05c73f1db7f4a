"""What a client with an outbox says when its files cannot be used, and what it never says."""

from __future__ import annotations

import logging
import resource
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import anyio
import httpx
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    CognigyError,
    HttpxTransport,
    OutboxError,
    UpdateEvent,
)
from cognigy_async.crm import (
    EventRejectedError,
    Outbox,
    TargetUnavailableError,
    Webhook,
    inspection,
)
from cognigy_async.crm.folder import APPLICATION_ID
from cognigy_async.emulator import Emulator
from tests.stubs.transport import InProcess, Reply
from tests.stubs.webhook import Receiver
from tests.unit._builders import CANARY
from tests.unit.crm.test_webhook import SECRET

pytestmark = pytest.mark.real_time

KEY = "canary-api-key-1234"
URL = "https://crm.example/canary-url-token"


def client_of(
    server: Emulator, outbox: Outbox, on_response: Callable[[], None] = lambda: None
) -> AsyncStateClient:
    async def answered(_: httpx.Response) -> None:
        on_response()

    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=server), event_hooks={"response": [answered]}
    )
    transport = HttpxTransport(http)
    return AsyncStateClient(
        "http://127.0.0.1", auth=ApiKey(KEY), transport=transport, outbox=outbox
    )


class Taker:
    """A target that takes all events, unless it is down."""

    def __init__(self) -> None:
        self.is_down = False
        self.events: list[UpdateEvent] = []

    async def take(self, event: UpdateEvent) -> None:
        if self.is_down:
            raise TargetUnavailableError("down", 1.0)
        self.events.append(event)

    def outbox(self, folder: Path) -> Outbox:
        outbox = Outbox(folder)
        outbox.deliver_to(self.take, name="crm")
        return outbox


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 (threads bring it about)
            await anyio.sleep(0.02)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)


def set_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID + 1}")


def open_to_others(path: Path) -> None:
    path.parent.chmod(0o755)


def replace_folder(path: Path) -> None:
    path.unlink()
    (path.parent / "adoption.lock").unlink()
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (damage, "is damaged.*restore"),
        (set_version, "another version"),
        (make_foreign, "no file of an outbox"),
        (open_to_others, "chmod 700"),
        (replace_folder, "cannot be created"),
    ],
)
async def test_a_client_does_not_open_with_a_folder_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], None], text: str
) -> None:
    server, taker, folder = Emulator(api_key=KEY), Taker(), tmp_path / "outbox"
    taker.is_down = True
    async with client_of(server, taker.outbox(folder)) as client:
        await client.update("d-1", session={"text": CANARY})
    (path,) = (each for each in files_below(folder) if each.name != "adoption.lock")
    spoil(path)
    requests = server.stats.requests
    client = client_of(server, taker.outbox(folder))
    with pytest.raises(OutboxError, match=text) as caught:
        async with client:
            raise AssertionError("it must not open")
    assert str(caught.value.path) in (str(path), str(folder))
    assert CANARY not in str(caught.value)
    assert server.stats.requests == requests


@pytest.mark.skipif(sys.platform == "win32", reason="it needs RLIMIT_FSIZE")
async def test_on_a_full_disk_no_update_is_reported_as_applied_without_its_event(
    tmp_path: Path,
) -> None:
    server, taker, folder = Emulator(api_key=KEY), Taker(), tmp_path / "outbox"
    taker.is_down = True
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    reported, unsent, doubtful = set[str](), set[str](), set[str]()
    reasons: list[object] = []

    async def write(client: AsyncStateClient, number: int) -> None:
        name = f"u-{number}"
        values = {"n": number, "text": "x" * 3000}
        try:
            await client.update(f"d-{number % 5}", session=values, update_id=name)
            reported.add(name)
        except AmbiguousUpdateError as error:
            reasons.append(error.__cause__)
            doubtful.add(name)
        except OutboxError as error:
            reasons.append(error)
            unsent.add(name)

    async with client_of(server, taker.outbox(folder)) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        try:
            for first in range(0, 100, 10):
                async with anyio.create_task_group() as tasks:
                    for number in range(first, first + 10):
                        tasks.start_soon(write, client, number)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await write(client, 100)
    assert "u-100" in reported
    assert reported
    assert unsent
    for reason in reasons:
        assert isinstance(reason, OutboxError)
        assert "Make room" in str(reason)
    applied = {str(entry.key) for dialog in server.dialogs.values() for entry in dialog.history}
    assert not applied & unsent
    assert reported <= applied <= reported | doubtful
    taker.is_down = False
    async with client_of(server, taker.outbox(folder)):
        await until(lambda: reported <= {event.update_id for event in taker.events})
    assert {event.update_id for event in taker.events} <= applied


@pytest.mark.skipif(sys.platform == "win32", reason="it needs RLIMIT_FSIZE")
async def test_an_outcome_that_finds_a_full_disk_is_delivered_by_the_next_process(
    tmp_path: Path,
) -> None:
    server, taker, folder = Emulator(api_key=KEY), Taker(), tmp_path / "outbox"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    async with client_of(server, taker.outbox(folder), fill) as client:
        try:
            with pytest.raises(
                AmbiguousUpdateError, match="could not record its outcome"
            ) as caught:
                await client.update("d-1", session={"n": 1}, update_id="u-1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value.__cause__, OutboxError)
    assert "Make room" in str(caught.value.__cause__)
    assert taker.events == []
    async with client_of(server, taker.outbox(folder)):
        await until(lambda: bool(taker.events))
    assert [(event.update_id, event.error) for event in taker.events] == [("u-1", None)]


async def test_no_secret_and_no_value_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server, folder = Emulator(api_key=KEY), tmp_path / "outbox"
    receiver = Receiver(SECRET)
    receiver.replies = [Reply(500, CANARY), Reply(404, CANARY), Reply(503, CANARY)]

    async def leaking(event: UpdateEvent) -> None:
        raise ValueError(event.payload)

    async def refusing(event: UpdateEvent) -> None:
        raise EventRejectedError("refused")

    outbox = Outbox(folder)
    outbox.deliver_to(Webhook(URL, SECRET, transport=InProcess(receiver)), failures=True)
    outbox.deliver_to(leaking, failures=True)
    outbox.deliver_to(refusing, failures=True)
    texts = [repr(outbox)]

    async def attempt(outcome: Awaitable[object]) -> None:
        try:
            texts.append(repr(await outcome))
        except CognigyError as error:
            texts.extend((repr(error), str(error), repr(error.__cause__)))

    async with client_of(server, outbox) as client:
        await attempt(client.update("d-1", session={"text": CANARY}, metadata={"mail": CANARY}))
        await attempt(client.update("d-1", session={"text": CANARY}, if_match='"77"'))
        await attempt(client.update("d-2", user={"text": CANARY}))
        await until(lambda: any(each.dead_letters for each in outbox.status()))
        await until(lambda: outbox.status()[1].failed > 0)
        texts.append(repr(outbox.status()))
        listed = repr([inspection.status(folder), *inspection.entries(folder)])
        assert "d-1" in listed
    texts += [caplog.text, listed]
    assert "was not delivered" in caplog.text
    for text in texts:
        for secret in (CANARY, KEY, SECRET, SECRET.removeprefix("whsec_"), "canary-url-token"):
            assert secret not in text
    for path in files_below(tmp_path):
        content = path.read_bytes()
        assert KEY.encode() not in content
        assert SECRET.encode() not in content
        assert path.parent == folder
