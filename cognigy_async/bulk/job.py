"""`BulkJob`: applies each row of a file once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from logging import WARNING
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
    QuotaUse,
    StateApi,
)
from cognigy_async._utils.logging import log
from cognigy_async._utils.private_files import is_stream, make_private, open_private

from .baseline import Baseline
from .baseline_filter import BaselineFilter
from .errors import InputError, JournalRefusedError, OtherInputError
from .faulty_rows import FaultyRows
from .input.reader import STDIN
from .input.row import are_dead_letters
from .journal.schema import Totals
from .journal.writer import JournalWriter
from .late_rows import LateRows, find_late_rows
from .options import JobOptions
from .resume import OpenedJob, open_job
from .run import JobRun
from .stop_conditions import FIRST_FAILURE, Ended


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a job.

    Attributes:
        done: Number of completed rows of all runs, including failed rows.
        failed: Number of rows of all runs that were not applied.
        skipped: Number of rows that earlier runs completed.
        seen: Number of rows that were read.
        share: Share of the input that was read, by bytes; None if the input's size is unknown.
        reason, until: Reason of the latest retry, and its time in seconds since 1970.
        total: Number of rows of the job, an estimate unless `counted` is True; None if unknown.
        counted: True if `total` is exact.
        unchanged: Number of done rows of all runs that were not sent, because the baseline says
            that they would change nothing.
    """

    done: int
    failed: int
    skipped: int
    seen: int
    share: float | None
    reason: str | None
    until: float | None
    total: int | None = None
    counted: bool = False
    unchanged: int = 0


