"""Completed updates, and a sink that does what a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cognigy_async import AuditRecord, AuditSink
from cognigy_async.audit.completed_update import CompletedUpdate


def completed(update_id: str = "u-0", **changes: Any) -> CompletedUpdate:
    """Return an update that was applied after 2 s in the queue and 0.5 s in flight."""
    fields: dict[str, Any] = {
        "timestamp": 1_767_323_045.5,
        "completed_at": 12.75,
        "accepted_at": 10.0,
        "sent_at": 12.0,
        "update_id": update_id,
        "dialog_id": "d-1",
        "metadata": {"actor": "agent-7"},
        "payload": b'{"session":{"b":1,"a":{"y":1,"x":2}},"user":{"c":true}}',
        "attempts": 1,
        "parts_applied": 0,
        "error": None,
        "status": 200,
        "latency": 0.5,
        "etag": '"7"',
        "trace_id": None,
        "request": None,
        "result": None,
    }
    return CompletedUpdate(**fields | changes)


class Sink(AuditSink):
    """Keeps records; fails with `error`, and waits for `gate` before each write."""

    def __init__(self, *, strict: bool = False, max_queue: int = 10_000) -> None:
        self.strict = strict
        self.max_queue = max_queue
        self.records: list[AuditRecord] = []
        self.batches: list[int] = []
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.writing = threading.Event()
        self.closed = 0

    def open(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, records: Sequence[AuditRecord], /) -> None:
        self.writing.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(len(records))
        self.records.extend(records)

    def close(self) -> None:
        self.closed += 1


def until(condition: Callable[[], object]) -> None:
    """Wait for a state that another thread brings about."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the state was not reached"
        time.sleep(0.001)
