"""The outbox as a client uses it: records, room, errors, reopening."""

from __future__ import annotations

import errno
import functools
import os
import resource
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    BadRequestError,
    ClientUsageError,
    ConfigurationError,
    OutboxError,
    StateUpdate,
    UpdateEvent,
)
from cognigy_async.crm import Outbox, TargetUnavailableError, adoption, inspection
from tests.unit._builders import CANARY
from tests.unit.crm._driver import (
    Client,
    Collector,
    Written,
    collecting,
    event_of,
    eventually,
    intent_of,
    let_pass,
    opened,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("outbox-*.sqlite3"))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def down() -> Collector:
    """Return a target that takes nothing."""
    return Collector(answer=lambda *_: TargetUnavailableError("down", 3600))


def prepared(folder: Path) -> Outbox:
    """Return an outbox whose target takes all."""
    outbox = Outbox(folder)
    collecting(outbox, Collector())
    return outbox


async def leave(folder: Path, *keys: str, intents: tuple[str, ...] = ()) -> None:
    """Leave events, and intents without outcome, as a process does that was killed."""
    outbox = Outbox(folder)
    collecting(outbox, down())
    async with opened(outbox) as client:
        for key in keys:
            await client.apply("d-1", key)
        for key in intents:
            await client.intend(StateUpdate("d-1", session={"id": key}), key)


async def test_an_applied_update_is_delivered_as_it_was(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    fields: dict[str, Any] = {
        "session": {"a": 1},
        "next_step": "node",
        "metadata": {"order": "7"},
        "if_match": '"1"',
    }
    update = StateUpdate("d-1", **fields)
    async with opened(outbox) as client:
        await client.intend(update, "u-1")
        await client.settle(event_of(update, "u-1"))
        await target.until(lambda: bool(target.events))
    (event,) = target.events
    assert event.update == update
    assert (event.update_id, event.dialog_id, event.metadata) == ("u-1", "d-1", {"order": "7"})
    assert event.error is None
    assert event.result is not None
    assert (event.result.etag, event.result.version) == ('"2"', 2)
    assert (target.opened, target.closed) == (1, 1)
    # Nothing is left.
    assert names(folder) == ["adoption.lock"]


async def test_failures_reach_only_the_targets_that_want_them(folder: Path) -> None:
    outbox = Outbox(folder)
    applied = collecting(outbox, Collector("applied"))
    everything = collecting(outbox, Collector("everything"), failures=True)
    update = StateUpdate("d-1", session={"a": 1})
    failed = BadRequestError("refused", status=400, dialog_id="d-1", update_id="u-1")
    async with opened(outbox) as client:
        for key, error in (("u-1", failed), ("u-2", AmbiguousUpdateError("?")), ("u-3", None)):
            await client.intend(update, key)
            await client.settle(event_of(update, key, error))
        await everything.until(lambda: len(everything.events) == 3)
        await applied.until(lambda: len(applied.events) == 1)
    assert applied.ids() == ["u-3"]
    assert [type(event.error) for event in everything.events[:2]] == [
        BadRequestError,
        AmbiguousUpdateError,
    ]
    assert str(everything.events[0].error) == str(failed)


async def test_a_function_is_a_target(folder: Path) -> None:
    outbox = Outbox(folder)
    calls: list[str] = []
    done = anyio.Event()

    async def save(prefix: str, event: UpdateEvent) -> None:
        calls.append(prefix + event.update_id)
        if len(calls) < 3:
            raise ValueError(CANARY)
        done.set()

    outbox.deliver_to(functools.partial(save, "x-"), name="save")
    assert repr(outbox) == f"<Outbox {str(folder)!r} to save>"
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await done.wait()
    assert calls == ["x-u-1"] * 3


async def test_a_function_that_hangs_is_called_again(folder: Path) -> None:
    outbox = Outbox(folder)
    calls = 0
    done = anyio.Event()

    async def save(_: UpdateEvent) -> None:
        nonlocal calls
        calls += 1
        if calls < 2:
            await anyio.sleep(10_000)
        done.set()

    outbox.deliver_to(save)
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await done.wait()
    assert anyio.current_time() < 5_000


def test_what_cannot_be_a_target_is_refused(folder: Path) -> None:
    outbox = Outbox(folder)

    async def save(_: UpdateEvent) -> None: ...

    def plain(_: UpdateEvent) -> None: ...

    for wrong in (plain, 3, None):
        with pytest.raises(ConfigurationError, match="an async function or a Target"):
            outbox.deliver_to(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="printable name"):
        outbox.deliver_to(functools.partial(save))
    with pytest.raises(ConfigurationError, match="must be a str"):
        outbox.deliver_to(save, name=3)  # type: ignore[arg-type]
    outbox.deliver_to(save)
    with pytest.raises(ConfigurationError, match="another target has this name"):
        outbox.deliver_to(Collector("save"))
    outbox.deliver_to(Collector("save"), name="other")


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "disk"},
        {"max_bytes": 99_999},
        {"max_bytes": 1e9},
        {"when_full": "drop"},
        {"max_age": -1},
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Outbox(folder, **options)


