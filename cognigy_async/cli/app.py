"""The command itself, and its commands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from . import audit, bulk, demo, doctor, emulator, get, update
from .bench.command import bench
from .output import write_result

app = typer.Typer(
    name="cognigy-async",
    help="Write dialog state to Cognigy.AI.",
    epilog=(
        "Settings come from the environment or a file .env: COGNIGY_BASE_URL, COGNIGY_CLIENT_ID, "
        "COGNIGY_CLIENT_SECRET (or COGNIGY_API_KEY), COGNIGY_TOKEN_URL, COGNIGY_SCOPES. "
        "Exit status: 0 applied, 1 not applied, 2 bad usage or settings, 130 interrupted."
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
app.command(name="bench")(bench)
app.command(name="demo")(demo.demo)
app.command(name="doctor")(doctor.doctor)
app.command(name="emulator")(emulator.emulator)
app.command(name="get")(get.get)
app.command(name="update")(update.update)
