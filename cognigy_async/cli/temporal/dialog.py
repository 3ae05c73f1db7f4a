"""`cognigy-async dialog`: the workflow of one dialog on a Temporal cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cognigy_async import CognigyError
from cognigy_async.integrations.settings import TemporalSettings

from .._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    VerboseOption,
    example,
    settings_file,
)
from .._output import write_json
from .._run import report_errors
from ._loop import run

if TYPE_CHECKING:
    from temporalio.service import RPCError

PATIENCE = timedelta(seconds=15)
"""A query needs a worker that answers it."""

DialogArgument = Annotated[str, typer.Argument(metavar="ID", help="Dialog id.")]

app = typer.Typer(help="Look at the dialogs of a Temporal cluster.", no_args_is_help=True)


@app.command(epilog=example("dialog show d-8f3a"))
def show(
    dialog_id: DialogArgument,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Print what waits for a dialog.

    The JSON names the events that a target did not take, without variables.

    Exit status: 0 printed, 1 no such workflow, 2 invalid usage or settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        settings = TemporalSettings(env_file=settings_file(env_file))
        write_json(run(_show, settings, dialog_id))


@app.command(epilog=example("dialog replay d-8f3a"))
def replay(
    dialog_id: DialogArgument,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Deliver refused events again.

    These are the events that a target did not take, which `show` lists.

    Exit status: 0 handed over, 1 no such workflow, 2 invalid usage or settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        settings = TemporalSettings(env_file=settings_file(env_file))
        run(_replay, settings, dialog_id)


async def _show(settings: TemporalSettings, dialog_id: str) -> dict[str, Any]:
    from temporalio.service import RPCError

    from cognigy_async.temporal import connect
    from cognigy_async.temporal.client import workflow_id

    cluster = await connect(settings)
    handle = cluster.get_workflow_handle(workflow_id(settings.task_queue, dialog_id))
    try:
        found = await handle.describe()
        waiting = await handle.query("show", result_type=dict, rpc_timeout=PATIENCE)
    except RPCError as error:
        raise _failure(dialog_id, error) from error
    return {
        "dialog_id": dialog_id,
        "workflow_id": found.id,
        "run_id": found.run_id,
        "status": "unknown" if found.status is None else found.status.name.lower(),
        "history_events": found.history_length,
        **waiting,
    }


async def _replay(settings: TemporalSettings, dialog_id: str) -> None:
    from temporalio.service import RPCError

    from cognigy_async.temporal import connect
    from cognigy_async.temporal.client import workflow_id

    cluster = await connect(settings)
    handle = cluster.get_workflow_handle(workflow_id(settings.task_queue, dialog_id))
    try:
        await handle.signal("replay")
    except RPCError as error:
        raise _failure(dialog_id, error) from error


def _failure(dialog_id: str, error: RPCError) -> CognigyError:
    return CognigyError(
        f"dialog {dialog_id!r}: the cluster answered {error.status.name}: {error.message}; a "
        "workflow exists from the first update of a dialog on, and a worker has to run to answer"
    )
