"""`cognigy-async job`: jobs that the workers of a Temporal cluster apply."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cognigy_async import CognigyError
from cognigy_async.bulk import InputError, JobOptions, JobResult

from .._input_options import (
    ColumnMapOption,
    ColumnTypeOption,
    DecimalOption,
    DelimiterOption,
    EncodingOption,
    FormatOption,
    OnlyDialogOption,
    RowLimitOption,
    SheetOption,
    TextColumnOption,
    table_options,
)
from .._options import (
    DebugOption,
    EnvFileOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    example,
)
from .._output import counted, duration, note, say, write_json, write_result
from .._run import INTERRUPTED, NOT_APPLIED, report_errors
from ._loop import with_cluster

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

    Handle = WorkflowHandle[Any, Any]

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="Job id, which start prints.")]

T = TypeVar("T")

app = typer.Typer(
    help="Apply files by the workers of a cluster.",
    no_args_is_help=True,
)


@app.command(
    epilog=example("job start s3://jobs/rows.jsonl --wait", "job start rows.csv --id nightly")
)
def start(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL",
            help="Input as for bulk run: a path, or a URL of fsspec, that each worker can read.",
        ),
    ],
    job_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Name of the job. Default: made of the input."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="Folder for the rows and the dead letters that each worker can write. Default: "
            "FILE.jobs/ID.",
        ),
    ] = None,
    partitions: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Partitions of the dialogs: 4 for each worker."),
    ] = 16,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end, and print the result as bulk run.")
    ] = False,
    limit: RowLimitOption = None,
    only_dialog: OnlyDialogOption = None,
    input_format: FormatOption = None,
    text_column: TextColumnOption = None,
    column_type: ColumnTypeOption = None,
    decimal: DecimalOption = ".",
    column_map: ColumnMapOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Start a job. It goes on when this command ends.

    Exit status: 0 started. With --wait: 0 all rows applied, 1 some rows not applied or no rows,
    130 interrupted or cancelled. 2 invalid usage, settings or input.
    """

    async def begin(cluster: Client, task_queue: str) -> JobResult | None:
        from cognigy_async.temporal.jobs import job_result, start_job

        handle = await start_job(
            cluster,
            source,
            folder=folder,
            job_id=job_id,
            task_queue=task_queue,
            partitions=partitions,
            options=JobOptions(
                limit=limit,
                only_dialogs=only_dialog or (),
                format=input_format,
                text_columns=text_column or (),
                table=table_options(column_map, column_type, decimal, delimiter, encoding, sheet),
            ),
        )
        name = handle.id.removeprefix(f"{task_queue}-job-")
        if not wait:
            if as_json:
                write_json({"job": name, "workflow_id": handle.id})
            else:
                write_result(name)
            return None
        note(f"Job {name}: it goes on if this command is interrupted.")
        return job_result(await _end_of(handle))

    with report_errors(debug=debug, quiet=quiet, verbose=verbose, usage=(InputError,)):
        result = with_cluster(env_file, source, begin)
        if result is None:
            return
        for line in result.notes:
            note(f"Note: {line}")
        if as_json:
            write_json(result.record())
        else:
            _write(result)
    if result.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(0 if result.ok and result.inputs else NOT_APPLIED)


@app.command(epilog=example("job status nightly"))
def status(
    job_id: JobArgument,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the numbers of a job.

    They are JSON. The member problems has failures for which workers try again.

    Exit status: 0 printed, 1 no such job or no worker, 2 invalid usage or settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        write_json(_with_job(job_id, env_file, _status))


def _add_signal(name: str, text: str) -> None:
    async def send(_: Client, handle: Handle) -> None:
        await handle.signal(name)

    @app.command(name, help=text, epilog=example(f"job {name} nightly"))
    def command(
        job_id: JobArgument,
        env_file: EnvFileOption = None,
        quiet: QuietOption = False,
        verbose: VerboseOption = False,
        debug: DebugOption = False,
    ) -> None:
        with report_errors(debug=debug, quiet=quiet, verbose=verbose):
            _with_job(job_id, env_file, send)


_add_signal("pause", "Send no more rows until resume.\n\nRequests in flight finish.")
_add_signal("resume", "Go on with a job after pause.")
_add_signal("cancel", "End a job.\n\nRequests in flight finish.")


@app.command("dead-letters", epilog=example("job dead-letters nightly > dead.jsonl"))
def dead_letters(
    job_id: JobArgument,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the rows that were not applied.

    They are as bulk run writes them. The command needs access to the job folder.

    Exit status: 0 printed, 1 no such job, no worker or no access to the folder, 2 invalid usage or
    settings.
    """

    async def write(_: Client, handle: Handle) -> None:
        from cognigy_async.temporal.jobs import dead_letters

        for letter in await dead_letters(handle):
            sys.stdout.buffer.write(letter)

    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        _with_job(job_id, env_file, write)


def _with_job(
    job_id: str, env_file: EnvFileOption, use: Callable[[Client, Handle], Awaitable[T]]
) -> T:
    async def found(cluster: Client, task_queue: str) -> T:
        from cognigy_async.temporal.jobs import workflow_id

        return await use(cluster, cluster.get_workflow_handle(workflow_id(job_id, task_queue)))

    return with_cluster(env_file, f"job {job_id!r}", found)


async def _status(cluster: Client, handle: Handle) -> dict[str, Any]:
    from cognigy_async.temporal.jobs import job_status

    return await job_status(cluster, handle)


async def _end_of(handle: Handle) -> dict[str, Any]:
    from temporalio.client import WorkflowFailureError
    from temporalio.exceptions import ApplicationError
    from temporalio.service import RPCError

    try:
        numbers: dict[str, Any] = await handle.result()
        return numbers
    except WorkflowFailureError as error:
        cause: BaseException | None = error.cause
        while cause is not None and not isinstance(cause, ApplicationError):
            cause = cause.__cause__
        if cause is None:
            raise CognigyError(f"the job was ended from outside: {error.cause}") from error
        kind = InputError if cause.type == InputError.__name__ else CognigyError
        raise kind(cause.message) from error
    except RPCError as error:
        raise CognigyError(
            f"the cluster answered {error.status.name}: {error.message}; the job goes on, so do "
            "not start it again, but use job status"
        ) from error


def _write(result: JobResult) -> None:
    counts = {
        "failed": result.failed,
        "ambiguous": result.ambiguous,
        "not done": result.pending,
        "retries": result.retries,
    }
    parts = [f"{result.succeeded} of {result.inputs} rows applied"]
    parts += [f"{number} {what}" for what, number in counts.items() if number]
    requests = counted(result.requests, "request")
    write_result(f"{', '.join(parts)}; {requests} in {duration(result.elapsed)}")
    if result.failed + result.ambiguous:
        say("The command job dead-letters prints the rows that were not applied.")