async def test_one_client_at_a_time_uses_it(folder: Path) -> None:
    outbox = Outbox(folder)
    with pytest.raises(ConfigurationError, match="deliver_to"):
        await outbox.open(Client(outbox))
    target = collecting(outbox, Collector())
    assert outbox.status() == ()
    async with opened(outbox) as client:
        with pytest.raises(ClientUsageError, match="another client"):
            await outbox.open(Client(outbox))
        with pytest.raises(ClientUsageError, match="before"):
            outbox.deliver_to(Collector("late"))
        await client.apply("d-1", "u-1")
        await target.until(lambda: bool(target.events))
    with pytest.raises(ClientUsageError, match="not open"):
        outbox.withdraw("d-1", ["u-1"])
    async with opened(outbox) as client:
        await client.apply("d-1", "u-2")
        await target.until(lambda: len(target.events) == 2)


async def test_records_survive_when_it_is_cancelled(folder: Path) -> None:
    outbox = Outbox(folder)
    collecting(outbox, down())
    client = Client(outbox)
    await outbox.open(client)
    written = Written()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        await client.apply("d-1", "u-1")
        update = StateUpdate("d-1", session={"a": 1})
        outbox.intend([intent_of(update, "u-2")], written)
        tasks.cancel_scope.cancel()
    await outbox.close(1)
    await written.wait()
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox) as client:
        assert [intent.update_id for intent in client.resolved] == ["u-2"]
        await target.until(lambda: target.ids() == ["u-1"])


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_intents_of_a_dead_process_are_resolved_in_order(
    folder: Path, durability: Any
) -> None:
    outbox = Outbox(folder, durability=durability)
    collecting(outbox, Collector())
    update = StateUpdate("d-1", session={"a": 1}, metadata={"m": "n"})
    async with opened(outbox) as client:
        (synchronous,) = client.store.connection.execute("PRAGMA synchronous").fetchone()
        assert synchronous == {"process": 1, "power": 2}[durability]
        for number in range(5):
            written = Written()
            outbox.intend([intent_of(update, f"u-{number}", 99.0)], written)
            await written.wait()
        outbox.withdraw(update.dialog_id, ["u-3"])
    outbox = Outbox(folder)
    target = collecting(outbox, Collector("second"))
    async with opened(outbox) as client:
        found = client.resolved
        assert [intent.update_id for intent in found] == ["u-0", "u-1", "u-2", "u-4"]
        assert found[0].update == update
        facts = (found[0].key, found[0].etag, found[0].repeatable, found[0].deadline)
        assert facts == ("key-u-0", '"1"', True, 99.0)
        assert found[0].metadata == {"m": "n"}
        await client.settle(*(event_of(each.update, each.update_id) for each in found))
        await target.until(lambda: len(target.events) == 4)
    assert names(folder) == ["adoption.lock"]


async def test_a_running_process_takes_over_the_files_of_dead_ones(folder: Path) -> None:
    outbox, other = Outbox(folder), Outbox(folder)
    target = collecting(outbox, Collector())
    collecting(other, down())
    async with opened(outbox) as client:
        async with opened(other) as another:
            await another.apply("d-1", "u-1")
            await another.intend(StateUpdate("d-2", session={"a": 1}), "u-2")
            # Not while it lives.
            await let_pass(20)
            assert target.events == []
        await target.until(lambda: target.ids() == ["u-1"])
        await eventually(lambda: bool(client.resolved))
        assert [intent.update_id for intent in client.resolved] == ["u-2"]
        assert len(files(folder)) == 1


