"""Integration with aiohttp.web applications. Needs the extra ``aiohttp-web``.

::

    def make_client(app: web.Application) -> AsyncStateClient:
        return AsyncStateClient(**Settings().client_arguments())

    app = web.Application(middlewares=[error_middleware])
    app.cleanup_ctx.append(client_ctx(make_client))

    async def set_total(request: web.Request) -> web.Response:
        client = request.config_dict[CLIENT]
        await client.update(request.match_info["dialog_id"], session=await request.json())
        return web.Response(status=204)
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from cognigy_async import AsyncStateClient, CognigyError

from .callers import CallerInput, caller_texts, problem_for_caller
from .drain import DRAIN_TIMEOUT, OnClosed, open_client, validate_drain_timeout
from .health import Health, health
from .problems import MEDIA_TYPE

__all__ = ["CLIENT", "Health", "client_ctx", "error_middleware", "health"]

CLIENT: Final = web.AppKey("cognigy_client", AsyncStateClient)
"""Key of the client: ``request.config_dict[CLIENT]``, which searches outer applications too."""


def client_ctx(
    make_client: Callable[[web.Application], AsyncStateClient],
    *,
    drain_timeout: float = DRAIN_TIMEOUT,
    on_closed: OnClosed | None = None,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a context for `cleanup_ctx` that keeps one client open for all requests.

    Contexts end in reverse order. Append the context of the client after the contexts of resources
    that the client's callbacks use, so that the resources outlive the last callback.

    Args:
        make_client: Function that is called at the start of the application and returns a new,
            unopened client with its callbacks registered.
        drain_timeout: Seconds in which the shutdown sends accepted updates and delivers events.
            The client logs unsent updates by `update_id` and `dialog_id`.
        on_closed: Optional function, async or plain, that is called once with the `CloseReport` of
            the client: after the client is closed, and before the contexts end that were appended
            before this one. `report.unsent` has the accepted updates that the client did not send.
            The function has 2 seconds, also when the shutdown is cancelled.

    Raises:
        ConfigurationError: `drain_timeout` is not a positive, finite number of seconds.
    """
    drain_timeout = validate_drain_timeout(drain_timeout)

    async def with_client(app: web.Application) -> AsyncIterator[None]:
        async with open_client(make_client(app), drain_timeout, on_closed) as client:
            app[CLIENT] = client
            yield

    return with_client


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a `CognigyError` of a handler with problem details, as by `problems`.

    An error that is a mistake in the service stays raised: aiohttp answers 500 and logs it. An
    invalid value is a mistake in the service unless it came from the caller; see
    `add_error_handlers`.
    """
    try:
        return await handler(request)
    except CognigyError as error:
        problem = problem_for_caller(error, *await _caller_of(request))
        if problem is None:
            raise
        # Send bytes: to text aiohttp would add a charset, which this media type lacks.
        return web.Response(
            body=json.dumps(problem.content).encode(),
            status=problem.status,
            headers=problem.headers,
            content_type=MEDIA_TYPE,
        )


async def _caller_of(request: web.Request) -> tuple[CallerInput, AsyncStateClient | None]:
    body = b""
    # Reading a body that is not there yet would wait for the caller.
    if request.content.is_eof():
        with suppress(web.HTTPException):
            body = await request.read()
    texts = caller_texts(request.match_info.values(), request.query)
    headers = request.headers
    given = CallerInput(texts, headers.get("If-Match"), body, headers.get("Idempotency-Key"))
    return given, request.config_dict.get(CLIENT)
