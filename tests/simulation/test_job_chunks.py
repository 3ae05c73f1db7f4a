"""A chunk of a job, attempt by attempt: what is sent again after a kill, and what is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import AuthenticationError, RuntimeApi
from cognigy_async.bulk import JournalError
from cognigy_async.bulk.journal.journal import Batch
from cognigy_async.bulk.journal.schema import Failure, Status
from cognigy_async.temporal.chunk import Chunk, ChunkJournal, ChunkState
from tests.simulation.world import DROPPED, Wire, client_of, every, never, status, throttled

Row = dict[str, Any]


class Cluster:
    """Keeps what outlives an attempt: the job folder, and the details of the last heartbeat."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heartbeat = ChunkState().encode()
        self.attempt = 0

    def next_journal(self) -> ChunkJournal:
        self.attempt += 1
        heartbeat = ChunkState.decode(self.heartbeat)
        return ChunkJournal("job", f"{self.folder}/sends/0.0", self.attempt, heartbeat)

    @property
    def state(self) -> ChunkState:
        """What the next attempt begins with."""
        heartbeat = ChunkState.decode(self.heartbeat)
        return ChunkJournal("job", f"{self.folder}/sends/0.0", self.attempt + 1, heartbeat).load()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def numbered(rows: list[Row]) -> list[tuple[int, bytes]]:
    """The rows of a chunk, which has every third line of the input."""
    return [(3 * n + 1, json.dumps(row).encode()) for n, row in enumerate(rows)]


async def apply(cluster: Cluster, wire: Wire, rows: list[Row], **options: Any) -> list[Row] | None:
    """Run one attempt to its end; return its dead letters."""
    async with client_of(wire, **options) as client:
        journal = cluster.next_journal()
        chunk = Chunk(client, journal, numbered(rows), journal.load())
        try:
            letters = await chunk.apply()
        finally:
            cluster.heartbeat = journal.progress()[1]
    return None if letters is None else [json.loads(line) for line in letters.splitlines()]


async def kill(
    cluster: Cluster,
    wire: Wire,
    rows: list[Row],
    when: Callable[[], object],
    *,
    beats: bool = True,
    **options: Any,
) -> None:
    """Run an attempt that dies. Its heartbeats come when they like, so the last one may be old."""
    async with client_of(wire, **options) as client, anyio.create_task_group() as tasks:
        journal = cluster.next_journal()
        chunk = Chunk(client, journal, numbered(rows), journal.load())
        tasks.start_soon(expect_failure, chunk.apply)
        while not when():
            await anyio.sleep(0.001)
            if beats:
                cluster.heartbeat = journal.progress()[1]
        # A dead process writes nothing more.
        journal.write = dead  # type: ignore[method-assign]
        tasks.cancel_scope.cancel()


def dead(batch: Batch) -> None:
    raise JournalError("the process is dead")


async def expect_failure(apply: Callable[[], Awaitable[object]]) -> None:
    await apply()
    raise AssertionError("it was not killed")


def keys(wire: Wire) -> list[str]:
    return [sent.key or "" for sent in wire.writes()]


async def test_a_chunk_applies_its_rows_in_order(cluster: Cluster) -> None:
    wire = Wire(takes=0.01)
    rows = [{"dialog_id": f"d-{n % 7}", "session": {"seq": n}} for n in range(100)]
    assert await apply(cluster, wire, rows) == []
    for dialog in range(7):
        assert [sent.seq for sent in wire.writes(f"d-{dialog}")] == list(range(dialog, 100, 7))
    assert sorted(keys(wire)) == sorted(f"job-{3 * n + 1}" for n in range(100))
    assert cluster.state.numbers() == {"succeeded": 100, "failed": 0, "ambiguous": 0}
    assert cluster.state.requests == 100


async def test_an_attempt_after_a_kill_sends_only_what_no_heartbeat_has_as_done(
    cluster: Cluster,
) -> None:
    wire = Wire(takes=0.1)
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(400)]
    await kill(cluster, wire, rows, lambda: len(wire.sent) > 350, max_in_flight=10)
    done = set(cluster.state.done)
    before = Counter(keys(wire))
    assert 200 < len(done) < 350
    assert await apply(cluster, wire, rows) == []
    repeated = Counter(keys(wire)) - before
    assert set(repeated) == {f"job-{3 * n + 1}" for n in range(400) if 3 * n + 1 not in done}
    assert cluster.state.numbers()["succeeded"] == 400


