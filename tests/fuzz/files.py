"""Mutated files: inputs of each format, journals, audit files and settings."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Self

import anyio
import anyio.lowlevel

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    CognigyError,
    JsonLinesAudit,
    Request,
    Response,
    RuntimeApi,
    read_audit,
    verify_audit,
)
from cognigy_async.bulk import BulkJob, JobOptions, dry_run, explain_dialog, read_summary
from cognigy_async.bulk.report.html import write_report
from cognigy_async.cli._connection import connections
from cognigy_async.integrations.settings import Settings

from .cells import change
from .mutations import mutate

ROWS = 40


class Answers:
    """A transport without a network, which may call something at one of its requests."""

    def __init__(self, at: int = 0, call: Callable[[], object] | None = None) -> None:
        self._until = at
        self._call = call

    async def send(self, request: Request, *, timeout: float) -> Response:
        await anyio.lowlevel.checkpoint()
        self._until -= 1
        if self._until == 0 and self._call is not None:
            self._call()
        return Response(200, {}, b"{}")

    async def aclose(self) -> None:
        pass


def client_of(transport: Answers, audit: JsonLinesAudit | None = None) -> AsyncStateClient:
    return AsyncStateClient(
        "http://localhost", auth=ApiKey("c4nary"), transport=transport, audit=audit
    )


async def run_job(job: BulkJob, transport: Answers) -> str:
    async with client_of(transport) as client:
        with anyio.move_on_after(10) as scope:
            result = await job.run(client)
            # What is read once is counted once.
            assert result.inputs >= result.succeeded + result.failed
            return result.reason or "done"
    assert scope.cancelled_caught
    raise TimeoutError


class InFolder:
    """Something that needs no resources but a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


def lines() -> bytes:
    values = (1, -2.5, "text", "h\u00e9llo", 0, True, [1, {"b": "c"}], {"deep": {"er": 1}})
    rows = [
        {"dialog_id": f"d-{n % 7}", "session": {"a": values[n % 8]}, "update_id": f"u-{n}"}
        for n in range(ROWS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table() -> bytes:
    head = "dialog_id,session.a,session.b,user.e,update_id\r\n"
    cells = ("1", "x", '"two, and\r\nthree"', "true", "1.50", "")
    rows = [f"d-{n % 7},{cells[n % 6]},h\u00e9,{n},u-{n}\r\n" for n in range(ROWS)]
    return (head + "".join(rows)).encode("utf-8-sig")


def parquet() -> bytes:
    import polars

    frame = polars.DataFrame(
        {
            "dialog_id": [f"d-{n % 7}" for n in range(ROWS)],
            "session.a": [n * 0.5 for n in range(ROWS)],
            "session.b": [None if n % 3 else f"text {n}" for n in range(ROWS)],
            "session.c": [[n, n + 1] for n in range(ROWS)],
            "session.d": [{"e": n, "f": "x"} for n in range(ROWS)],
            "next_step": [n % 2 == 0 for n in range(ROWS)],
        }
    )
    frame = frame.with_columns(polars.col("next_step").cast(polars.String).alias("session.g"))
    file = io.BytesIO()
    frame.drop("next_step").write_parquet(file, row_group_size=10)
    return file.getvalue()


def _zstd(content: bytes) -> bytes:
    import zstandard

    packed: bytes = zstandard.compress(content)
    return packed


MAKE: dict[str, Callable[[], bytes]] = {
    "jsonl": lines,
    "csv": table,
    "parquet": parquet,
    "jsonl.gz": lambda: gzip.compress(lines()),
    "csv.bz2": lambda: bz2.compress(table()),
    "jsonl.xz": lambda: lzma.compress(lines()),
    "jsonl.zst": lambda: _zstd(lines()),
}
FORMATS = tuple(MAKE)


class Rows(InFolder):
    """A dry run of a mutated input, and every fifth time the job."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(folder)
        self._kind = kind
        self._original = MAKE[kind]()

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        self.clear()
        path = self.folder / f"rows.{self._kind}"
        path.write_bytes(mutate(self._original, chance))
        found = dry_run(path, JobOptions(), api=RuntimeApi(), on_fault=str)
        if chance.randrange(5):
            return "faults" if found.faulty else "no fault"
        ended = anyio.run(run_job, BulkJob(path), Answers())
        summary = read_summary(f"{path}.journal")
        assert summary.totals.succeeded <= found.rows
        return f"job: {ended}"


class Journals(InFolder):
    """A mutated journal, of a run that was stopped or cut off, for each command that reads one."""

    def __enter__(self) -> Self:
        self._path = self.folder / "rows.jsonl"
        self._path.write_bytes(lines())
        self._journal = self.folder / "rows.jsonl.journal"
        job = BulkJob(self._path)
        self._originals: list[dict[Path, bytes]] = []
        # What a crash leaves, and what a stop does.
        anyio.run(run_job, job, Answers(ROWS // 2, self._keep))
        self.clear()
        self._path.write_bytes(lines())
        job = BulkJob(self._path)
        anyio.run(run_job, job, Answers(ROWS // 2, job.stop))
        self._keep()
        return self

    def _keep(self) -> None:
        paths = (self._journal, Path(f"{self._journal}-wal"))
        self._originals.append({path: path.read_bytes() for path in paths if path.exists()})

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        self.clear()
        self._path.write_bytes(lines())
        files = dict(chance.choice(self._originals))
        in_cells = chance.random() < 0.3
        if not in_cells:
            changed = chance.choice(list(files))
            files[changed] = mutate(files[changed], chance)
        for path, content in files.items():
            path.write_bytes(content)
        if in_cells:
            change(self._journal, chance)
        read = [_outcome(lambda: read_summary(self._journal))]
        read.append(_outcome(lambda: explain_dialog(self._journal, "d-3")))
        read.append(_outcome(lambda: write_report(self._journal, self.folder / "report.html")))
        ended = anyio.run(run_job, BulkJob(self._path), Answers())
        return f"resumed: {ended}; reads failed: {sum(read)}"


def _outcome(call: Callable[[], object]) -> bool:
    try:
        call()
    except CognigyError as error:
        str(error)
        return True
    return False


class AuditFiles(InFolder):
    """A mutated audit file, verified, read and continued."""

    KEY = b"0123456789abcdef0123456789abcdef"

    def __enter__(self) -> Self:
        path = self.folder / "audit.jsonl"
        anyio.run(self._write, path, ROWS)
        self._original = path.read_bytes()
        report = verify_audit([path], key=self.KEY)
        assert report.ok
        self._heads = report.heads
        return self

    async def _write(self, path: Path, count: int) -> None:
        audit = JsonLinesAudit(path, key=self.KEY)
        async with client_of(Answers(), audit) as client:
            for number in range(count):
                await client.update(f"d-{number}", session={"a": number})

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        self.clear()
        path = self.folder / "audit.jsonl"
        content = mutate(self._original, chance)
        path.write_bytes(content)
        report = verify_audit([path], key=self.KEY, heads=self._heads)
        # A line end in place of another one is no change of a record.
        same = content.splitlines() == self._original.splitlines()
        assert not report.ok or same, "a change is not found"
        str(report)
        read = _outcome(lambda: list(read_audit(path)))
        if not chance.randrange(10):
            try:
                anyio.run(self._write, path, 1)
            except CognigyError:
                return "not continued"
            return "continued"
        return f"{'intact' if report.ok else 'fault'}{', not read' if read else ''}"


VARIABLES = {
    "BASE_URL": "https://tenant.example",
    "API": "runtime",
    "API_KEY": "k" * 40,
    "CLIENT_ID": "me",
    "CLIENT_SECRET": "c4nary",
    "TOKEN_URL": "https://tenant.example/oauth/token",
    "SCOPES": "runtime:write dialog:read",
    "RATE_LIMIT": "1000/300 10/1",
    "ALLOW_INSECURE": "false",
    "PROXY": "http://me:pw@proxy.example:3128",
    "AUDIT_KEY": "k" * 32,
    "USER_ID": "user",
    "INJECT": "merge",
    "READS_STATE": "true",
    "CONTEXT_LIMIT": "300000",
}


class SettingsFiles(InFolder):
    """Mutated settings, from a file and from the environment."""

    def run(self, seed: int) -> str:
        chance = random.Random(seed)
        self.clear()
        for name in [name for name in os.environ if name.startswith("COGNIGY_")]:
            del os.environ[name]
        names = chance.sample(list(VARIABLES), chance.randrange(1, len(VARIABLES)))
        pairs = {f"COGNIGY_{name}": VARIABLES[name].encode() for name in names}
        file = self.folder / "env"
        text = b"".join(b"%b=%b\n" % (name.encode(), value) for name, value in pairs.items())
        in_file = chance.random() < 0.5
        file.write_bytes(mutate(text, chance) if in_file else b"")
        file.chmod(0o600)
        if not in_file:
            for name, value in pairs.items():
                changed = mutate(value, chance) if chance.random() < 0.5 else value
                # No process can have a null byte in its environment.
                os.environb[name.encode()] = changed.replace(b"\0", b"")[:100_000]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = Settings(env_file=file)
            settings.client_arguments()
            connections(settings)
        repr(settings)
        return "used"
