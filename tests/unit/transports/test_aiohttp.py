"""The transports without a server: event loops, arguments, missing packages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import anyio
import httpx
import pytest

from cognigy_async import ApiKey, AsyncStateClient, HttpxTransport, Transport
from cognigy_async.errors import ClientUsageError, NotSentError
from cognigy_async.transports.aiohttp import AiohttpTransport
from cognigy_async.transports.pyreqwest import PyreqwestTransport
from tests.integration.transport_servers import patch

both = pytest.mark.parametrize("kind", [AiohttpTransport, PyreqwestTransport])
each = pytest.mark.parametrize("kind", [AiohttpTransport, HttpxTransport, PyreqwestTransport])


@both
@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_under_trio_the_error_names_asyncio(kind: Callable[[], Transport]) -> None:
    transport = kind()
    with pytest.raises(ClientUsageError, match="needs asyncio"):
        await transport.send(patch("http://127.0.0.1:1"), timeout=1)
    async with AsyncStateClient(
        "http://127.0.0.1:1", auth=ApiKey("k"), transport=transport
    ) as client:
        with pytest.raises(ClientUsageError, match="under trio use HttpxTransport"):
            await client.update("d-1", session={"a": 1})


@each
def test_a_transport_belongs_to_one_event_loop(kind: Callable[[], Transport]) -> None:
    transport = kind()

    async def use() -> None:
        await transport.send(patch("http://127.0.0.1:1"), timeout=1)

    async def close() -> None:
        await transport.aclose()

    with asyncio.Runner() as first:
        with pytest.raises(NotSentError):
            first.run(use())
        with asyncio.Runner() as second, pytest.raises(ClientUsageError, match="event loop"):
            second.run(use())
        with pytest.raises(ClientUsageError, match=r"event loop|under trio use HttpxTransport"):
            anyio.run(use, backend="trio")
        first.run(close())


def test_an_httpx_transport_on_trio_belongs_to_one_run() -> None:
    transport = HttpxTransport()

    async def use() -> None:
        await transport.send(patch("http://127.0.0.1:1"), timeout=1)

    with pytest.raises(NotSentError):
        anyio.run(use, backend="trio")
    for backend in ("trio", "asyncio"):
        with pytest.raises(ClientUsageError, match="event loop"):
            anyio.run(use, backend=backend)


def test_a_given_client_of_httpx_may_be_used_in_several_event_loops() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    transport = HttpxTransport(httpx.AsyncClient(transport=httpx.MockTransport(refuse)))

    async def use() -> None:
        await transport.send(patch("http://h"), timeout=1)

    for backend in ("asyncio", "trio", "asyncio"):
        with pytest.raises(NotSentError):
            anyio.run(use, backend=backend)


@pytest.mark.parametrize("package", ["aiohttp", "pyreqwest"])
def test_without_the_package_the_error_says_what_to_install(package: str) -> None:
    program = f"""
import sys
sys.modules["{package}"] = None
from cognigy_async import {package.title()}Transport, ConfigurationError
try:
    {package.title()}Transport()
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert f"pip install 'cognigy-async[{package}]'" in done.stdout


def test_creating_a_transport_needs_no_event_loop() -> None:
    assert repr(HttpxTransport()) == "<HttpxTransport with its own connections>"
    assert repr(AiohttpTransport()) == "<AiohttpTransport with its own connections>"
    assert repr(PyreqwestTransport()) == "<PyreqwestTransport with its own connections>"


@pytest.mark.parametrize("session", [object(), aiohttp.ClientSession, "session"])
def test_an_object_that_is_not_a_session_is_refused(session: Any) -> None:
    with pytest.raises(TypeError, match=r"pass an aiohttp\.ClientSession"):
        AiohttpTransport(session)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_repr_with_a_session() -> None:
    async with aiohttp.ClientSession() as session:
        assert repr(AiohttpTransport(session)) == "<AiohttpTransport with a session>"
