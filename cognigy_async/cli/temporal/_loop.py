"""Run a coroutine that uses a Temporal cluster."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio

from cognigy_async import CognigyError, ConfigurationError
from cognigy_async.integrations.settings import TemporalSettings

if TYPE_CHECKING:
    from temporalio.client import Client

PARTING = 0.1
"""Seconds. Python aborts if it ends while a thread of the SDK returns from its last call
(github.com/temporalio/sdk-python, issue 300)."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


def run(function: Callable[[Unpack[Arguments]], Awaitable[T]], *arguments: *Arguments) -> T:
    """Return the result of an async function, called on asyncio.

    Raises:
        ConfigurationError: The extra is not installed.
    """
    try:
        return anyio.run(function, *arguments)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the package {error.name} is missing; install it with: "
            "pip install 'cognigy-async[temporal]'"
        ) from error
    finally:
        time.sleep(PARTING)


def with_cluster(
    settings: TemporalSettings, subject: str, use: Callable[[Client], Awaitable[T]]
) -> T:
    """Return the result of a function that uses the cluster of the settings.

    Raises:
        CognigyError: The cluster does not know the subject, or no worker answers for it.
        ConfigurationError: The cluster cannot be reached, or the extra is not installed.
    """

    async def connected() -> T:
        from temporalio.service import RPCError

        from cognigy_async.temporal import connect

        try:
            return await use(await connect(settings))
        except RPCError as error:
            raise CognigyError(
                f"{subject}: the cluster answered {error.status.name}: {error.message}; a worker "
                "has to run to answer for it"
            ) from error

    return run(connected)
