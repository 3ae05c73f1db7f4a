"""One limit for the processes of a host, kept in a file.

Places are taken in small batches by a thread, before they are needed: neither the event loop nor a
request waits for the lock of the file. A batch has a short lease, at the end of which what was not
used is given back. All its places count from that moment on, so that a process that dies takes
nothing with it for longer than a window.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from logging import WARNING

import anyio
import anyio.to_thread

from .._utils.logging import log
from ..errors import ConfigurationError
from ..metrics import QuotaUse
from .limit import RateLimit
from .shared_ledger import BATCHES_PER_WINDOW, LEASE_SHARE, Grant, SharedLedger

AFTER_FAILURE = 1.0
"""Seconds until a file that could not be used is tried again."""
LAST_REPORT = 1.0
"""Seconds that giving back what is left may take when the client closes."""


class _Batch:
    """Places that this process was given."""

    __slots__ = ("lease", "left", "live", "name", "started")

    def __init__(self, name: str, count: int, lease: float, *, live: bool) -> None:
        self.name = name
        self.left = count
        self.lease = lease
        self.live = live
        self.started = 0


class SharedFileLimiter:
    """The limiter of `RateLimit(shared=...)`.

    Raises:
        ConfigurationError: the file cannot be used, or the system has no such locks.
    """

    def __init__(self, limit: RateLimit) -> None:
        assert limit.shared is not None
        self._limit = limit
        self._path = os.fspath(limit.shared)
        self._lease = LEASE_SHARE * limit.per
        self._size = max(1, limit.capacity // BATCHES_PER_WINDOW)
        self._batches: deque[_Batch] = deque()
        self._wanted = False
        self._wanted_live = False
        self._opens = -math.inf
        self._refused_live = False
        self._used = 0
        self._serial = 0
        self._started = 0
        self._first = self._last = 0.0
        self._event: anyio.Event | None = None
        self._clock: Callable[[], float] = time.monotonic
        if find_spec("fcntl") is None:
            raise ConfigurationError(
                "RateLimit(shared=...): this system has no file locks; give each process its share"
            )
        try:
            os.close(self._open())
        except OSError as error:
            raise ConfigurationError(
                f"RateLimit(shared=...): the file cannot be used: {error.strerror}; "
                "its directory must be there, and all processes must be able to write it"
            ) from error

    def __repr__(self) -> str:
        return f"<SharedWindow {self._used} of {self._limit.capacity} per {self._limit.per:g} s>"

    # As every limiter.

    def next_slot_at(self, now: float, live: bool) -> float:
        """See `Limiter`; infinite while the thread asks."""
        left = 0
        for batch in self._batches:
            if now < batch.lease:
                left += batch.left
        # What bulk work was refused is not what live work would be.
        refused = now < self._opens and (self._refused_live or not live)
        if 2 * left <= self._size and not refused:
            self._want(live)
        if left:
            return now
        return self._opens if refused else math.inf

    def next_bulk_slot_at(self, now: float) -> float:
        """See `Limiter`. Places that were taken for live work are from the last tenth."""
        for batch in self._batches:
            if batch.left and now < batch.lease and not batch.live:
                return now
        if now >= self._opens:
            self._want(live=False)
            return math.inf
        return self._opens

    def start(self, now: float, *, bulk: bool) -> None:
        """See `Limiter`."""
        usable = [each for each in self._batches if each.left and now < each.lease]
        batch = next((each for each in usable if each.live is not bulk), usable[0])
        if not self._started:
            self._first = now
        self._started += 1
        self._last = now
        batch.left -= 1
        batch.started += 1

    def finish(self, began: float, now: float) -> None:
        """See `Limiter`: it counts from the end of its lease."""

    def usage(self, now: float) -> QuotaUse | None:
        """See `Limiter`; `used` is that of all processes, the utilisation that of this one."""
        limit = self._limit
        windows = max(1.0, (self._last - self._first) / limit.per)
        share = min(1.0, self._started / (limit.capacity * windows))
        return QuotaUse(limit.capacity, limit.per, self._used, share, learned=False)

    def _want(self, live: bool) -> None:
        self._wanted = True
        self._wanted_live = self._wanted_live or live
        if self._event is not None:
            self._event.set()

    # The task, and what its thread does.

    async def run(self, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        """Take batches as they are wanted, and tell what became of them, until cancelled."""
        self._clock = clock
        try:
            while True:
                self._event = anyio.Event()
                if not self._wanted:
                    ends = min((batch.lease for batch in self._batches), default=math.inf)
                    wait = max(0.001, ends - clock()) if ends < math.inf else None
                    with anyio.move_on_after(wait):
                        await self._event.wait()
                await self._exchange()
                wake()
        finally:
            self._wanted = False
            for batch in self._batches:
                batch.lease = -math.inf
            with anyio.move_on_after(LAST_REPORT, shield=True), suppress(OSError):
                await self._exchange()

    async def _exchange(self) -> None:
        asked = self._clock()
        wanted, live = self._wanted, self._wanted_live
        self._wanted = self._wanted_live = False
        self._serial += 1
        name = f"{os.getpid()}-{id(self):x}-{self._serial}"
        reports = self._given_back(asked)
        try:
            grant = await anyio.to_thread.run_sync(self._visit, name, reports, wanted, live)
        except OSError as error:
            log(WARNING, "the shared quota cannot be used: %s", error.strerror)
            grant = Grant(0, AFTER_FAILURE)
        if grant.count:
            self._batches.append(_Batch(name, grant.count, asked + self._lease, live=live))
        elif wanted:
            self._opens = self._clock() + grant.wait
            self._refused_live = live

    def _given_back(self, now: float) -> dict[str, int]:
        """How much was used of the batches of which places are left; those that are over are
        forgotten.
        """
        over = [batch for batch in self._batches if not batch.left or now >= batch.lease]
        for batch in over:
            self._batches.remove(batch)
        return {batch.name: batch.started for batch in over if batch.left}

    def _visit(self, name: str, reports: dict[str, int], wanted: bool, live: bool) -> Grant:
        """Read the file, change it, write it back; in a thread."""
        import fcntl

        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time.monotonic()
            content = os.pread(file, os.fstat(file).st_size, 0)
            ledger = SharedLedger(self._limit, content, now, time.time() - now)
            ledger.report(reports)
            grant = Grant(0)
            if wanted:
                grant = ledger.take(name, self._size, now, live=live)
            self._used = ledger.used
            written = ledger.content()
            os.pwrite(file, written, 0)
            os.ftruncate(file, len(written))
            return grant
        finally:
            os.close(file)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