async def test_rows_with_a_transition_are_not_sent_twice(cluster: Cluster) -> None:
    wire = Wire(takes=0.1)
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}, "next_step": "s"} for n in range(100)]
    await kill(cluster, wire, rows, lambda: len(wire.sent) > 55, max_in_flight=10)
    in_doubt = set(cluster.state.sends)
    assert 0 < len(in_doubt) <= 10
    letters = await apply(cluster, wire, rows)
    assert letters is not None
    assert {letter["_error"]["line"] for letter in letters} == in_doubt
    assert {letter["_error"]["type"] for letter in letters} == {"AmbiguousUpdateError"}
    assert max(Counter(keys(wire)).values()) == 1
    assert cluster.state.numbers() == {
        "succeeded": 100 - len(in_doubt),
        "failed": 0,
        "ambiguous": len(in_doubt),
    }


async def test_a_transition_goes_on_under_a_key_that_the_server_honours(cluster: Cluster) -> None:
    wire = Wire(takes=0.1)
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}, "next_step": "s"} for n in range(20)]
    options: dict[str, Any] = {"api": RuntimeApi(honours_idempotency_keys=True)}
    await kill(cluster, wire, rows, lambda: len(wire.sent) > 5, max_in_flight=4, **options)
    assert await apply(cluster, wire, rows, **options) == []
    assert set(keys(wire)) == {f"job-{3 * n + 1}" for n in range(20)}


async def test_a_transition_with_an_etag_goes_on_with_it(cluster: Cluster) -> None:
    wire = Wire(takes=0.1)
    rows = [
        {"dialog_id": "d", "session": {"seq": 0}},
        {"dialog_id": "d", "session": {"seq": 1}, "next_step": "s"},
    ]
    wire.script(200, never, dialog_id="d")
    await kill(cluster, wire, rows, lambda: len(wire.sent) == 2)
    assert await apply(cluster, wire, rows) == []
    assert [sent.headers.get("if-match") for sent in wire.writes() if sent.seq == 1] == ['"1"'] * 2


async def test_no_row_with_a_transition_is_sent_that_cannot_be_recorded(cluster: Cluster) -> None:
    wire = Wire()
    (cluster.folder / "sends").write_text("a file in the place of the folder")
    rows = [{"dialog_id": f"d-{n}", "next_step": "s"} for n in range(5)]
    with pytest.raises(JournalError, match=r"sends/0\.0\.1 cannot be written"):
        await apply(cluster, wire, rows)
    assert wire.sent == []


async def test_a_throttled_transition_is_not_in_doubt(cluster: Cluster) -> None:
    wire = Wire(answer=throttled("3600"))
    rows = [{"dialog_id": "d", "next_step": "s"}]
    begin = anyio.current_time()
    await kill(cluster, wire, rows, lambda: wire.sent and anyio.current_time() > begin + 60)
    assert cluster.state.sends == {}
    wire.answers(None)
    assert await apply(cluster, wire, rows) == []


async def test_dead_letters_of_all_attempts_are_written_once(cluster: Cluster) -> None:
    wire = Wire(takes=0.1, answer=status(400))
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(100)]
    await kill(cluster, wire, rows, lambda: len(cluster.state.done) > 12, max_in_flight=5)
    wire.answers(None)
    wire.script(status(404), dialog_id="d-99")
    failed = set(cluster.state.done)
    letters = await apply(cluster, wire, rows)
    assert letters is not None
    assert {letter["_error"]["line"] for letter in letters} == failed | {298}
    assert len(letters) == len(failed) + 1
    assert {letter["_error"]["status"] for letter in letters} == {400, 404}
    # Another attempt, after one that died while it wrote them, has the same.
    assert await apply(cluster, wire, rows) == letters


