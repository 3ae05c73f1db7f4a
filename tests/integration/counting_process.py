"""Counts in one dialog with `modify`: `URL NAME TIMES`; prints how the calls ended, as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter

import anyio
from tenacity import wait_random_exponential

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    CognigyError,
    DialogState,
    RetryPolicy,
)

KEY = "the-key"
DIALOG = "d-1"
CALLERS = 5


async def count(url: str, name: str, times: int) -> Counter[str]:
    """Increment a variable of all processes, and one of this process, so many times."""
    ends: Counter[str] = Counter()

    def increment(state: DialogState) -> dict[str, dict[str, int]]:
        return {"session": {each: state.session.get(each, 0) + 1 for each in ("all", name)}}

    async def call(client: AsyncStateClient) -> None:
        for _ in range(times // CALLERS):
            try:
                await client.modify(DIALOG, increment)
                ends["applied"] += 1
            except AmbiguousUpdateError:
                ends["ambiguous"] += 1
            except CognigyError as error:
                ends[type(error).__name__] += 1

    retry = RetryPolicy(wait=wait_random_exponential(multiplier=0.005, max=0.05))
    client = AsyncStateClient(url, auth=ApiKey(KEY), retry=retry)
    async with client, anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(call, client)
    return ends


if __name__ == "__main__":
    sys.stdout.write(json.dumps(anyio.run(count, sys.argv[1], sys.argv[2], int(sys.argv[3]))))
