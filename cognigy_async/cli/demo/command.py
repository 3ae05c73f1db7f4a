"""The command `cognigy-async demo`."""

from __future__ import annotations

import math
from typing import Annotated

import anyio
import typer

from .._options import DebugOption
from .._output import say
from .._run import NOT_APPLIED, report_errors
from .job import run_demo

DIALOGS = 150
UPDATES = 10
INPUT_SECONDS = 7.0
"""Seconds after which the demo of the default size takes no more updates, on a slow machine."""
SECONDS = 19.0


def demo(
    dialogs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"Dialogs. Default: {DIALOGS}.")
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"Updates per dialog. Default: {UPDATES}."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Run the client against a failing emulator and check that no update was lost.

    Takes less than 20 seconds in the default size and needs no settings.

    Exit status: 0 every promise was kept, 1 one was broken or an update failed.
    """
    default = dialogs is None and updates is None
    size = (dialogs or DIALOGS, updates or UPDATES, INPUT_SECONDS if default else math.inf)
    with report_errors(debug=debug, log=False):
        try:
            kept = anyio.run(run_demo, *size, SECONDS if default else None)
        except TimeoutError:
            say(f"The demo did not end within {SECONDS:g} s.", style="red")
            kept = False
    if not kept:
        raise typer.Exit(NOT_APPLIED)
