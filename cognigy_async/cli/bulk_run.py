"""`cognigy-async bulk run`: a job, begun or resumed."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import anyio
import typer

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
    RateLimit,
    RuntimeApi,
    StateApi,
)
from cognigy_async.bulk import (
    BulkJob,
    InputError,
    JobOptions,
    JobResult,
    JournalError,
    JournalRefusedError,
    RowFault,
    dry_run,
)
from cognigy_async.integrations.settings import ClientArguments, Settings

from .bulk_progress import Progress, duration
from .output import say, say_if_seen, write_json, write_result
from .over import Loop, Over, TransportName, loop_of, transport_of
from .rates import parse_rate, told_rate
from .running import INTERRUPTED, INTERRUPTS, NOT_APPLIED, USAGE, Debug, reported
from .wording import as_settings

CUT_OFF = 0.5
"""Seconds that requests in flight are given at a second interrupt."""


class OnFailure(StrEnum):
    """What a row that was not applied means for the others."""

    CONTINUE = "continue"
    PAUSE_DIALOG = "pause-dialog"
    STOP = "stop"


class Format(StrEnum):
    """Of the input."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def run(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="JSON Lines (also gzip, zstd), CSV or Parquet; - for stdin."
        ),
    ],
    journal: Annotated[
        Path | None,
        typer.Option(metavar="J", help="Remembers what was done; FILE.journal by default."),
    ] = None,
    dead_letters: Annotated[
        Path | None,
        typer.Option(metavar="D", help="Rows that were not applied; beside J by default."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check all rows, count, and send nothing.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="R.html", help="Write a report; extra: report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with a JSON object.")] = False,
    max_in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests at a time.")
    ] = 32,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/SECONDS",
            help="The quota, as 1000/300; by default what COGNIGY_RATE_LIMIT says.",
        ),
    ] = None,
    coalesce: Annotated[
        bool, typer.Option("--coalesce", help="Rows that wait for the same dialog share a request.")
    ] = False,
    on_failure: Annotated[
        OnFailure, typer.Option(help="What a row that was not applied means for the others.")
    ] = OnFailure.CONTINUE,
    max_failures: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Stop when more than N rows were not applied."),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="So many rows first, as 1% or 500; judge them."),
    ] = None,
    max_failure_rate: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Stop when more than that fails, as 5%."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N rows.")
    ] = None,
    only_dialog: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this dialog. Repeatable.")
    ] = None,
    input_format: Annotated[
        Format | None, typer.Option("--format", help="Of FILE, where its name does not tell.")
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A column of CSV that is text, not JSON. Repeatable."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Resume with another input or other options.")
    ] = False,
    transport: Over = None,
    loop: Loop = None,
    debug: Debug = False,
) -> None:
    """Apply the rows of FILE. With a journal that is there already, go on where it ends.

    Exit status: 0 all applied, 1 some not, 2 bad usage, settings or input, 130 interrupted.
    """
    with reported(debug=debug, news=False, usage=(InputError, JournalRefusedError)):
        options = JobOptions(
            on_failure=on_failure.value,
            max_failures=max_failures,
            canary=canary,
            max_failure_rate=max_failure_rate,
            coalesce=coalesce,
            limit=limit,
            only_dialogs=tuple(only_dialog or ()),
            format=None if input_format is None else input_format.value,
            text_columns=tuple(text_column or ()),
        )
        limits = None if rate is None else parse_rate(rate)
        if dry:
            raise typer.Exit(_dry_run(file, options, limits, as_json=as_json))
        settings = Settings()
        arguments = settings.client_arguments()
        if limits is not None:
            arguments["rate_limit"] = limits
        job = BulkJob(
            file,
            journal=journal,
            dead_letters=dead_letters,
            options=options,
            circumstances={
                "max_in_flight": max_in_flight,
                "rate": told_rate(arguments["rate_limit"]),
            },
            force=force,
        )
        if report is not None:
            _check_report(report, job)
        running = _Run(job, arguments, max_in_flight, transport_of(transport))
        result = anyio.run(running.run, backend_options=loop_of(loop).options)
        _tell(result, job, as_json=as_json)
        if report is not None:
            _write_report(report, job)
    raise typer.Exit(_status(result))


def _status(result: JobResult) -> int:
    if result.ended == "interrupted":
        return INTERRUPTED
    if isinstance(result.fault, InputError):
        return USAGE
    return 0 if result.ok else NOT_APPLIED


