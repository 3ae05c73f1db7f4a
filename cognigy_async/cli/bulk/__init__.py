"""`cognigy-async bulk`: apply the rows of a file as a job that can be resumed."""

from __future__ import annotations

import typer

from .._options import example
from .explain import explain
from .forget import forget
from .run import run
from .status import status

app = typer.Typer(help="Apply each row of a file once.", no_args_is_help=True)
app.command(
    epilog=example(
        "bulk run rows.jsonl --dry-run",
        "bulk run rows.jsonl --rate 1000/300",
        "bulk run rows.csv --canary 1%",
    )
)(run)
app.command(epilog=example("bulk status rows.jsonl.journal --watch"))(status)
app.command(epilog=example("bulk explain rows.jsonl.journal d-8f3a"))(explain)
app.command(epilog=example("bulk forget nightly.baseline d-8f3a"))(forget)
