"""Integration with FastAPI applications. Needs the extra ``fastapi``.

::

    def make_client(state: Mapping[str, Any]) -> AsyncStateClient:
        return AsyncStateClient(**Settings().client_arguments())

    app = FastAPI(lifespan=client_lifespan(make_client))
    add_error_handlers(app)

    @app.post("/dialogs/{dialog_id}/cart")
    async def set_total(dialog_id: str, total: float, client: StateClient) -> None:
        await client.update(dialog_id, session={"cart_total": total})

Everything except the dependency `StateClient` also works in Starlette applications.
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

from .callers import CallerInput, caller_texts, problem_for_caller
from .drain import DRAIN_TIMEOUT, OnClosed, open_client, validate_drain_timeout
from .health import Health, health
from .problems import MEDIA_TYPE

__all__ = [
    "Health",
    "StateClient",
    "add_error_handlers",
    "client_lifespan",
    "get_client",
    "health",
]

STATE = "cognigy_client"
"""Key of the client in the state that the lifespan yields."""

AppT = TypeVar("AppT", bound=Starlette)
State: TypeAlias = Mapping[str, Any]


def client_lifespan(
    make_client: Callable[[State], AsyncStateClient],
    *,
    lifespan: Callable[[AppT], AbstractAsyncContextManager[State | None]] | None = None,
    drain_timeout: float = DRAIN_TIMEOUT,
    on_closed: OnClosed | None = None,
) -> Callable[[AppT], AbstractAsyncContextManager[State]]:
    """Return a lifespan that keeps one client open for all requests.

    The state that it yields has the open client as `cognigy_client`: for tasks that need the open
    client, put a lifespan of your own around this one.

    Args:
        make_client: Function that is called at each start of the application, with the state that
            `lifespan` yielded. It returns a new, unopened client with its callbacks registered.
        lifespan: Optional lifespan of the application. It begins before the client is made and ends
            after the client is closed, so that its resources outlive the last callback. Requests
            also get the state that it yields.
        drain_timeout: Seconds in which the shutdown sends accepted updates and delivers events.
            The client logs unsent updates by `update_id` and `dialog_id`.
        on_closed: Optional function, async or plain, that is called once with the `CloseReport` of
            the client: after the client is closed, and before `lifespan` ends. `report.unsent` has
            the accepted updates that the client did not send. The function has 2 seconds, also
            when the shutdown is cancelled. Its exception ends the lifespan.

    Raises:
        ConfigurationError: `drain_timeout` is not a positive, finite number of seconds.
    """
    drain_timeout = validate_drain_timeout(drain_timeout)

    @asynccontextmanager
    async def with_client(app: AppT) -> AsyncGenerator[State]:
        if lifespan is None:
            async with open_client(make_client({}), drain_timeout, on_closed) as client:
                yield {STATE: client}
            return
        async with lifespan(app) as yielded:
            state = yielded or {}
            async with open_client(make_client(state), drain_timeout, on_closed) as client:
                yield {**state, STATE: client}

    return with_client


async def get_client(connection: HTTPConnection) -> AsyncStateClient:
    """Return the application's client, for requests and websockets.

    Raises:
        ClientUsageError: The application was started without `client_lifespan`.
    """
    client = getattr(connection.state, STATE, None)
    if not isinstance(client, AsyncStateClient):
        raise ClientUsageError(
            "the application has no client: make it with FastAPI(lifespan=client_lifespan(...)), "
            "and start its lifespan, in tests as well"
        )
    return client


StateClient: TypeAlias = Annotated[AsyncStateClient, Depends(get_client)]
"""Type of a parameter that receives the application's client."""


def add_error_handlers(app: Starlette) -> None:
    """Answer with problem details (see `problems`) when a request handler raises `CognigyError`.

    Your own error handlers for subclasses of `CognigyError` take precedence. An error that is a
    mistake in the service, or that a websocket raised, stays raised: the server answers 500 and
    logs it. An invalid value is a mistake in the service unless the value came from the caller: in
    a `StateUpdate` or the variables of the body, passed on as a whole, or as a dialog id in the
    path or in the parameter `dialog_id` of the query.
    """
    app.add_exception_handler(CognigyError, _answer)


def _caller_of(request: Request) -> tuple[CallerInput, AsyncStateClient | None]:
    client = getattr(request.state, STATE, None)
    given = CallerInput(
        caller_texts(request.path_params.values(), request.query_params),
        request.headers.get("if-match"),
        # Reading a body that the handler did not read could wait for the caller.
        getattr(request, "_body", b""),
        request.headers.get("idempotency-key"),
    )
    return given, client if isinstance(client, AsyncStateClient) else None


async def _answer(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, CognigyError) or request.scope["type"] != "http":
        raise error
    problem = problem_for_caller(error, *_caller_of(request))
    if problem is None:
        raise error
    return JSONResponse(
        problem.content, problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )
