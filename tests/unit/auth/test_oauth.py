from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import json
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from anyio.abc import TaskGroup
from pydantic import BaseModel, SecretStr, ValidationError

from cognigy_async.auth import oauth as auth
from cognigy_async.auth.oauth import (
    AccessToken,
    ApiKey,
    OAuthConfig,
    OAuthTokenProvider,
    TokenProvider,
)
from cognigy_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ClientUsageError,
    ConfigurationError,
    NoResponseError,
    NotSentError,
)
from cognigy_async.transports.base import Request, Response, Transport
from cognigy_async.transports.httpx import HttpxTransport

from .token_server import (
    CLIENT_ID,
    SECRET,
    Answer,
    Endpoint,
    TokenServer,
    answer,
    basic_of,
    config,
    everything_said,
    form_of,
    provider,
    token,
)

Job = Callable[[], Coroutine[Any, Any, None]]

EVERY_FORM_OF_THE_SECRET = (
    SECRET,
    "c4nary%2F%2B+s3cret%25",
    "c4nary/%2B%20s3cret%25",
    "YWNtZStjbGllbnQ6YzRuYXJ5JTJGJTJCK3MzY3JldCUyNQ==",
)


class Invoker:
    """A task that asks for a token, and can be cancelled."""

    def __init__(self, group: TaskGroup, tokens: TokenProvider) -> None:
        self.scope = anyio.CancelScope()
        self.value: str | None = None
        self.error: AuthenticationError | None = None
        self.at: float | None = None
        group.start_soon(self._ask, tokens)

    async def _ask(self, tokens: TokenProvider) -> None:
        with self.scope:
            try:
                self.value = (await tokens.get_token()).value
            except AuthenticationError as error:
                self.error = error
            self.at = anyio.current_time()


async def value_of(tokens: TokenProvider) -> str:
    return (await tokens.get_token()).value


async def failure_of(tokens: TokenProvider) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        await tokens.get_token()
    return caught.value


# --- what is sent ------------------------------------------------------------------------------


async def test_basic_authentication_is_form_urlencoded_first() -> None:
    endpoint = Endpoint()
    assert await value_of(provider(endpoint)) == "Bearer t1"
    (request,) = endpoint.requests
    assert (request.method, request.url) == ("POST", "https://api.cognigy.test/oauth/token")
    assert basic_of(request) == (CLIENT_ID, SECRET)
    assert request.headers["Authorization"] == f"Basic {EVERY_FORM_OF_THE_SECRET[-1]}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.content == (
        b"grant_type=client_credentials&scope=runtime%3Awrite+session%3Amanage+dialog%3Aread"
    )
    assert endpoint.timeouts == [10.0]


async def test_post_authentication_sends_form_fields() -> None:
    endpoint = Endpoint()
    await provider(endpoint, client_auth="post").get_token()
    (request,) = endpoint.requests
    assert "Authorization" not in request.headers
    assert form_of(request) == {
        "grant_type": "client_credentials",
        "scope": "runtime:write session:manage dialog:read",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
    }


async def test_text_that_is_not_ascii_is_sent_as_utf8() -> None:
    for how in ("basic", "post"):
        endpoint = Endpoint()
        await provider(endpoint, client_auth=how, client_id="é:ö", client_secret="日本").get_token()
        (request,) = endpoint.requests
        if how == "basic":
            assert basic_of(request) == ("é:ö", "日本")
        else:
            assert form_of(request)["client_secret"] == "日本"


async def test_without_scopes_none_are_named() -> None:
    endpoint = Endpoint()
    await provider(endpoint, scopes=()).get_token()
    assert form_of(endpoint.requests[0]) == {"grant_type": "client_credentials"}


def test_scopes_are_a_sequence_or_a_text() -> None:
    for scopes in (["a", "b"], ("a", "b"), "a b", " a  b "):
        assert config(scopes=scopes).scopes == ("a", "b")


# --- what is configured ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token_url", "/oauth/token"),
        ("token_url", "ftp://c4nary/token"),
        ("token_url", "https://"),
        ("token_url", "https://user:c4nary@host/token"),
        ("token_url", "https://c4nary@host/token"),
        ("token_url", "https://host/token#c4nary"),
        ("token_url", "https://host/c4n ary"),
        ("token_url", "https://host/c4n\nary"),
        ("token_url", "https://[c4nary"),
        ("token_url", "https://host:99999/"),
        ("client_id", ""),
        ("client_id", "c4nary\n"),
        ("client_secret", ""),
        ("client_secret", "c4nary\n"),
        ("client_secret", "c4nary\ud800"),
        ("client_secret", 4711),
        ("scopes", ["c4nary c4nary"]),
        ("scopes", ['c4nary"']),
        ("scopes", [""]),
        ("scopes", 4711),
        ("client_auth", "c4nary"),
        ("default_lifetime", 0),
        ("default_lifetime", -1),
        ("default_lifetime", float("nan")),
        ("default_lifetime", float("inf")),
        ("refresh_margin", -1),
        ("refresh_margin", float("nan")),
        ("secret", "c4nary"),
    ],
)
def test_a_bad_setting_is_named_and_not_shown(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^OAuthConfig: {field}") as caught:
        config(**{field: value})
    assert isinstance(caught.value, ValueError)
    said = everything_said(caught.value)
    assert "c4n" not in said
    assert "4711" not in said


class Settings(BaseModel):
    auth: OAuthConfig


@pytest.mark.parametrize("client_secret", [SECRET + "\n", 4711, [SECRET]])
def test_a_config_within_another_model_is_not_shown_either(client_secret: Any) -> None:
    given = {"token_url": SECRET, "client_id": "a", "client_secret": client_secret}
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"auth": given})
    error = caught.value
    assert "control characters" in str(error)
    for said in (str(error), repr(error), error.json(), repr(error.errors())):
        assert "c4n" not in said
        assert "4711" not in said
    good = given | {"token_url": "https://h/t", "client_secret": SECRET}
    assert Settings.model_validate({"auth": good}).auth == OAuthConfig(**good)


def test_what_is_missing_is_named_without_the_rest() -> None:
    with pytest.raises(ConfigurationError, match="token_url: Field required") as caught:
        OAuthConfig(client_id="a", client_secret=SECRET)  # type: ignore[call-arg]
    assert SECRET not in everything_said(caught.value)


def test_a_config_is_frozen_and_hides_its_secret() -> None:
    for secret in (SECRET, SecretStr(SECRET)):
        made = config(client_secret=secret)
        assert made.client_secret.get_secret_value() == SECRET
        assert SECRET not in repr(made) + str(made) + made.model_dump_json()
        with pytest.raises(ValidationError):
            made.client_id = "other"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_positive(timeout: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        OAuthTokenProvider(config(), timeout=timeout)


def test_expiry_runs_on_the_monotonic_clock() -> None:
    parameter = inspect.signature(OAuthTokenProvider).parameters["clock"]
    assert parameter.default is time.monotonic


# --- API keys ----------------------------------------------------------------------------------


async def test_an_api_key_is_always_the_same_token() -> None:
    for key in ("k3y", SecretStr("k3y")):
        tokens: TokenProvider = ApiKey(key)
        first = await tokens.get_token()
        assert (first.header, first.value) == ("X-API-Key", "k3y")
        tokens.invalidate(first)
        assert await tokens.get_token() is first
        await tokens.aclose()
        assert await tokens.get_token() is first
        assert "k3y" not in repr(tokens) + str(tokens) + repr(first) + str(first) + f"{first}"
    assert (await ApiKey("k3y", header="X-Other").get_token()).header == "X-Other"


@pytest.mark.parametrize("key", ["", " ", "k3y ", "k3y\n", "k\r\n3y", "k3yé", "k3y\x00"])
def test_a_bad_api_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        ApiKey(key)
    assert "3y" not in everything_said(caught.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        ApiKey(SecretStr(key))


@pytest.mark.parametrize("header", ["", "X Key", "X-Key:", "X-Key\n"])
def test_a_bad_header_name_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="name of a header"):
        ApiKey("k3y", header)


# --- what is answered --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "lifetime"),
    [
        ({}, 3600),
        ({"token_type": "bearer"}, 3600),
        ({"token_type": "BEARER"}, 3600),
        ({"token_type": None}, 3600),
        ({"expires_in": 60}, 60),
        ({"expires_in": 60.5}, 60.5),
        ({"expires_in": "60"}, 60),
        ({"expires_in": "60.5"}, 60.5),
        ({"expires_in": 10 * 365 * 86_400}, 10 * 365 * 86_400),
        ({"expires_in": None}, 1234),
        ({"refresh_token": "ignored", "scope": ["ignored"]}, 3600),
    ],
)
async def test_a_good_answer(said: dict[str, Any], lifetime: float) -> None:
    tokens = provider(Endpoint(token("t", **said)), default_lifetime=1234)
    assert await value_of(tokens) == "Bearer t"
    assert tokens.statistics().expires_in == pytest.approx(lifetime)


