"""`BulkJobWorkflow`: the workflow that applies an input by the workers of a task queue.

The code is replayed from recorded histories: a change of the order of its commands needs
`workflow.patched`. The tests replay histories of older versions, in the sandbox of Temporal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from .dialog_writer import HEARTBEAT_TIMEOUT

WORKFLOW = "CognigyBulkJob"
SPLIT, APPLY = "cognigy_split_input", "cognigy_apply_chunk"

BULK = "-bulk"
"""End of the task queue of jobs, whose chunks take no places of live updates."""

PARTITIONS = 16
"""Partitions of an input: four for each of four workers, so that none waits for the others."""

MOST_TIME = timedelta(days=30)
"""Time that an activity may take: a chunk waits as long as the tenant throttles."""

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    non_retryable_error_types=["ConfigurationError", "InputError"],
)
ROWS = ("succeeded", "failed", "ambiguous")


@dataclass
class Job:
    """An input to apply, and the folder for its partitions and dead letters.

    Attributes:
        options: Arguments of `JobOptions` that say how to read the input.
    """

    source: str
    folder: str
    partitions: int = PARTITIONS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Split:
    """Rows of an input that were written to a job folder.

    Attributes:
        folder: Folder with the rows, and for the dead letters.
        chunks: Number of chunks of each partition.
        rows: Number of rows of the input.
        faulty: Number of rows that are not valid. They are dead letters.
        repeated: Number of rows that repeat an earlier row and its `update_id`. They are not sent.
        notes: Remarks for the user.
    """

    folder: str
    chunks: list[int]
    rows: int
    faulty: int
    repeated: int
    notes: list[str]


@dataclass
class ChunkTask:
    """A chunk to apply.

    Attributes:
        key: Begin of the keys of the job's updates.
        name: Name of the chunk in the folder.
        stops: Number of times that it was stopped.
        state: State in which it was stopped, as a text; "" at first.
    """

    key: str
    folder: str
    name: str
    stops: int
    state: str


@dataclass
class ChunkResult:
    """Numbers of a chunk of which each row has an outcome, or which was stopped.

    Attributes:
        rows: Number of rows by outcome.
        retries: Number of repeated requests, by reason.
        quota: Share of the worker's quota that was used lately; None without a quota.
        state: State in which it was stopped, as a text; "" if it is complete.
    """

    rows: dict[str, int]
    requests: int
    retries: dict[str, int]
    quota: float | None
    state: str


@dataclass
class JobState:
    """State that an execution hands to the next one.

    Attributes:
        next: Number of the next chunk of each partition.
        stopped: Chunks that were stopped, by partition.
        stops: Number of times that chunks were stopped.
        rows: Number of rows of complete chunks, by outcome.
    """

    key: str
    began: float
    split: Split | None = None
    next: list[int] = field(default_factory=list)
    stopped: dict[int, ChunkResult] = field(default_factory=dict)
    stops: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    quota: float | None = None
    is_paused: bool = False
    is_cancelled: bool = False


@workflow.defn(name=WORKFLOW)
class BulkJobWorkflow:
    """Splits an input, then applies its partitions side by side, chunk by chunk."""

    @workflow.init
    def __init__(self, job: Job, state: JobState | None = None) -> None:
        self._job = job
        if state is None:
            state = JobState(workflow.uuid4().hex[:16], workflow.time())
        self._state = state
        self._running: set[workflow.ActivityHandle[Any]] = set()

    @workflow.run
    async def run(self, job: Job, state: JobState | None = None) -> dict[str, Any]:
        """Apply the input. Return the numbers of `JobResult`."""
        work = asyncio.ensure_future(self._apply())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # Requests in flight finish, whoever cancels.
            self.cancel()
            await work
            raise
        split = self._state.split
        is_left = split is not None and self._state.next != split.chunks
        if is_left and not self._state.is_cancelled:
            workflow.continue_as_new(args=[job, self._state])
        return self.progress()

    async def _apply(self) -> None:
        state = self._state
        if state.split is None:
            try:
                split: Split = await self._execute(SPLIT, self._job, Split)
            except ActivityError:
                if state.is_cancelled:
                    return
                raise
            state.split, state.next = split, [0] * len(split.chunks)
        partitions = range(len(state.next))
        await asyncio.gather(*(self._apply_partition(number) for number in partitions))

    async def _apply_partition(self, partition: int) -> None:
        state = self._state
        assert state.split is not None
        while (number := state.next[partition]) < state.split.chunks[partition]:
            await workflow.wait_condition(lambda: not state.is_paused or self._is_ending())
            if self._is_ending():
                return
            # While the chunk runs, its heartbeats have these numbers.
            before = state.stopped.pop(partition, None)
            name = f"{partition:03}-{number:06}"
            text = "" if before is None else before.state
            task = ChunkTask(state.key, state.split.folder, name, state.stops, text)
            try:
                result = await self._execute(APPLY, task, ChunkResult)
            except ActivityError:
                if not (state.is_paused or state.is_cancelled):
                    raise
                # No worker had begun it.
                if before is not None:
                    state.stopped[partition] = before
                continue
            if result.state:
                state.stopped[partition] = result
                state.stops += 1
                continue
            state.next[partition] += 1
            state.rows = _sum(state.rows, result.rows)
            state.requests += result.requests
            state.retries = _sum(state.retries, result.retries)
            state.quota = result.quota

    def _is_ending(self) -> bool:
        return self._state.is_cancelled or workflow.info().is_continue_as_new_suggested()

    async def _execute(self, name: str, argument: Any, kind: type[Any]) -> Any:
        handle: workflow.ActivityHandle[Any] = workflow.start_activity(
            name,
            argument,
            result_type=kind,
            start_to_close_timeout=MOST_TIME,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRY,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        self._running.add(handle)
        try:
            return await handle
        finally:
            self._running.discard(handle)

    @workflow.signal
    def pause(self) -> None:
        """Send no more rows until `resume`. Requests in flight finish."""
        self._state.is_paused = True
        if self._state.split is not None:
            self._stop_chunks()

    @workflow.signal
    def resume(self) -> None:
        """Go on after `pause`."""
        self._state.is_paused = False

    @workflow.signal
    def cancel(self) -> None:
        """End the job. Requests in flight finish."""
        self._state.is_cancelled = True
        self._stop_chunks()

    def _stop_chunks(self) -> None:
        for handle in self._running:
            handle.cancel()

    @workflow.query
    def progress(self) -> dict[str, Any]:
        """Return the numbers of all chunks that are complete or were stopped."""
        state, split = self._state, self._state.split
        rows, requests, retries = state.rows, state.requests, state.retries
        for result in state.stopped.values():
            rows, retries = _sum(rows, result.rows), _sum(retries, result.retries)
            requests += result.requests
        found = {name: rows.get(name, 0) for name in ROWS}
        inputs = 0
        if split is not None:
            inputs = split.rows
            found["succeeded"] += split.repeated
            found["failed"] += split.faulty
        ended = "complete" if split is not None and state.next == split.chunks else None
        if ended is None and state.is_cancelled and not self._running:
            ended = "interrupted"
        return {
            "inputs": inputs,
            **found,
            "pending": inputs - sum(found.values()),
            "requests": requests,
            "retries": sum(retries.values()),
            "retries_by_reason": retries,
            "elapsed": workflow.time() - state.began,
            "quota_utilisation": state.quota,
            "ended": ended,
            "is_paused": state.is_paused,
            "chunks": 0 if split is None else sum(split.chunks),
            "chunks_done": sum(state.next),
            "notes": [] if split is None else split.notes,
        }

    @workflow.query
    def dead_letters(self) -> str | None:
        """Return the folder with the dead letters; None before the input was split."""
        return None if self._state.split is None else f"{self._state.split.folder}/dead-letters"


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(first) + Counter(second)).items()))
