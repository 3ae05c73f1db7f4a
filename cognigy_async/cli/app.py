"""The commands of `cognigy-async`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from . import audit, bulk
from ._output import write_result
from .bench.command import bench
from .demo.command import demo
from .dialog import get, update
from .doctor.command import doctor
from .emulator import emulator

app = typer.Typer(
    name="cognigy-async",
    help="Write dialog state to Cognigy.AI.",
    epilog=(
        "Settings come from the environment, a file .env or --env-file: COGNIGY_BASE_URL, "
        "COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET (or COGNIGY_API_KEY), and others. Exit "
        "status: 0 applied, 1 not applied, 2 invalid usage or settings, 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=True,
    # A traceback that shows local variables could show a secret.
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            write_result(f"cognigy-async {version('cognigy-async')}")
        except PackageNotFoundError:
            write_result("cognigy-async, not installed")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Write dialog state to Cognigy.AI."""


app.add_typer(audit.app, name="audit")
app.add_typer(bulk.app, name="bulk")
for command in (bench, demo, doctor, emulator, get, update):
    app.command()(command)
