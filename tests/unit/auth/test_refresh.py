"""One refresh: its retries, and callers in other threads and event loops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from cognigy_async.auth.oauth import CLOSE_TIMEOUT, OAuthTokenProvider
from cognigy_async.auth.provider import AccessToken, TokenProvider
from cognigy_async.auth.refresh import EventLoopRef, Refresh, SupersededError
from cognigy_async.auth.token_endpoint import OAuthEndpoint
from cognigy_async.errors import (
    ClientClosedError,
    ClientUsageError,
    NoResponseError,
    NotSentError,
)
from cognigy_async.models.http import Request, Response
from cognigy_async.transports.base import Transport
from cognigy_async.transports.httpx import HttpxTransport

from .token_server import (
    Answer,
    Caller,
    Endpoint,
    TokenServer,
    answer,
    config,
    failure_of,
    provider,
    token,
    tokens_are_closed,
    value_of,
)

FAILURES: list[Answer] = [
    answer(500),
    answer(502),
    Response(503, {}, b"<html>"),
    answer(599),
    answer(429),
    NotSentError("refused"),
    NoResponseError("closed"),
    NoResponseError("late", timed_out=True),
]


def refresh_with(endpoint: Endpoint) -> Refresh:
    lock = threading.RLock()
    return Refresh(OAuthEndpoint(config()), endpoint, 10.0, anyio.current_time, lock)


async def test_an_abandoned_refresh_wakes_its_waiters_and_requests_nothing_more() -> None:
    endpoint = Endpoint(answer(503, {"retry-after": "20"}))
    refresh = refresh_with(endpoint)

    async def request() -> None:
        with pytest.raises(SupersededError):
            await refresh.request_token()

    async with anyio.create_task_group() as group:
        group.start_soon(request)
        group.start_soon(refresh.wait)
        await anyio.sleep(1)
        assert refresh.waiting == 1
        refresh.abandon()
        await anyio.wait_all_tasks_blocked()
        assert refresh.waiting == 0
    assert refresh.outcome.cancelled()
    assert len(endpoint.requests) == 1


async def test_a_refresh_that_no_task_runs_is_abandoned_after_a_second() -> None:
    refresh = refresh_with(Endpoint())
    await refresh.wait()
    assert refresh.outcome.cancelled()
    assert 1 <= anyio.current_time() <= 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_has_ended_takes_no_callbacks(backend: str) -> None:
    loops: list[EventLoopRef] = []

    async def main() -> None:
        loop = EventLoopRef()
        called = anyio.Event()
        assert loop.call_soon(called.set)
        await called.wait()
        assert not loop.is_closed()
        loops.extend([loop, EventLoopRef()])

    for _ in range(2):
        anyio.run(main, backend=backend)
    first, same, other, _ = loops
    assert first.is_same(same)
    assert not first.is_same(other)
    assert not first.call_soon(bool)
    assert first.is_closed() == (backend == "asyncio")


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_passing_failure_is_retried(failure: Answer) -> None:
    endpoint = Endpoint(failure, failure)
    tokens = provider(endpoint)
    assert await value_of(tokens) == "Bearer t1"
    assert len(endpoint.requests) == 3
    assert 0 < endpoint.times[2] - endpoint.times[0] < 1
    assert tokens.statistics().failures == 0


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_lasting_failure_is_a_transient_error(failure: Answer) -> None:
    endpoint = Endpoint(*[failure] * 3)
    tokens = provider(endpoint)
    error = await failure_of(tokens)
    assert (error.transient, error.attempts) == (True, 3)
    if isinstance(failure, Response):
        assert error.status == failure.status
        assert error.__cause__ is None
    else:
        assert error.__cause__ is failure
    statistics = tokens.statistics()
    assert (statistics.refreshes, statistics.failures) == (0, 1)
    assert await value_of(tokens) == "Bearer t1"
    assert len(endpoint.requests) == 4


PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


async def test_retry_after_is_waited_for() -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    later = "Wed, 21 Oct 2026 07:28:20 GMT"
    for status in (429, 503):
        for headers, wait in (
            ({"retry-after": "7"}, 7),
            ({"retry-after": "7.5"}, 7.5),
            ({"retry-after": "30"}, 30),
            ({"retry-after": later, "date": date}, 20),
            # As in answers of the API: equal headers are one, and a used-up limit names its reset.
            ({"retry-after": "7, 7"}, 7),
            ({"retry-after": f"{later}, {later}", "date": f"{date}, {date}"}, 20),
            ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"}, 7),
            ({"retry-after": "0", "ratelimit": "limit=5, remaining=0, reset=7"}, 7),
        ):
            endpoint = Endpoint(answer(status, headers))
            assert await value_of(provider(endpoint)) == "Bearer t1"
            first, second = endpoint.times
            assert wait <= second - first < wait + 0.5


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "1e999", "\x00", "9" * 400, "0", PAST])
async def test_an_invalid_retry_after_is_ignored(text: str) -> None:
    endpoint = Endpoint(answer(429, {"retry-after": text}))
    tokens = provider(endpoint)
    assert await value_of(tokens) == "Bearer t1"
    assert endpoint.times[1] - endpoint.times[0] < 1


async def test_a_long_retry_after_ends_the_refresh_and_delays_the_next() -> None:
    endpoint = Endpoint(answer(429, {"retry-after": "120"}))
    tokens = provider(endpoint)
    error = await failure_of(tokens)
    assert (error.status, error.transient, error.retry_after) == (429, True, 120)
    await anyio.sleep(100)
    again = await failure_of(tokens)
    assert (again.status, again.transient) == (429, True)
    assert again.retry_after == pytest.approx(20)
    assert again is not error
    assert len(endpoint.requests) == 1
    await anyio.sleep(20)
    assert await value_of(tokens) == "Bearer t1"


async def test_an_endless_retry_after_is_limited() -> None:
    endpoint = Endpoint(answer(503, {"retry-after": "999999999"}))
    tokens = provider(endpoint)
    await failure_of(tokens)
    await anyio.sleep(301)
    assert await value_of(tokens) == "Bearer t1"


async def test_an_unexpected_exception_of_a_transport_is_wrapped_and_not_retried() -> None:
    cause = LookupError("a bug")
    endpoint = Endpoint(cause)
    error = await failure_of(provider(endpoint))
    assert error.__cause__ is cause
    assert not error.transient
    assert len(endpoint.requests) == 1


async def test_a_transport_that_ignores_its_timeout_is_stopped() -> None:
    endpoint = Endpoint(takes=10_000)
    tokens = provider(endpoint, timeout=2)
    error = await failure_of(tokens)
    assert error.transient
    assert isinstance(error.__cause__, NoResponseError)
    assert error.__cause__.timed_out
    assert (len(endpoint.requests), endpoint.peak, endpoint.under_way) == (3, 1, 0)
    assert anyio.current_time() < 3 * 3 + 2


async def test_a_stray_cancelled_error_is_a_failure(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has none")
    error = await failure_of(provider(Endpoint(asyncio.CancelledError())))
    assert isinstance(error.__cause__, asyncio.CancelledError)


async def test_p7_a_loop_in_another_thread_needs_no_other_loop(opened: Opened) -> None:
    """Even while this loop is blocked."""
    opened.coming = []
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    given: list[str] = []
    OtherLoop._elsewhere(lambda: given.append(asyncio.run(value_of(tokens))))
    assert given == ["Bearer t1"]


async def test_p7_closing_at_any_point_leaves_nothing_behind(opened: Opened) -> None:
    """`aclose` waits until the request is torn down and the transport is closed."""
    refreshed: set[bool] = set()
    for number in range(48):
        endpoint = Endpoint(answer(503), answer(429, {"retry-after": "1"}), takes=1, teardown=0.5)
        opened.coming = [endpoint]
        tokens = OAuthTokenProvider(config(), clock=anyio.current_time)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(token_or_closed, tokens)
            await anyio.sleep(number * 0.125)
            began = anyio.current_time()
            refreshed.add(tokens.token_refreshes == 1)
            # Several callers may close it; it is closed when any of them returns.
            for _ in range(3):
                group.start_soon(closing, tokens, endpoint)
        assert anyio.current_time() - began <= 0.5
        statistics = tokens.statistics()
        assert (statistics.waiting, statistics.refreshing) == (0, False)
        assert endpoint.peak <= 1
    assert refreshed == {False, True}


async def token_or_closed(tokens: TokenProvider) -> None:
    with suppress(ClientClosedError):
        assert await value_of(tokens) == "Bearer t1"


async def closing(tokens: TokenProvider, endpoint: Endpoint) -> None:
    await tokens.aclose()
    assert endpoint.under_way == 0
    assert endpoint.closed or not endpoint.requests


async def test_p7_closing_does_not_wait_for_a_closed_loop(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    OtherLoop(tokens).drop()
    await tokens.aclose()
    assert anyio.current_time() == 0
    assert not tokens.statistics().refreshing


async def test_p7_closing_has_a_time_limit() -> None:
    endpoint = Endpoint(takes=1, teardown=1000)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        group.start_soon(tokens_are_closed, tokens)
        await anyio.sleep(0.5)
        await tokens.aclose()
        assert anyio.current_time() == 0.5 + CLOSE_TIMEOUT
    await anyio.sleep(1000)
    assert endpoint.under_way == 0


def clock_of_this_loop() -> Callable[[], float]:
    """Return the virtual clock of the running loop, usable in other threads too."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return trio.lowlevel.current_clock().current_time


class OtherLoop:
    """An asyncio loop of another thread that starts a refresh and then runs no further."""

    def __init__(self, tokens: OAuthTokenProvider) -> None:
        self.loop = asyncio.new_event_loop()
        self.tasks: list[asyncio.Task[AccessToken]] = []
        self._tokens = tokens
        self._elsewhere(self._begin)

    def _begin(self) -> None:
        self.tasks.append(self.loop.create_task(self._tokens.get_token()))
        for _ in range(10):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def go_on(self) -> None:
        """Run the loop until the task is done."""

        def go_on() -> None:
            self.loop.run_until_complete(self.tasks[0])

        self._elsewhere(go_on)

    def drop(self) -> None:
        """Close the loop with its tasks pending, and collect them."""
        self.loop.close()
        # The garbage collector may run while the lock is held.
        with self._tokens._lock:
            self.tasks.clear()
            gc.collect()

    def end(self) -> None:
        def end() -> None:
            if not self.loop.is_closed():
                tasks = asyncio.all_tasks(self.loop)
                for task in tasks:
                    task.cancel()
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
                self.loop.close()

        self._elsewhere(end)

    @staticmethod
    def _elsewhere(function: Callable[[], None]) -> None:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                function()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert not raised


class Opened(list[Endpoint]):
    """The transports that providers have opened: a slow one, then fast ones."""

    def __init__(self) -> None:
        super().__init__()
        self.coming = [Endpoint(takes=1e6)]

    def open(self) -> Transport:
        name = f"t{len(self) + 1}"
        self.append(self.coming.pop() if self.coming else Endpoint(token(name)))
        return self[-1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    made = Opened()
    monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", made.open)
    return made


async def test_p7_each_refresh_opens_a_transport_and_closes_it(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=anyio.current_time)
    opened.coming = [Endpoint(answer(400))]
    await failure_of(tokens)
    assert [endpoint.closed for endpoint in opened] == [True]
    tokens.invalidate(await tokens.get_token())
    await tokens.get_token()
    assert [endpoint.closed for endpoint in opened] == [True] * 3


async def test_p7_a_refresh_whose_loop_is_blocked_is_replaced(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), timeout=10, clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    try:
        assert tokens.statistics().refreshing
        async with anyio.create_task_group() as group:
            callers = [Caller(group, tokens) for _ in range(5)]
            await anyio.sleep(9.9)
            # The sixth one waits in the other loop.
            assert tokens.statistics().waiting == 6
        assert {caller.value for caller in callers} == {"Bearer t2"}
        assert anyio.current_time() < 15
        assert len(opened) == 2
    finally:
        other.end()
    # The abandoned refresh changes nothing when its loop continues.
    assert await value_of(tokens) == "Bearer t2"
    assert tokens.token_refreshes == 1


async def test_p7_a_loop_that_was_blocked_keeps_its_own_refresh(
    anyio_backend_name: str,
) -> None:
    endpoint = Endpoint(takes=5, teardown=0.5)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        first = Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        callers = [Caller(group, tokens) for _ in range(5)]
        await anyio.sleep(2.5)
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:
            loop = trio.lowlevel.current_clock()
        loop.jump(60)
    assert {caller.value for caller in [first, *callers]} == {"Bearer t1"}
    assert endpoint.peak == 1
    # On trio the request times out, and is retried.
    assert len(endpoint.requests) == (1 if anyio_backend_name == "asyncio" else 2)


async def test_p7_an_abandoned_refresh_sends_no_further_request(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.auth.refresh.TIMEOUT_GRACE", 0.0)
    tokens = OAuthTokenProvider(config(), timeout=0.01, clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    await value_of(tokens)
    first = opened[0]
    other.go_on()
    assert other.tasks[0].result().value == "Bearer t2"
    assert len(first.requests) == 1
    assert len(opened) == 2
    other.end()


async def test_p7_a_waiter_notices_that_the_loop_of_the_refresh_is_closed(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    async with anyio.create_task_group() as group:
        waiting = Caller(group, tokens)
        await anyio.sleep(0.5)
        other.loop.close()
    assert waiting.value == "Bearer t2"
    assert waiting.at == 1.0
    await tokens.aclose()


async def test_p7_a_refresh_whose_loop_is_closed_is_replaced(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    async with anyio.create_task_group() as group:
        waiting = Caller(group, tokens)
        await anyio.sleep(0.5)
        assert tokens.statistics().waiting == 2
        other.loop.close()
        await anyio.sleep(0.25)
        new = Caller(group, tokens)
    assert waiting.value == new.value == "Bearer t2"
    assert waiting.at == new.at == 0.75


async def test_p7_a_refresh_whose_loop_is_closed_is_replaced_inside_the_margin(
    opened: Opened,
) -> None:
    opened.coming = [Endpoint(takes=1e6), Endpoint(token("old", expires_in=1000))]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    await tokens.get_token()
    await anyio.sleep(800)
    other = OtherLoop(tokens)
    assert await value_of(tokens) == "Bearer old"
    assert len(opened) == 2
    other.loop.close()
    assert await value_of(tokens) == "Bearer old"
    await anyio.sleep(0.1)
    assert await value_of(tokens) == "Bearer t3"


async def test_p7_a_refresh_whose_loop_is_garbage_collected_is_replaced(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    opened.coming = [Endpoint(answer(503, {"retry-after": "20"}))]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    assert len(opened[0].requests) == 1
    async with anyio.create_task_group() as group:
        caller = Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics().waiting == 2
        other.drop()
    assert caller.value == "Bearer t2"
    assert caller.at == 1.0
    # asyncio warns of the callers that were destroyed, not of the refresh.
    messages = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not any("token refresh" in text for text in messages)


@pytest.mark.quick("0-False-False", "1-True-True", "2-True-False", "5-False-True")
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_p7_closing_a_loop_during_a_refresh_warns_of_nothing(
    turns: int,
    noticed: bool,
    given: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A caller that got the old token has no task there and could not explain a warning."""
    now = 0.0
    endpoint = Endpoint(lifetime=100)
    monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", lambda: endpoint)
    transport = endpoint if given else None
    tokens = OAuthTokenProvider(config(), transport=transport, clock=lambda: now)

    async def ask(tokens: TokenProvider) -> None:
        assert await value_of(tokens) == "Bearer t1"
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(tokens.get_token())
    now, endpoint.takes = 60.0, 1e6
    asked = loop.create_task(ask(tokens))
    loop.run_forever()
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert asked.done()
    assert tokens.statistics().refreshing
    assert len(endpoint.requests) == (2 if turns else 1)
    loop.close()
    if noticed:
        now, endpoint.takes = 200.0, 0.0
        assert asyncio.run(tokens.get_token()).value == "Bearer t2"
    del tokens, loop, asked

    async def collect() -> None:
        # A warning during the collection fails the test.
        gc.collect()

    asyncio.run(collect())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("there", ["asyncio", "trio"])
async def test_p7_a_waiter_takes_over_when_the_loop_ends(opened: Opened, there: str) -> None:
    first = Endpoint(takes=1e6, teardown=0.01)
    opened.coming = [first]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    begun, go_on = threading.Event(), threading.Event()

    async def begin() -> None:
        with anyio.move_on_after(0.02):
            await tokens.get_token()
        begun.set()
        await anyio.to_thread.run_sync(go_on.wait, 30)

    thread = threading.Thread(target=partial(anyio.run, begin, backend=there))
    thread.start()
    try:
        assert begun.wait(30)
        async with anyio.create_task_group() as group:
            caller = Caller(group, tokens)
            await anyio.wait_all_tasks_blocked()
            statistics = tokens.statistics()
            assert (statistics.refreshing, statistics.waiting) == (True, 1)
            go_on.set()
            thread.join(30)
            # The refresh ended in order with its loop.
            assert (first.under_way, first.closed) == (0, True)
            assert not tokens.statistics().refreshing
    finally:
        go_on.set()
        thread.join(30)
    assert (caller.value, caller.at) == ("Bearer t2", 0.0)


async def test_p7_a_task_cancelled_before_its_first_step_is_replaced(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio begins each task")
    endpoint = Endpoint()
    tokens = provider(endpoint)
    before = asyncio.all_tasks()
    asking = asyncio.create_task(tokens.get_token())
    await asyncio.sleep(0)
    (refresh,) = asyncio.all_tasks() - before - {asking}
    refresh.cancel()
    assert (await asking).value == "Bearer t1"
    assert anyio.current_time() <= 2
    assert len(endpoint.requests) == 1


async def test_p7_a_waiter_whose_loop_is_closed_does_not_affect_others(opened: Opened) -> None:
    opened.coming = [Endpoint(takes=2)]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    others: list[OtherLoop] = []
    async with anyio.create_task_group() as group:
        first = Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        others.append(OtherLoop(tokens))
        assert tokens.statistics().waiting == 2
        kept = others[0].tasks[0]
        others[0].loop.close()
        caller = Caller(group, tokens)
        await anyio.sleep(1)
        assert tokens.statistics().waiting == 3
    assert {(one.value, one.at) for one in (first, caller)} == {("Bearer t1", 2.0)}
    assert not kept.done()
    # Close the coroutine, because asyncio would warn that it never ended.
    coroutine: Any = kept.get_coro()
    with pytest.raises(RuntimeError):
        coroutine.throw(RuntimeError)
    assert tokens.statistics().waiting == 0


async def test_p7_a_given_transport_binds_the_provider_to_its_loop() -> None:
    endpoint = Endpoint(lifetime=10)
    tokens = provider(endpoint, clock=clock_of_this_loop())
    refused: list[BaseException] = []

    def ask_elsewhere() -> None:
        try:
            asyncio.run(tokens.get_token())
        except BaseException as error:
            refused.append(error)

    await tokens.get_token()
    await anyio.sleep(6)
    # Inside the margin the other loop gets the old token, and this loop refreshes it.
    OtherLoop._elsewhere(ask_elsewhere)
    assert not refused
    assert len(endpoint.requests) == 1
    await anyio.sleep(6)
    OtherLoop._elsewhere(ask_elsewhere)
    assert [type(error) for error in refused] == [ClientUsageError]
    assert await value_of(tokens) == "Bearer t2"


def test_p7_a_given_transport_moves_to_the_next_loop_when_the_first_has_ended() -> None:
    for first, second in (("asyncio", "trio"), ("trio", "asyncio"), ("asyncio", "asyncio")):
        endpoint = Endpoint()
        tokens = provider(endpoint, clock=time.monotonic)
        access = anyio.run(tokens.get_token, backend=first)
        tokens.invalidate(access)
        assert anyio.run(tokens.get_token, backend=second).value == "Bearer t2"


def test_p7_threads_with_loops_of_their_own_share_one_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens_seen: set[str] = set()
    failures: list[BaseException] = []
    lock = threading.Lock()
    under_way: list[int] = []
    peaks: list[int] = []

    class Counting(HttpxTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:
            with lock:
                under_way.append(1)
                peaks.append(len(under_way))
            try:
                return await super().send(request, timeout=timeout)
            finally:
                with lock:
                    under_way.pop()

    monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", Counting)
    with TokenServer(takes=0.02, lifetime=0.3) as server:
        tokens = OAuthTokenProvider(config(token_url=server.url))

        async def worker() -> None:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                with anyio.move_on_after(random.choice([0.005, 0.02, 5, 5])):
                    got = await tokens.get_token()
                    tokens_seen.add(got.value)
                    if random.random() < 0.02:
                        tokens.invalidate(got)
                await anyio.sleep(random.uniform(0, 0.01))

        async def workers() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(worker)

        def run(backend: str) -> None:
            try:
                anyio.run(workers, backend=backend)
            except BaseException as error:
                failures.append(error)

        threads = [
            threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio") * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert not failures
        assert max(peaks) == 1
        assert len(tokens_seen) > 5
        statistics = tokens.statistics()
        assert (statistics.failures, statistics.waiting) == (0, 0)
        assert not statistics.refreshing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_p7_a_forked_child_is_not_locked_out() -> None:
    run_python(
        """
        import os, threading, time, anyio
        from cognigy_async import OAuthConfig, OAuthTokenProvider, Response

        class Endpoint:
            slow = True
            async def send(self, request, *, timeout):
                if self.slow:
                    await anyio.sleep(60)
                return Response(200, {}, b'{"access_token": "t"}')
            async def aclose(self):
                pass

        endpoint = Endpoint()
        tokens = OAuthTokenProvider(
            OAuthConfig(token_url="https://h/t", client_id="a", client_secret="b"),
            transport=endpoint,
        )
        threading.Thread(target=anyio.run, args=(tokens.get_token,), daemon=True).start()
        while not tokens.statistics().refreshing:
            time.sleep(0.01)

        def hold():
            with tokens._lock:
                held.set()
                time.sleep(60)

        held = threading.Event()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        if os.fork() == 0:
            endpoint.slow = False
            began = time.monotonic()
            assert anyio.run(tokens.get_token).value == "Bearer t"
            assert time.monotonic() - began < 5
            os._exit(0)
        assert os.wait()[1] == 0
        os._exit(0)
        """
    )


def test_trio_is_not_imported_on_asyncio() -> None:
    run_python(
        """
        import anyio, sys
        from cognigy_async import OAuthConfig, OAuthTokenProvider, Response

        class Endpoint:
            async def send(self, request, *, timeout):
                await anyio.sleep(0.01)
                return Response(200, {}, b'{"access_token": "t"}')
            async def aclose(self):
                pass

        async def main():
            tokens = OAuthTokenProvider(
                OAuthConfig(token_url="https://h/t", client_id="a", client_secret="b"),
                transport=Endpoint(),
            )
            async with anyio.create_task_group() as group:
                group.start_soon(tokens.get_token)
                group.start_soon(tokens.get_token)

        anyio.run(main)
        assert "trio" not in sys.modules
        """
    )


def run_python(source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_failures_are_logged_with_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cognigy_async")
    await failure_of(provider(Endpoint(*[answer(503)] * 3)))
    repeats, last = caplog.records[:-1], caplog.records[-1]
    assert [record.__dict__["attempt"] for record in repeats] == [1, 2]
    # There is no old token: the caller gets the error, and a client says that it has no token.
    assert last.levelno == logging.INFO
    assert last.getMessage().startswith("token request failed: ")
    assert (last.__dict__["status"], last.__dict__["attempts"]) == (503, 3)


async def test_refreshes_that_fail_again_and_again_are_logged_at_the_begin_and_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [answer(503)] * 15 + [answer(400, error="invalid_client")] * 3
    tokens = provider(Endpoint(token("old", expires_in=1000), *failures, token("new")))
    began = 0.0
    while tokens.token_refreshes < 2:
        await tokens.get_token()
        began = began or (tokens.statistics().failures and anyio.current_time())
        await anyio.sleep(0.5)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    begin = "token refresh failed, and the old token stays in use: the token endpoint "
    assert [line.startswith(begin) for line in lines] == [True, True, False]
    assert "temporarily unavailable" in lines[0]
    assert "rejected" in lines[1]
    ended = float(lines[2].removeprefix("token refresh works again after ").removesuffix(" s"))
    assert ended == pytest.approx(anyio.current_time() - began, abs=3)


async def test_a_transport_that_fails_to_close_does_not_cost_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck(Endpoint):
        async def aclose(self) -> None:
            await anyio.sleep(100)

    class Broken(Endpoint):
        async def aclose(self) -> None:
            raise OSError("already closed")

    for kind in (Stuck, Broken):
        monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", kind)
        tokens = OAuthTokenProvider(config(), clock=anyio.current_time)
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            callers = [Caller(group, tokens) for _ in range(2)]
        assert {caller.value for caller in callers} == {"Bearer t1"}
        assert anyio.current_time() - began < 2
        refused = partial(kind, answer(400, error="invalid_client"))
        monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", refused)
        error = await failure_of(OAuthTokenProvider(config()))
        assert error.detail == "invalid_client"