async def test_a_token_without_a_lifetime_has_the_default_one() -> None:
    assert config().default_lifetime == 3600
    for lifetime in (3600, 42):
        tokens = provider(Endpoint(answer(access_token="t")), default_lifetime=lifetime)
        await tokens.get_token()
        assert tokens.statistics().expires_in == pytest.approx(lifetime)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", "no JSON object|is not a JSON object"),
        (b"<html>c4nary</html>", "is not a JSON object"),
        (b'"c4nary"', "is not a JSON object"),
        (b'["c4nary"]', "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"access_token": "c4nary"', "is not a JSON object"),
        (b"\xff\xfe", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        ({"access_token": None}, "no usable access_token"),
        ({"access_token": ""}, "no usable access_token"),
        ({"access_token": 4711}, "no usable access_token"),
        ({"access_token": ["c4nary"]}, "no usable access_token"),
        ({"access_token": "c4nary c4nary"}, "no usable access_token"),
        ({"access_token": "c4nary\r\nX-Evil: 1"}, "no usable access_token"),
        ({"access_token": "c4nary\n"}, "no usable access_token"),
        ({"access_token": "c4naryé"}, "no usable access_token"),
        ({"token_type": "mac"}, "token_type"),
        ({"token_type": ""}, "token_type"),
        ({"token_type": 4711}, "token_type"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -4711}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": float("nan")}, "expires_in"),
        ({"expires_in": float("inf")}, "expires_in"),
        ({"expires_in": 10 * 365 * 86_400 + 1}, "expires_in"),
        ({"expires_in": 10**400}, "expires_in"),
        ({"expires_in": "c4nary"}, "expires_in"),
        ({"expires_in": ""}, "expires_in"),
        ({"expires_in": "-5"}, "expires_in"),
        ({"expires_in": "nan"}, "expires_in"),
        ({"expires_in": "1_000"}, "expires_in"),
        ({"expires_in": "٣"}, "expires_in"),
        ({"expires_in": [60]}, "expires_in"),
    ],
)
async def test_a_bad_answer_names_the_field_and_shows_nothing(said: Any, fault: str) -> None:
    bad = Response(200, {}, said) if isinstance(said, bytes) else token("c4nary", **said)
    endpoint = Endpoint(bad)
    tokens = provider(endpoint)
    error = await failure_of(tokens)
    assert error.status == 200
    assert not error.transient
    with pytest.raises(AuthenticationError, match=fault):
        raise error
    said_in_error = everything_said(error)
    assert "c4nary" not in said_in_error
    assert "4711" not in said_in_error
    assert len(endpoint.requests) == 1
    assert await value_of(tokens) == "Bearer t1"


async def test_an_error_that_comes_with_200_is_told() -> None:
    error = await failure_of(provider(Endpoint(answer(error="bad_verification_code"))))
    assert error.detail == "bad_verification_code"


async def test_lifetime_counts_from_before_the_request() -> None:
    endpoint = Endpoint(takes=4, lifetime=100)
    tokens = provider(endpoint, refresh_margin=10)
    await anyio.sleep(1000)
    await tokens.get_token()
    assert tokens.statistics().expires_in == pytest.approx(96)
    await anyio.sleep(85.9)
    await tokens.get_token()
    assert len(endpoint.requests) == 1
    await anyio.sleep(0.2)
    await tokens.get_token()
    await anyio.wait_all_tasks_blocked()
    assert endpoint.times == [1000, pytest.approx(1090.1)]
    await tokens.aclose()


# --- refusals and repeats ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401])
async def test_a_refused_client_is_told_and_never_repeated(status: int) -> None:
    said = answer(status, error="invalid_client", error_description="Unknown client.")
    endpoint = Endpoint(said)
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient, error.attempts) == (status, False, 1)
    assert error.detail == "invalid_client: Unknown client."
    assert "invalid_client" in str(error)
    assert "https://api.cognigy.test/oauth/token" in str(error)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 403, 404, 405, 418])
async def test_other_answers_are_errors_and_never_followed(status: int) -> None:
    said = token("t", expires_in=5)
    endpoint = Endpoint(Response(status, {"location": "https://c4nary.test"}, said.content))
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient) == (status, False)
    assert ("redirect" in str(error)) == (300 <= status < 400)
    assert "c4nary" not in everything_said(error)
    assert len(endpoint.requests) == 1


async def test_what_the_server_says_is_cleaned_and_cut() -> None:
    echoes = " ".join([*EVERY_FORM_OF_THE_SECRET, CLIENT_ID, SECRET.upper()])
    said = answer(400, error="bad\r\n\x1b[31m", error_description=f"{echoes} {'x' * 500}")
    error = await failure_of(provider(Endpoint(said)))
    assert error.detail is not None
    assert len(error.detail) == 200
    assert error.detail.isprintable()
    text = everything_said(error)
    for secret in (*EVERY_FORM_OF_THE_SECRET, SECRET.upper(), CLIENT_ID):
        assert secret not in text


async def test_a_secret_at_the_cut_does_not_show_its_beginning() -> None:
    said = answer(400, error="x" * 190, error_description=SECRET)
    error = await failure_of(provider(Endpoint(said)))
    assert SECRET[:4] not in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error": 5}', b'{"error": ""}'])
async def test_a_refusal_without_a_reason(body: bytes) -> None:
    error = await failure_of(provider(Endpoint(Response(400, {}, body))))
    assert (error.status, error.detail) == (400, None)


TROUBLE: list[Answer] = [
    answer(500),
    answer(502),
    Response(503, {}, b"<html>"),
    answer(599),
    answer(429),
    NotSentError("refused"),
    NoResponseError("closed"),
    NoResponseError("late", timed_out=True),
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=repr)
async def test_passing_trouble_is_repeated(trouble: Answer) -> None:
    endpoint = Endpoint(trouble, trouble)
    tokens = provider(endpoint)
    assert await value_of(tokens) == "Bearer t1"
    assert len(endpoint.requests) == 3
    assert 0 < endpoint.times[2] - endpoint.times[0] < 1
    assert tokens.statistics().failures == 0