async def test_an_outcome_without_an_intent_is_delivered_all_the_same(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox) as client:
        await client.settle(event_of(StateUpdate("d-1", session={"a": 1}), "u-1"))
        await target.until(lambda: target.ids() == ["u-1"])


async def test_an_update_that_is_decided_again_is_kept_with_its_new_values(folder: Path) -> None:
    async with opened(prepared(folder)) as client:
        await client.intend(StateUpdate("d-1", session={"n": 1}), "u-1")
        client.outbox.withdraw("d-1", ["u-1"])
        await client.intend(StateUpdate("d-1", session={"n": 2}), "u-1")
        # It is sent, and its process dies.
    async with opened(prepared(folder)) as client:
        (intent,) = client.resolved
        assert intent.update.session == {"n": 2}


async def test_an_intent_that_is_withdrawn_at_once_is_not_kept(folder: Path) -> None:
    async with opened(prepared(folder)) as client:
        client.outbox.intend([intent_of(StateUpdate("d-1", session={"n": 1}), "u-1")], Written())
        client.outbox.withdraw("d-1", ["u-1"])
        await client.intend(StateUpdate("d-2", session={"n": 2}), "u-2")
    async with opened(prepared(folder)) as client:
        assert [intent.update_id for intent in client.resolved] == ["u-2"]


async def test_two_dialogs_may_use_one_update_id(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    updates = [StateUpdate(f"d-{number}", session={"n": number}) for number in range(3)]
    async with opened(outbox) as client:
        for update in updates:
            await client.intend(update, "order-1")
        outbox.withdraw("d-0", ["order-1"])
        for update in updates[1:]:
            await client.settle(event_of(update, "order-1"))
        await target.until(lambda: len(target.events) == 2)
        assert client.store.open == {}
    found = {
        (event.dialog_id, event.update_id, event.payload["session"]["n"]) for event in target.events
    }
    assert found == {("d-1", "order-1", 1), ("d-2", "order-1", 2)}


async def test_an_error_with_a_broken_text_is_recorded(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector(), failures=True)
    update = StateUpdate("d-1", session={"a": 1})
    error = BadRequestError("refused: \ud800", status=400, dialog_id="d-1")
    async with opened(outbox) as client:
        await client.intend(update, "u-1")
        await client.settle(event_of(update, "u-1", error))
        await target.until(lambda: bool(target.events))
    assert "refused: ?" in str(target.events[0].error)


# Room.


async def test_intents_wait_while_the_outbox_is_full(folder: Path) -> None:
    outbox = Outbox(folder, max_bytes=200_000)
    target = collecting(outbox, down())
    big = {"session": {"text": "x" * 20_000}}
    async with opened(outbox) as client:
        written = [Written() for _ in range(20)]
        for number, each in enumerate(written):
            outbox.intend([intent_of(StateUpdate(f"d-{number}", **big), f"u-{number}")], each)
        await written[0].wait()
        await let_pass(100)
        recorded = [each.done.is_set() for each in written]
        assert 3 < sum(recorded) < 12
        assert recorded == sorted(recorded, reverse=True)
        # Outcomes are always accepted.
        first = sum(recorded)
        for number in range(first):
            await client.settle(event_of(StateUpdate(f"d-{number}", **big), f"u-{number}"))
        outbox.withdraw("d-18", ["u-18"])
        await let_pass(100)
        assert sum(each.done.is_set() for each in written) == first
        target.answer = lambda *_: None
        for number, each in enumerate(written):
            if number == 18:
                continue
            await each.wait()
            if number >= first:
                await client.settle(event_of(StateUpdate(f"d-{number}", **big), f"u-{number}"))
        await target.until(lambda: len(target.ids()) == 19)
    assert not written[18].done.is_set()
    assert "u-18" not in target.ids()
    assert names(folder) == ["adoption.lock"]


async def test_intents_that_wait_fail_when_it_is_closed(folder: Path) -> None:
    outbox = Outbox(folder, max_bytes=100_000)
    collecting(outbox, down())
    written = [Written() for _ in range(2)]
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1", session={"text": "x" * 150_000})
        for number, each in enumerate(written):
            update = StateUpdate("d-2", session={"a": number})
            outbox.intend([intent_of(update, f"u-{number}")], each)
    for each in written:
        with pytest.raises(OutboxError, match="was closed"):
            await each.wait()


async def test_or_fail_if_the_user_wants_that(folder: Path) -> None:
    outbox = Outbox(folder, max_bytes=200_000, when_full="fail")
    target = collecting(outbox, down())
    big = {"session": {"text": CANARY * 2_000}}
    async with opened(outbox) as client:
        recorded = 0
        with pytest.raises(OutboxError, match="max_bytes=200000") as caught:
            for number in range(20):
                await client.apply(f"d-{number}", f"u-{number}", **big)
                recorded += 1
        assert CANARY not in str(caught.value)
        assert caught.value.path == str(folder)
        assert recorded > 3
        target.answer = lambda *_: None
        await target.until(lambda: len(target.ids()) == recorded)
        store = client.store
        await eventually(lambda: store.used < 100_000)
        await client.apply("d-1", "again", **big)


async def test_a_large_update_fits_in_an_empty_outbox(folder: Path) -> None:
    outbox = Outbox(folder, max_bytes=100_000)
    target = collecting(outbox, Collector())
    async with opened(outbox) as client:
        for key in ("u-1", "u-2"):
            await client.apply("d-1", key, session={"text": "x" * 150_000})
            await target.until(lambda: target.ids()[-1:] == [key])  # noqa: B023
            await anyio.sleep(1)


# Files.


async def test_only_this_user_can_read_the_files_and_deleted_values_are_gone(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, down())
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1", session={"card": CANARY})
        assert modes(folder) == {0o600}
        assert mode(folder) == 0o700
        assert CANARY.encode() in content_of(folder)
        target.answer = lambda *_: None
        await target.until(lambda: bool(target.events))
        await eventually(lambda: CANARY.encode() not in content_of(folder))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> set[int]:
    return {mode(path) for path in folder.iterdir()}


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("*.sqlite3*"))


