"""`cognigy-async doctor`: what is wrong between here and the server, and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import anyio
import typer

from cognigy_async import ConfigurationError
from cognigy_async.integrations.settings import REMEDY, Settings

from .checkup import Finding, examine
from .output import console, write_json
from .running import NOT_APPLIED, USAGE, Debug, reported

SPELLING = "Check its spelling, or remove it."
MARKS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    dialog_id: Annotated[
        str, typer.Option("--dialog", metavar="ID", help="The dialog that is read.")
    ] = "cognigy-async-doctor",
    session_id: Annotated[
        str | None,
        typer.Option(
            "--probe-session",
            metavar="ID",
            help="With COGNIGY_API=sessions: write to this session, which nobody must need, and "
            "see whether inject merges or replaces.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    debug: Debug = False,
) -> None:
    """Check settings, DNS, TLS, token, one read, the clock and throttling.

    Without --probe-session nothing is written.

    Exit status: 0 all well, 1 something failed, 2 bad settings.
    """
    tell = _nothing if as_json else _tell
    with reported(debug=debug, news=False):
        settings, findings = _settings()
        for finding in findings:
            tell(finding)
        status = USAGE
        if settings is not None:
            if session_id is not None and settings.api != "sessions":
                raise typer.BadParameter("--probe-session is for COGNIGY_API=sessions")
            findings += anyio.run(_examine, settings, dialog_id, session_id, tell)
            failed = any(finding.status == "failed" for finding in findings)
            status = NOT_APPLIED if failed else 0
        if as_json:
            write_json({"ok": status == 0, "checks": [asdict(finding) for finding in findings]})
    raise typer.Exit(status)


def _settings() -> tuple[Settings | None, list[Finding]]:
    """The settings, unless they are bad, and what is to be said of them."""
    findings: list[Finding] = []
    handler = logging.Handler(logging.WARNING)

    def without_effect(record: logging.LogRecord) -> None:
        findings.append(Finding("settings", "warning", record.getMessage(), SPELLING))

    handler.emit = without_effect  # type: ignore[method-assign]
    logger = logging.getLogger("cognigy_async")
    logger.addHandler(handler)
    try:
        return Settings(), findings
    except ConfigurationError as error:
        detail = str(error).replace(REMEDY, "").strip()
        return None, [*findings, Finding("settings", "failed", detail, REMEDY)]
    finally:
        logger.removeHandler(handler)


async def _examine(
    settings: Settings,
    dialog_id: str,
    session_id: str | None,
    tell: Callable[[Finding], None],
) -> list[Finding]:
    findings = []
    async for finding in examine(settings, dialog_id, session_id):
        findings.append(finding)
        tell(finding)
    return findings


def _nothing(_: Finding) -> None:
    pass


def _tell(finding: Finding) -> None:
    out = console()
    out.print(f"{finding.status:8}", style=MARKS[finding.status], end="", markup=False)
    out.print(f"{finding.check:11}{finding.detail}", markup=False, soft_wrap=True)
    if finding.remedy:
        out.print(f"{'':19}{finding.remedy}", markup=False, soft_wrap=True)