@pytest.mark.parametrize("trouble", TROUBLE, ids=repr)
async def test_trouble_that_stays_is_a_transient_failure(trouble: Answer) -> None:
    endpoint = Endpoint(*[trouble] * 3)
    tokens = provider(endpoint)
    error = await failure_of(tokens)
    assert (error.transient, error.attempts) == (True, 3)
    if isinstance(trouble, Response):
        assert error.status == trouble.status
        assert error.__cause__ is None
    else:
        assert error.__cause__ is trouble
    statistics = tokens.statistics()
    assert (statistics.refreshes, statistics.failures) == (0, 1)
    assert await value_of(tokens) == "Bearer t1"
    assert len(endpoint.requests) == 4


async def test_retry_after_is_waited_for() -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    later = "Wed, 21 Oct 2026 07:28:20 GMT"
    for status in (429, 503):
        for headers, wait in (
            ({"retry-after": "7"}, 7),
            ({"retry-after": "7.5"}, 7.5),
            ({"retry-after": "30"}, 30),
            ({"retry-after": later, "date": date}, 20),
        ):
            endpoint = Endpoint(answer(status, headers))
            assert await value_of(provider(endpoint)) == "Bearer t1"
            first, second = endpoint.times
            assert wait <= second - first < wait + 0.5


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "1e999", "\x00", "9" * 400])
async def test_a_senseless_retry_after_is_not_believed(text: str) -> None:
    endpoint = Endpoint(answer(429, {"retry-after": text}))
    tokens = provider(endpoint)
    assert await value_of(tokens) == "Bearer t1"
    assert endpoint.times[1] - endpoint.times[0] < 1


async def test_a_long_retry_after_ends_the_refresh_and_is_kept() -> None:
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


async def test_an_endless_retry_after_does_not_lock_the_provider_for_ever() -> None:
    endpoint = Endpoint(answer(503, {"retry-after": "999999999"}))
    tokens = provider(endpoint)
    await failure_of(tokens)
    await anyio.sleep(301)
    assert await value_of(tokens) == "Bearer t1"


async def test_what_a_transport_may_not_raise_is_wrapped_and_not_repeated() -> None:
    cause = LookupError("a bug")
    endpoint = Endpoint(cause)
    error = await failure_of(provider(endpoint))
    assert error.__cause__ is cause
    assert not error.transient
    assert len(endpoint.requests) == 1


async def test_a_transport_that_forgets_the_time_is_stopped() -> None:
    endpoint = Endpoint(takes=10_000)
    tokens = provider(endpoint, timeout=2)
    error = await failure_of(tokens)
    assert error.transient
    assert isinstance(error.__cause__, NoResponseError)
    assert error.__cause__.timed_out
    assert (len(endpoint.requests), endpoint.peak, endpoint.under_way) == (3, 1, 0)
    assert anyio.current_time() < 3 * 3 + 2


async def test_a_stray_cancellation_is_a_failure(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has none")
    error = await failure_of(provider(Endpoint(asyncio.CancelledError())))
    assert isinstance(error.__cause__, asyncio.CancelledError)


# --- P7: one request at a time, whoever asks and whoever is cancelled --------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_p7_one_request_at_a_time(seed: int) -> None:
    chance = random.Random(seed)
    kinds: list[Answer] = [answer(503), NotSentError("refused")]
    trouble = chance.choices(kinds, k=2)
    endpoint = Endpoint(*trouble, takes=1, teardown=0.3, lifetime=4)
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
    # No request was made in vain.
    assert statistics.refreshes == endpoint.issued


async def test_p7_callers_share_one_request() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Invoker(group, tokens) for _ in range(200)]
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics().waiting == 200
        assert tokens.statistics().refreshing
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert {caller.at for caller in callers} == {1.0}
    assert len(endpoint.requests) == 1


async def test_p7_the_caller_that_began_a_refresh_may_be_cancelled() -> None:
    endpoint = Endpoint(takes=1, teardown=0.25)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        first = Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        waiting = [Invoker(group, tokens) for _ in range(3)]
        await anyio.sleep(0.5)
        first.scope.cancel()
    assert first.value is None
    assert {(caller.value, caller.at) for caller in waiting} == {("Bearer t1", 1.0)}
    assert endpoint.times == [0.0]


