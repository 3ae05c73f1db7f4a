"""The synchronous client: threads, streams, interruptions, forks and its end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    AuditError,
    BadRequestError,
    ClientClosedError,
    ClientUsageError,
    Endpoint,
    HttpxTransport,
    QueueFullError,
    Request,
    Response,
    UpdateEvent,
    sync,
)
from cognigy_async.emulator import Emulator
from cognigy_async.sync import Outcomes, StateClient, UpdateHandle
from tests.simulation.outbox import MemoryOutbox

ROOT = Path(__file__).parents[2]
THREAD_NAME = "cognigy_async client"

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# Python warns of a fork beside threads, which is what these tests do.
forks_beside_threads = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class HeldTransport(HttpxTransport):
    """Holds requests between `hold` and `release`.

    Attributes:
        arrived: Set once a request is held.
        requests: Released once for each request.
    """

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator)))
        self.arrived = threading.Event()
        self.requests = threading.Semaphore(0)
        self._holds = False
        self._passing = 0
        self._lock = threading.Lock()
        self._gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        gate = None
        with self._lock:
            if self._holds and self._passing:
                self._passing -= 1
            elif self._holds:
                gate = asyncio.Event()
                self._gates.append((asyncio.get_running_loop(), gate))
        self.requests.release()
        if gate is not None:
            self.arrived.set()
            await gate.wait()
        return await super().send(request, timeout=timeout)

    def hold(self) -> None:
        """Hold the requests that begin from now on."""
        self._holds = True

    def let_one_pass(self) -> None:
        """Release the first request that is held, or the next one that begins."""
        with self._lock:
            if self._gates:
                loop, gate = self._gates.pop(0)
                loop.call_soon_threadsafe(gate.set)
            else:
                self._passing += 1

    def release(self) -> None:
        with self._lock:
            self._holds = False
            for loop, gate in self._gates:
                loop.call_soon_threadsafe(gate.set)
            self._gates.clear()


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(api_key="k")


@pytest.fixture
def transport(emulator: Emulator) -> HeldTransport:
    return HeldTransport(emulator)


@pytest.fixture
def make(transport: HeldTransport) -> Iterator[Callable[..., StateClient]]:
    """Make clients of the emulator, and see that none of their threads is left."""
    clients = []

    def make_client(**arguments: Any) -> StateClient:
        client = StateClient("http://localhost", auth=ApiKey("k"), transport=transport, **arguments)
        clients.append(client)
        return client

    yield make_client
    transport.release()
    for client in clients:
        client.close(drain=False)
    assert [thread for thread in threading.enumerate() if thread.name == THREAD_NAME] == []


@pytest.fixture
def client(make: Callable[..., StateClient]) -> StateClient:
    return make()


def rows(count: int) -> list[dict[str, Any]]:
    return [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(count)]


@contextmanager
def interrupted_when(client: StateClient, pending: int) -> Iterator[None]:
    """Press Ctrl-C once so many updates have been accepted, and expect it in the block."""

    def press() -> None:
        while client.metrics.pending < pending:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        yield
    thread.join()


# The same methods.


def test_it_has_the_public_names_of_the_asynchronous_client(client: StateClient) -> None:
    names = dir(AsyncStateClient("http://localhost", auth=ApiKey("k")))
    public = {name for name in names if not name.startswith("_")}
    assert public - set(dir(client)) == {"aclose"}
    assert "close" in dir(client)


@pytest.mark.parametrize(
    "name", ["__init__", "update", "inject", "notify", "modify", "flush", "resume", "get_state"]
)
def test_a_method_has_the_arguments_of_the_asynchronous_one(name: str) -> None:
    own = inspect.signature(getattr(StateClient, name))
    assert own == inspect.signature(getattr(AsyncStateClient, name))


def test_help_describes_callbacks_and_update_many() -> None:
    for name in ("on_state_updated", "on_update_failed"):
        assert "Decorator for callbacks" in (inspect.getdoc(getattr(AsyncStateClient, name)) or "")
    told = inspect.getdoc(StateClient.update_many) or ""
    assert all(name in told for name in ("index", "error", "deadline", "with client.update_many"))


def test_the_module_stays_small() -> None:
    source = Path(sync.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 255


def test_an_outbox_records_each_update(emulator: Emulator) -> None:
    outbox = MemoryOutbox()
    transport = HttpxTransport(httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator)))
    with StateClient(
        "http://127.0.0.1", auth=ApiKey("k"), transport=transport, outbox=outbox
    ) as client:
        result = client.update("d-1", session={"a": 1})
    assert [event.update_id for event in outbox.events] == [result.update_id]
    assert outbox.closed


def test_writing_and_reading(client: StateClient, emulator: Emulator) -> None:
    with client:
        assert client.is_open
        assert client.update("d-1", session={"a": 1}).version == 1
        assert client.modify("d-1", lambda state: {"user": {"n": state.session["a"]}}) is not None
        state = client.get_state("d-1")
        assert (state.session, state.user) == ({"a": 1}, {"n": 1})
        assert client.paused_dialogs() == {}
        client.resume()
        client.restore_quota(client.quota_state())
        client.flush()
        assert (client.metrics.applied, client.metrics.reads) == (2, 1)
        assert client.close_report is None
    assert not client.is_open
    assert client.close_report is not None
    assert (client.close_report.applied, client.metrics.applied) == (2, 2)
    assert client.close() is client.close_report
    assert not emulator.stats.violations()


def test_messages(emulator: Emulator, make: Callable[..., StateClient]) -> None:
    client = make(endpoint=Endpoint("http://localhost", "emulator-url-token"))
    with client:
        assert client.endpoint is not None
        assert client.inject("d-1", text="wake up", user_id="u-1").status == 200
        assert client.notify("d-1", data={"a": 1}, user_id="u-1").attempts == 1
    assert [message["kind"] for message in emulator.dialogs["d-1"].messages] == ["inject", "notify"]


def test_an_error_is_that_of_the_asynchronous_client(
    client: StateClient, emulator: Emulator
) -> None:
    emulator.script(400, dialog_id="d-1")
    with pytest.raises(BadRequestError) as caught:
        client.update("d-1", session={"a": 1})
    assert (caught.value.dialog_id, caught.value.status) == ("d-1", 400)


def test_a_handle_answers_while_the_client_is_open_and_after_it(
    client: StateClient, emulator: Emulator
) -> None:
    emulator.script("ok", 400)
    with client:
        applied = client.submit({"dialog_id": "d-1", "session": {"a": 1}})
        assert isinstance(applied, UpdateHandle)
        assert applied.result().update_id == applied.update_id
        refused = client.submit_nowait({"dialog_id": "d-1", "session": {"a": 2}})
        with pytest.raises(BadRequestError):
            refused.result()
    assert applied.done()
    assert (applied.dialog_id, applied.result().version) == ("d-1", 1)
    for _ in range(2):
        with pytest.raises(BadRequestError):
            refused.result()


def test_an_update_can_be_withdrawn(make: Callable[..., StateClient], transport: Any) -> None:
    client = make(max_pending=2)
    transport.hold()
    first = client.submit({"dialog_id": "d-1", "session": {"a": 1}})
    assert transport.arrived.wait(20)
    second = client.submit({"dialog_id": "d-1", "session": {"a": 2}})
    with pytest.raises(QueueFullError):
        client.submit_nowait({"dialog_id": "d-1", "session": {"a": 3}})
    assert (first.withdraw(), second.withdraw()) == (False, True)
    transport.release()
    assert first.result().version == 1


# Opening and closing.


def test_it_opens_at_the_first_call_and_closes_by_close(client: StateClient) -> None:
    assert not client.is_open
    client.update("d-1", session={"a": 1})
    assert client.is_open
    report = client.close()
    assert (report.applied, report.unsent) == (1, ())
    with pytest.raises(ClientClosedError):
        client.update("d-1", session={"a": 1})
    with pytest.raises(ClientClosedError), client:
        pass


def test_one_that_was_never_used_closes_without_a_thread(client: StateClient) -> None:
    before = threading.active_count()
    assert client.close().applied == 0
    assert threading.active_count() == before
    with pytest.raises(ClientClosedError):
        client.get_state("d-1")


def test_a_block_that_ends_sends_what_was_accepted(client: StateClient, emulator: Emulator) -> None:
    with client:
        for row in rows(50):
            client.submit(row)
    assert len(emulator.dialogs) == 50


def test_a_block_that_fails_does_not_send_what_waits(
    client: StateClient, emulator: Emulator, transport: HeldTransport
) -> None:
    def release_while_it_closes() -> None:
        while client.is_open:
            time.sleep(0.001)
        transport.release()

    releases = threading.Thread(target=release_while_it_closes)
    transport.hold()
    with pytest.raises(KeyError), client:
        for n in range(3):
            client.submit({"dialog_id": "d-1", "session": {"n": n}})
        assert transport.arrived.wait(20)
        releases.start()
        raise KeyError
    releases.join()
    assert client.close_report is not None
    assert len(client.close_report.unsent) == 2
    assert emulator.dialogs["d-1"].version == 1


def test_it_closes_while_other_threads_use_it(client: StateClient) -> None:
    started = threading.Barrier(9)

    def write(n: int) -> int:
        started.wait(20)
        for count in range(1000):
            try:
                client.update(f"d-{n}", session={"a": 1})
            except ClientClosedError:
                return count
        return 1000

    with ThreadPoolExecutor(9) as threads:
        counts = threads.map(write, range(8))
        started.wait(20)
        report = client.close()
        assert report.applied == sum(counts)


# Threads.


def test_threads_share_a_client(client: StateClient, emulator: Emulator) -> None:
    def write(n: int) -> None:
        for value in range(20):
            client.update(f"d-{n % 4}", session={f"v{n}": value})

    with client, ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
        assert client.metrics.applied == 160
    assert emulator.dialogs["d-0"].session == {"v0": 19, "v4": 19}
    assert not emulator.stats.violations()


def test_it_works_in_the_thread_of_a_running_event_loop(client: StateClient) -> None:
    async def cell_of_a_notebook() -> int | None:
        with client:
            assert len(list(client.update_many(rows(3)))) == 3
            return client.update("d-1", session={"a": 1}).version

    assert asyncio.run(cell_of_a_notebook()) == 2


def test_a_signal_handler_may_call_it(client: StateClient, transport: HeldTransport) -> None:
    versions = []
    before = signal.signal(
        signal.SIGUSR1,
        lambda *_: versions.append(client.update("d-2", session={"a": 1}).version),
    )
    try:
        client.update("d-1", session={"a": 1})
        signal.raise_signal(signal.SIGUSR1)
        client.update("d-1", session={"a": 2})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert versions == [1]


# Callbacks.


def test_a_plain_callback_has_a_thread_and_may_call_the_client(
    client: StateClient, emulator: Emulator
) -> None:
    request_id: ContextVar[str] = ContextVar("request_id")
    seen = []

    @client.on_state_updated
    def copy(event: UpdateEvent) -> None:
        if event.dialog_id == "d-1":
            seen.append((threading.current_thread().name == THREAD_NAME, request_id.get()))
            client.update("copy", session=event.payload["session"])

    with client:
        request_id.set("r-7")
        client.update("d-1", session={"a": 1})
    assert seen == [(False, "r-7")]
    assert emulator.dialogs["copy"].session == {"a": 1}


def test_an_async_callback_runs_in_the_thread_of_the_client_and_cannot_call_it(
    client: StateClient,
) -> None:
    seen: list[Any] = []

    @client.on_state_updated(retries=0)
    async def note(event: UpdateEvent) -> None:
        seen.append(threading.current_thread().name)
        for call in (
            lambda: client.update("d-2", session={"a": 1}),
            lambda: client.submit_nowait({"dialog_id": "d-2", "session": {"a": 1}}),
            lambda: client.update_many([]),
            lambda: client.metrics,
            client.__enter__,
        ):
            with pytest.raises(ClientUsageError, match="async callbacks"):
                call()
        seen.append("refused")

    client.update("d-1", session={"a": 1})
    client.flush()
    assert seen == [THREAD_NAME, "refused"]


def test_a_callback_cannot_close_the_client(client: StateClient) -> None:
    refused = []

    @client.on_state_updated
    def stop(event: UpdateEvent) -> None:
        for call in (client.close, client.flush):
            try:
                call()
            except ClientUsageError as error:
                refused.append(str(error))

    client.update("d-1", session={"a": 1})
    client.flush()
    assert [text.partition("(")[0] for text in refused] == ["aclose", "flush"]
    assert client.is_open


# Streams.


def test_update_many_is_an_iterator(client: StateClient, emulator: Emulator) -> None:
    given = [*rows(300), {"dialog_id": ""}, None]
    outcomes = list(client.update_many(given))  # type: ignore[arg-type]
    assert sorted(outcome.index for outcome in outcomes) == list(range(302))
    assert {outcome.index for outcome in outcomes if not outcome.ok} == {300, 301}
    assert len(emulator.dialogs) == 300
    stream = client.update_many([])
    assert next(stream, None) is None
    assert next(stream, None) is None


def test_drain_sends_the_rest(client: StateClient, emulator: Emulator) -> None:
    stream = client.update_many([*rows(30), {"dialog_id": ""}])
    assert next(stream).ok
    report = stream.drain()
    assert (report.applied, report.failed, report.ambiguous) == (29, 1, 0)
    assert len(emulator.dialogs) == 30
    assert next(stream, None) is None


def test_the_thread_that_iterates_takes_the_inputs(client: StateClient) -> None:
    # A connection of sqlite refuses every other thread.
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE dialogs (id TEXT)")
        connection.executemany("INSERT INTO dialogs VALUES (?)", [(f"d-{n}",) for n in range(200)])
        cursor = connection.execute("SELECT id FROM dialogs")
        inputs = ({"dialog_id": row[0], "session": {"a": 1}} for row in cursor)
        assert all(outcome.ok for outcome in client.update_many(inputs))
    connection.close()
    assert client.metrics.applied == 200


def test_inputs_are_taken_as_they_are_needed(make: Callable[..., StateClient]) -> None:
    client = make(max_pending=20, max_in_flight=2)
    taken = []

    def inputs() -> Iterator[dict[str, Any]]:
        for row in rows(500):
            taken.append(row)
            yield row

    for read, _ in enumerate(client.update_many(inputs()), 1):
        # Half of `max_pending`, and the one that waits for a slot.
        assert len(taken) - read <= 11
    assert len(taken) == 500


def test_an_input_that_comes_later_does_not_delay_those_before_it(
    client: StateClient, emulator: Emulator
) -> None:
    applied = threading.Event()
    client.on_state_updated(lambda event: applied.set())

    def inputs() -> Iterator[dict[str, Any]]:
        yield rows(1)[0]
        assert applied.wait(20)
        yield rows(2)[1]

    assert len(list(client.update_many(inputs()))) == 2


def test_an_error_of_the_input_comes_after_the_outcomes_before_it(client: StateClient) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield from rows(5)
        raise ConnectionError("the cursor is gone")

    seen = []
    with pytest.raises(ConnectionError, match="the cursor is gone"):
        for outcome in client.update_many(inputs()):
            seen.append(outcome.index)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert next(client.update_many(rows(1))).ok


@pytest.mark.parametrize("given", ["d-1", {"dialog_id": "d-1"}, 7])
def test_what_is_no_iterable_of_updates_is_refused(client: StateClient, given: Any) -> None:
    with pytest.raises(TypeError, match="update_many takes an iterable of updates, not"):
        client.update_many(given)


def test_leaving_the_block_of_a_stream_withdraws_what_waits(
    client: StateClient, emulator: Emulator, transport: HeldTransport
) -> None:
    def rows_of_a_dialog() -> Iterator[dict[str, Any]]:
        for n in range(100):
            if n == 1:
                # Only now, so that the second row is taken before the first outcome is read.
                transport.let_one_pass()
            yield {"dialog_id": "d-1", "session": {"n": n}}

    same_dialog = rows_of_a_dialog()
    transport.hold()
    with client.update_many(same_dialog) as stream:
        assert next(stream).ok
        assert all(transport.requests.acquire(timeout=20) for _ in range(2))
    transport.release()
    client.flush()
    assert emulator.dialogs["d-1"].version == 2
    assert next(same_dialog, None) is not None


@pytest.mark.parametrize("block", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_leaving_a_stream_early_says_how_many_rows_were_not_sent(
    client: StateClient,
    emulator: Emulator,
    block: bool,
    known: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = rows(200)
    stream = client.update_many(given if known else (row for row in given))
    with stream if block else nullcontext():
        for _ in stream:
            break
    client.close()
    del stream
    gc.collect()
    sent = len(emulator.dialogs)
    assert 0 < sent < 200
    [line] = [one for one in caplog.messages if "left early" in one]
    if known:
        assert f"early: {200 - sent} of 200 rows were not sent. Read" in line
    else:
        assert " of them were not sent; the rest of the input was not read. Read" in line


def test_a_stream_that_stops_has_an_outcome_for_each_input_it_took(
    client: StateClient, transport: HeldTransport
) -> None:
    stream = client.update_many({"dialog_id": "d-1", "session": {"n": n}} for n in range(100))
    first = next(stream)
    stream.stop()
    rest = list(stream)
    assert first.ok
    assert [outcome.index for outcome in rest] == list(range(1, len(rest) + 1))
    assert len(rest) < 99


def test_threads_share_a_stream(client: StateClient) -> None:
    stream = client.update_many(row for row in rows(400))
    with ThreadPoolExecutor(4) as threads:
        parts = [threads.submit(list, stream) for _ in range(4)]
        indexes = [outcome.index for part in parts for outcome in part.result(20)]
    assert sorted(indexes) == list(range(400))


def test_a_stream_ends_with_its_client(client: StateClient) -> None:
    stream = client.update_many(iter(rows(10)))
    next(stream)
    client.close()
    with pytest.raises(ClientClosedError):
        list(stream)
    stream.stop()  # as a signal handler does, at any time
    stream.close()


# Ctrl-C.


def test_ctrl_c_withdraws_the_update_that_waits(
    client: StateClient, emulator: Emulator, transport: HeldTransport
) -> None:
    transport.hold()
    sent = client.submit({"dialog_id": "d-1", "session": {"a": 1}})
    with interrupted_when(client, pending=2):
        client.update("d-1", session={"a": 2})
    transport.release()
    assert sent.result().version == 1
    client.flush()
    assert emulator.dialogs["d-1"].session == {"a": 1}
    # The client goes on, as in a notebook.
    assert client.update("d-1", session={"a": 3}).version == 2
    assert client.metrics.withdrawn == 1


def test_ctrl_c_in_a_stream_leaves_the_outcomes_readable(
    client: StateClient, transport: HeldTransport
) -> None:
    transport.hold()
    stream = client.update_many(rows(3))
    with interrupted_when(client, pending=3):
        next(stream)
    transport.release()
    assert sorted(outcome.index for outcome in stream) == [0, 1, 2]


class SlowSink:
    """Presses Ctrl-C while it opens, and opens when it is released."""

    strict = True
    max_queue = 100

    def __init__(self) -> None:
        self.release = threading.Event()

    def open(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if not self.release.wait(5):  # Python can miss a signal just before it waits for a lock
            os.kill(os.getpid(), signal.SIGINT)
            assert self.release.wait(4)

    def write(self, records: object, /) -> None:
        """Drop the records."""

    def close(self) -> None:
        """Release nothing."""


@pytest.mark.parametrize("used", [True, False])
def test_ctrl_c_in_the_opening_leaves_the_client_usable(
    make: Callable[..., StateClient], used: bool
) -> None:
    sink = SlowSink()
    client = make(audit=sink)
    with pytest.raises(KeyboardInterrupt):
        client.update("d-1", session={"a": 1})
    sink.release.set()
    if used:
        assert client.update("d-1", session={"a": 1}).version == 1
    assert client.close().applied == int(used)
    assert not client.is_open
    assert client.close().applied == int(used)


class FailingSink(SlowSink):
    """Fails to open."""

    def open(self) -> None:
        raise OSError("no such folder")


def test_closing_after_a_failed_opening_leaves_no_thread(
    make: Callable[..., StateClient],
) -> None:
    client = make(audit=FailingSink())
    with pytest.raises(AuditError):
        client.update("d-1", session={"a": 1})
    assert client.close().applied == 0
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("read", [list, Outcomes.drain])
def test_ctrl_c_in_the_block_of_a_stream_ends_it(
    client: StateClient, transport: HeldTransport, read: Callable[[Any], object]
) -> None:
    transport.hold()
    with interrupted_when(client, pending=3), client, client.update_many(rows(3)) as stream:
        releases = threading.Timer(0.5, transport.release)
        releases.start()
        read(stream)
    releases.join()
    assert client.close_report is not None
    assert client.close_report.applied == 3


def test_a_stream_that_is_closed_after_ctrl_c_has_no_more_outcomes(
    client: StateClient, transport: HeldTransport
) -> None:
    transport.hold()
    stream = client.update_many(rows(3))
    with interrupted_when(client, pending=3):
        next(stream)
    stream.close()
    assert list(stream) == []
    transport.release()
    assert client.update("d-9", session={"a": 1}).version == 1


def test_ctrl_c_in_the_input_ends_the_input(client: StateClient) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield from rows(1)
        raise KeyboardInterrupt

    stream = client.update_many(inputs())
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert client.update("d-1", session={"a": 1}).version == 1
    assert [outcome.index for outcome in stream] in ([], [0])


def test_ctrl_c_while_a_block_ends_sends_nothing_more(
    client: StateClient, emulator: Emulator, transport: HeldTransport
) -> None:
    transport.hold()
    interrupted = threading.Event()

    def release_after_it() -> None:
        # The client may be closing before `close` waits for it.
        while client.is_open or not _main_thread_waits():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(20)
        transport.release()

    waits = threading.Thread(target=release_after_it)
    handles = [client.submit({"dialog_id": "d-1", "session": {"n": n}}) for n in range(3)]
    assert transport.arrived.wait(20)
    before = signal.signal(signal.SIGINT, lambda *_: _interrupt(interrupted))
    try:
        waits.start()
        with pytest.raises(KeyboardInterrupt):
            client.close()
    finally:
        signal.signal(signal.SIGINT, before)
    waits.join()
    assert handles[0].result().version == 1
    assert client.close_report is not None
    assert len(client.close_report.unsent) == 2
    with pytest.raises(ClientClosedError):
        handles[2].result()


def _main_thread_waits() -> bool:
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return frame.f_code is threading.Condition.wait.__code__


def _interrupt(interrupted: threading.Event) -> None:
    interrupted.set()
    raise KeyboardInterrupt


def test_a_script_that_is_interrupted_ends_with_the_traceback_of_its_own_line(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import httpx
from cognigy_async import ApiKey, HttpxTransport
from cognigy_async.emulator import Emulator
from cognigy_async.sync import StateClient

emulator = Emulator(api_key="k")
emulator.script("hang")
transport = HttpxTransport(httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator)))
with StateClient("http://localhost", auth=ApiKey("k"), transport=transport, timeout=2) as client:
    client.submit({"dialog_id": "d-1", "session": {"a": 1}})
    print("waiting", flush=True)
    client.update("d-1", session={"a": 2})
""",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, err
    # The log tells of what was in flight, afterwards.
    assert "\nKeyboardInterrupt\n" in err
    assert err.count("Traceback") == 1
    assert "never retrieved" not in err
    assert "Exception ignored" not in err