RECORDED = (
    *("inputs", "succeeded", "failed", "ambiguous", "skipped", "pending", "requests", "retries"),
    *("elapsed", "quota_utilisation", "ended"),
)
"""Numbers of a result that `bulk run --json` prints, in this order. `unchanged` follows them if the
job has a baseline."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a job. Unless noted, the numbers cover all runs of the job.

    Attributes:
        inputs: Number of rows of the job; if `counted` is False, of those that were read.
        succeeded, failed, ambiguous: Number of completed rows by outcome.
        pending: Number of rows that are not completed: held back behind a failed row, or not
            reached.
        skipped: Number of rows that earlier runs completed.
        requests: Number of requests sent to the API.
        retries: Number of requests that repeated a failed request.
        retries_by_reason: Number of retries by reason, as in `Metrics.retries`.
        elapsed: Seconds that the runs took.
        quota_utilisation: Share of the quota that this run used; None without a quota.
        ended: ``"complete"``, ``"stopped"`` by the job itself, or ``"interrupted"`` from outside.
        reason: Reason why the job stopped.
        fault: Error that stopped the job: an `InputError`, a `JournalError`, an
            `AuthenticationError`, a `SharedQuotaError` or a `ClientClosedError`; else None.
        notes: Remarks for the user, about the input and about events left to callbacks.
        counted: True if `inputs` is the number of all rows.
        unread: Number of rows in `BulkJob.faulty_rows`: those of CSV that are not valid.
        unchanged: Number of rows that were not sent, because the baseline says that they would
            change nothing.
        has_baseline: True if the job has a baseline.
    """

    inputs: int
    succeeded: int
    failed: int
    ambiguous: int
    pending: int
    skipped: int
    requests: int
    retries: int
    retries_by_reason: dict[str, int]
    elapsed: float
    quota_utilisation: float | None
    ended: Ended
    reason: str | None
    fault: CognigyError | None
    notes: tuple[str, ...]
    counted: bool = True
    unread: int = 0
    unchanged: int = 0
    has_baseline: bool = False

    @property
    def at_limit(self) -> bool:
        """Return whether a failure limit stopped the job. The limit would stop the next run too."""
        return self.ended == "stopped" and self.fault is None and self.reason != FIRST_FAILURE

    @property
    def ok(self) -> bool:
        """Return whether every row was applied, or would have changed nothing."""
        done = self.succeeded + self.unchanged
        return self.ended == "complete" and done == self.inputs

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk run --json` prints."""
        record = {name: getattr(self, name) for name in RECORDED}
        record["elapsed"] = round(self.elapsed, 3)
        return {**record, "unchanged": self.unchanged} if self.has_baseline else record


class BulkJob:
    """A job that applies the rows of an input and keeps a journal of their outcomes.

    ::

        job = BulkJob("rows.jsonl", journal="rows.journal")
        async with AsyncStateClient(...) as client:
            result = await job.run(client)

    A run with the same journal continues the job. The job applies rows of one dialog in the order
    of the input, also across runs. After a crash, the job sends rows without a recorded outcome
    again, and no other rows: with the same `Idempotency-Key`, unless it merges rows or has a
    baseline. The job sends a row with a transition again only if that is safe, and so variables
    that the server may append or drop. It never sends a row again whose message may have arrived.
    Otherwise the outcome of the row is ambiguous.

    Args:
        source: A path, or ``"-"`` for standard input.
        journal: File of the journal, `{source}.journal` by default. During a run and after a crash,
            `{journal}-wal` belongs to it.
        dead_letters: File for the rows that were not applied; by default a file beside the
            journal. You may also name a device or a pipe.
        options: Options of the job.
        circumstances: Further values by name. A job resumes only with the same values, except for
            `max_in_flight` and `rate`.
        force: True resumes a job although the input or the options differ, or the `-wal` file is
            missing.
        on_late: Called at the begin of a run if rows cannot be sent before their sessions end. By
            default they are logged at WARNING.

    Raises:
        ConfigurationError: Two of the files are the same.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        journal: str | Path | None = None,
        dead_letters: str | Path | None = None,
        options: JobOptions | None = None,
        circumstances: dict[str, Any] | None = None,
        force: bool = False,
        on_late: Callable[[LateRows], object] | None = None,
    ) -> None:
        self.source = source
        self._on_late = on_late if on_late is not None else _log_late
        if journal is None:
            # A journal in /dev would be lost when the machine or container restarts.
            is_stdin = str(source) in (STDIN, "/dev/stdin")
            journal = "stdin.journal" if is_stdin else f"{source}.journal"
        self.journal = Path(journal)
        self._keeps_empty = dead_letters is not None
        name = self.journal.name.removesuffix(".journal")
        if dead_letters is None:
            dead_letters = self.journal.with_name(f"{name}.dead.jsonl")
        self.dead_letters = Path(dead_letters)
        self.faulty_rows = self.journal.with_name(f"{name}.faulty.csv")
        """The rows of CSV that are not valid, with their header, to be corrected."""
        self._circumstances = circumstances or {}
        self._force = force
        self._run: JobRun | None = None
        self._opened: OpenedJob | None = None
        self._stop_requested = False
        self.options = options if options is not None else JobOptions()
        self._check_paths()

    def _check_paths(self) -> None:
        named = [
            ("journal", self.journal),
            ("dead letters", self.dead_letters),
            ("file of faulty rows", self.faulty_rows),
        ]
        if self.options.baseline is not None:
            named.append(("baseline", Path(self.options.baseline)))
        if self.source != STDIN:
            named.insert(0, ("input", Path(self.source)))
        for at, (name, path) in enumerate(named):
            for other, second in named[at + 1 :]:
                if _are_one(path, second):
                    raise ConfigurationError(
                        f"the {name} and the {other} are one file, {path}; give each its own file"
                    )

    def stop(self) -> None:
        """Stop taking rows. Requests in flight finish. Call `stop` in the event loop of `run`."""
        self._stop_requested = True
        if self._run is not None:
            self._run.stop("interrupted", "interrupted")

    @property
    def progress(self) -> JobProgress:
        """Progress at this moment."""
        run, opened = self._run, self._opened
        if run is None or opened is None:
            return JobProgress(0, 0, 0, 0, None, None, None)
        size = opened.reader.fingerprint.size
        total, counted = opened.rows.total()
        reason, until = run.latest_wait or (None, None)
        return JobProgress(
            run.conditions.done,
            run.conditions.failed,
            run.skipped,
            opened.rows.count,
            None if not size else min(1.0, run.position / size),
            reason,
            until,
            # Rows of earlier runs are done before they are read.
            None if total is None else max(total, run.conditions.done),
            counted,
            run.unchanged,
        )

    async def run(self, client: AsyncStateClient) -> JobResult:
        """Apply the remaining rows until all are done, `stop` is called or the job stops itself.

        `JobResult.fault` is an error that stopped the job: the input cannot be read further, the
        journal cannot be written, the server refuses access, the file of a shared quota cannot be
        used, or the client is closed. If a row was sent and has no recorded outcome, the next run
        sends the row again with the same key.

        If the client has callbacks, the journal records the result of each event. The run ends
        when all callbacks have finished. After `stop`, the run waits five seconds at most.

        Raises:
            JournalRefusedError: Nothing was sent. The journal belongs to another job, is in use,
                is damaged, lacks its `-wal` file, or cannot be created. Or the file of the journal
                or of the dead letters is a link, or belongs to another user or program.
            InputError: The input cannot be opened; nothing was sent.
            ConfigurationError: The options need a client with other options.
            ClientUsageError: The client is not open, or belongs to another event loop.
        """
        api, limits = client.api, client.limits
        circumstances = {
            "server": client.base_url,
            "api": type(api).__name__,
            **({} if client.endpoint is None else {"endpoint": client.endpoint.url}),
            **self._circumstances,
        }
        client.quota_state()  # Raises if the client cannot be used, before files are created.
        if self.options.on_failure != "continue" and client.on_failure != "pause":
            raise ConfigurationError(
                f'on_failure={self.options.on_failure!r} needs a client with on_failure="pause"'
            )
        limiter = anyio.CapacityLimiter(1)
        baseline = None
        if self.options.baseline is not None:
            # A request that drops other variables has another effect on what is known.
            drops = "" if api.keeps_other_variables else ", which drops other variables"
            server = f"{client.base_url} ({type(api).__name__}{drops})"
            path = Path(self.options.baseline)
            baseline = await anyio.to_thread.run_sync(Baseline.open, path, server, limiter=limiter)
        opened = None
        try:
            self._opened = opened = await anyio.to_thread.run_sync(
                partial(
                    open_job,
                    self.source,
                    self.journal,
                    self.options,
                    circumstances,
                    limits=limits,
                    api=api,
                    force=self._force,
                ),
                limiter=limiter,
            )
            if opened.may_have_ends:
                # The quota reads the clock of the event loop.
                quota = client.metrics.quota
                late = await anyio.to_thread.run_sync(
                    self._late_rows, opened, client, quota, baseline, limiter=limiter
                )
                if late is not None:
                    self._on_late(late)
            # A pipe in the place of the usual file is not what the user asked for.
            to_stream = self._keeps_empty and is_stream(self.dead_letters)
            findings = opened.reader.findings
            faulty = None if to_stream else FaultyRows(self.faulty_rows, findings)
            with self._open_dead_letters(to_stream) as dead_letters:
                if not to_stream and os.fstat(dead_letters.fileno()).st_size:
                    await self._check_dead_letters(dead_letters)
                if opened.earlier.quota is not None:
                    _restore_quota(client, opened.earlier.quota)
                changes = None
                if baseline is not None:
                    changes = self._filter(baseline, opened, api)
                writer = JournalWriter(opened.journal, dead_letters, client, faulty, changes)
                run = self._run = JobRun(client, self.options, opened, writer, changes)
                if self._stop_requested:
                    run.stop("interrupted", "interrupted")
                await run.carry_out()
                if isinstance(run.fault, OtherInputError) and not run.has_sent:
                    raise JournalRefusedError(
                        f"journal {self.journal} belongs to another input: {run.fault}"
                    ) from run.fault
                totals = await anyio.to_thread.run_sync(opened.journal.totals, limiter=limiter)
                result = _result(client, opened, run, totals)
                result = replace(result, has_baseline=baseline is not None)
                if faulty is None:
                    return result
                notes = (*result.notes, *faulty.notes)
                return replace(result, notes=notes, unread=faulty.count)
        finally:
            self._run = None
            with anyio.CancelScope(shield=True):
                if opened is not None:
                    await anyio.to_thread.run_sync(opened.close, limiter=limiter)
                if baseline is not None:
                    await anyio.to_thread.run_sync(baseline.close, limiter=limiter)

    def _late_rows(
        self,
        opened: OpenedJob,
        client: AsyncStateClient,
        quota: Sequence[QuotaUse],
        baseline: Baseline | None,
    ) -> LateRows | None:
        """Return the rows that cannot be sent before their sessions end."""
        arguments = (self.source, self.options, opened, client, quota)
        if baseline is None:
            return find_late_rows(*arguments, None)
        scratch = baseline.copy()
        try:
            return find_late_rows(*arguments, self._filter(scratch, opened, client.api))
        finally:
            scratch.close()

    def _filter(self, baseline: Baseline, opened: OpenedJob, api: StateApi) -> BaselineFilter:
        return BaselineFilter(
            baseline,
            self.options,
            keeps_other_variables=api.keeps_other_variables,
            whole=frozenset(opened.earlier.groups),
            user_id=getattr(api, "user_id", None),
        )

    @contextlib.contextmanager
    def _open_dead_letters(self, to_stream: bool) -> Iterator[BinaryIO]:
        """Open the file. The writer empties it, and writes dead letters of earlier runs again."""
        path = self.dead_letters
        try:
            if to_stream:
                file = path.open("ab")
            else:
                file = os.fdopen(open_private(path, os.O_RDWR | os.O_APPEND), "ab")
        except OSError as error:
            raise self._refused(error) from error
        opened = os.fstat(file.fileno())
        if not to_stream and not opened.st_size and opened.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            make_private(file.fileno())
        try:
            with file:
                yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                left = os.lstat(path)
                if not self._keeps_empty and os.path.samestat(left, opened) and not left.st_size:
                    path.unlink()

    async def _check_dead_letters(self, file: BinaryIO) -> None:
        """Check that the file is as an earlier run left it, and close it to other users."""
        with os.fdopen(file.fileno(), "rb", closefd=False) as content:
            content.seek(0)
            if not await anyio.to_thread.run_sync(
                are_dead_letters, content, limiter=anyio.CapacityLimiter(1)
            ):
                problem = (
                    "it has content that no job wrote, perhaps your corrections. Run it with the "
                )
                problem += "command that the job printed, or move it away"
                raise self._refused(OSError(errno.EEXIST, problem))
        make_private(file.fileno())

    def _refused(self, error: OSError) -> JournalRefusedError:
        return JournalRefusedError(
            f"the dead letters {self.dead_letters} cannot be written: {error.strerror}. Or name "
            "another file with --dead-letters."
        )


def _log_late(late: LateRows) -> None:
    log(WARNING, "%s", late, rows=late.rows)


def _restore_quota(client: AsyncStateClient, saved: str) -> None:
    """Count the requests of earlier runs in the quota, if their record can be read."""
    if client.metrics.quota:
        with contextlib.suppress(ConfigurationError, RecursionError, ValueError):
            client.restore_quota(json.loads(saved))


def _result(client: AsyncStateClient, opened: OpenedJob, run: JobRun, totals: Totals) -> JobResult:
    completed = totals.completed
    total, counted = run.total
    inputs = max(opened.rows.count, completed, total if total and counted else 0)
    quota = client.metrics.quota
    return JobResult(
        inputs=inputs,
        succeeded=totals.succeeded,
        failed=totals.failed,
        ambiguous=totals.ambiguous,
        pending=inputs - completed,
        skipped=run.skipped,
        requests=totals.requests,
        retries=totals.retries.total(),
        retries_by_reason=dict(totals.retries),
        elapsed=totals.elapsed,
        quota_utilisation=round(max(use.utilisation for use in quota), 4) if quota else None,
        ended=run.ended,
        reason=run.reason,
        fault=run.fault,
        notes=tuple(_notes(opened, run)),
        counted=counted,
        unchanged=totals.unchanged,
    )


def _notes(opened: OpenedJob, run: JobRun) -> Iterator[str]:
    reader = opened.reader
    yield from reader.notes
    if run.ended == "complete" and not opened.rows.count:
        yield opened.rows.none_found
    if left := run.receipts.pending:
        yield (
            f"The run ended before callbacks had taken {left} event{'s' * (left > 1)} of its rows. "
            "The journal does not record them; see undelivered in the client's close_report."
        )
    change = reader.changed()
    if change is not None and not isinstance(run.fault, InputError):
        yield (
            f"{reader.name} changed while the job ran: {change}. The rows read before were applied."
        )


def _are_one(first: Path, second: Path) -> bool:
    if os.path.abspath(first) == os.path.abspath(second):
        return True
    try:
        return first.samefile(second)
    except OSError:
        return False
