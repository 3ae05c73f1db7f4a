"""A program that writes updates and audits them; the tests run it, kill it and fork it.

    python -m tests.integration.audit_writer FILE COUNT [HOW]

It prints a line for each update that was applied. HOW is `plain`, `fork` (three children with a
client each, from a sink that the parent has in use), or `full` (files may have 60,000 bytes).
"""

from __future__ import annotations

import asyncio
import os
import sys

from cognigy_async import AsyncStateClient, JsonLinesAudit
from tests.simulation.world import Wire, client_of


def client(audit: JsonLinesAudit) -> AsyncStateClient:
    return client_of(Wire(), audit=audit, max_in_flight=4)


async def write(audit: JsonLinesAudit, count: int, name: str) -> AsyncStateClient:
    async with client(audit) as one:
        for number in range(count):
            await one.update(f"d-{number % 7}", session={"n": number}, update_id=f"{name}-{number}")
            print(f"{name}-{number}", flush=True)
    return one


def fork(audit: JsonLinesAudit, count: int) -> None:
    audit.open()
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            asyncio.run(write(audit, count, f"child{child}"))
            os._exit(0)
        children.append(pid)
    asyncio.run(write(audit, count, "parent"))
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if any(statuses):
        raise SystemExit(f"children ended with {statuses}")


def full(audit: JsonLinesAudit, count: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    metrics = asyncio.run(write(audit, count, "full")).metrics
    print(f"written {metrics.audit_written} failed {metrics.audit_failed}", flush=True)


def main() -> None:
    audit = JsonLinesAudit(sys.argv[1])
    count = int(sys.argv[2])
    how = sys.argv[3] if len(sys.argv) > 3 else "plain"
    if how == "fork":
        fork(audit, count)
    elif how == "full":
        full(audit, count)
    else:
        asyncio.run(write(audit, count, "plain"))


if __name__ == "__main__":
    main()
