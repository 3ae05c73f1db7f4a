"""The commands of `cognigy-async`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from . import audit, bulk, outbox
from ._options import example
from ._output import write_result
from .bench.command import bench
from .demo.command import demo
from .dialog import get, update
from .doctor.command import doctor
from .emulator import emulator
from .init import init
from .probe.command import probe
from .temporal import dialog as dialogs
from .temporal import job
from .temporal.worker import worker

EXAMPLES: dict[Callable[..., None], list[str]] = {
    init: ["init"],
    doctor: ["doctor", "doctor --dialog d-8f3a"],
    probe: ["probe --session session-to-spare", "probe --session session-to-spare --sizes"],
    get: ["get d-8f3a"],
    update: [
        "update d-8f3a --session cart_total=149.99",
        "update d-8f3a --next-step process_checkout",
    ],
    demo: ["demo"],
    emulator: [
        "emulator --port 8321",
        "emulator --fault error_503=0.1",
        "emulator --like tenant.json",
    ],
    worker: ["worker", "worker --max-in-flight 64 --coalesce"],
    bench: ["bench", "bench --max-in-flight 1,8,64"],
}

app = typer.Typer(
    name="cognigy-async",
    help="Write dialog state to Cognigy.AI.",
    epilog=(
        "The commands read settings from the environment, or from a file .env that init writes: "
        "COGNIGY_BASE_URL, COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET (or COGNIGY_API_KEY), and "
        "more.\n\n"
        "Exit status: 0 applied, 1 not applied, 2 invalid usage or settings, 130 interrupted.\n\n"
        + example("demo", "init", "COMMAND --help")
    ),
    no_args_is_help=True,
    add_completion=True,
    # Plain text is read faster than boxes, above all on a narrow terminal, and is made faster.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
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
app.add_typer(dialogs.app, name="dialog")
app.add_typer(job.app, name="job")
app.add_typer(outbox.app, name="outbox")
for command, examples in EXAMPLES.items():
    app.command(epilog=example(*examples))(command)
