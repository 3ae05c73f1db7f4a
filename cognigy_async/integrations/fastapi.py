"""The client inside a FastAPI application. Needs the extra ``fastapi``.

::

    def make_client(state: Mapping[str, Any]) -> AsyncStateClient:
        return AsyncStateClient(**Settings().client_arguments())

    app = FastAPI(lifespan=client_lifespan(make_client))
    add_error_handlers(app)

    @app.post("/dialogs/{dialog_id}/cart")
    async def set_total(dialog_id: str, total: float, client: StateClient) -> None:
        await client.update(dialog_id, session={"cart_total": total})

All of it works in a Starlette application as well, but for the dependency.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import Depends
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse

from cognigy_async import AsyncStateClient, ClientUsageError, CognigyError

from .drain import DRAIN_TIMEOUT, checked_drain_timeout, open_client
from .health import Health, health
from .problems import MEDIA_TYPE, problem_of

__all__ = [
    "Health",
    "StateClient",
    "add_error_handlers",
    "client_lifespan",
    "get_client",
    "health",
]

STATE = "cognigy_client"
"""Where the client is in the state that the lifespan yields."""

AppT = TypeVar("AppT", bound=Starlette)
State: TypeAlias = Mapping[str, Any]


def client_lifespan(
    make_client: Callable[[State], AsyncStateClient],
    *,
    lifespan: Callable[[AppT], AbstractAsyncContextManager[State | None]] | None = None,
    drain_timeout: float = DRAIN_TIMEOUT,
) -> Callable[[AppT], AbstractAsyncContextManager[State]]:
    """A lifespan that holds a client open for all requests, around or without one of your own.

    Your own begins before the client is made, keeps the state that it yields, and ends after the
    client is closed: what the client's callbacks need is there for the last of them.

    Args:
        make_client: called at each start of the application, with what your own lifespan yielded;
            returns a new client, which is not yet open, with its callbacks registered.
        lifespan: your own.
        drain_timeout: seconds in which the shutdown sends what was accepted and delivers the
            events. What could not be sent by then is logged by `update_id` and `dialog_id`.

    Raises:
        ConfigurationError: a `drain_timeout` that cannot work.
    """
    drain_timeout = checked_drain_timeout(drain_timeout)

    @asynccontextmanager
    async def with_client(app: AppT) -> AsyncGenerator[State]:
        if lifespan is None:
            async with open_client(make_client({}), drain_timeout) as client:
                yield {STATE: client}
            return
        async with lifespan(app) as yielded:
            state = yielded or {}
            async with open_client(make_client(state), drain_timeout) as client:
                yield {**state, STATE: client}

    return with_client


async def get_client(connection: HTTPConnection) -> AsyncStateClient:
    """The application's client, for requests and websockets; `StateClient` is the dependency.

    Raises:
        ClientUsageError: the application was started without `client_lifespan`.
    """
    client = getattr(connection.state, STATE, None)
    if not isinstance(client, AsyncStateClient):
        raise ClientUsageError(
            "the application has no client: make it with FastAPI(lifespan=client_lifespan(...)), "
            "and start its lifespan, in tests as well"
        )
    return client


StateClient: TypeAlias = Annotated[AsyncStateClient, Depends(get_client)]
"""Annotate a parameter with it, and it is given the application's client."""


def add_error_handlers(app: Starlette) -> None:
    """Answer a `CognigyError` that a handler raises with problem details; see `problems`.

    A handler of your own for one of its subclasses goes before. Errors that are mistakes in the
    service, and those of websockets, are left to the server, which logs them.
    """
    app.add_exception_handler(CognigyError, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error) if isinstance(error, CognigyError) else None
    if problem is None or request.scope["type"] != "http":
        raise error
    return JSONResponse(
        problem.content, problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )
