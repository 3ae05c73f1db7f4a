"""A process that applies the rows of an input, and prints its peak of memory and the result.

    python -m tests.integration.input_reader PATH

The server answers at once and keeps nothing.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import anyio

from cognigy_async import ApiKey, AsyncStateClient, Request, Response
from cognigy_async.bulk import BulkJob, JobResult


class Answers:
    """A transport without a network."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        await anyio.sleep(0.001)
        return Response(200, {}, b"{}")

    async def aclose(self) -> None:
        pass


async def apply(path: str, folder: str) -> JobResult:
    client = AsyncStateClient("http://localhost", auth=ApiKey("key"), transport=Answers())
    job = BulkJob(path, journal=f"{folder}/journal", dead_letters=f"{folder}/dead.jsonl")
    async with client:
        return await job.run(client)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = anyio.run(apply, sys.argv[1], folder)
    text = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.MULTILINE)
    assert peak is not None
    counts = {"inputs": result.inputs, "succeeded": result.succeeded, "failed": result.failed}
    sys.stdout.write(json.dumps({"peak": int(peak[1]) << 10, "reason": result.reason, **counts}))


if __name__ == "__main__":
    main()
