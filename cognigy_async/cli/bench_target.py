"""Where a benchmark writes to, and whether it may."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from urllib.parse import urlsplit

import typer

from cognigy_async import ApiKey, ConfigurationError, RuntimeApi
from cognigy_async._utils.arguments import is_loopback
from cognigy_async.integrations.settings import ClientArguments

from ._output import say
from ._run import INTERRUPTED, NOT_APPLIED
from .bench_load import VARIABLE, Load, NumberedDialogs, requests_each, warm_up_of
from .bench_machine import Cores, pinned_to
from .bench_server import KEY, emulator_process


class Target(StrEnum):
    """What is written to."""

    EMULATOR = "emulator"
    TENANT = "tenant"


@contextmanager
def own_emulator(cores: Cores | None) -> Iterator[ClientArguments]:
    """An emulator on a core of its own, and this process on another one, where there are two.

    Raises:
        ConfigurationError: it does not start.
    """
    server, client = (cores.server, cores.client) if cores else (None, None)
    with emulator_process(server) as base_url, pinned_to(client):
        yield {
            "base_url": base_url,
            "auth": ApiKey(KEY),
            "api": RuntimeApi(),
            "allow_insecure": False,
            "rate_limit": None,
        }


def ask_first(
    arguments: ClientArguments, load: Load, levels: Sequence[int], rounds: int, *, yes: bool
) -> None:
    """Tell what a run does to a tenant that is not on this machine, and have it confirmed.

    Raises:
        typer.Exit: it is not.
        ConfigurationError: it cannot be, without a terminal.
    """
    base_url = arguments["base_url"]
    if is_loopback(urlsplit(base_url).hostname or ""):
        return
    told = (
        f"This writes to {base_url}: the session variable {VARIABLE!r} of "
        f"{_dialogs(load, levels)}, which stays there. It takes "
        f"{_requests(arguments, load, levels, rounds)}, which count against the quota."
    )
    if arguments["rate_limit"] is None:
        told += (
            " No quota is set here; a default tenant allows 1,000 requests in 5 minutes, which is "
            "--rate 1000/300."
        )
    if yes:
        say(told)
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(f"{told} If that is meant, add --yes. Nothing was sent.")
    say(told)
    try:
        confirmed = typer.confirm("Go on?", err=True)
    except typer.Abort:
        say("Interrupted. Nothing was sent.")
        raise typer.Exit(INTERRUPTED) from None
    if not confirmed:
        say("Nothing was sent.")
        raise typer.Exit(NOT_APPLIED)


def _dialogs(load: Load, levels: Sequence[int]) -> str:
    """Those that are written to."""
    dialogs = load.dialogs
    reached = len(dialogs)
    if load.count is not None:
        reached = min(reached, max(load.count, *map(warm_up_of, levels)))
    if reached == 1:
        return f"the dialog {dialogs[0]}"
    if isinstance(dialogs, NumberedDialogs):
        return f"the {reached:,} dialogs {dialogs[0]} to {dialogs[reached - 1]}"
    return f"{reached:,} dialogs of the file, from {dialogs[0]} to {dialogs[reached - 1]}"


def _requests(arguments: ClientArguments, load: Load, levels: Sequence[int], rounds: int) -> str:
    each = requests_each(load, arguments["api"]) * rounds
    warm = each * sum(map(warm_up_of, levels))
    if load.count is not None:
        return f"{warm + each * load.count * len(levels):,} requests without repeats"
    seconds = load.seconds * rounds * len(levels)
    return f"{warm:,} requests to warm up and then as many as fit in {seconds:g} s"