@dataclass(slots=True)
class _Run:
    """A job with its client, the progress and the signals."""

    job: BulkJob
    arguments: ClientArguments
    max_in_flight: int
    transport: TransportName

    async def run(self) -> JobResult:
        pauses = self.job.options.on_failure != "continue"
        client = AsyncStateClient(
            **self.arguments,
            max_in_flight=self.max_in_flight,
            on_failure="pause" if pauses else "continue",
            transport=self.transport.made(),
        )
        result: JobResult | None = None
        error: CognigyError | None = None
        async with client, anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, tasks.cancel_scope)
            tasks.start_soon(Progress(self.job, client).run)
            try:
                result = await self.job.run(client)
            except CognigyError as caught:
                # Raised here it would come out as a group.
                error = caught
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await client.aclose(drain=False, timeout=CUT_OFF)
                raise
            finally:
                tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        if result is None:
            raise KeyboardInterrupt
        return result

    async def _listen(self, scope: anyio.CancelScope) -> None:
        """The first signal lets what is in flight end, the second does not."""
        with anyio.open_signal_receiver(*INTERRUPTS) as signals:
            first = True
            async for _ in signals:
                if not first:
                    say_if_seen(f"Stopped. {how_to_resume(self.job)}")
                    scope.cancel()
                    return
                first = False
                say_if_seen(
                    "Interrupted: what is in flight ends now, and nothing more is sent. Interrupt "
                    "again to stop at once."
                )
                self.job.stop()


def how_to_resume(job: BulkJob, *, after_limit: bool = False) -> str:
    """What to type to go on."""
    command = ["cognigy-async", "bulk", "run", str(job.source), "--journal", str(job.journal)]
    if after_limit:
        return (
            f"The journal has everything. To go on all the same: {shlex.join(command)} --force, "
            "with a higher limit for failures, and otherwise the same options."
        )
    return (
        f"The journal has everything. To go on: {shlex.join(command)}, with the same options as "
        "before."
    )


def _tell(result: JobResult, job: BulkJob, *, as_json: bool) -> None:
    with suppress(OSError):
        for text in result.notes:
            say(f"Note: {text}")
        if result.ended == "stopped":
            say(f"Stopped: {result.reason}", style="red")
        if result.ended == "interrupted":
            say(f"Interrupted. {how_to_resume(job)}")
        else:
            left = "1 row is" if result.pending == 1 else f"{result.pending} rows are"
            told = [f"{left} not done."] if result.pending else []
            # A fault of the input or of the journal says itself what to do.
            says_itself = isinstance(result.fault, InputError | JournalError)
            if (result.pending or result.ended == "stopped") and not says_itself:
                told.append(how_to_resume(job, after_limit=result.at_limit))
            if told:
                say(" ".join(told))
        if result.failed or result.ambiguous:
            say(f"What was not applied is in {job.dead_letters}, ready to run again.")
    if as_json:
        write_json(result.record())
        return
    parts = [f"{result.succeeded} of {result.inputs} rows applied"]
    parts += [
        f"{number} {what}"
        for number, what in (
            (result.failed, "failed"),
            (result.ambiguous, "ambiguous"),
            (result.pending, "not done"),
            (result.skipped, "done before"),
            (result.retries, "retries"),
        )
        if number
    ]
    write_result(f"{', '.join(parts)}; {result.requests} requests in {duration(result.elapsed)}")


def _dry_run(
    file: str, options: JobOptions, limits: tuple[RateLimit, ...] | None, *, as_json: bool
) -> int:
    api: StateApi = RuntimeApi()
    try:
        arguments = Settings().client_arguments()
        api = arguments["api"]
        if limits is None and isinstance(arguments["rate_limit"], tuple):
            limits = arguments["rate_limit"]
    except ConfigurationError as error:
        say(f"Note: the settings do not suffice for a run yet. {error}")
    tell = say if as_json else write_result

    def on_fault(fault: RowFault) -> None:
        tell(as_settings(str(fault)))

    found = dry_run(file, options, api=api, rate_limit=limits, on_fault=on_fault)
    for text in found.notes:
        say(f"Note: {text}")
    if as_json:
        write_json(found.record())
    else:
        under = "" if found.seconds is None else f", {duration(found.seconds)} under the quota"
        write_result(
            f"{found.rows} rows, {found.dialogs} dialogs, {found.requests} requests{under}; "
            f"{found.faulty} rows with {found.faults} faults"
        )
    return NOT_APPLIED if found.faulty else 0


def _check_report(path: Path, job: BulkJob) -> None:
    """Before hours of work: can it be written, and is it a file of its own?"""
    files = {"input": job.source, "journal": job.journal, "dead letters": job.dead_letters}
    for name, other in files.items():
        if Path(other).resolve() == path.resolve():
            raise ConfigurationError(f"the report and the {name} are one file, {path}")
    if not path.resolve().parent.is_dir():
        raise ConfigurationError(f"the report {path} cannot be written: there is no such folder")
    if path.is_dir() or not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise ConfigurationError(
            f"the report {path} cannot be written; name a file in a folder that can, with --report"
        )
    if find_spec("matplotlib") is None:
        raise ConfigurationError(
            "a report needs matplotlib, which comes with an extra: "
            "pip install 'cognigy-async[report]'"
        )


def _write_report(path: Path, job: BulkJob) -> None:
    from cognigy_async.bulk.report import write_report

    try:
        write_report(job.journal, path)
    except OSError as error:
        raise OSError(
            f"the report {path} cannot be written: {error.strerror}. The job is not touched by "
            "that; run the same command again, with another --report, for the report alone"
        ) from error
    say_if_seen(f"The report is in {path}.")
