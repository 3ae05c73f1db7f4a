"""The command `cognigy-async doctor`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import anyio
import typer

from cognigy_async import ConfigurationError
from cognigy_async.integrations.settings import (
    DEFAULT,
    REMEDY,
    Settings,
    join_by_source,
    name_settings,
    setting_sources,
)

from .._connection import connections
from .._options import (
    DebugOption,
    EnvFileOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    settings_file,
)
from .._output import console, is_quiet, printable, write_json
from .._run import NOT_APPLIED, USAGE, report_errors
from .checks import NO_DIALOG, Connections, Finding, run_checks

STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    dialog_id: Annotated[
        str, typer.Option("--dialog", metavar="ID", help="Dialog to read.")
    ] = NO_DIALOG,
    session_id: Annotated[
        str | None,
        typer.Option(
            "--probe-session",
            metavar="ID",
            help="Write to this session to find out whether inject merges or replaces. Give a "
            "session that nobody uses. Only with COGNIGY_API=sessions.",
        ),
    ] = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Check settings and access to the server.

    The command checks settings, DNS, TLS, token, credentials (by one read), which APIs the server
    has (by three reads), clock and throttling. The command writes nothing, except with
    --probe-session.

    Exit status: 0 no check failed, 1 a check failed, 2 invalid settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose, log=False):
        findings = _Findings(printed=not as_json)
        status = anyio.run(_check_all, findings, env_file, dialog_id, session_id)
        if as_json:
            checks = [asdict(finding) for finding in findings.all]
            write_json({"ok": status == 0, "sources": findings.sources, "checks": checks})
    raise typer.Exit(status)


class _Findings(logging.Handler):
    """The findings so far, including warnings about settings that the library logs."""

    def __init__(self, *, printed: bool) -> None:
        super().__init__(logging.WARNING)
        self.all: list[Finding] = []
        self.sources: dict[str, str] = {}
        self._printed = printed

    def emit(self, record: logging.LogRecord) -> None:
        remedy = "Check its spelling, or remove it."
        self.add(Finding("settings", "warning", record.getMessage(), remedy))

    def add(self, finding: Finding) -> None:
        """Keep a finding, and print it unless the output is JSON."""
        self.all.append(finding)
        if self._printed and not (is_quiet() and finding.status in ("ok", "skipped")):
            print_finding(finding)


def print_finding(finding: Finding) -> None:
    """Print a finding on stdout, with its remedy below it."""
    out = console()
    out.print(f"{finding.status:8}", style=STYLES[finding.status], end="", markup=False)
    detail = printable(finding.detail)
    out.print(f"{finding.check:11}{detail}", markup=False, soft_wrap=True)
    if finding.remedy:
        out.print(f"{'':19}{printable(finding.remedy)}", markup=False, soft_wrap=True)


def _origins(sources: Mapping[str, str]) -> str:
    """Return the source of each setting, in parentheses; nothing if no setting could be read."""
    chosen = {name: source for name, source in sources.items() if source != DEFAULT}
    return f" ({join_by_source(chosen)}; default: all others)" if chosen else ""


async def _check_all(
    findings: _Findings, env_file: Path | None, dialog_id: str, session_id: str | None
) -> int:
    """Run all checks; return the exit status."""
    logger = logging.getLogger("cognigy_async")
    logger.addHandler(findings)
    try:
        file = settings_file(env_file)
        findings.sources = setting_sources(file)
        settings = Settings(env_file=file)
        ways = Connections(*connections(settings))
    except ConfigurationError as error:
        remedy = REMEDY if REMEDY in str(error) else "Correct this setting where it is set."
        detail = name_settings(str(error).replace(REMEDY, "").strip())
        detail += _origins(findings.sources)
        findings.add(Finding("settings", "failed", detail, name_settings(remedy)))
        return USAGE
    finally:
        logger.removeHandler(findings)
    if session_id is not None and settings.api != "sessions":
        raise typer.BadParameter("--probe-session requires COGNIGY_API=sessions")
    async for finding in run_checks(settings, ways, dialog_id, session_id):
        described = (finding.check, finding.status) == ("settings", "ok")
        origins = _origins(findings.sources) if described else ""
        findings.add(replace(finding, detail=finding.detail + origins))
    return NOT_APPLIED if any(finding.status == "failed" for finding in findings.all) else 0
