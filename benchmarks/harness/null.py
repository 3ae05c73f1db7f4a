"""A transport that does nothing, a client over it, and the memory of this process."""

from __future__ import annotations

import re
from pathlib import Path

from cognigy_async import ApiKey, AsyncStateClient, AuditSink, RateLimit, Request, Response

__all__ = ["IN_FLIGHT", "NullTransport", "client", "peak_memory", "resident_memory"]

IN_FLIGHT = 32


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


def client(
    max_pending: int = 10_000,
    audit: AuditSink | None = None,
    rate_limit: RateLimit | None = None,
) -> AsyncStateClient:
    return AsyncStateClient(
        "http://localhost",
        auth=ApiKey("key"),
        transport=NullTransport(),
        max_in_flight=IN_FLIGHT,
        max_pending=max_pending,
        rate_limit=rate_limit,
        audit=audit,
    )


def resident_memory() -> float:
    """Megabytes; 0.0 where the system does not tell."""
    return _memory("VmRSS")


def peak_memory() -> float:
    """The most megabytes that were resident; 0.0 where the system does not tell.

    What `resource.getrusage` says includes the process from which this one was forked.
    """
    return _memory("VmHWM")


def _memory(kind: str) -> float:
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    found = re.search(rf"^{kind}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0
