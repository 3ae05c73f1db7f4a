"""One limit for all processes of a host, kept in a file.

A thread takes slots in small batches before they are needed, so neither the event loop nor a
request waits for the lock of the file. A batch has a short lease; slots unused at its end are
returned. The slots of a batch count from its last response, at the latest from the end of its
lease, so a process that dies occupies them for no longer than one window after that. A request
that the server sees later than that may be one too many there.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from logging import WARNING

import anyio

from .._utils.concurrency import run_in_thread
from .._utils.locks import open_lockable, read_content, replace_content, wait_for_lock
from .._utils.logging import log
from .._utils.waker import Waker
from ..errors import ConfigurationError
from ..metrics import QuotaUse
from .limit import RateLimit
from .shared_ledger import BATCHES_PER_WINDOW, LEASE_SHARE, Grant, SharedLedger, Usage

RETRY_INTERVAL = 1.0
"""Seconds until a file that failed is tried again."""
LAST_REPORT_TIMEOUT = 1.0
"""Seconds that returning the unused slots may take when the client closes."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Slots that this process leased."""

    name: str
    left: int
    lease_end: float
    live: bool
    started: int = 0
    in_flight: int = 0
    last_finish: float = -math.inf

    def is_over(self, now: float) -> bool:
        """Return whether the lease ended, or no slot is left and no request is in flight."""
        return now >= self.lease_end or not (self.left or self.in_flight)


class SharedFileLimiter:
    """The limiter of ``RateLimit(shared=...)``; see `RateLimiter` for the methods they share.

    Raises:
        ConfigurationError: the file cannot be opened for writing.
    """

    def __init__(self, limit: RateLimit) -> None:
        assert limit.shared is not None
        self._limit = limit
        self._path = os.fspath(limit.shared)
        self._lease = LEASE_SHARE * limit.per
        self._batch_size = max(1, limit.capacity // BATCHES_PER_WINDOW)
        self._batches: deque[_Batch] = deque()
        self._in_flight: deque[tuple[float, _Batch]] = deque()
        self._wanted = False
        self._wanted_live = False
        self._refused_until = -math.inf
        self._refused_live = False
        self._used = 0
        self._serial = 0
        self._started = 0
        self._first_start = self._last_start = 0.0
        self._wake_up: anyio.Event | None = None
        self._clock: Callable[[], float] = time.monotonic
        try:
            os.close(self._open())
        except OSError as error:
            raise ConfigurationError(
                f"RateLimit(shared=...): the file cannot be used: {error.strerror}; its directory "
                "must exist, and all processes must be able to write it"
            ) from error

    def __repr__(self) -> str:
        limit = self._limit
        return f"<SharedFileLimiter {self._used}/{limit.capacity} per {limit.per:g} s>"

    def next_slot_at(self, now: float, live: bool) -> float:
        """Return when a request may start; infinity while the thread asks for slots."""
        left = 0
        for batch in self._batches:
            if now < batch.lease_end:
                left += batch.left
        # Live work may get slots where bulk work was refused.
        refused = now < self._refused_until and (self._refused_live or not live)
        if 2 * left <= self._batch_size and not refused:
            self._want(live)
        if left:
            return now
        return self._refused_until if refused else math.inf

    def next_bulk_slot_at(self, now: float) -> float:
        """Return when bulk work may start; slots leased for live work may be headroom."""
        for batch in self._batches:
            if batch.left and now < batch.lease_end and not batch.live:
                return now
        if now >= self._refused_until:
            self._want(live=False)
            return math.inf
        return self._refused_until

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot, preferably from a batch leased for the same kind of work."""
        usable = [each for each in self._batches if each.left and now < each.lease_end]
        batch = next((each for each in usable if each.live is not bulk), usable[0])
        if not self._started:
            self._first_start = now
        self._started += 1
        self._last_start = now
        batch.left -= 1
        batch.started += 1
        batch.in_flight += 1
        self._in_flight.append((now, batch))

    def finish(self, started: float, now: float) -> None:
        """Note the response to the request that started at `started`."""
        for index, (at, batch) in enumerate(self._in_flight):
            if at == started:
                del self._in_flight[index]
                batch.in_flight -= 1
                batch.last_finish = now
                return

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """Return the slots used by all processes, and the utilisation by this one."""
        limit = self._limit
        windows = max(1.0, (self._last_start - self._first_start) / limit.per)
        share = min(1.0, self._started / (limit.capacity * windows))
        return (QuotaUse(limit.capacity, limit.per, self._used, share, learned=False),)

    def _want(self, live: bool) -> None:
        self._wanted = True
        self._wanted_live = self._wanted_live or live
        if self._wake_up is not None:
            self._wake_up.set()

    async def run(self, clock: Callable[[], float], waker: Waker) -> None:
        """Lease slots as they are wanted, and return unused ones, until cancelled."""
        self._clock = clock
        try:
            while True:
                self._wake_up = anyio.Event()
                if not self._wanted:
                    ends = min((batch.lease_end for batch in self._batches), default=math.inf)
                    wait = max(0.001, ends - clock()) if ends < math.inf else None
                    with anyio.move_on_after(wait):
                        await self._wake_up.wait()
                await self._sync()
                waker.wake()
        finally:
            self._wanted = False
            for batch in self._batches:
                batch.lease_end = -math.inf
            with anyio.move_on_after(LAST_REPORT_TIMEOUT, shield=True), suppress(OSError):
                await self._sync()

    async def _sync(self) -> None:
        """Report the batches that ended and lease a new one if wanted, in a thread."""
        asked_at = self._clock()
        wanted, live = self._wanted, self._wanted_live
        self._wanted = self._wanted_live = False
        self._serial += 1
        name = f"{os.getpid()}-{id(self):x}-{self._serial}"
        reports = self._drop_ended(asked_at)
        try:
            grant = await run_in_thread(partial(self._update_file, name, reports, wanted, live))
        except OSError as error:
            log(WARNING, "shared quota file cannot be used: %s", error.strerror)
            grant = Grant(0, RETRY_INTERVAL)
        if grant.count:
            self._batches.append(_Batch(name, grant.count, asked_at + self._lease, live))
        elif wanted:
            self._refused_until = self._clock() + grant.wait
            self._refused_live = live

    def _drop_ended(self, now: float) -> dict[str, Usage]:
        """Drop the batches that are over. Return how many slots each used, and their age."""
        over = [batch for batch in self._batches if batch.is_over(now)]
        for batch in over:
            self._batches.remove(batch)
        return {
            batch.name: Usage(batch.started, 0.0 if batch.in_flight else now - batch.last_finish)
            for batch in over
        }

    def _update_file(self, name: str, reports: dict[str, Usage], wanted: bool, live: bool) -> Grant:
        """Read, change and write the file under its lock."""
        file = self._open()
        try:
            wait_for_lock(file)
            now = time.monotonic()
            ledger = SharedLedger(self._limit, read_content(file), now, time.time() - now)
            ledger.report(reports, now)
            grant = Grant(0)
            if wanted:
                grant = ledger.take(name, self._batch_size, now, live=live)
            self._used = ledger.used
            replace_content(file, ledger.content())
            return grant
        finally:
            os.close(file)

    def _open(self) -> int:
        return open_lockable(self._path, 0o600)