@pytest.mark.parametrize("cancelled", range(15))
async def test_p7_native_cancellation_of_any_callers_leaves_one_request(
    cancelled: int, anyio_backend_name: str
) -> None:
    """Bit by bit: each caller of four, the first included, is cancelled or not; never all."""
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
        callers = [Invoker(group, tokens)]
        await anyio.wait_all_tasks_blocked()
        callers += [Invoker(group, tokens) for _ in range(50)]
        await anyio.sleep(0.5)
        for caller in callers[:-1]:
            caller.scope.cancel()
            await anyio.sleep(pause)
    # With a pause in between some have it before their turn comes.
    assert callers[0].value is None
    assert (callers[-1].value, callers[-1].at) == ("Bearer t1", pytest.approx(1.0))
    assert len(endpoint.requests) == 1
    assert tokens.statistics().waiting == 0


async def test_p7_with_all_callers_cancelled_the_refresh_goes_on() -> None:
    endpoint = Endpoint(takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Invoker(group, tokens) for _ in range(20)]
        await anyio.sleep(0.5)
        for caller in callers:
            caller.scope.cancel()
    statistics = tokens.statistics()
    assert (statistics.refreshing, statistics.waiting) == (True, 0)
    assert await value_of(tokens) == "Bearer t1"
    assert anyio.current_time() == 1.0
    assert len(endpoint.requests) == 1


async def test_p7_no_caller_lends_its_context_to_the_refresh() -> None:
    """Nor does it inherit one later: the spans and log lines of a refresh are nobody's own."""
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
    """Some start a task within the call that makes it, and the caller would send the request."""
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


async def test_p7_a_loop_in_a_worker_thread_refreshes_by_itself(opened: Opened) -> None:
    """While this loop stands still, say: nothing there may wait for it."""
    opened.coming = []
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    given: list[str] = []
    OtherLoop._elsewhere(lambda: given.append(asyncio.run(value_of(tokens))))
    assert given == ["Bearer t1"]


async def test_p7_a_long_pause_of_a_refresh_is_not_taken_for_its_end() -> None:
    endpoint = Endpoint(answer(429, {"retry-after": "30"}))
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Invoker(group, tokens) for _ in range(3)]
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert endpoint.times == [0.0, 30.0]


async def test_p7_a_failure_is_shared_as_fresh_copies() -> None:
    cause = NotSentError("refused")
    endpoint = Endpoint(cause, cause, cause, takes=1)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Invoker(group, tokens) for _ in range(20)]
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


async def test_p7_a_token_that_expired_on_its_way_is_given_all_the_same() -> None:
    endpoint = Endpoint(takes=3, lifetime=2)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        callers = [Invoker(group, tokens) for _ in range(5)]
    assert {caller.value for caller in callers} == {"Bearer t1"}
    assert len(endpoint.requests) == 1


async def test_p7_who_waits_is_not_given_a_token_that_was_refused_meanwhile() -> None:
    given: set[str] = set()
    for _ in range(30):
        tokens = provider(Endpoint(takes=1))
        refused: list[AccessToken] = []

        async def use_and_be_refused(tokens: TokenProvider, refused: list[AccessToken]) -> None:
            refused.append(await tokens.get_token())
            tokens.invalidate(refused[0])

        async def wait(tokens: TokenProvider, refused: list[AccessToken]) -> None:
            value = await value_of(tokens)
            # On trio either may be the first to wake.
            assert (value == "Bearer t2") == bool(refused)
            given.add(value)

        async with anyio.create_task_group() as group:
            group.start_soon(use_and_be_refused, tokens, refused)
            await anyio.sleep(0.5)
            group.start_soon(wait, tokens, refused)
    assert "Bearer t2" in given


# --- P7: the margin ----------------------------------------------------------------------------


async def test_p7_inside_the_margin_the_old_token_serves_at_once_while_it_is_refreshed() -> None:
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
            callers = [Invoker(group, tokens) for _ in range(10)]
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
async def test_p7_a_token_serves_at_least_half_of_its_life(lifetime: float) -> None:
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


async def test_p7_an_expired_token_is_not_served() -> None:
    endpoint = Endpoint(lifetime=1000, takes=1)
    tokens = provider(endpoint)
    await tokens.get_token()
    await anyio.sleep(999)
    assert await value_of(tokens) == "Bearer t2"


@pytest.mark.parametrize("trouble", [answer(400, error="invalid_client"), NotSentError("refused")])
async def test_p7_a_refresh_that_fails_early_leaves_the_valid_token_in_use(
    trouble: Answer,
) -> None:
    endpoint = Endpoint(token("old", expires_in=1000), *[trouble] * 10_000)
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
    assert error.transient == isinstance(trouble, NotSentError)


async def test_p7_after_an_early_failure_the_next_refresh_still_comes_early() -> None:
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


async def test_p7_an_early_refresh_waits_as_long_as_it_was_asked_to() -> None:
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
    # Even where the token is lost meanwhile.
    tokens.invalidate(old)
    error = await failure_of(tokens)
    assert error.retry_after == pytest.approx(1)
    await anyio.sleep(1)
    assert await value_of(tokens) == "Bearer t1"


