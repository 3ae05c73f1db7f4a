"""`cognigy-async bulk run`: start or resume a job."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
)
from cognigy_async._utils.private_files import is_stream
from cognigy_async.bulk import (
    BulkJob,
    InputError,
    JobOptions,
    JobResult,
    JournalError,
    JournalRefusedError,
    LateRows,
)
from cognigy_async.integrations.settings import Settings, name_settings

from .._connection import connections
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
    LimitOptions,
    LoopOption,
    QuietOption,
    TransportOption,
    VerboseOption,
    choose_loop,
    choose_transport,
    format_rate,
    parse_duration,
    parse_rate,
    settings_file,
)
from .._output import (
    counted,
    duration,
    is_quiet,
    note,
    say,
    say_if_possible,
    write_json,
    write_result,
)
from .._run import INTERRUPTED, INTERRUPTS, NOT_APPLIED, USAGE, report_errors
from .dry_run import Pace, check
from .progress import Progress

JOIN = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
"""Makes a command of its words."""
KEPT_OPTIONS = frozenset(
    {
        *("baseline", "baseline_max_age", "coalesce", "context_limit", "env_file"),
        *("max_in_flight", "model", "rate", "transport"),
    }
)
"""Options that also hold for a file of rows that were not applied."""
TABLE_OPTIONS = frozenset({"column_map", "column_type", "text_column", "decimal", "delimiter"})
"""Options that also hold for a file with some rows of a table in UTF-8."""
SECOND_GRACE = 0.5
"""Seconds that requests in flight may still take after a second interrupt."""


def run(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines or CSV (plain, bzip2, gzip, xz or zstd), Excel or Parquet. - reads "
            "stdin.",
        ),
    ],
    journal: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File for the progress. Default: FILE.journal."),
    ] = None,
    dead_letters: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File for the failed rows, each with an added field _error. Default: a file "
            "beside the journal.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Send only session variables that changed since the last run with this file. It "
            "is created if missing.",
        ),
    ] = None,
    baseline_max_age: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Send a variable again if its last write is older, e.g. 12h or 7d.",
        ),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check and count all rows, show columns and estimated time. Send nothing.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write an HTML report. Requires the extra report."),
    ] = None,
    as_json: JsonOption = False,
    max_in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of concurrent requests.")
    ] = (32),
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/SECONDS", help="Rate limit, e.g. 1000/300. Default: COGNIGY_RATE_LIMIT."
        ),
    ] = None,
    coalesce: Annotated[
        bool,
        typer.Option("--coalesce", help="Merge waiting rows of a dialog into one request."),
    ] = False,
    on_failure: Annotated[
        Literal["continue", "pause-dialog", "stop"],
        typer.Option(help="After a row fails: continue, hold back its dialog, or stop the job."),
    ] = "continue",
    max_failures: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Stop the job if more than N rows fail.")
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Apply this many rows first (e.g. 1% or 500). Stop the job if too many fail.",
        ),
    ] = None,
    max_failure_rate: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Stop the job if a larger share of rows fails, e.g. 5%."
        ),
    ] = None,
    limit: RowLimitOption = None,
    only_dialog: OnlyDialogOption = None,
    session_ttl: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Send no row later than this after the begin of the job, e.g. 30m: its session "
            "has ended. A row may have a field expires_at instead.",
        ),
    ] = None,
    input_format: FormatOption = None,
    text_column: TextColumnOption = None,
    column_type: ColumnTypeOption = None,
    decimal: DecimalOption = ".",
    column_map: ColumnMapOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    sheet: SheetOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS",
            help="Refuse rows whose session variables do not fit this pydantic model.",
        ),
    ] = None,
    context_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Largest context or profile of a row: default (65 kB), app (1.5 MB) or bytes. "
            "Default: COGNIGY_CONTEXT_LIMIT.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Resume even if input or options changed, or the journal is incomplete."
        ),
    ] = False,
    transport: TransportOption = None,
    loop: LoopOption = None,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Apply the rows of a file, or resume its job.

    If a journal of the job exists, the command resumes the job and does not send completed rows
    again.

    Exit status: 0 all rows applied, 1 some rows not applied or no rows, 2 invalid usage, settings
    or input, 130 interrupted.
    """
    usage = (InputError, JournalRefusedError)
    with report_errors(debug=debug, quiet=quiet, verbose=verbose, log=False, usage=usage):
        options = JobOptions(
            on_failure=on_failure,
            max_failures=max_failures,
            canary=canary,
            max_failure_rate=max_failure_rate,
            coalesce=coalesce,
            limit=limit,
            only_dialogs=only_dialog or (),
            session_ttl=None
            if session_ttl is None
            else parse_duration(session_ttl, "--session-ttl"),
            format=input_format,
            text_columns=text_column or (),
            baseline=baseline,
            baseline_max_age=None
            if baseline_max_age is None
            else parse_duration(baseline_max_age, "--baseline-max-age"),
            table=table_options(column_map, column_type, decimal, delimiter, encoding, sheet),
        )
        rate_limit = None if rate is None else parse_rate(rate)
        limit_options = LimitOptions(model, context_limit)
        if dry:
            pace = Pace(BulkJob(file, journal=journal).journal, max_in_flight)
            status = check(
                file, options, rate_limit, limit_options, env_file, pace, as_json=as_json
            )
            raise typer.Exit(status)
        settings = Settings(env_file=settings_file(env_file))
        api, tokens = connections(settings)
        arguments = settings.client_arguments(token_transport=tokens.token_transport())
        if rate_limit is not None:
            arguments["rate_limit"] = rate_limit
        limits = limit_options.apply(arguments["api"].limits)
        job = BulkJob(
            file,
            journal=journal,
            dead_letters=dead_letters,
            options=options,
            circumstances={
                "max_in_flight": max_in_flight,
                "rate": format_rate(arguments["rate_limit"]),
                **({} if model is None else {"model": model}),
            },
            force=force,
            on_late=_note_late,
        )
        if report is not None:
            _check_report(report, job)
        client = AsyncStateClient(
            **arguments,
            limits=limits,
            max_in_flight=max_in_flight,
            on_failure="continue" if on_failure == "continue" else "pause",
            transport=api.transport(choose_transport(transport, with_openssl=api.needs_openssl)),
        )
        result = anyio.run(_run_job, job, client, backend_options=choose_loop(loop).options)
        _print_result(result, job, context, as_json=as_json)
        if report is not None and job.journal.exists():
            _write_report(report, job)
    if result.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if isinstance(result.fault, InputError):
        raise typer.Exit(USAGE)
    raise typer.Exit(0 if result.ok and result.inputs else NOT_APPLIED)


