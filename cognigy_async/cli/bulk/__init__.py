"""`cognigy-async bulk`: apply the rows of a file as a job that can be resumed."""

from __future__ import annotations

import typer

from .explain import explain
from .run import run
from .status import status

app = typer.Typer(
    help="Apply each row of a file once, as a job that can be resumed.", no_args_is_help=True
)
app.command(name="run")(run)
app.command(name="status")(status)
app.command(name="explain")(explain)
