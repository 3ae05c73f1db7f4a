"""One sink: its queue, and the thread that makes records of what is queued and gives it batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from logging import ERROR
from typing import TYPE_CHECKING, Any, Literal

from .._utils.logging import log
from ..errors import CognigyError
from .records import Draft, record_of

if TYPE_CHECKING:
    from ..metrics import Metrics
    from .records import AuditRecord
    from .sinks import AuditSink

BATCH = 64
"""Records that are written at once."""

HANDOVER = 1e-4
"""Seconds that the event loop gives to a thread that is behind, once for each batch. A loop that is
never idle takes the interpreter's lock back each time before the thread wakes up, without end."""

LINGER = 0.01
"""Seconds that a thread waits for more to write, so that it is not woken by every update."""

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before a call that failed is repeated; with `strict`, the last one without end."""

QUIET_TIME = 3600.0
"""Seconds in which one cause is logged once."""


class SinkQueue:
    """One sink, its queue and its thread."""

    def __init__(self, sink: AuditSink, metrics: Metrics, counting: threading.Lock) -> None:
        self.sink = sink
        self.strict = bool(sink.strict)
        self._most = sink.max_queue
        self._behind = max(1, self._most * 3 // 4)
        self._share = max(1, min(BATCH, self._most // 4))
        self._metrics = metrics
        self._counting = counting
        self._queue: deque[Draft | threading.Event | None] = deque()
        self._bell = threading.Event()
        """Set while there may be something in the queue."""
        self._taken = 0
        self._settled = 0
        self._retry_state = ""
        self._told: dict[str, float] = {}
        self._closing = threading.Event()
        self.opened = threading.Event()
        self.abandoned = False
        self._over = False
        """Nothing is taken from the queue any more."""
        self._thread = threading.Thread(
            target=self._run, name=f"cognigy_async audit {sink!r}", daemon=True
        )

    # In the event loop's thread.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, draft: Draft) -> None:
        """Queue what settled; with `strict` always, since nothing new is accepted meanwhile."""
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._behind:
            if waiting >= self._most and not self.strict:
                self._count(dropped=1)
                self._tell("its queue is full", "Records are dropped; use a faster sink.")
                return
            if waiting % self._share == 0:
                time.sleep(HANDOVER)
        self._taken += 1
        queue.append(draft)
        if not self._bell.is_set():
            self._bell.set()

    @property
    def failing(self) -> bool:
        """Whether the sink's last call failed."""
        return bool(self._retry_state)

    @property
    def refusal(self) -> str:
        """Why no updates may be taken; empty where they may."""
        if not self.strict:
            return ""
        if self._retry_state:
            return self._retry_state
        if not self.opened.is_set():
            return "it is still opening"
        return "its queue is full" if self.full else ""

    @property
    def full(self) -> bool:
        """Whether as many records wait as may."""
        return len(self._queue) >= self._most

    # In a thread that may wait.

    def flush(self, deadline: float) -> None:
        """Wait until what is queued now has been dealt with."""
        reached = threading.Event()
        self._queue.append(reached)
        self._bell.set()
        if self._over:
            return
        reached.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Write what is queued, then end; nothing is repeated any more."""
        self._closing.set()
        self._queue.append(None)
        self._bell.set()

    def join(self, deadline: float) -> None:
        """Wait for the end; what is not written by then is dropped."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._counting:
            self.abandoned = True
            lost = self._taken - self._settled
            self._settled = self._taken
            self._metrics.audit_dropped += lost
        if lost:
            self._tell(
                "it did not take everything in the time that closing had",
                f"{lost} records are lost; give aclose() more time, or use a faster sink.",
            )

    # In the sink's thread.

    def _run(self) -> None:
        try:
            self._call(self.sink.open)
            self.opened.set()
            self._work()
        finally:
            self.opened.set()
            self._over = True
            self._let_go()
            self._call(self.sink.close)

    def _work(self) -> None:
        while not self.abandoned:
            batch, mark = self._gather()
            if batch:
                self._deliver(batch)
            if isinstance(mark, threading.Event):
                mark.set()
            elif mark is None:
                return

    def _let_go(self) -> None:
        """Nobody is to wait for what does not come."""
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, threading.Event):
                item.set()

    def _gather(self) -> tuple[list[Draft], threading.Event | Literal["more"] | None]:
        """Up to a batch, and the mark that it ends with."""
        queue = self._queue
        while not queue:
            self._bell.clear()
            # It may have been rung between the look and this.
            if not queue:
                self._bell.wait()
        if isinstance(queue[0], Draft) and len(queue) < BATCH:
            self._closing.wait(LINGER)
        batch: list[Draft] = []
        while queue and len(batch) < BATCH:
            item = queue.popleft()
            if not isinstance(item, Draft):
                return batch, item
            batch.append(item)
        return batch, "more"

    def _deliver(self, batch: Sequence[Draft]) -> None:
        records: list[AuditRecord] = []
        for draft in batch:
            try:
                records.append(record_of(draft))
            except Exception as error:
                self._tell(_cause(error), "A record could not be made and is lost.")
                self._count(failed=1, settled=1)
        pauses = iter(PAUSES)
        while not self._call(self.sink.write, records):
            pause = next(pauses, PAUSES[-1] if self.strict else None)
            if self._closing.is_set() or pause is None:
                self._count(failed=len(records), settled=len(records))
                return
            self._closing.wait(pause)
        self._retry_state = ""
        self._count(written=len(records), settled=len(records))

    def _call(self, function: Callable[..., object], *args: Any) -> bool:
        """Whether it works; what sinks raise ends here, whatever it is."""
        try:
            function(*args)
        except BaseException as error:
            self._retry_state = _cause(error)
            self._tell(
                self._retry_state,
                "Updates are refused until it works."
                if self.strict
                else "Updates go on; mend it, or make it strict.",
            )
            return False
        return True

    def _count(
        self, *, written: int = 0, failed: int = 0, dropped: int = 0, settled: int = 0
    ) -> None:
        with self._counting:
            if self.abandoned:
                return
            self._settled += settled
            self._metrics.audit_written += written
            self._metrics.audit_failed += failed
            self._metrics.audit_dropped += dropped

    def _tell(self, cause: str, consequence: str) -> None:
        now = time.monotonic()
        if now - self._told.get(cause, -QUIET_TIME) < QUIET_TIME:
            return
        if len(self._told) >= BATCH:
            self._told.clear()
        self._told[cause] = now
        log(ERROR, "audit sink %r: %s. %s", self.sink, cause, consequence)


def _cause(error: BaseException) -> str:
    """What may be told of an error; an exception of somebody else's may name anything."""
    if isinstance(error, CognigyError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"it raised {type(error).__name__}"
