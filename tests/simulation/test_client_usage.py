"""Where a client may be used and where not, pausing, flushing, closing."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    BadRequestError,
    ClientClosedError,
    ClientUsageError,
    CloseReport,
    ConfigurationError,
    DialogPausedError,
    PendingUpdate,
    QueueFullError,
    RetryPolicy,
    ServerError,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.testing.virtual_time import run
from tests.simulation.world import (
    Wire,
    all_of,
    at_once,
    client_of,
    every,
    never,
    outcome_of,
    turns,
    until,
)

ROW = {"dialog_id": "d", "session": {"a": 1}}

CALLS: dict[str, Callable[[AsyncStateClient], Awaitable[object]]] = {
    "update": lambda client: client.update("d", session={"a": 1}),
    "submit": lambda client: client.submit(ROW),
    "submit_nowait": lambda client: _async(lambda: client.submit_nowait(ROW)),
    "update_many": lambda client: _first(client, [ROW]),
    "update_many-async": lambda client: _first(client, _rows()),
    "get_state": lambda client: client.get_state("d"),
    "modify": lambda client: client.modify("d", lambda _: None),
    "flush": lambda client: client.flush(),
    "resume": lambda client: _async(client.resume),
}


async def _async(function: Callable[[], object]) -> object:
    return function()


async def _rows() -> Any:
    yield ROW


async def _first(client: AsyncStateClient, rows: Any) -> object:
    async with client.update_many(rows) as outcomes:
        return await anext(outcomes)


@pytest.mark.parametrize("call", CALLS)
async def test_usage_before_the_client_is_open(call: str) -> None:
    client = client_of(Wire())
    with pytest.raises(ClientClosedError, match="async with"):
        await CALLS[call](client)
    assert "not open" in repr(client)
    assert client.paused_dialogs() == {}
    assert client.close_report is None
    assert not client.is_open


@pytest.mark.parametrize("call", CALLS)
async def test_usage_after_it_is_closed(call: str) -> None:
    wire = Wire()
    client = client_of(wire)
    async with client:
        assert client.is_open
        await client.update("d", session={"a": 1})
        await client.aclose()
        assert not client.is_open
        with pytest.raises(ClientClosedError, match="closed"):
            await CALLS[call](client)
    with pytest.raises(ClientClosedError, match="closed"):
        await CALLS[call](client)
    assert len(wire.sent) == 1
    assert "closed" in repr(client)


@pytest.mark.parametrize("call", CALLS)
async def test_usage_of_one_that_was_closed_before_it_was_open(call: str) -> None:
    client = client_of(Wire())
    assert await client.aclose() == CloseReport(0, 0, 0, (), 0)
    with pytest.raises(ClientClosedError):
        await CALLS[call](client)
    with pytest.raises(ClientUsageError, match="once"):
        async with client:
            pass


async def test_usage_a_client_is_opened_once() -> None:
    client = client_of(Wire())
    async with client:
        with pytest.raises(ClientUsageError, match="once"):
            await client.__aenter__()
        await client.update("d", session={"a": 1})
    with pytest.raises(ClientUsageError, match="once"):
        async with client:
            pass


@pytest.mark.real_time
@pytest.mark.parametrize("call", [*CALLS, "aclose"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_usage_in_another_event_loop_says_so(call: str, backend: Any) -> None:
    wire = Wire()
    client = client_of(wire)
    calls = CALLS | {"aclose": lambda client: client.aclose()}

    async def elsewhere() -> object:
        with anyio.fail_after(5):
            return await outcome_of(calls[call](client))

    async with client:
        error = await anyio.to_thread.run_sync(partial(run, elsewhere, backend=backend))
        assert isinstance(error, ClientUsageError)
        assert "another event loop" in str(error)
        # It has taken no harm.
        await client.update("d", session={"a": 1})
    assert len(wire.sent) == 1


@pytest.mark.real_time
async def test_usage_a_handle_in_another_event_loop_does_not_hang() -> None:
    wire = Wire(answer=never)
    client = client_of(wire, timeout=0.2, retry=at_once(max_attempts=1))

    async def elsewhere(handle: PendingUpdate) -> object:
        with anyio.fail_after(5):
            return await outcome_of(handle)

    async with client:
        handle = client.submit_nowait(ROW)
        error = await anyio.to_thread.run_sync(lambda: run(elsewhere, handle))
        assert isinstance(error, ClientUsageError)


@pytest.mark.real_time
async def test_usage_in_a_thread_without_a_loop_says_so() -> None:
    client = client_of(Wire())
    told: list[object] = []

    def elsewhere() -> None:
        for call in (lambda: client.submit_nowait(ROW), client.resume):
            try:
                told.append(call())
            except ClientUsageError as error:
                told.append(str(error))

    async with client:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert (
            told == ["this client belongs to another event loop; open one in each event loop"] * 2
        )
        # With a way into its loop it may be used from any thread.
        result = await anyio.to_thread.run_sync(
            anyio.from_thread.run, partial(client.update, "d", session={"a": 1})
        )
        assert isinstance(result, UpdateResult)


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["update", "submit_nowait", "get_state", "flush"])
async def test_usage_in_a_forked_process_says_so(call: str) -> None:
    client = client_of(Wire())
    async with client:
        await client.update("d", session={"a": 1})
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            # Nothing of the parent's may be run to its end here: no test, no fixture, no loop.
            told = "returned"
            try:
                CALLS[call](client).__await__().send(None)
            except ClientUsageError as error:
                told = str(error)
            except BaseException as error:
                told = repr(error)
            os.write(writer, told.encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:  # noqa: ASYNC230
            told_by_child = answer.read().decode()
        os.waitpid(child, 0)  # noqa: ASYNC222
        await client.update("d", session={"a": 1})
    assert "before the process forked" in told_by_child


# Room.


async def test_usage_submit_nowait_needs_room() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_pending=3) as client:
        handles = [client.submit_nowait(ROW) for _ in range(3)]
        with pytest.raises(QueueFullError, match="submit") as caught:
            client.submit_nowait(ROW)
        assert caught.value.max_pending == 3
        assert client.metrics.pending == 3
        await handles[0]
        client.submit_nowait(ROW)
        with pytest.raises(QueueFullError):
            client.submit_nowait(ROW)
        # Bad input is bad whether there is room or not, and takes none.
        with pytest.raises(UpdateValidationError):
            client.submit_nowait({"dialog_id": "d"})
        assert handles[2].withdraw()
        client.submit_nowait(ROW)
    assert client.metrics.applied == 4


async def test_usage_submit_nowait_does_not_overtake_those_who_wait_for_room() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_pending=1) as client:
        client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        handles: list[PendingUpdate] = []

        async def wait() -> None:
            handles.append(await client.submit({"dialog_id": "d", "session": {"seq": 1}}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.5)
            with pytest.raises(QueueFullError):
                client.submit_nowait({"dialog_id": "d", "session": {"seq": 2}})
    assert [sent.seq for sent in wire.sent] == [0, 1]
    assert handles[0].done()


async def test_usage_of_a_handle() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        handle = await client.submit({**ROW, "update_id": "mine"})
        assert (handle.update_id, handle.dialog_id, handle.done()) == ("mine", "d", False)
        assert "waiting" in repr(handle)
        await until(lambda: wire.sent)
        assert "sent" in repr(handle)
        # By several tasks, and more than once.
        results = await all_of(*[partial(_wait_for, handle)] * 3)
        assert len({id(result) for result in results}) == 1
        assert await handle is results[0]
        assert handle.done()
        assert "done" in repr(handle)
        assert not handle.withdraw()
    # What it came to can still be asked for.
    assert isinstance(await handle, UpdateResult)


async def _wait_for(handle: PendingUpdate) -> UpdateResult:
    return await handle


# Pausing after a failure.


async def test_usage_pausing_holds_back_what_follows_a_failure() -> None:
    wire = Wire()
    wire.script(400, dialog_id="ill")
    async with client_of(wire, on_failure="pause") as client:
        handles = [
            client.submit_nowait({"dialog_id": "ill", "session": {"seq": seq}}) for seq in range(3)
        ]
        with pytest.raises(BadRequestError) as caught:
            await handles[0]
        paused = client.paused_dialogs()
        assert list(paused) == ["ill"]
        assert paused["ill"].waiting == 2
        assert paused["ill"].__cause__ is caught.value
        assert client.metrics.paused == 1
        # Those who wait for an answer are told, those who handed something in are not.
        calls: list[Callable[[], Awaitable[Any]]] = [
            partial(client.update, "ill", session={"seq": 9}),
            partial(client.modify, "ill", lambda _: {"session": {"seq": 9}}),
        ]
        for call in calls:
            with pytest.raises(DialogPausedError, match="resume") as refused:
                await call()
            assert isinstance(refused.value.__cause__, BadRequestError)
        late = client.submit_nowait({"dialog_id": "ill", "session": {"seq": 3}})
        assert client.paused_dialogs()["ill"].waiting == 3
        outcomes = [one async for one in client.update_many([{"dialog_id": "ill", "session": {}}])]
        rows = [{"dialog_id": name, "session": {"seq": 9}} for name in ("ill", "well")]
        outcomes = [one async for one in client.update_many(rows)]
        told = {one.update.dialog_id: type(one.error) for one in outcomes if one.update}
        assert told == {"ill": DialogPausedError, "well": type(None)}
        # Reading is no update.
        await client.get_state("ill")
        # Neither of these waits for what is held.
        with anyio.fail_after(5):
            await client.flush()
        assert [sent.seq for sent in wire.writes("ill")] == [0]
        client.resume("other")
        assert len(client.paused_dialogs()) == 1
        client.resume("ill")
        for handle in (*handles[1:], late):
            await handle
        assert client.paused_dialogs() == {}
        assert client.metrics.paused == 0
    assert [sent.seq for sent in wire.writes("ill")] == [0, 1, 2, 3]


async def test_usage_pausing_fails_the_waiting_updates_of_those_who_cannot_be_held() -> None:
    wire = Wire(takes=1)
    wire.script(400, dialog_id="ill")
    async with client_of(wire, on_failure="pause") as client:
        rows = [{"dialog_id": "ill", "session": {"seq": seq}} for seq in range(3)]

        async def bulk() -> list[type]:
            return [type(outcome.error) async for outcome in client.update_many(rows)]

        first, *others, streamed = await all_of(
            partial(client.update, "ill", session={"seq": 0}),
            *(partial(client.update, "ill", session={"seq": n}) for n in (1, 2)),
            bulk,
        )
        told = [type(first), *(type(other) for other in others)]
        assert isinstance(streamed, list)
        kinds = sorted(kind.__name__ for kind in told + streamed)
        assert kinds == ["BadRequestError"] + ["DialogPausedError"] * 5
        client.resume()
        await client.update("ill", session={"seq": 4})


async def test_usage_pausing_again_after_resume_and_resuming_all() -> None:
    wire = Wire()
    async with client_of(wire, on_failure="pause", retry=at_once(max_attempts=1)) as client:
        for name in ("a", "b"):
            wire.script(500, 503, dialog_id=name)
            for seq in range(3):
                client.submit_nowait({"dialog_id": name, "session": {"seq": seq}})
        await client.flush()
        assert sorted(client.paused_dialogs()) == ["a", "b"]
        client.resume()
        await client.flush()
        assert sorted(client.paused_dialogs()) == ["a", "b"]
        client.resume()
        await client.flush()
        assert client.paused_dialogs() == {}
    for name in ("a", "b"):
        assert [sent.seq for sent in wire.writes(name)] == [0, 1, 2]


async def test_usage_pausing_and_withdrawing_what_is_held() -> None:
    wire = Wire()
    wire.script(400)
    async with client_of(wire, on_failure="pause") as client:
        handles = [client.submit_nowait(ROW) for _ in range(3)]
        await outcome_of(handles[0])
        assert handles[1].withdraw()
        assert client.paused_dialogs()["d"].waiting == 1
        assert handles[2].withdraw()
        # It stays paused until somebody says that the cause is mended.
        assert client.paused_dialogs()["d"].waiting == 0
        with pytest.raises(DialogPausedError):
            await client.update("d", session={"a": 1})
        client.resume("d")
        await client.update("d", session={"a": 1})


async def test_usage_pausing_and_closing_returns_what_is_held() -> None:
    wire = Wire()
    wire.script(400)
    async with client_of(wire, on_failure="pause") as client:
        handles = [client.submit_nowait({**ROW, "session": {"seq": n}}) for n in range(4)]
        await outcome_of(handles[0])
        with anyio.fail_after(5):
            report = await client.aclose()
    assert [update.session for update in report.unsent] == [{"seq": 1}, {"seq": 2}, {"seq": 3}]
    for handle in handles[1:]:
        with pytest.raises(ClientClosedError):
            await handle


async def test_usage_pausing_after_a_cancelled_update_that_failed() -> None:
    wire = Wire()
    wire.script(503)
    async with client_of(wire, on_failure="pause", retry=every(100)) as client:
        with anyio.move_on_after(1):
            await client.update("d", session={"a": 1})
        assert isinstance(client.paused_dialogs()["d"].__cause__, ServerError)
        client.resume("d")
        await client.update("d", session={"a": 1})


async def test_usage_without_pausing_a_failure_holds_nothing_back() -> None:
    wire = Wire()
    wire.script(400)
    async with client_of(wire) as client:
        handles = [client.submit_nowait(ROW) for _ in range(3)]
        await outcome_of(handles[0])
        assert client.paused_dialogs() == {}
        await handles[2]


# Flushing.


async def test_usage_flush_waits_for_what_was_accepted_before() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        await client.flush()
        assert anyio.current_time() < 0.1
        first = [client.submit_nowait({**ROW, "dialog_id": f"d-{n}"}) for n in range(3)]
        async with anyio.create_task_group() as tasks:

            async def more() -> None:
                for number in range(20):
                    await anyio.sleep(0.4)
                    client.submit_nowait({**ROW, "dialog_id": f"late-{number}"})

            tasks.start_soon(more)
            await client.flush()
            assert all(handle.done() for handle in first)
            # Those of later were not waited for; by then the first of them may have had its turn.
            assert anyio.current_time() <= 4.1
            tasks.cancel_scope.cancel()


async def test_usage_flush_by_several_at_once_and_after_failures() -> None:
    wire = Wire(takes=1)
    wire.script(503, 400, 409)
    async with client_of(wire, max_in_flight=2, retry=every(2)) as client:
        handles = [client.submit_nowait({**ROW, "dialog_id": f"d-{n % 3}"}) for n in range(9)]
        handles[8].withdraw()
        outcomes = await all_of(*[client.flush] * 4)
        assert outcomes == [None] * 4
        assert all(handle.done() for handle in handles)


# Closing.


async def test_usage_aclose_is_idempotent_and_concurrent() -> None:
    wire = Wire(takes=2)
    async with client_of(wire) as client:
        client.submit_nowait(ROW)
        reports = await all_of(*[client.aclose] * 5)
        assert anyio.current_time() == pytest.approx(2, abs=0.1)
        assert len({id(report) for report in reports}) == 1
        assert reports[0] is client.close_report
        assert await client.aclose() is client.close_report
    assert await client.aclose() is client.close_report
    assert wire.closed == 1


async def test_usage_aclose_that_is_cancelled_still_closes() -> None:
    wire = Wire(takes=100)
    async with client_of(wire, max_in_flight=1, timeout=1000) as client:
        handles = [client.submit_nowait(ROW) for _ in range(3)]
        told: list[Any] = []

        async def other() -> None:
            told.append(await client.aclose())

        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(5) as scope:
                tasks.start_soon(other)
                await turns(3)
                await client.aclose(timeout=50)
            assert scope.cancelled_caught
        # The one who only waited for it has the report, too.
        assert told == [client.close_report]
        assert all(handle.done() for handle in handles)
        assert client.close_report is not None
    assert wire.closed == 1


async def test_usage_aclose_of_one_of_several_tasks_that_use_it() -> None:
    wire = Wire(takes=1)
    outcomes: list[Any] = []
    async with client_of(wire, max_in_flight=1, max_pending=2) as client:

        async def write(number: int) -> None:
            outcomes.append(await outcome_of(client.update(f"d-{number}", session={"a": 1})))

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(write, number)
            await anyio.sleep(0.5)
            await client.aclose()
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    # Two were accepted; the others still waited for room and are told why there will be none.
    assert kinds == ["ClientClosedError"] * 4 + ["UpdateResult"] * 2


async def test_usage_aclose_although_the_transport_does_not_end() -> None:
    class Stubborn(Wire):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    async with client_of(Stubborn()) as client:
        await client.update("d", session={"a": 1})
    assert client.close_report is not None
    assert anyio.current_time() < 60


async def test_usage_aclose_although_the_transport_fails() -> None:
    class Failing(Wire):
        async def aclose(self) -> None:
            raise OSError("it cannot be closed")

    client = client_of(Failing())
    async with client:
        handle = client.submit_nowait(ROW)
    assert isinstance(await handle, UpdateResult)
    assert client.close_report is not None
    assert client.close_report.applied == 1


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_usage_aclose_needs_a_time_that_ends(timeout: float) -> None:
    async with client_of(Wire()) as client:
        with pytest.raises(ConfigurationError):
            await client.aclose(timeout=timeout)
        await client.update("d", session={"a": 1})


async def test_usage_aclose_in_a_callback_is_refused_and_its_update_is_fine() -> None:
    client = client_of(Wire())
    told: list[Any] = []

    @client.on_state_updated
    async def close(_: Any) -> None:
        told.append(await outcome_of(client.aclose()))

    async with client:
        await client.update("d", session={"a": 1})
        await client.flush()
        await client.update("d", session={"a": 1})
    assert [type(one) for one in told] == [ClientUsageError] * 2
    assert client.close_report is not None
    assert client.close_report.applied == 2


async def test_usage_the_error_of_the_body_is_what_leaves() -> None:
    wire = Wire(answer=never)
    with pytest.raises(ZeroDivisionError):
        async with client_of(wire, timeout=20) as client:
            client.submit_nowait(ROW)
            await until(lambda: wire.sent)
            raise ZeroDivisionError
    assert client.metrics.pending == 0


# Arguments.


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_in_flight": 0},
        {"max_in_flight": True},
        {"max_in_flight": 1.5},
        {"max_pending": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"on_failure": "stop"},
        {"auth": "a-key"},
    ],
    ids=str,
)
def test_usage_of_arguments_that_cannot_work(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"auth": ApiKey("k")}
    with pytest.raises(ConfigurationError):
        AsyncStateClient("https://a.test", **given | wrong)


@pytest.mark.parametrize(
    "url", ["a.test", "ftp://a.test", "https://", "https://u:p@a.test", "https://a.test?x=1", ""]
)
def test_usage_of_a_base_url_that_cannot_work(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        AsyncStateClient(url, auth=ApiKey("k"))


async def test_usage_of_a_base_url_with_a_path_or_a_slash() -> None:
    urls: list[str] = []

    class Noting(Wire):
        async def send(self, request: Any, *, timeout: float) -> Any:
            urls.append(request.url)
            return await super().send(request, timeout=timeout)

    for base in ("https://a.test", "https://a.test/", "https://a.test/proxy/"):
        async with AsyncStateClient(base, auth=ApiKey("k"), transport=Noting()) as client:
            await client.update("../x y/ü", session={"a": 1})
    path = "/runtime/v2/dialogs/%2E%2E%2Fx%20y%2F%C3%BC/state"
    assert urls == [f"https://a.test{path}"] * 2 + [f"https://a.test/proxy{path}"]


async def test_usage_of_timeout_and_policy_of_one_call() -> None:
    wire = Wire(answer=never)
    async with client_of(wire, timeout=50) as client:
        policy = RetryPolicy(max_attempts=1)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "update": lambda: client.update("a", session={"a": 1}, timeout=2, retry=policy),
            "get": lambda: client.get_state("b", timeout=2, retry=policy),
            "modify": lambda: client.modify("c", lambda _: None, timeout=2, retry=policy),
            "submit": lambda: _submitted(client, policy),
            "bulk": lambda: _first_with(client, policy),
        }
        outcomes = await all_of(*calls.values())
        assert anyio.current_time() == pytest.approx(2, abs=0.1)
        assert len(wire.sent) == 5
        assert len(outcomes) == 5
        with pytest.raises(ConfigurationError):
            await client.update("a", session={"a": 1}, timeout=-1)
        with pytest.raises(ConfigurationError):
            client.submit_nowait(ROW, timeout=float("inf"))
        # A refused argument takes no place.
        assert client.metrics.pending == 0
        await client.aclose(drain=False, timeout=0.1)


async def _submitted(client: AsyncStateClient, policy: RetryPolicy) -> Any:
    return await (await client.submit({**ROW, "dialog_id": "e"}, timeout=2, retry=policy))


async def _first_with(client: AsyncStateClient, policy: RetryPolicy) -> Any:
    # Bulk waits for a server that gives no answer, but not with an update that may not be repeated.
    row = {"dialog_id": "f", "next_step": "s"}
    async with client.update_many([row], timeout=2, retry=policy) as outcomes:
        return await anext(outcomes)