async def test_p7_an_early_failure_while_the_token_expires_is_a_failure() -> None:
    trouble = answer(400, error="invalid_client")
    endpoint = Endpoint(token("old", expires_in=10), trouble, takes=6)
    tokens = provider(endpoint)
    await tokens.get_token()
    async with anyio.create_task_group() as group:
        first = Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert first.value == "Bearer old"
        await anyio.sleep(4.5)
        late = Invoker(group, tokens)
    assert late.error is not None
    assert late.error.detail == "invalid_client"


# --- P7: a refused token -----------------------------------------------------------------------


async def test_p7_a_401_discards_only_the_token_that_it_was_sent_with() -> None:
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


async def test_p7_a_refresh_under_way_replaces_a_refused_token() -> None:
    endpoint = Endpoint(takes=1, lifetime=1000)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        old = await tokens.get_token()
        await anyio.sleep(750)
        assert await tokens.get_token() is old
        await anyio.sleep(0.5)
        tokens.invalidate(old)
        callers = [Invoker(group, tokens) for _ in range(10)]
    assert {caller.value for caller in callers} == {"Bearer t2"}
    assert len(endpoint.requests) == 2


async def test_p7_many_that_are_refused_at_once_cause_one_refresh() -> None:
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


# --- P7: the valid-token path ------------------------------------------------------------------


async def test_p7_the_valid_token_path_takes_no_lock_and_no_step() -> None:
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


# --- P7: cancelled at each point ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["first", "waiter"])
async def test_p7_a_cancellation_at_any_point_leaves_it_consistent(role: str) -> None:
    step = 0.125
    for number in range(40):
        endpoint = Endpoint(answer(503), answer(429, {"retry-after": "1"}), takes=1, teardown=0.5)
        tokens = provider(endpoint)
        async with anyio.create_task_group() as group:
            callers = [Invoker(group, tokens)]
            if role == "waiter":
                await anyio.wait_all_tasks_blocked()
                callers.append(Invoker(group, tokens))
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


async def test_p7_closed_at_any_point_it_leaves_nothing_behind(opened: Opened) -> None:
    """The refresh is torn down and its transport closed, and `aclose` waits for that."""
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
            # More than one may close it; each finds it closed when it returns.
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


