"""Run a coroutine that uses a Temporal cluster."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio

from cognigy_async import CognigyError, ConfigurationError
from cognigy_async.integrations.settings import TemporalSettings

from .._options import settings_file

if TYPE_CHECKING:
    from temporalio.client import Client

PARTING = 0.1
"""Seconds. Python aborts if it ends while a thread of the SDK returns from its last call
(github.com/temporalio/sdk-python, issue 300)."""

WORKER = "a worker has to run to answer for it"
REMEDIES = {
    "NOT_FOUND": "check the id, COGNIGY_TASK_QUEUE and TEMPORAL_NAMESPACE",
    "CANCELLED": WORKER,
    "DEADLINE_EXCEEDED": WORKER,
    "FAILED_PRECONDITION": WORKER,
}
"""Remedies by the status of an answer."""

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
            f"the package {(error.name or '').partition('.')[0]} is missing; install it with: "
            "pip install 'cognigy-async[temporal]'"
        ) from error
    finally:
        time.sleep(PARTING)


def with_cluster(
    env_file: Path | None, subject: str, use: Callable[[Client, str], Awaitable[T]]
) -> T:
    """Return the result of a function that uses the cluster and the task queue of the settings.

    Raises:
        CognigyError: The cluster does not know the subject, or no worker answers for it.
        ConfigurationError: The cluster cannot be used, or the extra is not installed.
    """
    settings = TemporalSettings(env_file=settings_file(env_file))

    async def connected() -> T:
        from temporalio.exceptions import TemporalError
        from temporalio.service import RPCError

        from cognigy_async.temporal import connect

        cluster = await connect(settings)
        try:
            return await use(cluster, settings.task_queue)
        except RPCError as error:
            remedy = REMEDIES.get(error.status.name, "check the cluster, and try again")
            raise CognigyError(
                f"{subject}: the cluster answered {error.status.name}: {error.message}; {remedy}"
            ) from error
        except TemporalError as error:
            raise CognigyError(f"{subject}: the cluster answered: {error}") from error

    return run(connected)