async def refusal(folder: Path) -> OutboxError:
    outbox = Outbox(folder)
    collecting(outbox, Collector())
    with pytest.raises(OutboxError) as caught:
        await outbox.open(Client(outbox))
    assert outbox.status() == ()
    return caught.value


async def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = await refusal(tmp_path / "file" / "outbox")
    assert "cannot be created" in str(error)
    assert error.path == str(tmp_path / "file" / "outbox")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open" / "something").touch()
    assert "chmod 700" in str(await refusal(tmp_path / "open"))


async def test_an_empty_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    outbox = Outbox(tmp_path / "open")
    collecting(outbox, Collector())
    async with opened(outbox):
        assert mode(tmp_path / "open") == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_the_folder_of_another_user_is_refused(folder: Path) -> None:
    os.mkdir(folder, 0o700)
    os.chown(folder, 12345, 12345)
    assert "belongs to another user, with the id 12345" in str(await refusal(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_read_only_folder_is_refused(folder: Path) -> None:
    os.mkdir(folder, 0o500)
    assert "cannot be created or written" in str(await refusal(folder))


async def test_a_read_only_file_system_is_refused() -> None:
    folder = Path("/proc/self/outbox")
    if not folder.parent.exists():
        pytest.skip("there is no /proc, in which nobody can create a file")
    assert "cannot be created" in str(await refusal(folder))


async def test_a_damaged_file_is_refused_and_kept(folder: Path) -> None:
    await leave(folder, *(f"u-{number}" for number in range(200)))
    (path,) = files(folder)
    content = bytearray(path.read_bytes())
    content[8192:16384] = os.urandom(8192)
    path.write_bytes(content)
    error = await refusal(folder)
    assert "is damaged" in str(error)
    assert error.path == str(path)
    assert path.read_bytes() == content
    assert files(folder) == [path]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE targets SET number = -1",
        "UPDATE targets SET number = 60",
        "UPDATE targets SET name = x'00'",
        "INSERT INTO meta VALUES (x'61646f70', '')",
        "UPDATE entries SET id = 9223372036854775807",
        "UPDATE entries SET update_id = x'00'",
        "UPDATE entries SET state = 4",
        "UPDATE entries SET settled_at = 'noon'",
        "UPDATE entries SET pending = -1",
        "UPDATE entries SET dead = 'x'",
        "INSERT INTO dead_letters VALUES (7, 1, 1, 'no', 1.0)",
        "INSERT INTO dead_letters VALUES (0, 1, 'x', 'no', 1.0)",
    ],
)
async def test_a_file_with_values_that_no_outbox_writes_is_refused_and_kept(
    folder: Path, statement: str
) -> None:
    await leave(folder, "u-1")
    (path,) = files(folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    content = path.read_bytes()
    assert "has invalid values" in str(await refusal(folder))
    for read in (inspection.status, lambda folder: list(inspection.entries(folder))):
        with pytest.raises(OutboxError, match="has invalid values"):
            read(folder)
    assert path.read_bytes() == content
    assert files(folder) == [path]


async def test_a_file_whose_schema_is_no_text_is_refused(folder: Path) -> None:
    await leave(folder, "u-1")
    (path,) = files(folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        # SQLite quotes it in its message.
        broken = "UPDATE sqlite_master SET sql = CAST(x'43524541544520880a' AS TEXT)"
        connection.execute(f"{broken} WHERE name = 'entries'")
    with pytest.raises(OutboxError, match="is damaged"):
        inspection.status(folder)
    assert "is damaged" in str(await refusal(folder))


async def test_a_file_of_another_program_is_refused_and_kept(folder: Path) -> None:
    os.mkdir(folder, 0o700)
    path = folder / "outbox-0.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE x (y)")
    content = path.read_bytes()
    assert "is no file of an outbox" in str(await refusal(folder))
    assert path.read_bytes() == content


async def test_a_file_of_another_version_is_refused_and_kept(folder: Path) -> None:
    await leave(folder, "u-1")
    (path,) = files(folder)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "another version of cognigy_async (format 99" in str(await refusal(folder))
    assert files(folder) == [path]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox):
        await target.until(lambda: target.ids() == ["u-1"])


