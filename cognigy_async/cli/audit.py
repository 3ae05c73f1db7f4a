"""`cognigy-async audit`: verify audit files, and print what they record of a dialog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from cognigy_async import AuditRecord, read_audit, verify_audit
from cognigy_async.integrations.settings import Credentials

from ._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    example,
    read_secret,
    settings_file,
)
from ._output import counted, note, say, write_result
from ._run import NOT_APPLIED, report_errors

app = typer.Typer(help="Verify audit files, or print their records.", no_args_is_help=True)

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="Audit files of JsonLinesAudit, in any order.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]


@app.command(epilog=example("audit verify audit-*.jsonl --head HASH"))
def verify(
    files: FilesArgument,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HASH",
            help="Hash of a record, saved elsewhere; a record must have it. Repeatable.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Hash of the record just before these files begin."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File with the key of the audit. Default: the variable COGNIGY_AUDIT_KEY.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check that no record was changed.

    The command names the first record that was changed, removed, added or moved. Pass every file of
    a chain once. Only --head finds missing records at the end of a chain, and an older copy in
    place of its files.

    Exit status: 0 all records are intact, 1 some records are not, 2 invalid usage.
    """
    with report_errors(debug=debug, quiet=quiet):
        report = verify_audit(files, key=_key(key_file, env_file), heads=head or (), after=after)
        for path in report.torn:
            say(f"{path} ends with an incomplete record, as after a crash; it is ignored.")
        for fault in report.faults:
            say(str(fault), style="red")
        why = "the end of the chain is missing, or this is an older copy"
        if report.faults:
            why = "no intact record has it"
        for missing in report.missing:
            say(f"No record has the hash {missing}: {why}.", style="red")
        if not report.ok:
            raise typer.Exit(NOT_APPLIED)
        unconfirmed = [chain for chain in report.chains if not chain.confirmed]
        if unconfirmed:
            names = ", ".join(chain.chain_id or "without an id" for chain in unconfirmed)
            note(
                f"No --head is of the chain {names}. Without one nobody can tell whether its last "
                "records are missing, or whether this is an older copy. Keep its head elsewhere."
            )
        number, size = counted(report.records, "record"), counted(len(files), "file")
        write_result(f"{number} in {size}: all intact")
        for last in report.heads:
            write_result(f"head {last}")


@app.command(epilog=example("audit show audit-*.jsonl --dialog d-8f3a"))
def show(
    files: FilesArgument,
    dialog: Annotated[str, typer.Option(metavar="ID", help="Dialog id.")],
    debug: DebugOption = False,
) -> None:
    """Print the records of a dialog.

    The command sorts the records by time and does not verify them.

    Exit status: 0 records printed, 1 the files have no record of the dialog, 2 invalid usage.
    """
    with report_errors(debug=debug):
        records = [
            record for path in files for record in read_audit(path) if record.dialog_id == dialog
        ]
        if not records:
            say(f"No record of dialog {dialog!r}.")
            raise typer.Exit(NOT_APPLIED)
        for record in sorted(records, key=lambda record: record.timestamp):
            write_result(" | ".join(map(_printable, _fields(record))))


def _key(key_file: Path | None, env_file: Path | None) -> bytes | SecretStr | None:
    if key_file is None:
        return Credentials(env_file=settings_file(env_file)).audit_key
    if env_file is not None:
        raise typer.BadParameter("give either --key-file or --env-file, not both")
    return read_secret("--key-file", key_file)


def _fields(record: AuditRecord) -> Iterator[str]:
    yield record.timestamp.isoformat(sep=" ", timespec="milliseconds")
    yield record.outcome if record.error is None else f"{record.outcome}: {record.error}"
    yield f"update {record.update_id}"
    yield ", ".join(record.variables) or "no variables"
    yield f"HTTP {record.status}" if record.status is not None else "no response"
    yield f"attempts {record.attempts}"
    if record.latency_ms is not None:
        yield f"{record.latency_ms:.1f} ms"
    if record.etag is not None or record.version is not None:
        yield f"version {record.etag or record.version}"
    if record.trace_id is not None:
        yield f"trace id {record.trace_id}"
    if record.metadata:
        yield ", ".join(f"{name}={text}" for name, text in record.metadata.items())


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)
