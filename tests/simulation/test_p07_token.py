"""P7: one token request at a time, and no update fails because of a token change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AsyncStateClient,
    AuthenticationError,
    ClientClosedError,
    OAuthTokenProvider,
    UpdateError,
)
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import all_of, client_of, emulator, oauth, outcome_of, turns


def fleeting(**options: Any) -> Emulator:
    """Return a server whose tokens live 2 s and take 0.3 s to issue."""
    faults = Faults(token_latency=0.3, latency=0.1, latency_jitter=0.2)
    return emulator(**{"token_lifetime": 2.0, "faults": faults} | options)


@asynccontextmanager
async def shared(server: Emulator) -> AsyncIterator[OAuthTokenProvider]:
    """Yield a provider that may be refreshing when its clients are closed."""
    provider = oauth(server)
    try:
        yield provider
    finally:
        await provider.aclose()


def failures(outcomes: list[Any]) -> list[Any]:
    return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]


@pytest.mark.quick("asyncio-bulk", "trio-live")
@pytest.mark.parametrize("kind", ["live", "bulk"])
async def test_p7_token_lives_shorter_than_the_work(kind: str) -> None:
    server = fleeting()
    async with shared(server) as provider, client_of(server, auth=provider) as client:
        if kind == "live":
            calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(1500)]
            assert failures(await all_of(*calls)) == []
        else:
            rows = [{"dialog_id": f"d-{n}", "session": {"a": 1}} for n in range(1500)]
            assert all([outcome.ok async for outcome in client.update_many(rows)])
    stats = server.stats
    assert anyio.current_time() > 8
    # The token is refreshed at half of its life, so that no request is rejected or waits.
    assert stats.token_requests_overlapping == 1
    assert 5 <= stats.token_requests == stats.tokens_issued <= anyio.current_time() + 1
    assert stats.answers == {200: 1500}
    assert client.metrics.applied == 1500
    assert client.metrics.token_refreshes == stats.token_requests - 1


async def test_p7_token_is_asked_for_once_however_many_wait() -> None:
    server = fleeting(token_lifetime=3600.0)
    async with client_of(server, auth=oauth(server), max_in_flight=32) as client:
        calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(200)]
        assert failures(await all_of(*calls)) == []
    assert server.stats.token_requests == 1


async def test_p7_token_that_is_refused_is_replaced_once_for_all() -> None:
    server = fleeting(token_lifetime=3600.0)
    async with client_of(server, auth=oauth(server), max_in_flight=32) as client:
        calls = [partial(client.update, f"d-{n}", session={"seq": 1}) for n in range(100)]
        assert failures(await all_of(*calls)) == []
        server.revoke_tokens()
        calls = [partial(client.update, f"d-{n}", session={"seq": 2}) for n in range(100)]
        assert failures(await all_of(*calls)) == []
    # All rejected requests had the same token; none of them discards the new one.
    assert 1 < server.stats.answers[401] <= 32
    assert server.stats.token_requests == 2
    assert client.metrics.retries["unauthorized"] == server.stats.answers[401]
    assert server.stats.violations() == {}


async def test_p7_token_refused_late_does_not_discard_the_next_one() -> None:
    server = emulator(faults=Faults(token_latency=0.3, latency=4.0))
    async with (
        client_of(server, auth=oauth(server), max_in_flight=2) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(client.update, "warm", session={"a": 1}))
        await anyio.sleep(10)
        server.revoke_tokens()
        # One is rejected at 14 s, while the other one is in flight with the same old token.
        tasks.start_soon(partial(client.update, "a", session={"a": 1}))
        await anyio.sleep(3)
        tasks.start_soon(partial(client.update, "b", session={"a": 1}))
    assert server.stats.answers[401] == 2
    assert server.stats.token_requests == 2


async def test_p7_token_expires_at_random_and_no_update_fails_without_being_refused_twice() -> None:
    server = fleeting(faults=Faults(token_latency=0.3, latency=0.05, token_expiry=0.004))
    async with shared(server) as provider, client_of(server, auth=provider) as client:
        calls = [partial(client.update, f"d-{n}", session={"seq": 1}) for n in range(600)]
        outcomes = await all_of(*calls)
    assert server.stats.faults["token_expiry"] > 0
    assert server.stats.token_requests_overlapping == 1
    for outcome in failures(outcomes):
        # Two tokens in a row were rejected: an error, not an endless retry.
        assert isinstance(outcome, AuthenticationError)
        assert outcome.attempts == 2
    assert len(failures(outcomes)) < 100
    assert server.stats.violations() == {}


async def test_p7_token_refresh_that_fails_early_leaves_the_old_one_in_use() -> None:
    server = emulator(token_lifetime=100.0, faults=Faults(token_latency=0.3))
    async with shared(server) as provider, client_of(server, auth=provider) as client:
        await client.update("d", session={"a": 0})
        server.faults = Faults(token_failure=1.0, token_latency=0.3)
        # From 50 s on refreshes fail; the token is valid until 100 s.
        for _ in range(19):
            await anyio.sleep(5)
            began = anyio.current_time()
            await client.update("d", session={"a": 1})
            assert anyio.current_time() - began < 0.1
        assert server.stats.token_answers[500] >= 3
        server.faults = Faults(token_latency=0.3)
        await anyio.sleep(60)
        await client.update("d", session={"a": 2})
    assert server.stats.answers == {200: 21}
    assert server.stats.token_requests_overlapping == 1


async def test_p7_token_that_cannot_be_had_fails_all_who_wait_with_one_request() -> None:
    server = fleeting(client_secret="another one")
    async with client_of(server, auth=oauth(server), max_in_flight=8) as client:
        calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(100)]
        outcomes = await all_of(*calls)
    assert all(isinstance(outcome, AuthenticationError) for outcome in outcomes)
    assert {outcome.dialog_id for outcome in failures(outcomes)} == {f"d-{n}" for n in range(100)}
    assert all("invalid_client" in str(outcome) for outcome in outcomes)
    assert server.stats.token_requests == 1
    assert server.stats.requests == 0


async def test_p7_token_endpoint_that_stumbles_fails_nobody() -> None:
    server = fleeting()
    server.script("token_failure", "token_failure")
    async with shared(server) as provider, client_of(server, auth=provider) as client:
        calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(100)]
        assert failures(await all_of(*calls)) == []
    assert server.stats.token_answers[500] == 2
    assert server.stats.token_requests_overlapping == 1


@pytest.mark.parametrize("seed", range(4))
async def test_p7_token_comes_whoever_is_cancelled(seed: int) -> None:
    server = fleeting()
    chance = Random(seed)
    async with (
        shared(server) as provider,
        client_of(server, auth=provider, max_in_flight=4) as client,
    ):

        async def given_up(number: int) -> None:
            await anyio.sleep(chance.uniform(0, 6))
            with anyio.move_on_after(chance.uniform(0, 0.5)):
                await client.update(f"c-{number}", session={"a": 1})

        async def asks_itself(number: int) -> None:
            # Callers that use the provider without a client are cancelled too.
            await anyio.sleep(chance.uniform(0, 6))
            with anyio.move_on_after(chance.uniform(0, 0.4)):
                await provider.get_token()

        async def patient(number: int) -> None:
            for _ in range(5):
                await anyio.sleep(chance.uniform(0, 1.5))
                await client.update(f"p-{number}", session={"a": 1})

        kinds: list[Callable[[int], Awaitable[None]]] = [given_up, asks_itself, patient]
        outcomes = await all_of(*(partial(kinds[n % 3], n) for n in range(90)))
    assert failures(outcomes) == []
    assert server.stats.token_requests_overlapping == 1
    assert client.metrics.failed == 0


async def test_p7_token_is_shared_by_several_clients() -> None:
    server = fleeting()

    async def work(client: AsyncStateClient) -> None:
        async with client:
            calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(100)]
            assert failures(await all_of(*calls)) == []

    async with shared(server) as provider:
        clients = [client_of(server, auth=provider, max_in_flight=4) for _ in range(4)]
        assert failures(await all_of(*(partial(work, client) for client in clients))) == []
    assert server.stats.token_requests_overlapping == 1
    assert server.stats.answers == {200: 400}
    # One a second, whichever client is closed meanwhile.
    assert server.stats.token_requests <= anyio.current_time() + 1


async def test_p7_token_refresh_inside_the_margin_outlives_the_client_that_began_it() -> None:
    server = emulator(token_lifetime=10.0, faults=Faults(token_latency=3.0))
    async with (
        shared(server) as provider,
        client_of(server, auth=provider) as first,
        client_of(server, auth=provider) as other,
    ):
        await first.update("d", session={"a": 1})
        await anyio.sleep(5)
        # The old token is used, and a refresh starts.
        await first.update("d", session={"a": 2})
        await first.aclose()
        await anyio.sleep(3.1)
        assert provider.statistics().refreshes == 2
        await other.update("d", session={"a": 3})
    assert server.stats.token_requests == 2
    assert server.stats.answers == {200: 3}


async def test_p7_token_comes_for_the_client_that_is_left_when_another_one_is_closed() -> None:
    server = emulator(faults=Faults(token_latency=3.0))
    outcomes: dict[str, Any] = {}

    async def update(client: AsyncStateClient, dialog_id: str) -> None:
        outcomes[dialog_id] = await outcome_of(client.update(dialog_id, session={"a": 1}))

    async with (
        shared(server) as provider,
        client_of(server, auth=provider) as first,
        client_of(server, auth=provider) as other,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(update, first, "a")
        await anyio.sleep(1)
        tasks.start_soon(update, other, "b")
        await anyio.sleep(1)
        await first.aclose(drain=False, timeout=0.1)
        assert (server.stats.token_requests, server.stats.tokens_issued) == (1, 0)
    assert anyio.current_time() == pytest.approx(3, abs=0.1)
    assert isinstance(outcomes["a"], ClientClosedError)
    assert outcomes["b"].attempts == 1
    assert server.stats.token_requests == server.stats.tokens_issued == 1


async def test_p7_token_comes_although_the_tasks_that_began_it_are_cancelled(
    anyio_backend_name: str,
) -> None:
    """`Task.cancel` of asyncio passes through shielded scopes."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has scopes only")
    server = emulator(faults=Faults(token_latency=3.0))
    async with shared(server) as provider, client_of(server, auth=provider) as client:
        asking = [asyncio.create_task(provider.get_token()) for _ in range(3)]
        await asyncio.sleep(0.5)
        updating = [
            asyncio.create_task(client.update(f"d-{n}", session={"a": 1})) for n in range(4)
        ]
        for task in asking + updating[:-1]:
            await asyncio.sleep(0.2)
            task.cancel()
        assert (await updating[-1]).attempts == 1
        assert anyio.current_time() == pytest.approx(3, abs=0.1)
        ended = await asyncio.gather(*asking, *updating[:-1], return_exceptions=True)
        assert {type(end) for end in ended} == {asyncio.CancelledError}
    assert server.stats.token_requests == server.stats.tokens_issued == 1
    assert server.stats.writes == 1