async def test_p7_closing_does_not_wait_for_a_loop_that_is_over(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    OtherLoop(tokens).drop()
    await tokens.aclose()
    assert anyio.current_time() == 0
    assert not tokens.statistics().refreshing


async def test_p7_closing_does_not_wait_for_ever() -> None:
    endpoint = Endpoint(takes=1, teardown=1000)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        group.start_soon(tokens_are_closed, tokens)
        await anyio.sleep(0.5)
        await tokens.aclose()
        assert anyio.current_time() == 0.5 + auth.FAREWELL
    await anyio.sleep(1000)
    assert endpoint.under_way == 0


async def test_p7_a_cancellation_at_each_step_of_the_coroutine() -> None:
    """The same without a clock: thrown in at each place where the coroutine yields."""
    yields = 0
    while True:
        endpoint = Endpoint(answer(503), takes=1)
        tokens = provider(endpoint)
        cancelled = False
        async with anyio.create_task_group() as group:
            caller = Invoker(group, tokens)
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


# --- P7: several threads and loops -------------------------------------------------------------


def clock_of_this_loop() -> Callable[[], float]:
    """The virtual clock of the running loop, for use in other threads too."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return trio.lowlevel.current_clock().current_time


class OtherLoop:
    """An asyncio loop of another thread, in which a refresh is begun and then forgotten."""

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
        """Until the task is done."""

        def go_on() -> None:
            self.loop.run_until_complete(self.tasks[0])

        self._elsewhere(go_on)

    def drop(self) -> None:
        """As a program does that closes a loop and looks no further."""
        self.loop.close()
        # The collector may strike in any section that holds the lock.
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
    """The transports that providers have opened. The first one is slow, the others are quick."""

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


async def test_p7_a_refresh_whose_loop_stands_still_is_replaced(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), timeout=10, clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    try:
        assert tokens.statistics().refreshing
        async with anyio.create_task_group() as group:
            callers = [Invoker(group, tokens) for _ in range(5)]
            await anyio.sleep(9.9)
            # And the one who waits there.
            assert tokens.statistics().waiting == 6
        assert {caller.value for caller in callers} == {"Bearer t2"}
        assert anyio.current_time() < 15
        assert len(opened) == 2
    finally:
        other.end()
    # The refresh that comes back finds that nobody waits for it, and changes nothing.
    assert await value_of(tokens) == "Bearer t2"
    assert tokens.token_refreshes == 1


async def test_p7_a_loop_that_was_blocked_does_not_replace_its_own_refresh(
    anyio_backend_name: str,
) -> None:
    endpoint = Endpoint(takes=5, teardown=0.5)
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        first = Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        callers = [Invoker(group, tokens) for _ in range(5)]
        await anyio.sleep(2.5)
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:
            loop = trio.lowlevel.current_clock()
        loop.jump(60)
    assert {caller.value for caller in [first, *callers]} == {"Bearer t1"}
    assert endpoint.peak == 1
    # On trio the refresh finds that its time is over, and asks again.
    assert len(endpoint.requests) == (1 if anyio_backend_name == "asyncio" else 2)


async def test_p7_a_refresh_that_comes_back_does_not_ask_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.auth.token_request.GRACE", 0.0)
    tokens = OAuthTokenProvider(config(), timeout=0.01, clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    await value_of(tokens)
    first = opened[0]
    other.go_on()
    assert other.tasks[0].result().value == "Bearer t2"
    assert len(first.requests) == 1
    assert len(opened) == 2
    other.end()


async def test_p7_who_waits_sees_that_the_loop_of_the_refresh_is_closed(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    async with anyio.create_task_group() as group:
        waiting = Invoker(group, tokens)
        await anyio.sleep(0.5)
        other.loop.close()
    assert waiting.value == "Bearer t2"
    assert waiting.at == 1.0
    await tokens.aclose()


async def test_p7_a_refresh_whose_loop_is_closed_is_begun_again(opened: Opened) -> None:
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    async with anyio.create_task_group() as group:
        waiting = Invoker(group, tokens)
        await anyio.sleep(0.5)
        assert tokens.statistics().waiting == 2
        other.loop.close()
        await anyio.sleep(0.25)
        new = Invoker(group, tokens)
    assert waiting.value == new.value == "Bearer t2"
    assert waiting.at == new.at == 0.75


async def test_p7_a_refresh_of_a_closed_loop_is_begun_again_inside_the_margin(
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


async def test_p7_a_refresh_whose_loop_is_collected_is_begun_again(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    opened.coming = [Endpoint(answer(503, {"retry-after": "20"}))]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    other = OtherLoop(tokens)
    assert len(opened[0].requests) == 1
    async with anyio.create_task_group() as group:
        caller = Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics().waiting == 2
        other.drop()
    assert caller.value == "Bearer t2"
    assert caller.at == 1.0
    # Of those who waited there asyncio tells, and not of the refresh that was nobody's.
    told = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not any("_carry_out" in text for text in told)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_p7_a_refresh_in_a_loop_that_is_closed_early_is_no_warning(
    turns: int,
    noticed: bool,
    given: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who was served the old token has no task there, and would not know what is meant."""
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
        # What is collected with a warning fails the test.
        gc.collect()

    asyncio.run(collect())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("there", ["asyncio", "trio"])
async def test_p7_a_refresh_whose_loop_ends_is_handed_over(opened: Opened, there: str) -> None:
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
            caller = Invoker(group, tokens)
            await anyio.wait_all_tasks_blocked()
            statistics = tokens.statistics()
            assert (statistics.refreshing, statistics.waiting) == (True, 1)
            go_on.set()
            thread.join(30)
            # It ended with its loop, in order.
            assert (first.under_way, first.closed) == (0, True)
            assert not tokens.statistics().refreshing
    finally:
        go_on.set()
        thread.join(30)
    assert (caller.value, caller.at) == ("Bearer t2", 0.0)


async def test_p7_a_task_that_is_cancelled_before_its_first_step_is_replaced(
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


async def test_p7_a_waiter_whose_loop_is_closed_hinders_nobody(opened: Opened) -> None:
    opened.coming = [Endpoint(takes=2)]
    tokens = OAuthTokenProvider(config(), clock=clock_of_this_loop())
    others: list[OtherLoop] = []
    async with anyio.create_task_group() as group:
        first = Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        others.append(OtherLoop(tokens))
        assert tokens.statistics().waiting == 2
        kept = others[0].tasks[0]
        others[0].loop.close()
        caller = Invoker(group, tokens)
        await anyio.sleep(1)
        assert tokens.statistics().waiting == 3
    assert {(one.value, one.at) for one in (first, caller)} == {("Bearer t1", 2.0)}
    assert not kept.done()
    # Its coroutine is closed by hand: a warning would tell that nobody did.
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
    # Inside the margin the old token serves there too, and is left to be refreshed here.
    OtherLoop._elsewhere(ask_elsewhere)
    assert not refused
    assert len(endpoint.requests) == 1
    await anyio.sleep(6)
    OtherLoop._elsewhere(ask_elsewhere)
    assert [type(error) for error in refused] == [ClientUsageError]
    assert await value_of(tokens) == "Bearer t2"


def test_p7_a_given_transport_goes_on_to_the_next_loop_when_the_first_is_over() -> None:
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
        from cognigy_async.auth.oauth import OAuthConfig, OAuthTokenProvider
        from cognigy_async.models.http import Response

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
        from cognigy_async.auth.oauth import OAuthConfig, OAuthTokenProvider
        from cognigy_async.models.http import Response

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


# --- the end, and what is told -----------------------------------------------------------------


async def test_a_closed_provider_says_so() -> None:
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


async def test_who_waits_when_it_is_closed_is_told() -> None:
    endpoint = Endpoint(takes=1, teardown=0.25)
    tokens = provider(endpoint)
    told: list[float] = []

    async def ask() -> None:
        with pytest.raises(ClientClosedError):
            await tokens.get_token()
        told.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
        await anyio.sleep(0.5)
        await tokens.aclose()
        # The request has to be torn down, which nobody needs to wait for but who closes.
        assert anyio.current_time() == 0.75
        assert endpoint.under_way == 0
    assert told == [0.5, 0.5, 0.5]
    assert tokens.token_refreshes == 0
    assert tokens.statistics().waiting == 0


async def test_a_closed_provider_makes_no_further_attempt() -> None:
    endpoint = Endpoint(answer(503, {"retry-after": "5"}))
    tokens = provider(endpoint)
    async with anyio.create_task_group() as group:
        group.start_soon(tokens_are_closed, tokens)
        await anyio.sleep(1)
        await tokens.aclose()
    assert len(endpoint.requests) == 1


async def tokens_are_closed(tokens: TokenProvider) -> None:
    with pytest.raises(ClientClosedError):
        await tokens.get_token()


async def test_statistics_tell_what_is_going_on() -> None:
    endpoint = Endpoint(answer(400), takes=1, lifetime=10)
    tokens = provider(endpoint)
    assert tokens.statistics() == auth.TokenStatistics(0, 0, False, 0, None)
    await failure_of(tokens)
    assert tokens.statistics() == auth.TokenStatistics(0, 1, False, 0, None)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            Invoker(group, tokens)
        await anyio.wait_all_tasks_blocked()
        assert tokens.statistics() == auth.TokenStatistics(0, 1, True, 3, None)
        assert "refreshing" in repr(tokens)
    assert tokens.statistics() == auth.TokenStatistics(1, 1, False, 0, 9.0)
    assert tokens.token_refreshes == 1
    assert "9 s" in repr(tokens)
    await anyio.sleep(10)
    assert tokens.statistics().expires_in is None
    assert "no valid token" in repr(tokens)


class LeakyTransport:
    """Shows in what it raises all that it was asked to send."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        try:
            raise ValueError(f"bad header {request.headers}")
        except ValueError as error:
            raise NotSentError(f"cannot send {request.content!r}") from error

    async def aclose(self) -> None:
        pass


class WildTransport(LeakyTransport):
    async def send(self, request: Request, *, timeout: float) -> Response:
        raise LookupError(dict(request.headers), request.content)


@pytest.mark.parametrize("client_auth", ["basic", "post"])
async def test_p13_no_secret_is_told(client_auth: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo: dict[str, Any] = {
        "error": "invalid_client",
        "error_description": " ".join(EVERY_FORM_OF_THE_SECRET),
    }
    issued = "t0ken-c4nary"
    answers: list[Answer] = [
        answer(401, **echo),
        answer(503, **echo),
        answer(503, **echo),
        answer(503, **echo),
        token(issued, expires_in="soon"),
        token(f"{issued} {issued}"),
        token(issued),
    ]
    transports: list[Transport] = [Endpoint(*answers), LeakyTransport(), WildTransport()]
    told: list[str] = []
    for transport in transports:
        made = config(client_auth=client_auth)
        tokens = OAuthTokenProvider(made, transport=transport, clock=anyio.current_time)
        for _ in range(5):
            try:
                access = await tokens.get_token()
                told += [repr(access), str(access)]
            except AuthenticationError as error:
                told.append(everything_said(error))
                told.append(repr(error.__reduce__()))
            told += [repr(tokens), str(tokens), repr(tokens.statistics()), repr(made)]
        told.append(repr(tokens.__dict__))
    assert sum("AuthenticationError" in text for text in told) >= 12
    told += [
        record.getMessage() + json.dumps(record.__dict__, default=repr) for record in caplog.records
    ]
    assert caplog.records
    for text in told:
        for secret in (*EVERY_FORM_OF_THE_SECRET, issued, "s3cret"):
            assert secret not in text


async def test_p13_an_innocent_cause_is_kept() -> None:
    cause = NotSentError("no route to host")
    error = await failure_of(provider(Endpoint(cause, cause, cause)))
    assert error.__cause__ is cause


async def test_trouble_is_logged_with_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cognigy_async")
    await failure_of(provider(Endpoint(*[answer(503)] * 3)))
    repeats, last = caplog.records[:-1], caplog.records[-1]
    assert [record.__dict__["attempt"] for record in repeats] == [1, 2]
    assert last.levelno == logging.WARNING
    assert (last.__dict__["status"], last.__dict__["attempts"]) == (503, 3)


async def test_a_transport_that_does_not_close_costs_no_token(
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
            callers = [Invoker(group, tokens) for _ in range(2)]
        assert {caller.value for caller in callers} == {"Bearer t1"}
        assert anyio.current_time() - began < 2
        refused = partial(kind, answer(400, error="invalid_client"))
        monkeypatch.setattr("cognigy_async.transports.httpx.HttpxTransport", refused)
        error = await failure_of(OAuthTokenProvider(config()))
        assert error.detail == "invalid_client"
