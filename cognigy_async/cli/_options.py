"""Options that several commands share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer

from cognigy_async import (
    ConfigurationError,
    HttpxTransport,
    Limits,
    RateLimit,
    Transport,
)
from cognigy_async.integrations.settings import IMPLICIT_FILE, parse_context_limit, parse_rate_limit

from ._output import say


class TransportName(StrEnum):
    """The HTTP library to send with."""

    HTTPX = "httpx"
    AIOHTTP = "aiohttp"
    PYREQWEST = "pyreqwest"

    def create(self) -> Transport:
        """Return a new transport."""
        # Importing aiohttp takes a quarter of the time in which a command starts.
        if self is TransportName.PYREQWEST:
            from cognigy_async import PyreqwestTransport

            return PyreqwestTransport()
        if self is TransportName.AIOHTTP:
            from cognigy_async import AiohttpTransport

            return AiohttpTransport()
        return HttpxTransport()


class LoopName(StrEnum):
    """The event loop to run on."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"

    @property
    def options(self) -> dict[str, bool]:
        """Options of anyio's asyncio backend."""
        return {"use_uvloop": self is LoopName.UVLOOP}


TransportOption = Annotated[
    TransportName | None,
    typer.Option(
        "--transport",
        help="HTTP library. Default: the first that is installed of pyreqwest, aiohttp, httpx.",
    ),
]
LoopOption = Annotated[
    LoopName | None,
    typer.Option("--loop", help="Event loop. Default: uvloop if it is installed, else asyncio."),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user-id",
        metavar="USER",
        help="User that the session belongs to; overrides COGNIGY_USER_ID. Only with "
        "COGNIGY_API=sessions.",
    ),
]
EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="PATH",
        help="File with settings, instead of .env. Environment variables override the file. Name "
        "only a file that you trust.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print log lines of retries and warnings.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Print the whole log, and tracebacks of errors.")
]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of the units of a duration."""

Name = TypeVar("Name", TransportName, LoopName)


def example(*commands: str) -> str:
    """Return the end of a help text: commands without `cognigy-async`, each in a line."""
    lines = [f"  cognigy-async {command}" for command in commands]
    # The control character keeps the ends of the lines.
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *lines])


def choose_transport(name: TransportName | None, *, with_openssl: bool = False) -> TransportName:
    """Return the given transport, or the fastest installed one; raise if it is not installed.

    Args:
        with_openssl: the fastest that checks certificates with OpenSSL.
    """
    fastest_first = [TransportName.PYREQWEST, TransportName.AIOHTTP, TransportName.HTTPX]
    if name is None and with_openssl:
        fastest_first.remove(TransportName.PYREQWEST)
    return _choose("--transport", name, *fastest_first)


def choose_loop(name: LoopName | None) -> LoopName:
    """Return the given event loop, or the fastest installed one; raise if it is not installed."""
    return _choose("--loop", name, LoopName.UVLOOP, LoopName.ASYNCIO)


def settings_file(env_file: Path | None) -> Path:
    """Return the file of `--env-file`, or the implicit one if the option was not given."""
    return IMPLICIT_FILE if env_file is None else env_file


def read_secret(option: str, path: Path) -> bytes:
    """Return the content of a file without the line end at its end.

    Raises:
        ConfigurationError: the file is empty.
        OSError: the file cannot be read.
    """
    secret = path.read_bytes().rstrip(b"\r\n")
    if not secret:
        raise ConfigurationError(f"{option} {path} is empty; it must contain the key or secret")
    return secret


def _choose(option: str, name: Name | None, *fastest_first: Name) -> Name:
    # A choice, its package and its extra have the same name. The last one is always there.
    last = fastest_first[-1]
    available = [each for each in fastest_first if each is last or find_spec(each.value)]
    if name is None:
        return available[0]
    if name not in available:
        raise ConfigurationError(
            f"{option} {name.value} needs {name.value}; "
            f"install it with: pip install 'cognigy-async[{name.value}]'"
        )
    return name


def parse_rate(text: str, option: str = "--rate") -> tuple[RateLimit, ...]:
    """Return the rate limit of an option such as ``--rate 1000/300``; raise if it is invalid."""
    try:
        return (parse_rate_limit(text),)
    except ValueError as error:
        raise ConfigurationError(f"{option} {text}: {error}") from None


def format_rate(rate_limit: tuple[RateLimit, ...] | Literal["auto"] | None) -> str | None:
    """Return a rate limit in the format of the option ``--rate``."""
    if rate_limit is None or isinstance(rate_limit, str):
        return rate_limit
    return " ".join(f"{limit.n}/{limit.per:g}" for limit in rate_limit)


def parse_duration(text: str, option: str) -> float:
    """Return the seconds of a duration such as ``12h``; raise `ConfigurationError` if invalid."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"{option} {text!r}: write a number above 0 with s, m, h or d behind it, for example "
            "30m or 7d"
        )
    return seconds


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Options that change the limits of the API.

    Attributes:
        model: Argument of ``--model``. Its module may be in the current folder.
        context: Argument of ``--context-limit``.
    """

    model: str | None
    context: str | None

    def apply(self, limits: Limits) -> Limits:
        """Return limits with these changes.

        Raises:
            ConfigurationError: The model cannot be imported, or is no model of session variables.
                Or the size is invalid.
        """
        if self.context is not None:
            try:
                limits = replace(limits, max_context_bytes=parse_context_limit(self.context))
            except ValueError as error:
                raise ConfigurationError(f"--context-limit {self.context}: {error}") from None
        return limits if self.model is None else _with_model(self.model, limits)


def import_object(option: str, path: str, form: str) -> Any:
    """Return what the argument of an option names. Its module may be in the current folder.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    option = f"{option} {path}"
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigurationError(f"{option}: write it as {form}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return attrgetter(name)(import_module(module))
    except Exception as error:
        raise ConfigurationError(
            f"{option} cannot be imported ({type(error).__name__}: {error}); start the command in "
            "the folder of the module, or install the module"
        ) from error


def _with_model(model: str, limits: Limits) -> Limits:
    found = import_object("--model", model, "MODULE:CLASS, for example shop:MySession")
    try:
        return replace(limits, variables=found)
    except ConfigurationError as error:
        raise ConfigurationError(f"--model {model}: {error}") from error


def parse_assignments(option: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of arguments like ``cart_total=149.99`` by name, or raise BadParameter.

    A value is JSON if it parses as JSON, else text.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {assignment!r}: write it as NAME=VALUE")
        if name in values:
            raise typer.BadParameter(f"{option} {name!r} is given twice; give each name once")
        values[name] = _parse_value(f"{option} {name!r}", text)
    return values


def _parse_value(subject: str, text: str) -> Any:
    def parse_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(members)
        if len(value) < len(members):
            raise typer.BadParameter(f"{subject}: an object has a duplicate key; remove one")
        return value

    try:
        # Python would also parse NaN and Infinity, but they are not JSON.
        return json.loads(text, object_pairs_hook=parse_object, parse_constant=_refuse)
    except RecursionError:
        raise typer.BadParameter(f"{subject} is nested too deeply; flatten it") from None
    except ValueError:
        if text.lstrip()[:1] in ("{", "["):
            say(f"Note: {subject} is not valid JSON and is sent as text. Check its quotes.")
        return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
