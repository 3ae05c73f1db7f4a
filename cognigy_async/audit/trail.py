"""The audit of one client: from settled updates to its sinks.

The event loop's thread notes what settled and when. What that makes of a record, its hash and its
way to a disk are the business of a thread for each sink, so that neither a slow disk nor a sink
that fails holds up an update.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ..errors import AuditError, ConfigurationError
from .records import draft_of
from .sink_queue import SinkQueue

if TYPE_CHECKING:
    from ..engine.work_item import WorkItem
    from ..metrics import Metrics
    from .sinks import AuditSink

OPENING_TIME = 10.0
"""Seconds that a strict sink has to open."""

FLUSH_TIME = 5.0
"""Seconds that `flush` waits for sinks."""

LEAST_CLOSING_TIME = 1.0
"""Seconds that sinks have when a client closes although its time has run out."""


class AuditTrail:
    """The audit of one client.

    Args:
        audit: one sink, or several.

    Raises:
        ConfigurationError: something else.
    """

    def __init__(self, audit: AuditSink | Sequence[AuditSink], metrics: Metrics) -> None:
        sinks = tuple(audit) if isinstance(audit, Sequence) else (audit,)
        for sink in sinks:
            _check(sink)
        counting = threading.Lock()
        self._channels = [SinkQueue(sink, metrics, counting) for sink in sinks]
        self._strict = [channel for channel in self._channels if channel.strict]
        self.strict = bool(self._strict)
        """Whether `check` and `slow` have to be asked at all."""
        self._clock: Callable[[], float] = time.monotonic

    def start(self, clock: Callable[[], float]) -> None:
        """Start the threads; `clock` is that of the entries."""
        self._clock = clock
        for channel in self._channels:
            channel.start()

    async def ready(self) -> None:
        """Wait until the strict sinks are open.

        Raises:
            AuditError: one of them cannot be opened.
        """
        if self._strict:
            await _in_thread(self._wait_for_strict, time.monotonic() + OPENING_TIME)
            self.check()

    def check(self) -> None:
        """Raise `AuditError` where updates could not be audited and have to be."""
        for channel in self._strict:
            if problem := channel.refusal:
                raise AuditError(
                    f"no update is taken, because the audit sink {channel.sink!r} is strict and "
                    f"takes no records: {problem}. Mend it; then updates are taken again."
                )

    @property
    def slow(self) -> bool:
        """Whether a strict sink works but is behind: bulk work waits for it."""
        return any(channel.full and not channel.failing for channel in self._strict)

    def settled(self, item: WorkItem) -> None:
        """Take down an entry that has its outcome."""
        draft = draft_of(item, time.time(), self._clock())
        for channel in self._channels:
            channel.put(draft)

    async def flush(self) -> None:
        """Wait until the sinks were given what has settled, or for a few seconds."""
        deadline = time.monotonic() + FLUSH_TIME
        await _in_thread(self._each, SinkQueue.flush, deadline)

    async def close(self, seconds: float) -> None:
        """Let the sinks take what is left, within so many seconds of real time."""
        deadline = time.monotonic() + max(seconds, LEAST_CLOSING_TIME)
        for channel in self._channels:
            channel.stop()
        await _in_thread(self._each, SinkQueue.join, deadline)

    def _each(self, wait: Callable[[SinkQueue, float], None], deadline: float) -> None:
        for channel in self._channels:
            wait(channel, deadline)

    def _wait_for_strict(self, deadline: float) -> None:
        for channel in self._strict:
            channel.opened.wait(max(0.0, deadline - time.monotonic()))


async def _in_thread(function: Callable[..., object], *args: Any) -> None:
    """Its deadlines are real seconds, and none of the event loop's threads is waited for."""
    limiter = anyio.CapacityLimiter(1)
    await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)


def _check(sink: Any) -> None:
    missing = [
        name for name in ("open", "write", "close") if not callable(getattr(sink, name, None))
    ]
    missing += [name for name in ("strict", "max_queue") if not hasattr(sink, name)]
    if missing:
        raise ConfigurationError(
            f"audit={type(sink).__name__}: is no audit sink, since it lacks {', '.join(missing)}; "
            "use JsonLinesAudit(path), or derive from AuditSink"
        )
    if not isinstance(sink.max_queue, int) or sink.max_queue < 1:
        raise ConfigurationError(f"max_queue={sink.max_queue!r}: must be an integer of at least 1")