# Forks and the end of the process.


@forks
@forks_beside_threads
def test_an_open_client_is_refused_after_a_fork(client: StateClient) -> None:
    handle = client.submit({"dialog_id": "d-1", "session": {"a": 1}})
    handle.result()
    stream = client.update_many(rows(2))

    def refused() -> bool:
        for call in (
            lambda: client.update("d-1", session={"a": 1}),
            lambda: client.submit_nowait({"dialog_id": "d-1", "session": {"a": 1}}),
            lambda: client.metrics,
            lambda: next(stream),
            client.__enter__,
            handle.withdraw,
        ):
            with pytest.raises(ClientUsageError, match="before the process forked"):
                call()
        return handle.result().version == 1

    assert in_fork(refused)
    assert client.update("d-1", session={"a": 2}).version == 2


@forks
@forks_beside_threads
def test_a_client_that_was_not_used_before_a_fork_opens_in_each_process(
    client: StateClient,
) -> None:
    def used() -> bool:
        with client:
            return client.update("d-1", session={"a": 1}).version == 1

    assert in_fork(used)
    assert used()


@forks
@forks_beside_threads
def test_a_block_that_a_forked_process_leaves_belongs_to_its_parent(client: StateClient) -> None:
    with client, client.update_many(rows(2)) as stream:
        assert next(stream).ok

        def leaves() -> bool:
            stream.__exit__(None, None, None)
            client.__exit__(None, None, None)
            return not client.is_open and client.close().applied == 0

        assert in_fork(leaves)
        assert client.is_open
        assert next(stream).ok
    assert client.close_report is not None
    assert client.close_report.applied == 2


def in_fork(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = int(not check())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (
            "",
            "was not closed. Use `async with` or `await client.aclose()`; of a StateClient `with`",
        ),
        ("import atexit; atexit.register(client.close)", ""),
    ],
)
def test_a_process_that_does_not_close_its_client_ends(end: str, told: str) -> None:
    script = f"""
import httpx
from cognigy_async import ApiKey, HttpxTransport
from cognigy_async.emulator import Emulator
from cognigy_async.sync import StateClient

emulator = Emulator(api_key="k")
transport = HttpxTransport(httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator)))
client = StateClient("http://localhost", auth=ApiKey("k"), transport=transport)
print(client.update("d-1", session={{"a": 1}}).version)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert (told in done.stderr) if told else not done.stderr
