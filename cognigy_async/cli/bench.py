"""`cognigy-async bench`: how fast this library writes, to the emulator or to a tenant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import anyio
import typer

from cognigy_async import ConfigurationError, DialogNotFoundError, RuntimeApi, StateUpdate
from cognigy_async.integrations.settings import REMEDY, ClientArguments, Settings

from ._options import (
    DebugOption,
    LoopName,
    LoopOption,
    TransportOption,
    choose_loop,
    choose_transport,
    parse_rate,
)
from ._output import say, write_json, write_result
from ._run import INTERRUPTED, NOT_APPLIED, report_errors
from .bench_load import (
    LEAST_BYTES,
    VARIABLE,
    Load,
    Mode,
    NumberedDialogs,
    read_dialogs,
    requests_each,
)
from .bench_machine import Cores
from .bench_report import Row, table
from .bench_run import Bench
from .bench_setting import Setting
from .bench_target import Target, ask_first, own_emulator

COUNT = 100
"""Updates of a round on a tenant, where each one counts against the quota."""
SECONDS = 2.0
"""Of a round on the emulator."""
PREFIX = "bench-"

MOST_IN_FLIGHT = 10_000
"""Each one is a task and a connection."""
MOST_DIALOGS = 1_000_000_000
MOST_BYTES = 1 << 20
"""More than any API takes in one request; what the chosen one takes is checked."""


def bench(
    target: Annotated[
        Target,
        typer.Option(help="The emulator, which is started for it, or the tenant of the settings."),
    ] = Target.EMULATOR,
    count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"Updates of a round; on a tenant {COUNT}."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help=f"Or its seconds; on the emulator {SECONDS:g}."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rounds for each number in flight.")
    ] = 3,
    max_in_flight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="Requests at a time, 32 by default; several, as 1,8,64, get a row each.",
        ),
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="Calls that wait for their update, or one stream of rows.")
    ] = Mode.UPDATE,
    dialogs: Annotated[
        str,
        typer.Option(
            metavar="N|FILE", help="So many dialogs, or those of a file with one id a line."
        ),
    ] = "1000",
    dialog_prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help=f"Of N dialogs: {PREFIX}0, {PREFIX}1, ... by default."),
    ] = None,
    payload_bytes: Annotated[
        int,
        typer.Option(
            min=LEAST_BYTES, max=MOST_BYTES, metavar="N", help="Of the body of a request."
        ),
    ] = 200,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/SECONDS",
            help="A quota, as 1000/300; of a tenant by default what COGNIGY_RATE_LIMIT says.",
        ),
    ] = None,
    transport: TransportOption = None,
    loop: LoopOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Write to a tenant without asking first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    debug: DebugOption = False,
) -> None:
    """Measure how fast updates are written: to the emulator, or for real to a tenant.

    Ctrl-C shows what was measured so far.

    Exit status: 0 all applied, 1 some not, 2 bad usage or settings, 130 interrupted.
    """
    levels = _levels(max_in_flight or ["32"])
    if count is not None and seconds is not None:
        raise typer.BadParameter("--count and --seconds exclude each other; give one of them")
    if seconds is not None and not 0 < seconds < math.inf:
        raise typer.BadParameter("--seconds: must be a positive number")
    if count is None and seconds is None:
        count, seconds = (COUNT, None) if target is Target.TENANT else (None, SECONDS)
    with report_errors(debug=debug, log=False), ExitStack() as stack:
        over, on = choose_transport(transport), choose_loop(loop)
        limits = None if rate is None else parse_rate(rate)
        load = Load(
            mode,
            _dialogs(dialogs, dialog_prefix),
            payload_bytes=payload_bytes,
            count=count,
            seconds=seconds,
        )
        cores = None
        if target is Target.TENANT:
            arguments = _arguments(Settings())
        else:
            requests_each(load, RuntimeApi())
            cores = Cores.found()
            arguments = stack.enter_context(own_emulator(cores))
        if limits is not None:
            arguments["rate_limit"] = limits
        if target is Target.TENANT:
            requests_each(load, arguments["api"])
            ask_first(arguments, load, levels, rounds, yes=yes)
        running = Bench(arguments, load, levels, rounds, over)
        setting = Setting(target, running, on, cores)
        for line in setting.lines():
            say(line)
        _run(running, on)
        rows = [row for level in levels if (row := Row.of(level, running.samples.get(level, ())))]
        if as_json:
            write_json({**setting.record(), "rows": [row.record() for row in rows]})
        else:
            for line in (*table(rows), *setting.remarks(rows)):
                write_result(line)
    raise typer.Exit(_status(running, rows))


def _arguments(settings: Settings) -> ClientArguments:
    if settings.api == "sessions" and settings.user_id is None:
        raise ConfigurationError(f"Settings are missing: COGNIGY_USER_ID. {REMEDY}")
    return settings.client_arguments()


def _run(running: Bench, on: LoopName) -> None:
    try:
        anyio.run(running.run, backend_options=on.options)
    except DialogNotFoundError:
        say(
            "Nothing was applied in the warm-up. Name dialogs that the tenant has with "
            "--dialogs FILE, one id a line."
        )
        raise


def _status(running: Bench, rows: Sequence[Row]) -> int:
    if running.interrupted:
        if not rows:
            say("Nothing was measured yet.")
        return INTERRUPTED
    if len(rows) < len(running.levels):
        say("No update was settled within a round: give it more time, with --seconds.")
        return NOT_APPLIED
    return 0 if all(row.ok for row in rows) else NOT_APPLIED


def _levels(given: Sequence[str]) -> list[int]:
    """Requests in flight, each number once."""
    found: dict[int, None] = {}
    for text in ",".join(given).split(","):
        if not (number := _number(text.strip(), MOST_IN_FLIGHT)):
            raise typer.BadParameter(
                f"--max-in-flight {text!r}: must be a number from 1 to {MOST_IN_FLIGHT:,}, or "
                "several as 1,8,64"
            )
        found[number] = None
    return list(found)


def _number(text: str, most: int) -> int:
    """From 1 to `most`; 0 for everything else."""
    # Python refuses to read a number of thousands of digits.
    if not text.isdecimal() or len(text) > len(str(most)):
        return 0
    number = int(text)
    return number if number <= most else 0


def _dialogs(text: str, prefix: str | None) -> Sequence[str]:
    """As many as the number says, or those of a file.

    Raises:
        ConfigurationError, UpdateValidationError: there are none, or they cannot be.
    """
    if not text.isdecimal():
        if prefix is not None:
            raise typer.BadParameter("--dialog-prefix is for a number of dialogs, not for a file")
        return read_dialogs(Path(text))
    if not (number := _number(text, MOST_DIALOGS)):
        raise typer.BadParameter(f"--dialogs: must be a number from 1 to {MOST_DIALOGS:,}")
    dialogs = NumberedDialogs(PREFIX if prefix is None else prefix, number)
    # The last one is the longest.
    StateUpdate(dialogs[-1], session={VARIABLE: 0})
    return dialogs
