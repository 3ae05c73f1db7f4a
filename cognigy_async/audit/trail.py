"""`AuditTrail`: hands each completed update of a client to its audit sinks.

The event loop only queues the update. Making a record, hashing and writing it happen in a thread
for each sink, so that neither a slow disk nor a failing sink delays an update.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ..errors import AuditError, ConfigurationError
from .sink_queue import SinkQueue

if TYPE_CHECKING:
    from ..metrics import Metrics
    from .completed_update import CompletedUpdate
    from .sinks import AuditSink

# Seconds.
OPEN_TIMEOUT = 10.0  # for strict sinks
FLUSH_TIMEOUT = 5.0
MIN_CLOSE_TIMEOUT = 1.0  # also for a client that closes with no time left


class AuditTrail:
    """The audit of one client.

    Args:
        audit: one sink or several.

    Attributes:
        wall_clock: returns seconds since the epoch, for `CompletedUpdate.timestamp`.
        strict: whether a sink is strict. Otherwise `check` and `slow` have no effect.

    Raises:
        ConfigurationError: `audit` contains something that is not a sink.
    """

    wall_clock = staticmethod(time.time)

    def __init__(self, audit: AuditSink | Sequence[AuditSink], metrics: Metrics) -> None:
        sinks = tuple(audit) if isinstance(audit, Sequence) else (audit,)
        for sink in sinks:
            _validate_sink(sink)
        counter_lock = threading.Lock()
        self._queues = [SinkQueue(sink, metrics, counter_lock) for sink in sinks]
        self._strict_queues = [queue for queue in self._queues if queue.strict]
        self.strict = bool(self._strict_queues)
        self._flush_lock = anyio.Lock()
        self._flush = 0
        """Number of the last flush that a thread waited for."""
        self._flushed = 0
        """Number of the last flush that was not cut short."""

    def start(self) -> None:
        """Start the threads."""
        for queue in self._queues:
            queue.start()

    async def ready(self) -> None:
        """Wait until the strict sinks are open.

        Raises:
            AuditError: one of them cannot be opened.
        """
        if self.strict:
            await _in_thread(self._strict_queues, SinkQueue.wait_opened, OPEN_TIMEOUT)
            self.check()

    def check(self) -> None:
        """Raise `AuditError` if a strict sink cannot take records."""
        for queue in self._strict_queues:
            if problem := queue.refusal:
                raise AuditError(
                    f"no update is accepted, because the audit sink {queue.sink!r} is strict and "
                    f"takes no records: {problem}. Repair the sink to continue."
                )

    @property
    def slow(self) -> bool:
        """Return whether a strict sink works but its queue is full. Then bulk work must wait."""
        return any(queue.full and not queue.failing for queue in self._strict_queues)

    def record(self, update: CompletedUpdate) -> None:
        """Queue a completed update for every sink."""
        for queue in self._queues:
            queue.put(update)

    async def flush(self) -> None:
        """Wait until the sinks have taken what is queued, at most 5 seconds.

        Any number of concurrent calls take one thread: a flush that begins after a call serves it.
        """
        deadline = time.monotonic() + FLUSH_TIMEOUT
        last = self._flush
        async with self._flush_lock:
            seconds = deadline - time.monotonic()
            if self._flushed > last or seconds <= 0:
                return
            self._flush += 1
            await _in_thread(self._queues, SinkQueue.flush, seconds)
            if time.monotonic() < deadline:
                self._flushed = self._flush

    async def close(self, seconds: float) -> None:
        """Write what is queued and end the threads, within `seconds` of real time."""
        for queue in self._queues:
            queue.stop()
        await _in_thread(self._queues, SinkQueue.join, max(seconds, MIN_CLOSE_TIMEOUT))


async def _in_thread(
    queues: Sequence[SinkQueue], wait: Callable[[SinkQueue, float], None], seconds: float
) -> None:
    """Call `wait` for all queues in one other thread, within `seconds` of real time in all."""
    deadline = time.monotonic() + seconds

    def wait_for_all() -> None:
        for queue in queues:
            wait(queue, deadline)

    limiter = anyio.CapacityLimiter(1)
    await anyio.to_thread.run_sync(wait_for_all, abandon_on_cancel=True, limiter=limiter)


def _validate_sink(sink: Any) -> None:
    missing = [
        name for name in ("open", "write", "close") if not callable(getattr(sink, name, None))
    ]
    missing += [name for name in ("strict", "max_queue") if not hasattr(sink, name)]
    if missing:
        raise ConfigurationError(
            f"audit={type(sink).__name__}: not an audit sink, it lacks {', '.join(missing)}; "
            "use JsonLinesAudit(path), or derive from AuditSink"
        )
    if not isinstance(sink.max_queue, int) or sink.max_queue < 1:
        raise ConfigurationError(f"max_queue={sink.max_queue!r}: must be an integer of at least 1")
