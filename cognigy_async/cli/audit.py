"""`cognigy-async audit`: whether audit files are whole, and what they tell of one dialog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import SecretStr

from cognigy_async import AuditRecord, AuditReport, ConfigurationError, read_audit, verify_audit
from cognigy_async.integrations.settings import Credentials

from .output import say, write_result
from .running import Debug, reported

DOES_NOT_FIT = 1

app = typer.Typer(
    help="Verify audit files, or show what they tell of a dialog.", no_args_is_help=True
)

Files: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="Files that JsonLinesAudit wrote, in any order.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]


@app.command()
def verify(
    files: Files,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="HASH",
            help="The hash of a record, kept elsewhere, that must be there. Repeatable.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="HASH", help="The hash of the last record before these files."
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="PATH",
            help="Holds the key; without it the variable COGNIGY_AUDIT_KEY does, if it is set.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Check that no record was changed, removed, added or moved; name the first that does not fit.

    Give all files of a chain. Exit status: 0 everything fits, 1 something does not, 2 bad usage.
    """
    with reported(debug=debug):
        report = verify_audit(files, key=_key(key_file), heads=head or (), after=after)
        for path in report.torn:
            say(f"{path}: a record at its end is not whole, as a crash leaves it; it is left out.")
        for fault in report.faults:
            say(str(fault), style="red")
        for missing in report.missing:
            why = "none that fits" if report.faults else "the end is missing"
            say(f"There is no record with the hash {missing}: {why}.", style="red")
        if not report.ok:
            raise typer.Exit(DOES_NOT_FIT)
        write_result("\n".join(_told(report, len(files))))


@app.command()
def show(
    files: Files,
    dialog: Annotated[str, typer.Option("--dialog", metavar="ID", help="The dialog.")],
    debug: Debug = False,
) -> None:
    """Print what happened to a dialog, the oldest first. Nothing is verified by it."""
    with reported(debug=debug):
        records = [
            record for path in files for record in read_audit(path) if record.dialog_id == dialog
        ]
        if not records:
            say("There is no record of this dialog.")
            raise typer.Exit(DOES_NOT_FIT)
        for record in sorted(records, key=lambda record: record.timestamp):
            write_result(" | ".join(map(_printable, _line(record))))


def _key(key_file: Path | None) -> bytes | SecretStr | None:
    if key_file is None:
        return Credentials().audit_key
    key = key_file.read_bytes().rstrip(b"\r\n")
    if not key:
        raise ConfigurationError(f"{key_file} holds no key.")
    return key


def _told(report: AuditReport, files: int) -> Iterator[str]:
    yield f"{report.records} records in {files} {'file' if files == 1 else 'files'}: all fit"
    for head in report.heads:
        yield f"head {head}"


def _line(record: AuditRecord) -> Iterator[str]:
    yield record.timestamp.isoformat(sep=" ", timespec="milliseconds")
    yield record.outcome if record.error is None else f"{record.outcome}: {record.error}"
    yield f"update {record.update_id}"
    yield ", ".join(record.variables) or "no variables"
    yield f"HTTP {record.status}" if record.status is not None else "no answer"
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
