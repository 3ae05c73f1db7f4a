"""The client inside an aiohttp.web application. Needs the extra ``aiohttp-web``.

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
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from cognigy_async import AsyncStateClient, CognigyError

from .drain import DRAIN_TIMEOUT, checked_drain_timeout, open_client
from .health import Health, health
from .problems import MEDIA_TYPE, problem_of

__all__ = ["CLIENT", "Health", "client_ctx", "error_middleware", "health"]

CLIENT: Final = web.AppKey("cognigy_client", AsyncStateClient)
"""Where the client is: ``request.config_dict[CLIENT]``, which looks in outer applications too."""


def client_ctx(
    make_client: Callable[[web.Application], AsyncStateClient],
    *,
    drain_timeout: float = DRAIN_TIMEOUT,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """A context for `cleanup_ctx` that holds a client open for all requests.

    Contexts end in reverse: append it after those of what the client's callbacks need, which is
    then there for the last of them.

    Args:
        make_client: called at the start of the application; returns a new client, which is not yet
            open, with its callbacks registered.
        drain_timeout: seconds in which the shutdown sends what was accepted and delivers the
            events. What could not be sent by then is logged by `update_id` and `dialog_id`.

    Raises:
        ConfigurationError: a `drain_timeout` that cannot work.
    """
    drain_timeout = checked_drain_timeout(drain_timeout)

    async def with_client(app: web.Application) -> AsyncIterator[None]:
        async with open_client(make_client(app), drain_timeout) as client:
            app[CLIENT] = client
            yield

    return with_client


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a `CognigyError` that a handler raises with problem details; see `problems`.

    Errors that are mistakes in the service are left to aiohttp, which logs them.
    """
    try:
        return await handler(request)
    except CognigyError as error:
        problem = problem_of(error)
        if problem is None:
            raise
        # As bytes: given a text, aiohttp would name a charset, which this type does not have.
        return web.Response(
            body=json.dumps(problem.content).encode(),
            status=problem.status,
            headers=problem.headers,
            content_type=MEDIA_TYPE,
        )
