"""`OAuthTokenProvider`: one token request at a time, for all callers."""

from __future__ import annotations

import asyncio
import copy
import inspect
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from cognigy_async.auth.oauth import OAuthTokenProvider
from cognigy_async.auth.provider import AccessToken, TokenProvider, TokenStatistics
from cognigy_async.errors import (
    ClientClosedError,
    NotSentError,
)
from cognigy_async.models.http import Request, Response

from .token_server import (
    Answer,
    Caller,
    Endpoint,
    answer,
    config,
    failure_of,
    provider,
    token,
    tokens_are_closed,
    value_of,
)

Job = Callable[[], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_positive(timeout: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        OAuthTokenProvider(config(), timeout=timeout)


def test_expiry_runs_on_the_monotonic_clock() -> None:
    parameter = inspect.signature(OAuthTokenProvider).parameters["clock"]
    assert parameter.default is time.monotonic


@pytest.mark.parametrize("seed", range(10))
async def test_p7_one_request_at_a_time(seed: int) -> None:
    chance = random.Random(seed)
    kinds: list[Answer] = [answer(503), NotSentError("refused")]
    failure = chance.choices(kinds, k=2)
    endpoint = Endpoint(*failure, takes=1, teardown=0.3, lifetime=4)
    tokens = provider(endpoint, refresh_margin=1)
    served = refused = 0

    async def call() -> None:
        nonlocal served, refused
        await anyio.sleep(chance.uniform(0, 20))
        with anyio.move_on_after(chance.choice([0, 0.1, 0.5, 1, 2, 100])):
            got = await tokens.get_token()
            served += 1
            if chance.random() < 0.1:
                tokens.invalidate(got)
            return
        refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(call)
    assert tokens.statistics().waiting == 0
    assert served > 20
    assert refused > 20
    await tokens.aclose()
    assert endpoint.peak == 1
    assert endpoint.under_way == 0
    statistics = tokens.statistics()
    assert not statistics.refreshing
    # Each issued token was used.
    assert statistics.refreshes == endpoint.issued


async def test_p7_callers_share_one_request() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens) for _ in range(200)]
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics().waiting == 200
        assert tokens.statistics().refreshing
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert {caller.at for caller in callers} == {1.0}
    assert len(endpoint.requests) == 1


async def test_p7_the_caller_that_started_a_refresh_may_be_cancelled() -> None:
    endpoint = Endpoint(takes=1, teardown=0.25)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        first = Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        waiting = [Caller(group, tokens) for _ in range(3)]
        await anyio.sleep(0.5)
        first.scope.cancel()
    assert first.value is None
    assert {(caller.value, caller.at) for caller in waiting} == {("Bearer t1", 1.0)}
    assert endpoint.times == [0.0]


@pytest.mark.parametrize("cancelled", range(15))
async def test_p7_native_cancellation_of_any_callers_leaves_one_request(
    cancelled: int, anyio_backend_name: str
) -> None:
    """The bits of `cancelled` say which of four callers are cancelled; never all of them."""
    chosen = [bool(cancelled & 1 << number) for number in range(4)]
    endpoint = Endpoint(answer(503), takes=1, teardown=0.5)
    tokens = provider(endpoint)
    given: list[str] = []

    async def ask() -> None:
        given.append(await value_of(tokens))

    if anyio_backend_name == "asyncio":
        tasks = [asyncio.create_task(ask()) for _ in chosen]
        for chance, task in zip(chosen, tasks, strict=True):
            await asyncio.sleep(0.3)
            if chance:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(end, asyncio.CancelledError) for end in ended] == chosen
    else:
        async with trio.open_nursery() as nursery:
            scopes = []
            for _ in chosen:
                scopes.append(await nursery.start(_scoped, ask))
            for chance, scope in zip(chosen, scopes, strict=True):
                await trio.sleep(0.3)
                if chance:
                    scope.cancel()
    assert given == ["Bearer t1"] * chosen.count(False)
    # One refresh of two attempts, none of which was torn down.
    assert len(endpoint.requests) == 2
    assert endpoint.issued == endpoint.peak == 1
    assert (tokens.token_refreshes, tokens.statistics().waiting) == (1, 0)


async def _scoped(ask: Job, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await ask()


@pytest.mark.parametrize("pause", [0, 0.1, 0.5])
async def test_p7_the_last_caller_still_gets_its_token(pause: float) -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens)]
        await anyio.wait_all_tasks_blocked()
        callers += [Caller(group, tokens) for _ in range(50)]
        await anyio.sleep(0.5)
        for caller in callers[:-1]:
            caller.scope.cancel()
            await anyio.sleep(pause)
    # With a pause some callers have the token before they are cancelled.
    assert callers[0].value is None
    assert callers[-1].value == "Bearer t1"
    assert callers[-1].at == pytest.approx(1.0)
    assert len(endpoint.requests) == 1
    assert tokens.statistics().waiting == 0


