"""`StateWorker`: a process that sends what the clients of a cluster have handed in."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cognigy_async import (
    AsyncStateClient,
    CloseReport,
    ConfigurationError,
    HttpxTransport,
    Transport,
)
from cognigy_async.crm.target import Target

from .activities import DialogActivities
from .bulk_job import BULK, BulkJobWorkflow
from .dialog_writer import DialogWriter
from .fencing import FencedTransport, observer
from .job_activities import JobActivities
from .quota import RateLimits, share_of

logger = logging.getLogger("cognigy_async")

DEFAULT_TASK_QUEUE = "cognigy"

DRAIN_TIMEOUT = timedelta(seconds=8)
"""Time for requests in flight at a shutdown. Docker allows 10 s between SIGTERM and SIGKILL."""

MOST_WORKFLOW_TASKS = 20
"""Workflow tasks of one worker at a time. A task is given to another worker after 10 s, and fails
after 2 s in one step: a worker that takes more than it can do gets nothing done. The others wait in
the cluster, which has no such timeout."""

MOST_ACTIVITIES = 200
"""Dialogs that one worker serves at a time. A dialog that waits for the quota or for a retry holds
a place, and costs the cluster a heartbeat every 2 s."""

MOST_CHUNKS = 4
"""Chunks of jobs that one worker applies at a time. They share its client, so more of them would
only take them from other workers."""


class StateWorker:
    """Sends the updates of a task queue, as an `AsyncStateClient` of its own.

    All workers of a task queue serve the same tenant. Start as many as needed, on any machines.
    Leaving ``async with`` takes no more work, completes requests in flight, and hands the rest to
    other workers.

    Args:
        client: Connected client of the Temporal cluster.
        base_url: URL of the API; see `AsyncStateClient`.
        task_queue: Name that the workers and clients of a tenant share.
        rate_limit: Limit of the tenant; see `AsyncStateClient`.
        quota_share: Part of `rate_limit` that this worker may use: 1 if the worker has a calling
            address of its own, 1/4 for each of four workers that share one limit.
        transport: HTTP library; see `AsyncStateClient`.
        targets: Targets that get the applied updates of each dialog in order, at least once. All
            workers of a task queue have the same targets.
        arguments: The other arguments of `AsyncStateClient`.

    Attributes:
        state_client: The client that sends. Register callbacks on it before the worker is opened.

    Raises:
        ConfigurationError: An argument is invalid.

    Example::

        async with StateWorker(await connect(), "https://api.cognigy.ai", auth=auth) as worker:
            await worker.run()
    """

    def __init__(
        self,
        client: Client,
        base_url: str,
        *,
        task_queue: str = DEFAULT_TASK_QUEUE,
        rate_limit: RateLimits = None,
        quota_share: float = 1.0,
        transport: Transport | None = None,
        targets: Sequence[Target] = (),
        **arguments: Any,
    ) -> None:
        if arguments.get("on_failure", "continue") != "continue":
            raise ConfigurationError("on_failure: a worker cannot pause a dialog of all workers")
        self._client = client
        self._targets = targets
        self._task_queue = task_queue
        self.state_client = AsyncStateClient(
            base_url,
            rate_limit=share_of(rate_limit, quota_share),
            transport=FencedTransport(HttpxTransport() if transport is None else transport),
            **arguments,
        )
        self.state_client.add_observer(observer)
        self._stack = AsyncExitStack()

    async def run(self) -> None:
        """Work until the process gets SIGTERM or SIGINT, then return. Call it in the main thread.

        Leave ``async with`` afterwards, which drains.
        """
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGINT):
                with suppress(NotImplementedError):  # Windows
                    loop.add_signal_handler(number, stopped.set)
                    stack.callback(loop.remove_signal_handler, number)
            await stopped.wait()

    @property
    def close_report(self) -> CloseReport | None:
        """Report of the closed client; None until the worker has closed."""
        return self.state_client.close_report

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # The client closes after the workers have drained.
            await stack.enter_async_context(self.state_client)
            for target in self._targets:
                await target.open()
                stack.push_async_callback(target.aclose)
            live = DialogActivities(self.state_client, self._targets)
            jobs = JobActivities(self.state_client)
            workers = [
                self._create_worker("", DialogWriter, [live.write, live.deliver], MOST_ACTIVITIES),
                self._create_worker(BULK, BulkJobWorkflow, [jobs.split, jobs.apply], MOST_CHUNKS),
            ]
            for worker in workers:
                await stack.enter_async_context(worker)
            stack.push_async_callback(_shut_down, workers)
            self._stack = stack.pop_all()
        logger.info("worker of task queue %s started", self._task_queue)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        logger.info("worker of task queue %s closed: %r", self._task_queue, self.close_report)

    def _create_worker(
        self,
        suffix: str,
        workflow: type,
        activities: Sequence[Callable[..., Any]],
        most_activities: int,
    ) -> Worker:
        return Worker(
            self._client,
            task_queue=f"{self._task_queue}{suffix}",
            workflows=[workflow],
            activities=activities,
            max_concurrent_activities=most_activities,
            max_concurrent_workflow_tasks=MOST_WORKFLOW_TASKS,
            graceful_shutdown_timeout=DRAIN_TIMEOUT,
            # The sandbox would cost each dialog some milliseconds. Tests replay histories in it.
            workflow_runner=UnsandboxedWorkflowRunner(),
        )


async def _shut_down(workers: Sequence[Worker]) -> None:
    # At the same time: one would go on to take work while another one drains.
    await asyncio.gather(*(worker.shutdown() for worker in workers))