async def test_a_stopped_chunk_goes_on_where_it_stopped(cluster: Cluster) -> None:
    wire = Wire(takes=0.1)
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(100)]
    async with client_of(wire, max_in_flight=10) as client:
        journal = cluster.next_journal()
        chunk = Chunk(client, journal, numbered(rows), journal.load())
        async with anyio.create_task_group() as tasks:

            async def apply_until_stopped() -> None:
                assert await chunk.apply() is None

            tasks.start_soon(apply_until_stopped)
            while len(wire.sent) < 50:  # noqa: ASYNC110 - the wire has no event for it
                await anyio.sleep(0.01)
            chunk.stop()
    cluster.heartbeat = journal.progress()[1]
    assert len(cluster.state.done) == len(wire.sent) < 100
    assert await apply(cluster, wire, rows) == []
    assert max(Counter(keys(wire)).values()) == 1


async def test_a_chunk_that_is_stopped_before_its_begin_sends_nothing(cluster: Cluster) -> None:
    wire = Wire()
    async with client_of(wire) as client:
        journal = cluster.next_journal()
        rows = numbered([{"dialog_id": "d", "session": {"a": 1}}])
        chunk = Chunk(client, journal, rows, journal.load())
        chunk.stop()
        assert await chunk.apply() is None
    assert wire.sent == []


async def test_refused_credentials_stop_a_chunk_which_then_goes_on(cluster: Cluster) -> None:
    wire = Wire(answer=status(401))
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(10)]
    with pytest.raises(AuthenticationError):
        await apply(cluster, wire, rows)
    wire.answers(None)
    assert await apply(cluster, wire, rows) == []
    assert cluster.state.numbers()["succeeded"] == 10


async def test_retries_are_counted_by_reason(cluster: Cluster) -> None:
    wire = Wire()
    wire.script(DROPPED, status(503))
    assert (
        await apply(cluster, wire, [{"dialog_id": "d", "session": {"a": 1}}], retry=every(1)) == []
    )
    assert (cluster.state.requests, cluster.state.retries) == (
        3,
        {"no_response": 1, "unavailable": 1},
    )


async def test_an_old_heartbeat_makes_rows_be_sent_again_but_no_transition(
    cluster: Cluster,
) -> None:
    wire = Wire(takes=0.1)
    rows: list[Row] = [
        {"dialog_id": f"d-{n}", "session": {"seq": n}} | ({"next_step": "s"} if n % 2 else {})
        for n in range(60)
    ]
    await kill(cluster, wire, rows, lambda: len(wire.sent) > 25, beats=False, max_in_flight=4)
    await kill(cluster, wire, rows, lambda: len(wire.sent) > 45, beats=False, max_in_flight=4)
    letters = await apply(cluster, wire, rows)
    assert letters is not None
    assert {letter["_error"]["type"] for letter in letters} == {"AmbiguousUpdateError"}
    assert 0 < len(letters) <= 8
    assert max(Counter(sent.seq for sent in wire.writes() if sent.moves).values()) == 1
    in_doubt = {(letter["_error"]["line"] - 1) // 3 for letter in letters}
    assert {sent.seq for sent in wire.writes()} | in_doubt == set(range(60))
    assert len(cluster.state.done) == 60


async def test_rows_that_only_set_variables_write_nothing_to_the_job_folder(
    cluster: Cluster,
) -> None:
    wire = Wire(takes=0.01)
    rows = [{"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(100)]
    assert await apply(cluster, wire, rows) == []
    assert list(cluster.folder.iterdir()) == []


def test_the_state_of_a_chunk_survives_its_text() -> None:
    state = ChunkState()
    state.done = {4: Status.SUCCEEDED, 7: Status.FAILED, 9: Status.AMBIGUOUS}
    state.failures = {7: Failure("BadRequestError", "no", 400), 9: Failure("X", "y", None)}
    state.sends = {8: '"3"', 11: None}
    state.requests, state.retries = 5, Counter({"throttled": 2})
    assert ChunkState.decode(state.encode()) == state
    state.done = dict.fromkeys(range(1_000_000, 1_006_000, 3), Status.SUCCEEDED)
    assert len(state.encode()) < 12_000