async def test_p7_a_refresh_continues_when_all_callers_are_cancelled() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens) for _ in range(20)]
        await anyio.sleep(0.5)
        for caller in callers:
            caller.scope.cancel()
    statistics = tokens.statistics()
    assert (statistics.refreshing, statistics.waiting) == (True, 0)
    assert await value_of(tokens) == "Bearer t1"
    assert anyio.current_time() == 1.0
    assert len(endpoint.requests) == 1


async def test_p7_a_refresh_has_the_context_of_no_caller() -> None:
    """So its spans and log lines belong to no caller."""
    request_id: ContextVar[str] = ContextVar("request_id")
    seen: list[str | None] = []

    class Curious(Endpoint):
        async def send(self, request: Request, *, timeout: float) -> Response:
            seen.append(request_id.get(None))
            request_id.set("of the transport")
            return await super().send(request, timeout=timeout)

    tokens = provider(Curious())
    request_id.set("of a caller")
    await tokens.get_token()
    assert seen == [None]
    assert request_id.get() == "of a caller"


async def test_p7_a_task_factory_does_not_matter(anyio_backend_name: str) -> None:
    """An eager factory would run the request in the caller's own step."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has none")
    if sys.version_info < (3, 12):
        pytest.skip("asyncio has eager tasks since Python 3.12")
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        endpoint = Endpoint(takes=1)
        tokens = provider(endpoint)
        asking = asyncio.create_task(tokens.get_token())
        assert not endpoint.requests
        asking.cancel()
        assert await value_of(tokens) == "Bearer t1"
        assert len(endpoint.requests) == 1
    finally:
        loop.set_task_factory(None)


async def test_p7_a_refresh_that_waits_for_retry_after_is_not_abandoned() -> None:
    endpoint = Endpoint(answer(429, {"retry-after": "30"}))
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens) for _ in range(3)]
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert endpoint.times == [0.0, 30.0]


async def test_p7_each_waiter_gets_a_copy_of_the_error() -> None:
    cause = NotSentError("refused")
    endpoint = Endpoint(cause, cause, cause, takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens) for _ in range(20)]
    errors = [caller.error for caller in callers if caller.error is not None]
    assert len(errors) == 20
    assert len(endpoint.requests) == 3
    assert len(set(map(id, errors))) == 20
    assert len({str(error) for error in errors}) == 1
    for error in errors:
        assert (error.transient, error.attempts) == (True, 3)
        assert error.__cause__ is cause
        assert error.__context__ is None
    assert tokens.statistics().failures == 1


async def test_p7_a_new_token_that_has_already_expired_is_returned() -> None:
    endpoint = Endpoint(takes=3, lifetime=2)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Caller(group, tokens) for _ in range(5)]
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert len(endpoint.requests) == 1


async def test_p7_a_waiter_does_not_get_a_token_that_was_invalidated_meanwhile() -> None:
    given: set[str] = set()
    for _ in range(30):
        tokens = provider(Endpoint(takes=1))
        refused: list[AccessToken] = []

        async def use_and_be_refused(tokens: TokenProvider, refused: list[AccessToken]) -> None:
            refused.append(await tokens.get_token())
            tokens.invalidate(refused[0])

        async def wait(tokens: TokenProvider, refused: list[AccessToken]) -> None:
            value = await value_of(tokens)
            # On trio either of the two may wake first.
            assert (value == "Bearer t2") == bool(refused)
            given.add(value)

        async with anyio.create_task_group() as group:
            group.start_soon(use_and_be_refused, tokens, refused)
            await anyio.sleep(0.5)
            group.start_soon(wait, tokens, refused)
    assert "Bearer t2" in given


async def test_p7_inside_the_margin_the_old_token_is_returned_at_once() -> None:
    endpoint = Endpoint(takes=5, lifetime=1000)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        first = await tokens.get_token()
        await anyio.sleep(694)
        assert await tokens.get_token() is first
        assert len(endpoint.requests) == 1
        await anyio.sleep(2)
        for _ in range(10):
            before = anyio.current_time()
            callers = [Caller(group, tokens) for _ in range(10)]
            await anyio.wait_all_tasks_blocked()
            assert {caller.value for caller in callers} == {"Bearer t1"}
            assert {caller.at for caller in callers} == {before}
            await anyio.sleep(0.4)
        assert len(endpoint.requests) == 2
        await anyio.sleep(2)
        assert await value_of(tokens) == "Bearer t2"
    assert len(endpoint.requests) == 2
    assert endpoint.peak == 1


@pytest.mark.parametrize("lifetime", [0.5, 2, 60, 599, 601, 86_400])
async def test_p7_a_token_is_used_for_at_least_half_of_its_lifetime(lifetime: float) -> None:
    endpoint = Endpoint(lifetime=lifetime)
    tokens = provider(endpoint)
    await tokens.get_token()
    serves = lifetime - min(300, lifetime / 2)
    await anyio.sleep(serves * 0.999)
    await tokens.get_token()
    assert len(endpoint.requests) == 1
    await anyio.sleep(serves * 0.002)
    assert await value_of(tokens) == "Bearer t1"
    await anyio.wait_all_tasks_blocked()
    assert len(endpoint.requests) == 2


async def test_p7_an_expired_token_is_not_returned() -> None:
    endpoint = Endpoint(lifetime=1000, takes=1)
    tokens = provider(endpoint)
    await tokens.get_token()
    await anyio.sleep(999)
    assert await value_of(tokens) == "Bearer t2"


@pytest.mark.parametrize("failure", [answer(400, error="invalid_client"), NotSentError("refused")])
async def test_p7_a_failed_early_refresh_leaves_the_valid_token_in_use(
    failure: Answer,
) -> None:
    endpoint = Endpoint(token("old", expires_in=1000), *[failure] * 10_000)
    tokens = provider(endpoint)
    old = await tokens.get_token()
    await anyio.sleep(701)
    asked = len(endpoint.requests)
    while anyio.current_time() < 998:
        assert await tokens.get_token() is old
        await anyio.sleep(0.5)
    refreshes = tokens.statistics().failures
    # Every 30 s at first, then at a quarter of what is left.
    assert 8 <= refreshes <= 40
    assert len(endpoint.requests) - asked <= 3 * (refreshes + 1)
    await anyio.sleep(5)
    error = await failure_of(tokens)
    assert error.transient == isinstance(failure, NotSentError)


async def test_p7_after_a_failed_early_refresh_the_next_one_is_early_too() -> None:
    endpoint = Endpoint(token("old", expires_in=1000), answer(400))
    tokens = provider(endpoint)
    await tokens.get_token()
    await anyio.sleep(701)
    assert await value_of(tokens) == "Bearer old"
    await anyio.sleep(29.9)
    assert await value_of(tokens) == "Bearer old"
    assert len(endpoint.requests) == 2
    await anyio.sleep(0.2)
    assert await value_of(tokens) == "Bearer old"
    await anyio.wait_all_tasks_blocked()
    assert await value_of(tokens) == "Bearer t1"


async def test_p7_an_early_refresh_keeps_to_retry_after() -> None:
    endpoint = Endpoint(
        token("old", expires_in=1000), answer(429, {"retry-after": "200"}), takes=0.1
    )
    tokens = provider(endpoint)
    old = await tokens.get_token()
    await anyio.sleep(701)
    assert await tokens.get_token() is old
    await anyio.sleep(199.1)
    assert await tokens.get_token() is old
    assert len(endpoint.requests) == 2
    # Also after the token was invalidated.
    tokens.invalidate(old)
    error = await failure_of(tokens)
    assert error.retry_after == pytest.approx(1)
    await anyio.sleep(1)
    assert await value_of(tokens) == "Bearer t1"


async def test_p7_a_failed_early_refresh_is_an_error_once_the_token_has_expired() -> None:
    failure = answer(400, error="invalid_client")
    endpoint = Endpoint(token("old", expires_in=10), failure, takes=6)
    tokens = provider(endpoint)
    await tokens.get_token()
    async with anyio.create_task_group() as group:
        first = Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert first.value == "Bearer old"
        await anyio.sleep(4.5)
        late = Caller(group, tokens)
    assert late.error is not None
    assert late.error.detail == "invalid_client"


async def test_p7_a_401_discards_only_the_token_of_its_request() -> None:
    endpoint = Endpoint()
    tokens = provider(endpoint)
    first = await tokens.get_token()
    tokens.invalidate(first)
    second = await tokens.get_token()
    assert (first.value, second.value) == ("Bearer t1", "Bearer t2")
    for stale in (first, copy.copy(second), AccessToken(second.header, second.value)):
        tokens.invalidate(stale)
        assert await tokens.get_token() is second
    assert len(endpoint.requests) == 2


async def test_p7_a_running_refresh_replaces_a_rejected_token() -> None:
    endpoint = Endpoint(takes=1, lifetime=1000)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        old = await tokens.get_token()
        await anyio.sleep(750)
        assert await tokens.get_token() is old
        await anyio.sleep(0.5)
        tokens.invalidate(old)
        callers = [Caller(group, tokens) for _ in range(10)]
    assert {caller.value for caller in callers} == {"Bearer t2"}
    assert len(endpoint.requests) == 2


async def test_p7_many_rejections_at_once_cause_one_refresh() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)

    async def use() -> None:
        refused = await tokens.get_token()
        await anyio.sleep(1)
        tokens.invalidate(refused)
        assert await value_of(tokens) == "Bearer t2"

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(use)
    assert len(endpoint.requests) == 2


async def test_p7_a_valid_token_is_returned_without_lock_and_without_a_switch() -> None:
    tokens = provider(Endpoint())
    valid = await tokens.get_token()
    held, release = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with tokens._lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold_the_lock)
    thread.start()
    held.wait(30)
    try:
        started = time.perf_counter()
        coroutine = tokens.get_token()
        with pytest.raises(StopIteration) as stopped:
            coroutine.send(None)
        assert stopped.value.value is valid
        assert time.perf_counter() - started < 10
    finally:
        release.set()
        thread.join()


async def test_p7_the_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint()
    tokens = OAuthTokenProvider(config(), transport=endpoint)
    await tokens.get_token()
    for wrong in (0.0, 1e12):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        await tokens.get_token()
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("role", ["first", "waiter"])
async def test_p7_a_cancellation_at_any_time_leaves_the_state_consistent(role: str) -> None:
    step = 0.125
    for number in range(40):
        endpoint = Endpoint(answer(503), answer(429, {"retry-after": "1"}), takes=1, teardown=0.5)
        tokens = provider(endpoint)
        async with anyio.create_task_group() as group:
            callers = [Caller(group, tokens)]
            if role == "waiter":
                await anyio.wait_all_tasks_blocked()
                callers.append(Caller(group, tokens))
            if number:
                await anyio.sleep((number - 1) * step)
            callers[-1].scope.cancel()
        assert tokens.statistics().waiting == 0
        with anyio.fail_after(30):
            assert await value_of(tokens) == "Bearer t1"
        assert endpoint.peak == 1
        assert len(endpoint.requests) == 3
        assert callers[0].value == "Bearer t1" or role == "first"
        statistics = tokens.statistics()
        assert (statistics.waiting, statistics.refreshing) == (0, False)


async def test_p7_a_cancellation_at_any_await_leaves_the_state_consistent() -> None:
    """Cancel the caller at each await in turn, without a clock."""
    yields = 0
    while True:
        endpoint = Endpoint(answer(503), takes=1)
        tokens = provider(endpoint)
        cancelled = False
        async with anyio.create_task_group() as group:
            caller = Caller(group, tokens)
            for _ in range(yields):
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.25)
            if caller.at is None:
                caller.scope.cancel()
                cancelled = True
        if not cancelled:
            break
        assert caller.value is None
        assert tokens.statistics().waiting == 0
        await tokens.aclose()
        assert endpoint.under_way == 0
        yields += 1
    assert yields >= 8


async def test_a_closed_provider_raises() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    valid = await tokens.get_token()
    await tokens.aclose()
    await tokens.aclose()
    with pytest.raises(ClientClosedError):
        await tokens.get_token()
    tokens.invalidate(valid)
    assert not endpoint.closed
    assert "closed" in repr(tokens)


async def test_closing_wakes_the_waiters() -> None:
    endpoint = Endpoint(takes=1, teardown=0.25)
    tokens = provider(endpoint)
    ended_at: list[float] = []

    async def ask() -> None:
        with pytest.raises(ClientClosedError):
            await tokens.get_token()
        ended_at.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
        await anyio.sleep(0.5)
        await tokens.aclose()
        # Only `aclose` waits until the request has been torn down.
        assert anyio.current_time() == 0.75
        assert endpoint.under_way == 0
    assert ended_at == [0.5, 0.5, 0.5]
    assert tokens.token_refreshes == 0
    assert tokens.statistics().waiting == 0


async def test_a_closed_provider_sends_no_further_request() -> None:
    endpoint = Endpoint(answer(503, {"retry-after": "5"}))
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        group.start_soon(tokens_are_closed, tokens)
        await anyio.sleep(1)
        await tokens.aclose()
    assert len(endpoint.requests) == 1


async def test_statistics_and_repr() -> None:
    endpoint = Endpoint(answer(400), takes=1, lifetime=10)
    tokens = provider(endpoint)
    assert tokens.statistics() == TokenStatistics(0, 0, False, 0, None)
    await failure_of(tokens)
    assert tokens.statistics() == TokenStatistics(0, 1, False, 0, None)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            Caller(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics() == TokenStatistics(0, 1, True, 3, None)
        assert "refreshing" in repr(tokens)
    assert tokens.statistics() == TokenStatistics(1, 1, False, 0, 9.0)
    assert tokens.token_refreshes == 1
    assert "9 s" in repr(tokens)
    await anyio.sleep(10)
    assert tokens.statistics().expires_in is None
    assert "no valid token" in repr(tokens)
