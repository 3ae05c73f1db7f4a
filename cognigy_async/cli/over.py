"""What a command sends over: the options `--transport` and `--loop`, and what they stand for."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated, TypeVar

import typer

from cognigy_async import AiohttpTransport, ConfigurationError, HttpxTransport, Transport


class TransportName(StrEnum):
    """What sends the requests."""

    HTTPX = "httpx"
    AIOHTTP = "aiohttp"

    def made(self) -> Transport:
        """A new one."""
        return AiohttpTransport() if self is TransportName.AIOHTTP else HttpxTransport()


class LoopName(StrEnum):
    """What runs the tasks."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"

    @property
    def options(self) -> dict[str, bool]:
        """The options of anyio's asyncio backend."""
        return {"use_uvloop": self is LoopName.UVLOOP}


Over = Annotated[
    TransportName | None,
    typer.Option(
        "--transport", help="What sends the requests; aiohttp where it is installed, else httpx."
    ),
]
Loop = Annotated[
    LoopName | None,
    typer.Option("--loop", help="The event loop; uvloop where it is installed, else asyncio."),
]


def transport_of(name: TransportName | None) -> TransportName:
    """What was chosen, else the fastest that is installed.

    Raises:
        ConfigurationError: what was chosen is not installed.
    """
    return _chosen("--transport", name, TransportName.AIOHTTP, TransportName.HTTPX)


def loop_of(name: LoopName | None) -> LoopName:
    """What was chosen, else the fastest that is installed.

    Raises:
        ConfigurationError: what was chosen is not installed.
    """
    return _chosen("--loop", name, LoopName.UVLOOP, LoopName.ASYNCIO)


Name = TypeVar("Name", TransportName, LoopName)


def _chosen(option: str, name: Name | None, fastest: Name, other: Name) -> Name:
    """`fastest` is named like the package and the extra that it needs."""
    installed = find_spec(fastest.value) is not None
    if name is fastest and not installed:
        raise ConfigurationError(
            f"{option} {fastest.value} needs {fastest.value}, which comes with an extra: "
            f"pip install 'cognigy-async[{fastest.value}]'"
        )
    if name is not None:
        return name
    return fastest if installed else other
