"""The activities of a job: split the input, and apply a chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from temporalio import activity

from cognigy_async import AsyncStateClient

from .bulk_job import APPLY, SPLIT, ChunkResult, ChunkTask, Job, Split
from .chunk import Chunk, ChunkJournal, ChunkState
from .fencing import fenced
from .job_folder import read_rows, split_input, write_letters
from .job_options import load_job_options

T = TypeVar("T")


class JobActivities:
    """The activities of jobs in one worker.

    Args:
        client: Client that sends the rows.
    """

    def __init__(self, client: AsyncStateClient) -> None:
        self._client = client

    @activity.defn(name=SPLIT)
    async def split(self, job: Job) -> Split:
        """Check the rows of an input, and write them to a folder of this attempt.

        Raises:
            InputError: The input cannot be read.
            OSError: The folder cannot be written, or a URL cannot be read for now.
        """
        stop = _Stop()
        info = activity.info()
        assert info.workflow_run_id is not None
        folder = f"{job.folder}/{info.workflow_run_id[:8]}-{info.attempt}"

        def split() -> Split:
            options = load_job_options(job.options)
            return split_input(
                job.source, folder, self._client, job.partitions, lambda: stop.is_requested, options
            )

        return await _run(lambda: _in_thread(split), stop)

    @activity.defn(name=APPLY)
    async def apply(self, task: ChunkTask) -> ChunkResult:
        """Apply the rows of a chunk that are left, until none is left or the chunk is stopped.

        Raises:
            CognigyError: The client cannot send, or the chunk cannot be recorded.
            OSError: The job folder cannot be used for now.
        """
        info = activity.info()
        stop = _Stop()
        known = info.heartbeat_details[1] if info.heartbeat_details else task.state
        state = ChunkState.decode(known) if known else ChunkState()
        sends = f"{task.folder}/sends/{task.name}.{task.stops}"
        journal = ChunkJournal(task.key, sends, info.attempt, state)

        async def apply() -> bool:
            rows = await _in_thread(lambda: read_rows(task.folder, task.name))
            chunk = Chunk(self._client, journal, rows, await _in_thread(journal.load))
            stop.on_request(chunk.stop)
            letters = await chunk.apply()
            if letters:
                await _in_thread(lambda: write_letters(task.folder, task.name, letters))
            return letters is not None

        is_complete = await _run(apply, stop, journal.progress)
        quota = self._client.metrics.quota
        rows, text = journal.progress()
        return ChunkResult(
            rows,
            journal.state.requests,
            dict(journal.state.retries),
            round(max(use.utilisation for use in quota), 4) if quota else None,
            "" if is_complete else text,
        )


class _Stop:
    """A request to stop, which may come before there is anything to stop."""

    def __init__(self) -> None:
        self.is_requested = False
        self._call: Callable[[], None] | None = None

    def on_request(self, call: Callable[[], None]) -> None:
        self._call = call
        if self.is_requested:
            call()

    def request(self) -> None:
        self.is_requested = True
        if self._call is not None:
            self._call()


async def _run(
    body: Callable[[], Awaitable[T]],
    stop: _Stop,
    details: Callable[[], Sequence[Any]] = tuple,
) -> T:
    """Run the body of an activity with heartbeats.

    If the activity is cancelled or the worker shuts down, stop the body, and wait for its end.
    """

    async def run() -> T:
        result: list[T] = []
        failure = None
        async with fenced(details, on_cancel=stop.request):
            try:
                result.append(await body())
            except Exception as error:
                # In an exception group, the cluster would not know its type.
                failure = error
        if failure is not None:
            raise failure
        return result[0]

    work = asyncio.ensure_future(run())
    shutdown = asyncio.ensure_future(activity.wait_for_worker_shutdown())
    waiting: set[asyncio.Future[Any]] = {work, shutdown}
    try:
        while not work.done():
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                stop.request()
            if shutdown.done() and shutdown in waiting:
                waiting.remove(shutdown)
                stop.request()
        return work.result()
    finally:
        shutdown.cancel()


async def _in_thread(call: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
