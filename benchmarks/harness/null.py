"""A client over a transport that does nothing, and the memory of this process."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from cognigy_async import ApiKey, AsyncStateClient, Request, Response

IN_FLIGHT = 32

# Measure the library, not a terminal that shows its warnings.
logging.getLogger("cognigy_async").addHandler(logging.NullHandler())


class NullTransport:
    """Answers at once."""

    answer = Response(
        status=200,
        headers={"etag": '"1"', "content-type": "application/json"},
        content=b'{"dialogId": "d", "version": 1, "message": "state updated"}',
    )

    async def send(self, request: Request, *, timeout: float) -> Response:
        return self.answer

    async def aclose(self) -> None:
        pass


def client(max_pending: int = 10_000, **options: Any) -> AsyncStateClient:
    defaults: dict[str, Any] = {"transport": NullTransport(), "max_in_flight": IN_FLIGHT}
    options = defaults | options
    return AsyncStateClient(
        "http://localhost", auth=ApiKey("key"), max_pending=max_pending, **options
    )


def memory_mb(field: str) -> float:
    """Return a field of `/proc/self/status` in megabytes; 0.0 if there is no such file.

    `VmRSS` is the resident memory, `VmHWM` its peak. `resource.getrusage` would include the process
    from which this one was forked.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0
