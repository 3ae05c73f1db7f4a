"""`cognigy-async bulk`: jobs that finish; `run`, `status` and `explain`."""

from __future__ import annotations

import typer

from .bulk_explain import explain
from .bulk_run import run
from .bulk_status import status

app = typer.Typer(
    help="Apply the rows of a file, once each, with a journal that survives the process.",
    no_args_is_help=True,
)
app.command(name="run")(run)
app.command(name="status")(status)
app.command(name="explain")(explain)
