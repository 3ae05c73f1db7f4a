"""`SinkQueue`: the queue of one audit sink, and the thread that writes its records in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from logging import ERROR
from typing import TYPE_CHECKING, Any

from .._utils.logging import log
from ..errors import CognigyError
from .records import record_of

if TYPE_CHECKING:
    from ..metrics import Metrics
    from .completed_update import CompletedUpdate
    from .records import AuditRecord
    from .sinks import AuditSink

BATCH = 64
"""Maximum number of records in one write."""

# All of these are in seconds.
LINGER = 0.01  # the thread waits this long for more records before it writes
RETRY_DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)  # a strict sink repeats the last delay
LOG_INTERVAL = 3600.0  # each cause is logged at most once in this time
YIELD_TIME = 1e-4
"""The event loop sleeps this long per batch while the thread is behind; otherwise a busy loop takes
the interpreter lock back each time before the thread wakes up."""


class SinkQueue:
    """The queue and the thread of one sink.

    Args:
        counter_lock: guards the audit counters of `metrics`, which the sinks of a client share.

    """

    def __init__(self, sink: AuditSink, metrics: Metrics, counter_lock: threading.Lock) -> None:
        self.sink = sink
        self.strict = bool(sink.strict)
        self._max_queue = sink.max_queue
        self._yield_from = max(1, self._max_queue * 3 // 4)
        self._yield_every = max(1, min(BATCH, self._max_queue // 4))
        self._metrics = metrics
        self._counter_lock = counter_lock
        # An event in the queue marks a flush. The event `_closing` marks the end.
        self._queue: deque[CompletedUpdate | threading.Event] = deque()
        self._not_empty = threading.Event()
        self._opened = threading.Event()  # set when `sink.open` has returned or failed
        self._closing = threading.Event()
        self._ended = False
        self._abandoned = False  # set by `join`; nothing is counted after that
        self._accepted = 0
        self._done = 0
        self._problem = ""
        self._logged_at: dict[str, float] = {}
        self._thread = threading.Thread(
            target=self._run, name=f"cognigy_async audit {sink!r}", daemon=True
        )

    # Called by the event loop.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, update: CompletedUpdate) -> None:
        """Queue a completed update, or drop it if the queue is full.

        A strict sink drops nothing. Its client refuses new updates while the queue is full.
        """
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._yield_from:
            if waiting >= self._max_queue and not self.strict:
                self._count(dropped=1)
                self._log("its queue is full", "Records are dropped; use a faster sink.")
                return
            if waiting % self._yield_every == 0:
                time.sleep(YIELD_TIME)
        self._accepted += 1
        queue.append(update)
        if not self._not_empty.is_set():
            self._not_empty.set()

    @property
    def failing(self) -> bool:
        """Return whether the latest call of the sink failed."""
        return bool(self._problem)

    @property
    def full(self) -> bool:
        """Return whether `max_queue` records are waiting."""
        return len(self._queue) >= self._max_queue

    @property
    def refusal(self) -> str:
        """Return why a strict sink blocks new updates, or an empty text if it does not."""
        if self._problem:
            return self._problem
        if not self._opened.is_set():
            return "it is still opening"
        return "its queue is full" if self.full else ""

    # Called by threads that may block.

    def wait_opened(self, deadline: float) -> None:
        """Wait until the sink is open or has failed, at most until `deadline`."""
        self._opened.wait(max(0.0, deadline - time.monotonic()))

    def flush(self, deadline: float) -> None:
        """Wait until everything queued so far is written or lost, at most until `deadline`."""
        reached = threading.Event()
        self._queue.append(reached)
        self._not_empty.set()
        if not self._ended:
            reached.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End the thread after it has written what is queued, without further retries."""
        self._closing.set()
        self._queue.append(self._closing)
        self._not_empty.set()

    def join(self, deadline: float) -> None:
        """Wait for the end of the thread. Records not written by `deadline` are dropped."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._counter_lock:
            self._abandoned = True
            lost = self._accepted - self._done
            self._done = self._accepted
            self._metrics.audit_dropped += lost
        if lost:
            self._log(
                "it did not take all records before the client was closed",
                f"{lost} records are lost; give aclose() more time, or use a faster sink.",
            )

    # Called by the thread.

    def _run(self) -> None:
        try:
            self._call(self.sink.open)
            self._opened.set()
            while not self._abandoned:
                batch, marker = self._next_batch()
                if batch:
                    self._write(batch)
                if marker is not None:
                    marker.set()
                if marker is self._closing:
                    return
        finally:
            self._opened.set()
            self._ended = True
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, threading.Event):
                    item.set()
            self._call(self.sink.close)

    def _next_batch(self) -> tuple[list[CompletedUpdate], threading.Event | None]:
        """Wait for updates. Return a batch of them, and the event that ended the batch, if any."""
        queue = self._queue
        while not queue:
            self._not_empty.clear()
            # An update may have come between the check and `clear`.
            if not queue:
                self._not_empty.wait()
        if len(queue) < BATCH and not isinstance(queue[0], threading.Event):
            self._closing.wait(LINGER)
        batch: list[CompletedUpdate] = []
        while queue and len(batch) < BATCH:
            item = queue.popleft()
            if isinstance(item, threading.Event):
                return batch, item
            batch.append(item)
        return batch, None

    def _write(self, batch: Sequence[CompletedUpdate]) -> None:
        """Write the records of a batch, with retries."""
        records: list[AuditRecord] = []
        for update in batch:
            try:
                records.append(record_of(update))
            except Exception as error:
                self._log(_text_of(error), "A record could not be made and is lost.")
                self._count(failed=1)
        delays = iter(RETRY_DELAYS)
        while not self._call(self.sink.write, records):
            delay = next(delays, RETRY_DELAYS[-1] if self.strict else None)
            if self._closing.is_set() or delay is None:
                self._count(failed=len(records))
                return
            self._closing.wait(delay)
        self._problem = ""
        self._count(written=len(records))

    def _call(self, function: Callable[..., object], *args: Any) -> bool:
        """Call the sink and return whether that worked. Log an exception and keep its text."""
        try:
            function(*args)
        except BaseException as error:
            self._problem = _text_of(error)
            self._log(
                self._problem,
                "Updates are refused until it works."
                if self.strict
                else "Updates continue without it; repair it, or make it strict.",
            )
            return False
        return True

    def _count(self, *, written: int = 0, failed: int = 0, dropped: int = 0) -> None:
        with self._counter_lock:
            if self._abandoned:
                return
            self._done += written + failed
            self._metrics.audit_written += written
            self._metrics.audit_failed += failed
            self._metrics.audit_dropped += dropped

    def _log(self, cause: str, consequence: str) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(cause, -LOG_INTERVAL) < LOG_INTERVAL:
            return
        if len(self._logged_at) >= BATCH:
            self._logged_at.clear()
        self._logged_at[cause] = now
        log(ERROR, "audit sink %r: %s. %s", self.sink, cause, consequence)


def _text_of(error: BaseException) -> str:
    """Return the text of an error, or only its class if the message may contain values."""
    if isinstance(error, CognigyError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"it raised {type(error).__name__}"
