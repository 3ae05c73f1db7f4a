"""A program that becomes another user and then writes files of each kind.

Arguments: the id of the user, and a folder. It prints, as JSON, an error for each kind that could
not be written, and null for the others.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    CognigyError,
    HttpxTransport,
    JsonLinesAudit,
    RateLimit,
)
from cognigy_async.bulk import BulkJob
from cognigy_async.emulator import Emulator

ROWS = b'{"dialog_id":"d","session":{"a-b":"private value"}}\n'


async def _job(folder: Path) -> None:
    emulator = Emulator(api_key="k")
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator))
    async with (
        http,
        AsyncStateClient(
            "http://localhost", auth=ApiKey("k"), transport=HttpxTransport(http)
        ) as client,
    ):
        await BulkJob(folder / "rows.jsonl", journal=folder / "job").run(client)


def _audit(folder: Path) -> None:
    sink = JsonLinesAudit(folder / "audit.jsonl")
    sink.open()
    sink.close()


def _quota(folder: Path) -> None:
    limit = RateLimit(10, per=1, shared=folder / "quota")
    AsyncStateClient("http://localhost", auth=ApiKey("k"), rate_limit=limit)


def _report(folder: Path) -> None:
    from cognigy_async.bulk.report import write_report

    write_report(folder / "job", folder / "report.html")


def _write_all(folder: Path, *, with_report: bool) -> dict[str, str | None]:
    kinds = {"job": lambda at: anyio.run(_job, at), "audit": _audit, "quota": _quota}
    if with_report:
        kinds["report"] = _report
    problems: dict[str, str | None] = {}
    for kind, write in kinds.items():
        problems[kind] = None
        try:
            write(folder)
        except (CognigyError, OSError) as error:
            problems[kind] = str(error)
    return problems


def main() -> None:
    user, folder = int(sys.argv[1]), Path(sys.argv[2])
    with_report = "--report" in sys.argv
    with TemporaryDirectory() as own:
        # Other users may be unable to read the modules that this imports late.
        (Path(own) / "rows.jsonl").write_bytes(ROWS)
        _write_all(Path(own), with_report=with_report)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.umask(0)
    print(json.dumps(_write_all(folder, with_report=with_report)))


if __name__ == "__main__":
    main()