def _note_late(late: LateRows) -> None:
    note(f"Note: {late}")


async def _run_job(job: BulkJob, client: AsyncStateClient) -> JobResult:
    """Run a job with its progress on stderr, until its end or a second interrupt."""
    result: JobResult | None = None
    error: CognigyError | None = None
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signals, job, tasks.cancel_scope)
        if not is_quiet():
            tasks.start_soon(Progress(job, client).run)
        try:
            result = await job.run(client)
        except CognigyError as caught:
            # If raised here, the error would be wrapped in an exception group.
            error = caught
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await client.aclose(drain=False, timeout=SECOND_GRACE)
            raise
        finally:
            tasks.cancel_scope.cancel()
    if error is not None:
        raise error
    if result is None:
        raise KeyboardInterrupt
    return result


async def _stop_on_signals(job: BulkJob, scope: anyio.CancelScope) -> None:
    """Stop after the requests in flight at the first signal; stop at once at the second."""
    with anyio.open_signal_receiver(*INTERRUPTS) as signals:
        first = True
        async for _ in signals:
            if not first:
                say_if_possible(f"Stopped. {how_to_resume()}")
                scope.cancel()
                return
            first = False
            say_if_possible(
                "Interrupted: waiting for the requests in flight, sending nothing more. "
                "Interrupt again to stop at once."
            )
            job.stop()


def how_to_resume(*, at_limit: bool = False) -> str:
    """Return sentences that end with the command to resume a job: that of this process."""
    words = ["cognigy-async", *sys.argv[1:]]
    force = ["--force"] if at_limit and "--force" not in words else []
    how = "To continue anyway, with a higher limit for failures" if at_limit else "To resume"
    same = ", with the same input" if "-" in words else ""
    return f"All progress is in the journal. {how}{same}: {JOIN([*words, *force])}"


