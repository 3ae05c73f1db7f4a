"""Run a coroutine that uses the SDK of Temporal."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, Unpack

import anyio

from cognigy_async import ConfigurationError

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
