"""`BulkJob`: the rows of a file, applied once each, with a journal that survives the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from cognigy_async import AsyncStateClient, ConfigurationError

from .doubts import Doubts
from .errors import InputError, JournalError, JournalRefusedError
from .groups import Groups
from .intake import Intake
from .journal import Batch, Journal
from .ledger import Ended, JobResult, Ledger
from .opening import Opened, open_job
from .options import JobOptions, default_journal, default_letters
from .quota import QuotaKeeper, utilisation
from .readers import STDIN
from .records import Totals
from .run import Run
from .scribe import Scribe


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Where a job is.

    Attributes:
        done, failed: rows of all runs; what failed is done too.
        skipped: rows that were done before this run.
        seen: rows that were read. share: of the input, in bytes; None where its size is unknown.
        reason, until: why a request is repeated and when, as a moment of the epoch; the latest.
    """

    done: int
    failed: int
    skipped: int
    seen: int
    share: float | None
    reason: str | None
    until: float | None


class BulkJob:
    """Applies the rows of an input, and remembers what became of each.

    ::

        job = BulkJob("rows.jsonl", journal="rows.journal")
        async with AsyncStateClient(...) as client:
            result = await job.run(client)

    Run again with the same journal, it goes on where it was. Rows of one dialog are applied in the
    order of the input, also across runs. A row that was not yet recorded as done when the process
    died is sent again with the same `Idempotency-Key`, and nothing else is; one with a transition
    only where that is safe, else it ends as ambiguous.

    Args:
        source: a path, or ``"-"`` for standard input.
        journal: `{source}.journal` by default.
        dead_letters: where rows that were not applied go; beside the journal by default.
        options: see `JobOptions`.
        circumstances: what else a resumed run must have in common with the one before, by name.
        force: go on with a journal of another input or of other options.

    Raises:
        ConfigurationError: two of the files are one.
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
    ) -> None:
        self.source = source
        self.options = options if options is not None else JobOptions()
        self.journal = Path(journal) if journal is not None else default_journal(source)
        self._wants_letters = dead_letters is not None
        self.dead_letters = (
            Path(dead_letters) if dead_letters is not None else default_letters(self.journal)
        )
        self._circumstances = circumstances or {}
        self._force = force
        self._run: Run | None = None
        self._opened: Opened | None = None
        self._ledger: Ledger | None = None
        self._intake: Intake | None = None
        self._stop_asked = False
        self._check_paths()

    def _check_paths(self) -> None:
        named = [("journal", self.journal), ("dead letters", self.dead_letters)]
        if self.source != STDIN:
            named.insert(0, ("input", Path(self.source)))
        for at, (name, path) in enumerate(named):
            for other, second in named[at + 1 :]:
                if _are_one(path, second):
                    raise ConfigurationError(f"the {name} and the {other} are one file, {path}")

    def stop(self) -> None:
        """Take no more rows, and let what is in flight end; from the event loop of `run`."""
        self._stop_asked = True
        if self._run is not None:
            self._run.stop("interrupted", "interrupted")

    @property
    def progress(self) -> JobProgress:
        """Where it is now."""
        run, ledger, intake, opened = self._run, self._ledger, self._intake, self._opened
        if run is None or ledger is None or intake is None or opened is None:
            return JobProgress(0, 0, 0, 0, None, None, None)
        size = opened.reader.fingerprint.size
        return JobProgress(
            ledger.done,
            ledger.failed,
            run.skipped,
            intake.count,
            None if not size else min(1.0, run.position / size),
            *(run.news or (None, None)),
        )

    async def run(self, client: AsyncStateClient) -> JobResult:
        """Apply what is left to do, until it is done, or `stop`, or what cannot be got over.

        The last is told by `JobResult.fault`: an input that cannot be read any further, a journal
        that cannot be written, no access to the server, a client that was closed. What was sent is
        recorded, or is sent again with the same keys.

        Where the client has callbacks, the journal has what became of each event. A run ends when
        they are done with the events of its rows; after `stop` they are given five seconds.

        Raises:
            JournalRefusedError: the journal belongs to another job, is in use, damaged, or cannot
                be made; nothing was sent.
            InputError: the input cannot be opened; nothing was sent.
            ConfigurationError: the options need a client that is made otherwise.
            ClientUsageError: the client is not open, or belongs to another event loop.
        """
        client.quota_state()  # Raises what the job would run into, before anything is made.
        if self.options.on_failure != "continue" and client.on_failure != "pause":
            raise ConfigurationError(
                f'on_failure={self.options.on_failure!r} needs AsyncStateClient(on_failure="pause")'
            )
        api = type(client.api).__name__
        circumstances = {"server": client.base_url, "api": api, **self._circumstances}
        opened = await anyio.to_thread.run_sync(
            lambda: open_job(
                self.source, self.journal, self.options, circumstances, force=self._force
            )
        )
        try:
            with self._open_letters() as letters:
                return await self._carry_out(client, opened, letters)
        finally:
            self._run = None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opened.close)

    @contextlib.contextmanager
    def _open_letters(self) -> Iterator[BinaryIO]:
        """Written from the beginning: what earlier runs wrote is written again from the journal."""
        try:
            letters = self.dead_letters.open("wb")
        except OSError as error:
            raise JournalRefusedError(
                f"the dead letters {self.dead_letters} cannot be written: {error.strerror}. Choose "
                "a file that can, with --dead-letters."
            ) from error
        with letters:
            yield letters
        if not self._wants_letters and not self.dead_letters.stat().st_size:
            self.dead_letters.unlink()

    async def _carry_out(
        self, client: AsyncStateClient, opened: Opened, letters: BinaryIO
    ) -> JobResult:
        journal, before = opened.journal, opened.before
        keeper = QuotaKeeper(client)
        keeper.restore(opened.quota)
        self._opened = opened
        intake = self._intake = Intake(
            opened.reader,
            client.limits,
            self.options.selection,
            api=client.api,
            key=lambda line: f"{journal.job_id}-{line}",
            settled=journal.settled,
            last_settled=opened.last_line,
        )
        self._ledger = ledger = Ledger(
            self.options, opened.canary, before.settled, before.failed + before.ambiguous
        )
        scribe = Scribe(
            journal,
            letters,
            self.dead_letters,
            run_record=lambda: run.record(),  # noqa: PLW0108 - it is made later
            quota=lambda: keeper.state(run.now()),
            on_failure=lambda error: run.stop("stopped", str(error), error),
        )
        run = self._run = Run(
            client,
            intake,
            scribe,
            ledger,
            Doubts(client, opened.sends),
            Groups(opened.groups),
            number=journal.run,
            coalesce=self.options.coalesce,
            pauses_dialogs=self.options.on_failure == "pause-dialog",
            abandons_reads=opened.reader.fingerprint.size is None,
        )
        if self._stop_asked:
            run.stop("interrupted", "interrupted")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(scribe.run)
                try:
                    await run.carry_out()
                finally:
                    scribe.close()
            totals = await anyio.to_thread.run_sync(
                _finish, journal, run.ended, run.record(run.reason or run.ended)
            )
        finally:
            intake.close()
        inputs = max(intake.count, totals.settled)
        return JobResult(
            inputs=inputs,
            succeeded=totals.succeeded,
            failed=totals.failed,
            ambiguous=totals.ambiguous,
            pending=inputs - totals.settled,
            skipped=run.skipped,
            requests=totals.requests,
            retries=sum(totals.retries.values()),
            retries_by_reason=totals.retries,
            elapsed=totals.elapsed,
            quota_utilisation=utilisation(client),
            ended=run.ended,
            reason=run.reason,
            fault=run.fault,
            notes=tuple(self._notes(opened, run, intake)),
        )

    @staticmethod
    def _notes(opened: Opened, run: Run, intake: Intake) -> Iterator[str]:
        yield from opened.reader.notes
        if run.ended == "complete" and not intake.count:
            yield intake.selection.told_of_nothing
        if left := run.deliveries.left:
            yield (
                f"The run ended before callbacks had taken {left} event{'s' * (left > 1)} of its "
                "rows. The journal has nothing of those; the close_report of the client tells what "
                "was not delivered."
            )
        change = opened.reader.changed()
        if change is not None and not isinstance(run.fault, InputError):
            yield (
                f"{opened.reader.name} changed while the job ran: {change}. What was applied is "
                "what was read before."
            )


def _finish(journal: Journal, ended: Ended, record: tuple[Any, ...]) -> Totals:
    """Write down how the run ended, and count."""
    meta = {}
    if ended == "complete":
        # What was held back behind a failure goes on in the next run.
        meta["pass"] = str(journal.current_pass + 1)
    batch = Batch(run=record, meta=meta)
    # Where it cannot be written the run has been stopped for that already.
    with contextlib.suppress(JournalError):
        journal.write(batch)
    return journal.totals()


def _are_one(first: Path, second: Path) -> bool:
    if os.path.abspath(first) == os.path.abspath(second):
        return True
    try:
        return first.samefile(second)
    except OSError:
        return False