def _print_result(
    result: JobResult, job: BulkJob, context: typer.Context, *, as_json: bool
) -> None:
    least = "" if result.counted else "at least "
    with suppress(OSError):
        for line in result.notes:
            (note if result.inputs else say)(f"Note: {line}")
        if result.ended == "stopped":
            say(f"Stopped: {name_settings(result.reason or '')}", style="red")
        if result.ended == "interrupted":
            say(f"Interrupted. {how_to_resume()}")
        elif result.pending or result.ended == "stopped":
            sentences = []
            if result.pending:
                verb = "is" if result.pending == 1 else "are"
                sentences.append(
                    f"{least.capitalize()}{counted(result.pending, 'row')} {verb} not done."
                )
            # The message of these errors already says what to do.
            if not isinstance(result.fault, InputError | JournalError):
                sentences.append(how_to_resume(at_limit=result.at_limit))
            if sentences:
                say(" ".join(sentences))
        if result.unread:
            verb = "is" if result.unread == 1 else "are"
            say(
                f"{counted(result.unread, 'faulty row')} {verb} in "
                f"{job.faulty_rows}, with the header. Correct them there and run: "
                f"{_command(context, job.faulty_rows, KEPT_OPTIONS | TABLE_OPTIONS)}"
            )
        if result.failed + result.ambiguous > result.unread:
            others = "The others" if result.unread else "Rows that were not applied"
            say(
                f"{others} are in {job.dead_letters}. Correct them if need be and run: "
                f"{_command(context, job.dead_letters, KEPT_OPTIONS)}"
            )
    if as_json:
        write_json(result.record())
        return
    counts = {
        "unchanged": result.unchanged,
        "failed": result.failed,
        "ambiguous": result.ambiguous,
        "not done": result.pending,
        "done before": result.skipped,
        "retries": result.retries,
    }
    parts = [f"{result.succeeded} of {least}{result.inputs} rows applied"]
    parts += [f"{number} {what}" for what, number in counts.items() if number]
    work = f"{counted(result.requests, 'request')} in {duration(result.elapsed)}"
    if result.skipped == result.inputs > 0:
        work = "nothing was left to do"
    write_result(f"{', '.join(parts)}; {work}")


def _command(context: typer.Context, file: Path, options: frozenset[str]) -> str:
    """Return the command that runs a file with those of these options that were given."""
    words = ["cognigy-async", "bulk", "run", str(file)]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name not in options or not value or value == parameter.get_default(context):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], *([] if one is True else [str(one)])]
    return JOIN(words)


def _check_report(path: Path, job: BulkJob) -> None:
    """Raise if the report cannot be written, or would overwrite a file of the job."""
    folder = Path(os.path.realpath(path.parent))
    if path.resolve() in {
        Path(file).resolve()
        for file in (job.source, job.journal, job.dead_letters, job.options.baseline)
        if file is not None
    }:
        raise ConfigurationError(f"--report {path} would overwrite a file of the job; name another")
    if not folder.is_dir():
        raise ConfigurationError(f"--report {path}: the folder {folder} does not exist; create it")
    if path.is_dir() or not os.access(path if is_stream(path) else folder, os.W_OK):
        raise ConfigurationError(f"--report {path} cannot be written; name another file")
    if find_spec("matplotlib") is None:
        raise ConfigurationError(
            "--report needs matplotlib; install it with: pip install 'cognigy-async[report]'"
        )
    from cognigy_async.bulk.report import check_report

    try:
        check_report(path)
    except OSError as error:
        raise ConfigurationError(f"--report {path} cannot be written: {error.strerror}") from error


def _write_report(path: Path, job: BulkJob) -> None:
    from cognigy_async.bulk.report import write_report

    try:
        write_report(job.journal, path)
    except OSError as error:
        raise OSError(
            f"the report {path} cannot be written: {error.strerror}. The job itself is unaffected. "
            "Run the command again with another --report path to create only the report"
        ) from error
    note(f"The report is in {path}.")
