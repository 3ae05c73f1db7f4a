"""`cognigy-async dialog`: the workflow of one dialog on a Temporal cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    VerboseOption,
    example,
)
from .._output import write_json
from .._run import report_errors
from ._loop import with_cluster

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

    Handle = WorkflowHandle[Any, Any]

T = TypeVar("T")

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
        write_json({"dialog_id": dialog_id, **_with_dialog(dialog_id, env_file, _show)})


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
        _with_dialog(dialog_id, env_file, _replay)


def _with_dialog(
    dialog_id: str, env_file: EnvFileOption, use: Callable[[Handle], Awaitable[T]]
) -> T:
    async def found(cluster: Client, task_queue: str) -> T:
        from cognigy_async.temporal.client import workflow_id

        return await use(cluster.get_workflow_handle(workflow_id(task_queue, dialog_id)))

    return with_cluster(env_file, f"dialog {dialog_id!r}", found)


async def _show(handle: Handle) -> dict[str, Any]:
    from cognigy_async.temporal.jobs import PATIENCE

    found = await handle.describe()
    waiting = await handle.query("show", result_type=dict, rpc_timeout=PATIENCE)
    return {
        "workflow_id": found.id,
        "run_id": found.run_id,
        "status": "unknown" if found.status is None else found.status.name.lower(),
        "history_events": found.history_length,
        **waiting,
    }


async def _replay(handle: Handle) -> None:
    await handle.signal("replay")