async def test_p7_token_provider_may_be_closed_under_a_client() -> None:
    server = fleeting()
    provider: OAuthTokenProvider = oauth(server)
    async with client_of(server, auth=provider) as client:
        await client.update("d", session={"a": 1})
        await provider.aclose()
        error = await outcome_of(client.update("d", session={"a": 1}))
        assert isinstance(error, UpdateError)
        assert error.dialog_id == "d"


async def test_p7_token_path_of_a_valid_token_waits_for_nothing() -> None:
    server = fleeting(token_lifetime=3600.0)
    provider = oauth(server)
    await provider.get_token()
    tokens = []

    async def ask() -> None:
        tokens.append(await provider.get_token())

    async with anyio.create_task_group() as tasks:
        # A valid token is returned while the lock of the provider is held.
        with provider._lock:
            for _ in range(5):
                tasks.start_soon(ask)
            await turns(3)
            assert len(tokens) == 5
    assert len({id(token) for token in tokens}) == 1


@pytest.mark.parametrize("is_outage", [True, False])
async def test_p7_token_metrics_tell_an_outage_from_refused_credentials(is_outage: bool) -> None:
    """The alerts of the production checklist rely on it."""
    server = emulator(faults=Faults(token_failure=1.0 if is_outage else 0.0))
    provider = oauth(server) if is_outage else oauth(server, client_secret="another")
    async with client_of(server, auth=provider) as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
        assert isinstance(error, AuthenticationError)
        assert error.transient == is_outage
        assert client.metrics.retries["not_sent"] == (4 if is_outage else 0)
    assert server.stats.requests == 0
