"""Start jobs, and look at them from any process."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cognigy_async import ConfigurationError
from cognigy_async.bulk import JobOptions, JobResult

from .bulk_job import BULK, PARTITIONS, BulkJobWorkflow, Job
from .job_folder import read_letters
from .job_options import dump_job_options

logger = logging.getLogger("cognigy_async")

JOB = SearchAttributeKey.for_keyword("CognigyJob")
"""Search attribute with the id of a job."""

MOST_CHARACTERS = 255
"""Characters of its value. Clusters that keep it in MySQL or PostgreSQL take no more."""

PATIENCE = timedelta(seconds=15)
"""Time for a query, which a worker has to answer."""


async def start_job(
    client: Client,
    source: str | os.PathLike[str],
    *,
    folder: str | None = None,
    job_id: str | None = None,
    task_queue: str = "cognigy",
    partitions: int = PARTITIONS,
    options: JobOptions | None = None,
) -> WorkflowHandle[BulkJobWorkflow, dict[str, Any]]:
    """Start a job that applies each row of an input once, by the workers of a task queue.

    ::

        handle = await start_job(await connect(), "s3://bucket/rows.jsonl")
        result = job_result(await handle.result())

    The handle sends the signals ``pause``, ``resume`` and ``cancel`` of `BulkJobWorkflow`.

    Args:
        client: Connected client of the Temporal cluster.
        source: Path or URL of the input (see `BulkJob`), which each worker can read.
        folder: Path or URL of a folder for the rows and the dead letters, which each worker can
            write; by default beside the input. It has the variables of all rows unencrypted.
        job_id: Name of the job, by default of the input and some random characters.
        task_queue: Name that the workers and clients of a tenant share.
        partitions: Partitions of the dialogs, at least four for each worker. The rows of one are
            applied one chunk after another.
        options: How to read the input: `format`, `table`, `text_columns`, `limit` and
            `only_dialogs`. A job has no others.

    Raises:
        ConfigurationError: There is such a job, or a job has no such option.
    """
    url = os.fspath(source)
    if url == "-":
        raise ConfigurationError("a job cannot read standard input; give a file or a URL")
    if "://" not in url:
        url = str(await anyio.Path(url).absolute())
    if job_id is None:
        job_id = f"{os.path.basename(url)}-{secrets.token_hex(3)}"
    given = {} if options is None else dump_job_options(options)
    job = Job(url, folder or f"{url}.jobs/{job_id}", partitions, given)

    async def start(
        attributes: TypedSearchAttributes,
    ) -> WorkflowHandle[BulkJobWorkflow, dict[str, Any]]:
        return await client.start_workflow(
            BulkJobWorkflow.run,
            job,
            id=workflow_id(job_id, task_queue),
            task_queue=f"{task_queue}{BULK}",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            search_attributes=attributes,
        )

    try:
        try:
            pair = SearchAttributePair(JOB, job_id[:MOST_CHARACTERS])
            return await start(TypedSearchAttributes([pair]))
        except RPCError as error:
            if error.status is not RPCStatusCode.INVALID_ARGUMENT or JOB.name not in str(error):
                raise
            logger.warning(
                "the cluster does not have the search attribute %s; the job starts without it. "
                "Create it once: temporal operator search-attribute create --name %s --type "
                "Keyword",
                JOB.name,
                JOB.name,
            )
            return await start(TypedSearchAttributes.empty)
    except WorkflowAlreadyStartedError:
        raise ConfigurationError(
            f"there is a job {job_id!r} already; give this one another id"
        ) from None


def workflow_id(job_id: str, task_queue: str = "cognigy") -> str:
    """Return the id of the workflow of a job."""
    return f"{task_queue}-job-{job_id}"


def job_result(numbers: dict[str, Any]) -> JobResult:
    """Return the result of a job that has ended, as `BulkJob.run` does."""
    others = {"is_paused", "chunks", "chunks_done", "notes"}
    given = {name: value for name, value in numbers.items() if name not in others}
    notes = tuple(numbers["notes"])
    return JobResult(**given, skipped=0, reason=None, fault=None, notes=notes)


async def job_status(client: Client, handle: WorkflowHandle[Any, Any]) -> dict[str, Any]:
    """Return the present numbers of a job, with those of the chunks that workers apply now.

    ``problems`` has the failures for which activities are tried again.
    """
    status = await handle.query(BulkJobWorkflow.progress, rpc_timeout=PATIENCE)
    described = await handle.describe()
    problems = set()
    for pending in described.raw_description.pending_activities:
        if payloads := pending.heartbeat_details.payloads:
            rows, _ = await client.data_converter.decode(payloads, [dict[str, int], str])
            for name, number in rows.items():
                status[name] += number
                status["pending"] -= number
        if pending.HasField("last_failure"):
            failure = await client.data_converter.decode_failure(pending.last_failure)
            problems.add(str(failure))
    return {**status, "problems": sorted(problems)}


async def dead_letters(handle: WorkflowHandle[Any, Any]) -> Iterator[bytes]:
    """Return the dead letters of the chunks of a job that are complete, and of its input.

    They are lines of JSON, which `bulk run` and another job apply again. This process needs access
    to the job folder.
    """
    folder = await handle.query(BulkJobWorkflow.dead_letters, rpc_timeout=PATIENCE)
    return iter(()) if folder is None else read_letters(folder)