async def test_a_file_that_a_running_process_cannot_take_over_is_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox) as client:
        (folder / "outbox-0.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(200))
        await eventually(lambda: "is no file of an outbox" in caplog.text)
        await let_pass(60)
        await client.apply("d-1", "u-1")
        await target.until(lambda: bool(target.events))
    assert caplog.text.count("is no file of an outbox") == 1


async def test_an_interrupted_adoption_copies_no_file_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(folder, "u-1", "u-2", intents=("u-3",))

    def killed(_: Path) -> None:
        raise OutboxError("stands for the end of the process")

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "remove_file", killed)
        await refusal(folder)
    assert len(files(folder)) == 2
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox) as client:
        assert [intent.update_id for intent in client.resolved] == ["u-3"]
        await target.until(lambda: len(target.events) == 2)
        await eventually(lambda: len(files(folder)) == 1)
    assert [event.update_id for event in target.events] == ["u-1", "u-2"]


async def test_a_file_that_cannot_be_removed_is_adopted_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())

    def refused(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with opened(outbox) as client:
        with monkeypatch.context() as patch:
            patch.setattr(adoption, "remove_file", refused)
            await leave(folder, "u-1", intents=("u-2",))
            await eventually(lambda: bool(client.resolved))
            await target.until(lambda: bool(target.events))
            await let_pass(30)
        await eventually(lambda: len(files(folder)) == 1)
    assert [event.update_id for event in target.events] == ["u-1"]
    assert [intent.update_id for intent in client.resolved] == ["u-2"]
    assert caplog.text.count("Permission denied") == 1


def test_a_file_is_found_until_all_that_belongs_to_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox-1.sqlite3"
    for each in (path, tmp_path / "outbox-1.sqlite3-wal"):
        each.touch()
    unlink, found = Path.unlink, list[list[str]]()

    def killed(self: Path) -> None:
        unlink(self)
        found.append(os.listdir(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        adoption.remove_file(path)
    assert found == [[path.name], []]


@pytest.mark.skipif(sys.platform == "win32", reason="it needs RLIMIT_FSIZE")
async def test_an_adoption_that_failed_keeps_targets_of_other_programs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(folder)
    collecting(outbox, Collector("second"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with opened(outbox) as client:
        # Its own -wal cannot grow, and the other file can be opened.
        await client.apply("d-2", "u-0", session={"text": "x" * 60_000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            await leave(folder, "u-1", "u-2")
            await eventually(lambda: "Make room" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await eventually(lambda: len(files(folder)) == 1)
        assert set(client.store.masks) == {"collector", "second"}
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox):
        await target.until(lambda: target.ids() == ["u-1", "u-2"])


async def test_a_file_that_was_removed_is_noticed(folder: Path) -> None:
    outbox = Outbox(folder)
    collecting(outbox, Collector())
    async with opened(outbox) as client:
        (path,) = files(folder)
        os.rename(path, folder / "moved")
        with pytest.raises(OutboxError, match="removed or replaced") as caught:
            await client.apply("d-1", "u-1")
        assert caught.value.path == str(path)
        os.rename(folder / "moved", path)
        await client.apply("d-1", "u-2")


async def test_files_that_died_before_they_had_tables_are_removed(folder: Path) -> None:
    await leave(folder, "u-1")
    (folder / "outbox-0.sqlite3").touch()
    outbox = Outbox(folder)
    target = collecting(outbox, Collector())
    async with opened(outbox):
        await target.until(lambda: target.ids() == ["u-1"])
        assert len(files(folder)) == 1


async def test_a_file_whose_first_transaction_was_cut_off_is_removed(folder: Path) -> None:
    os.mkdir(folder, 0o700)
    # SQLite rolls such a file back to nothing.
    code = (
        "import os, sqlite3, sys\n"
        "from cognigy_async.crm.folder import APPLICATION_ID\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute(f'PRAGMA application_id = {APPLICATION_ID}')\n"
        "for n in range(200): c.execute(f'CREATE TABLE t{n} (a)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    await anyio.run_process([sys.executable, "-c", code, folder / "outbox-0.sqlite3"], check=False)
    assert os.stat(folder / "outbox-0.sqlite3").st_size > 0
    outbox = Outbox(folder)
    collecting(outbox, Collector())
    async with opened(outbox):
        assert len(files(folder)) == 1
    assert names(folder) == ["adoption.lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="it needs RLIMIT_FSIZE")
async def test_a_full_disk_is_reported_and_it_goes_on_when_there_is_room(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, down())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    update = StateUpdate("d-2", session={"text": CANARY * 20_000})
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await client.intend(StateUpdate("d-3", session={"a": 1}), "u-2")
        largest = max(os.stat(folder / name).st_size for name in names(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        try:
            with pytest.raises(OutboxError, match="Make room") as caught:
                await client.intend(update, "u-3")
            assert CANARY not in str(caught.value)
            with pytest.raises(OutboxError, match="Make room"):
                await client.settle(event_of(update, "u-2"), event_of(update, "u-4"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await client.apply("d-1", "u-5")
        target.answer = lambda *_: None
        await target.until(lambda: target.ids() == ["u-1", "u-5"])
        await eventually(lambda: outbox.status()[0].depth == 0)
    # The outcome of u-2 is unknown to the file, and a later process resolves it.
    async with opened(outbox) as client:
        assert [intent.update_id for intent in client.resolved] == ["u-2"]


@pytest.mark.skipif(sys.platform == "win32", reason="it needs RLIMIT_FSIZE")
async def test_what_could_not_be_written_takes_no_room(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    outbox = Outbox(folder, max_bytes=100_000)
    collecting(outbox, Collector())
    async with opened(outbox) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            for number in range(10):
                update = StateUpdate("d-1", session={"text": "x" * 20_000})
                with pytest.raises(OutboxError, match="Make room"):
                    await client.intend(update, f"u-{number}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await client.apply("d-1", "u-10")


async def test_deliveries_are_recorded_when_there_is_room_again(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, down())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            target.answer = lambda *_: None
            await target.until(lambda: bool(target.events))
            await let_pass(60)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await let_pass(60)
    assert [event.update_id for event in target.events] == ["u-1"]
    assert names(folder) == ["adoption.lock"]
