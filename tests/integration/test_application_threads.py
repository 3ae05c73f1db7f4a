"""An application holds all threads of anyio's default limiter while it waits for the library."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    JsonLinesAudit,
    RateLimit,
    Request,
    Response,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.bulk import BulkJob, JobOptions

pytestmark = pytest.mark.real_time

ENDPOINTS = 40
"""Threads of anyio's default limiter."""


class Wire:
    """Answers at once."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        return Response(200, {"etag": '"1"'}, b"{}")

    async def aclose(self) -> None: ...


def client_of(**options: object) -> AsyncStateClient:
    return AsyncStateClient("http://localhost", auth=ApiKey("k"), transport=Wire(), **options)  # type: ignore[arg-type]


@pytest.fixture
async def _no_thread_is_left() -> AsyncIterator[None]:
    """Take every place in the limiter, as endpoints do that are plain functions."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    with anyio.fail_after(20):
        yield
    for borrower in borrowers:
        limiter.release_on_behalf_of(borrower)


async def test_endpoints_in_all_threads_and_a_shared_quota_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    async with client_of(rate_limit=RateLimit(1000, per=10, shared=tmp_path / "quota")) as client:
        results: list[UpdateResult] = []

        async def update(number: int) -> UpdateResult:
            return await client.update(f"d-{number}", session={"n": number})

        async def endpoint(number: int) -> None:
            call = anyio.to_thread.run_sync(anyio.from_thread.run, update, number)
            results.append(await call)

        with anyio.fail_after(20):
            # The first slots: no lease of an earlier call helps.
            async with anyio.create_task_group() as tasks:
                for number in range(ENDPOINTS):
                    tasks.start_soon(endpoint, number)
        assert len(results) == ENDPOINTS


@pytest.mark.usefixtures("_no_thread_is_left")
async def test_plain_callbacks_and_audits_need_no_thread_of_the_application(
    tmp_path: Path,
) -> None:
    audit = JsonLinesAudit(tmp_path / "audit.jsonl", strict=True)
    events: list[UpdateEvent] = []
    client = client_of(audit=audit)
    client.on_state_updated(events.append)
    async with client:
        await client.update("d-1", session={"n": 1})
        await client.flush()
        assert len(events) == 1
        assert len((tmp_path / "audit.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.usefixtures("_no_thread_is_left")
async def test_a_job_needs_no_thread_of_the_application(tmp_path: Path) -> None:
    rows = [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(3)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = BulkJob(source, options=JobOptions(limit=2))
    async with client_of() as client:
        result = await job.run(client)
    assert (result.succeeded, result.ok) == (2, True)
