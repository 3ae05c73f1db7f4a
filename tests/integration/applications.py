"""A FastAPI application in the process, and a client that calls it over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cognigy_async import AsyncStateClient
from cognigy_async.emulator import Emulator
from tests.simulation.world import client_of

MakeClient = Callable[[Mapping[str, Any]], AsyncStateClient]


def maker(server: Emulator, **options: Any) -> MakeClient:
    """Return a function that makes clients of an emulator from any state."""
    return lambda state: client_of(server, **options)


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[ASGIApp]:
    """Run the lifespan of the application; it ends with the block."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        yield with_state


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client that calls it."""
    async with (
        started(app) as running,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=running), base_url="http://service"
        ) as http,
    ):
        yield http
