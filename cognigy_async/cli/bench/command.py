"""`cognigy-async bench`: measure how fast this library writes."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import anyio
import typer

from cognigy_async import ApiKey, ConfigurationError, DialogNotFoundError, RuntimeApi
from cognigy_async._utils.arguments import is_loopback
from cognigy_async.integrations.settings import REMEDY, ClientArguments, Settings

from .._connection import DIRECT, Connection, connections
from .._options import (
    DebugOption,
    EnvFileOption,
    LoopOption,
    QuietOption,
    TransportOption,
    VerboseOption,
    choose_loop,
    choose_transport,
    parse_rate,
    settings_file,
)
from .._output import note, say, write_json, write_result
from .._run import INTERRUPTED, NOT_APPLIED, report_errors
from .._streams import is_terminal
from .load import MIN_BYTES, VARIABLE, Load, parse_dialogs, parse_levels
from .report import as_json, intro, result_lines
from .runner import BenchOptions, Mode, Runner, Target, warm_up_count
from .server import API_KEY, available_cores, emulator_process

MAX_BYTES = 1 << 20
"""More than any API accepts in one request; the limit of the chosen API is checked later."""


def bench(
    target: Annotated[Target, typer.Option(help="Write to an emulator or a tenant.")] = "emulator",
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Updates per round.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Seconds per round.")] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of rounds.")] = 3,
    max_in_flight: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Requests in flight, or a list like 1,8,64 (default: 32)."),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Method that sends the updates.")] = "update",
    dialogs: Annotated[
        str,
        typer.Option(metavar="N|FILE", help="Number of dialogs, or a file of ids (one per line)."),
    ] = "1000",
    dialog_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Prefix of the dialog ids that --dialogs N makes (default: bench-).",
        ),
    ] = None,
    payload_bytes: Annotated[
        int,
        typer.Option(min=MIN_BYTES, max=MAX_BYTES, metavar="N", help="Request body size in bytes."),
    ] = 200,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/SECONDS",
            help="Rate limit, e.g. 1000/300. Default on a tenant: COGNIGY_RATE_LIMIT.",
        ),
    ] = None,
    transport: TransportOption = None,
    loop: LoopOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write to a tenant without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how fast the client writes updates.

    By default, a round on an emulator lasts 2 seconds, and a round on a tenant sends 100 updates.
    After Ctrl-C the command shows the results so far.

    Exit status: 0 all updates applied, 1 some not applied, 2 invalid usage or settings, 130
    interrupted.
    """
    reporting = report_errors(debug=debug, quiet=quiet, verbose=verbose, log=False)
    with reporting, ExitStack() as stack:
        levels = parse_levels(max_in_flight or ["32"])
        if None not in (count, seconds):
            raise ConfigurationError("--count and --seconds exclude each other; give one of them")
        if seconds is not None and not 0 < seconds < math.inf:
            raise ConfigurationError("--seconds: must be a positive number")
        if count is None and seconds is None:
            count, seconds = (100, None) if target == "tenant" else (None, 2.0)
        if env_file is not None and target != "tenant":
            raise ConfigurationError(
                "--env-file needs --target tenant; an emulator has no settings"
            )
        loop = choose_loop(loop)
        limits = None if rate is None else parse_rate(rate)
        which = parse_dialogs(dialogs)
        if dialog_prefix is not None and not isinstance(which, range):
            raise ConfigurationError(
                "--dialog-prefix needs a number of dialogs, not a file; drop one of them"
            )
        if dialog_prefix is None:
            dialog_prefix = "bench-" if isinstance(which, range) else ""
        load = Load(which, dialog_prefix, payload_bytes, count, seconds)
        cores = available_cores() if target == "emulator" else None
        key, api = ApiKey(API_KEY), RuntimeApi()
        emulator = ClientArguments(
            base_url="", auth=key, api=api, allow_insecure=False, rate_limit=None, endpoint=None
        )
        arguments, connection = _tenant(env_file) if target == "tenant" else (emulator, DIRECT)
        transport = choose_transport(transport, with_openssl=connection.needs_openssl)
        arguments["rate_limit"] = limits or arguments["rate_limit"]
        load.requests_per_update(arguments["api"])
        if target == "emulator":
            arguments["base_url"] = stack.enter_context(emulator_process(cores))
        options = BenchOptions(
            target, mode, load, levels, rounds, transport, loop, arguments, cores, connection
        )
        if target == "tenant":
            _confirm(options, yes=yes)
        for line in intro(options):
            note(line)
        raise typer.Exit(_run(Runner(options), json=json))


def _tenant(env_file: Path | None) -> tuple[ClientArguments, Connection]:
    settings = Settings(env_file=settings_file(env_file))
    if settings.api == "sessions" and settings.user_id is None:
        raise ConfigurationError(f"Settings are missing: COGNIGY_USER_ID. {REMEDY}")
    api, tokens = connections(settings)
    return settings.client_arguments(token_transport=tokens.token_transport()), api


def _confirm(options: BenchOptions, *, yes: bool) -> None:
    """Ask before writing to a server on another machine."""
    arguments, load, levels = options.client_arguments, options.load, options.levels
    if is_loopback(urlsplit(arguments["base_url"]).hostname or ""):
        return
    reached = min(len(load.dialogs), max(load.count or sys.maxsize, *map(warm_up_count, levels)))
    dialogs = f"{reached:,} dialogs from {load.dialog(0)} to {load.dialog(reached - 1)}"
    updates = sum(warm_up_count(level) + (load.count or 0) for level in levels)
    requests = load.requests_per_update(arguments["api"]) * options.rounds * updates
    text = (
        f"This writes to {arguments['base_url']}: the session variable {VARIABLE!r} of "
        f"{dialogs if reached > 1 else f'the dialog {load.dialog(0)}'}, which is not removed "
        f"afterwards. It takes {requests:,} requests without retries"
    )
    if load.seconds is not None:
        seconds = load.seconds * options.rounds * len(levels)
        text += f" to warm up, then as many as fit in {seconds:g} s"
    text += ", which count against the quota."
    if arguments["rate_limit"] is None:
        text += " No rate limit is set; that of shared SaaS is --rate 1000/300."
    asks = sys.stdin is not None and is_terminal(sys.stdin) and is_terminal(sys.stderr)
    if not yes and not asks:
        raise ConfigurationError(f"{text} Add --yes to confirm. Nothing was sent.")
    say(text)
    try:
        if not yes and not typer.confirm("Continue?", err=True):
            say("Nothing was sent.")
            raise typer.Exit(NOT_APPLIED)
    except typer.Abort:
        say("Interrupted. Nothing was sent.")
        raise typer.Exit(INTERRUPTED) from None


def _run(runner: Runner, *, json: bool) -> int:
    """Run the benchmark, write its results, and return the exit status."""
    options = runner.options
    try:
        anyio.run(runner.run, backend_options=options.loop.options)
    except DialogNotFoundError:
        say("Name existing dialogs with --dialogs FILE, one id per line.")
        raise
    rows = [each.row() for each in runner.measurements.values() if each.per_second]
    if json:
        write_json(as_json(options, rows, runner.interrupted))
    else:
        for line in result_lines(options, rows) if rows else ():
            write_result(line)
    if runner.interrupted:
        if not rows:
            say("Interrupted before the first result.")
        return INTERRUPTED
    if len(rows) < len(options.levels):
        say("No update completed within a round. Give it more time with --seconds.")
        return NOT_APPLIED
    return NOT_APPLIED if any(row["first_error"] for row in rows) else 0
