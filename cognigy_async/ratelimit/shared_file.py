"""One limit for all processes of a host, kept in a file.

A thread takes slots in small batches before they are needed, so neither the event loop nor a
request waits for the lock of the file. A batch has a short lease; slots unused at its end are
returned. The slots of a batch count from its last response, at the latest from the end of its
lease, so a process that dies occupies them for no longer than one window after that. A request
that the server sees later than that may be one too many there.

While the file cannot be used, live work goes on with this client's share of the limit, and bulk
work is refused.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from logging import WARNING

import anyio
import anyio.to_thread

from .._utils.locks import is_in_place, read_content, replace_content, try_lock
from .._utils.logging import log
from .._utils.private_files import open_private
from .._utils.waker import Waker
from ..errors import ConfigurationError, SharedQuotaError
from ..metrics import QuotaUse
from .limit import RateLimit
from .shared_ledger import (
    BATCHES_PER_WINDOW,
    LEASE_SHARE,
    ForeignContentError,
    Grant,
    SharedLedger,
    Usage,
)
from .sliding_window import SlidingWindow

# Seconds.
CHECK_INTERVAL = 1.0
"""A file that cannot be used is tried again, and one that was used within a window is looked at,
once in this time, or in the time of a lease if that is shorter."""
LOCK_DELAYS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, *(0.05,) * 14)
"""Waits between attempts to lock the file, together less than a second. The lock is held for less
than a millisecond, unless its process is stopped."""
LAST_REPORT_TIMEOUT = 0.5
"""Time for returning the unused slots when the client closes."""

RECOVERY_VISITS = 3
"""A client goes back to a file after it could use it so many times in a row. Meanwhile the other
clients report what they sent without it."""

UNKNOWN_CLIENTS = 10
"""Number of clients that are assumed to share a limit before its file could be read."""
MIN_BYTES, BYTES_PER_SLOT = 4096, 256
"""A ledger takes less than this, and less than this for each slot of the limit, together."""
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Failures that may pass by themselves; all others of a new client are faults of its settings."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Slots that this client leased, or, without slots, requests that it sent without a lease.

    Attributes:
        reported: True if the ledger has the number of used slots.
    """

    name: str
    left: int
    lease_end: float
    live: bool
    started: int = 0
    in_flight: int = 0
    last_finish: float = -math.inf
    reported: bool = False

    def is_over(self, now: float) -> bool:
        """Return whether the lease ended, or no slot is left and no request is in flight."""
        return now >= self.lease_end or not (self.left or self.in_flight)

    def usage(self, now: float) -> Usage:
        """Return how many slots were used, and when."""
        return Usage(self.started, 0.0 if self.in_flight else now - self.last_finish)


@dataclass(frozen=True, slots=True)
class _FileProblem:
    """A reason why the file cannot be used.

    Attributes:
        text: what is the matter with the file, to follow its path.
        remedy: what to do.
    """

    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Visit:
    """The result of one visit of the file.

    Attributes:
        version: identifies the ledger; see `SharedLedger.version`.
        clients: number of clients that it knows.
        full_for: seconds for which it counts as full because it was made anew.
    """

    grant: Grant
    version: tuple[float, int]
    used: int
    clients: int
    full_for: float


FOREIGN = _FileProblem(
    "has content that is not that of a quota file, and was left as it is",
    "Name another file in RateLimit(shared=...), or remove this one.",
)
LOCKED = _FileProblem(
    "is locked by another process, which does not go on",
    "Continue or end that process; it may have been stopped.",
)
MADE_ANEW = _FileProblem(
    "was damaged, removed or replaced, and was made anew",
    "Its slots count as used for one window.",
)


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
        self._check_interval = min(CHECK_INTERVAL, self._lease)
        self._length = limit.per * (1 + limit.guard)
        self._batch_size = max(1, limit.capacity // BATCHES_PER_WINDOW)
        self._batches: deque[_Batch] = deque()
        self._ended: deque[_Batch] = deque()
        """Batches of the last window that are over."""
        self._in_flight: deque[tuple[float, _Batch]] = deque()
        self._wanted = False
        self._wanted_live = False
        self._refused_until = -math.inf
        self._refused_live = False
        self._used = 0
        self._name = f"{os.getpid()}-{id(self):x}"
        self._serial = 0
        self._closing = False
        self._started = 0
        self._first_start = self._last_start = 0.0
        self._wake_up: anyio.Event | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._seen: tuple[float, int] | None = None
        self._clients = UNKNOWN_CLIENTS
        self._problem: _FileProblem | None = None
        self._usable_at = -math.inf
        self._good_visits = 0
        self._share: SlidingWindow | None = None
        """This client's share of the limit while the file cannot be used, else None."""
        self._unleased: _Batch | None = None
        """Counts the requests that are sent without a lease."""
        try:
            os.close(self._open())
        except OSError as error:
            if error.errno not in PASSING:
                raise ConfigurationError(
                    f"RateLimit(shared=...): {self._path} cannot be used: {error.strerror}; it "
                    "must be a file, its directory must exist, and all processes must be able to "
                    "write it"
                ) from error

    def __repr__(self) -> str:
        limit = self._limit
        return f"<SharedFileLimiter {self._used}/{limit.capacity} per {limit.per:g} s>"

    def next_slot_at(self, now: float, live: bool) -> float:
        """Return when a request may start; infinity while the thread asks for slots."""
        if self._share is not None:
            return self._share.next_slot_at(now) if live else math.inf
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
        """Return the time from which bulk work may start, without slots leased for live work."""
        if self._share is not None:
            return math.inf
        for batch in self._batches:
            if batch.left and now < batch.lease_end and not batch.live:
                return now
        if now >= self._refused_until:
            self._want(live=False)
            return math.inf
        return self._refused_until

    def bulk_refusal(self) -> SharedQuotaError | None:
        """Return the error for bulk work while the file cannot be used, else None."""
        problem = self._problem
        if problem is None:
            return None
        remedy = problem.remedy
        if problem is MADE_ANEW:
            seconds = max(1, math.ceil(self._usable_at - self._clock()))
            remedy += f" Try again in {seconds} s."
        return SharedQuotaError(self._path, problem.text, remedy)

    def start(self, now: float, *, bulk: bool) -> None:
        """Take a slot, preferably from a batch leased for the same kind of work."""
        if self._share is not None:
            self._share.start(now, bulk=bulk)
            batch = self._batch_without_lease(now)
        else:
            usable = [each for each in self._batches if each.left and now < each.lease_end]
            batch = next((each for each in usable if each.live is not bulk), usable[0])
            batch.left -= 1
        if not self._started:
            self._first_start = now
        self._started += 1
        self._last_start = now
        batch.started += 1
        batch.in_flight += 1
        self._in_flight.append((now, batch))

    def _batch_without_lease(self, now: float) -> _Batch:
        batch = self._unleased
        if batch is None or now >= batch.lease_end:
            batch = _Batch(self._next_name(), 0, now + self._lease, live=True)
            self._unleased = batch
            self._batches.append(batch)
        return batch

    def _next_name(self) -> str:
        self._serial += 1
        return f"{self._name}-{self._serial}"

    def finish(self, started: float, now: float) -> None:
        """Note the response to the request that started at `started`."""
        if self._share is not None:
            self._share.finish(started, now)
        for index, (at, batch) in enumerate(self._in_flight):
            if at == started:
                del self._in_flight[index]
                batch.in_flight -= 1
                batch.last_finish = now
                return

    def usage(self, now: float) -> tuple[QuotaUse, ...]:
        """Return the slots used by all clients, and the utilisation by this one."""
        if self._share is not None:
            return self._share.usage(now)
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
                await self._wait(clock(), self._wake_up)
                if await self._sync():
                    waker.wake()
        finally:
            self._wanted, self._closing = False, True
            for batch in self._batches:
                batch.lease_end = min(batch.lease_end, clock())
            with anyio.move_on_after(LAST_REPORT_TIMEOUT, shield=True):
                await self._sync()

    async def _wait(self, now: float, wake_up: anyio.Event) -> None:
        """Wait until slots are wanted, a lease ends, or the file is to be looked at."""
        if self._problem is not None:
            await anyio.sleep(self._check_interval)
        elif not self._wanted and self._seen is not None:
            at = min((batch.lease_end for batch in self._batches), default=math.inf)
            if self._ended:
                # Notice soon that the file was removed: others may begin a new one, which does not
                # know of these slots.
                at = min(at, now + self._check_interval)
            with anyio.move_on_after(None if at == math.inf else max(0.001, at - now)):
                await wake_up.wait()

    async def _sync(self) -> bool:
        """Report the batches that ended and lease a new one if wanted, in a thread.

        Return whether workers may go on or have to stop.
        """
        asked_at = self._clock()
        # With a problem, this only looks; afterwards the workers ask again.
        wanted, live = self._wanted and self._problem is None, self._wanted_live
        self._wanted = self._wanted_live = False
        name = self._next_name()
        unreported = self._drop_ended(asked_at)
        reports = {batch.name: batch.usage(asked_at) for batch in unreported}
        visit = await self._visit(partial(self._update_file, name, reports, wanted, live))
        if isinstance(visit, _FileProblem):
            return self._set_problem(visit)
        for batch in unreported:
            batch.reported = True
        self._seen, self._used = visit.version, visit.used
        if visit.full_for > 0:
            return self._set_problem(MADE_ANEW, visit.full_for)
        recovered = self._problem is not None and self._has_recovered()
        if self._problem is not None:
            return False
        self._clients = max(1, visit.clients)
        if visit.grant.count:
            self._batches.append(_Batch(name, visit.grant.count, asked_at + self._lease, live))
            # What was wanted during the visit may be there now; the workers ask again if not.
            self._wanted = self._wanted_live = False
        elif wanted:
            self._refused_until = self._clock() + visit.grant.wait
            self._refused_live = live
        return wanted or recovered

    def _drop_ended(self, now: float) -> list[_Batch]:
        """Move the batches that are over. Return those whose use the ledger does not have yet."""
        for batch in [batch for batch in self._batches if batch.is_over(now)]:
            self._batches.remove(batch)
            self._ended.append(batch)
        for batch in [batch for batch in self._ended if self._is_old(batch, now)]:
            self._ended.remove(batch)
        return [batch for batch in self._ended if not batch.reported]

    def _is_old(self, batch: _Batch, now: float) -> bool:
        """Return whether no request of a batch counts any more."""
        last = max(batch.last_finish, batch.lease_end)
        return not batch.in_flight and last + self._length <= now

    # Problems with the file.

    def _set_problem(self, problem: _FileProblem, seconds: float = 0.0) -> bool:
        """Go on without the file, for `seconds` if that is known. Return False if it is not new."""
        now = self._clock()
        self._usable_at = now + seconds + RECOVERY_VISITS * self._check_interval
        self._good_visits = 0
        if self._share is None:
            self._share = self._new_share(now)
        if problem == self._problem:
            return False
        self._problem = problem
        log(
            WARNING,
            "shared quota file %s %s. Bulk work stops; live work goes on with %d of %d requests "
            "per %g s. %s",
            self._path,
            problem.text,
            self._share.capacity,
            self._limit.capacity,
            self._limit.per,
            problem.remedy,
        )
        return True

    def _new_share(self, now: float) -> SlidingWindow:
        """Return the limit divided by the number of clients, less what this client has used."""
        limit = self._limit
        count = max(1, limit.capacity // self._clients)
        burst = None if limit.burst is None else min(limit.burst, count)
        share = SlidingWindow(RateLimit(count, limit.per, burst=burst, guard=limit.guard))
        used = [batch.usage(now) for batch in (*self._ended, *self._batches)]
        share.restore(now, [(usage.age, usage.count) for usage in used if usage.count])
        for batch in self._batches:
            batch.left = 0
        return share

    def _has_recovered(self) -> bool:
        """Note that the file could be used. Return True if this client goes back to it now."""
        self._good_visits += 1
        if self._good_visits < RECOVERY_VISITS:
            return False
        self._problem = self._share = self._unleased = None
        self._refused_until = -math.inf
        log(WARNING, "shared quota file %s can be used again", self._path)
        return True

    # The file.

    async def _visit(self, update: Callable[[], _Visit | None]) -> _Visit | _FileProblem:
        """Call `update` in a thread, several times if another process holds the lock."""
        delays = iter(LOCK_DELAYS)
        limiter = anyio.CapacityLimiter(1)
        while True:
            try:
                visit = await anyio.to_thread.run_sync(update, limiter=limiter)
            except ForeignContentError:
                return FOREIGN
            except OSError as error:
                return _FileProblem(
                    f"cannot be used: {error.strerror}",
                    "Its directory must exist, with room on the disk, and all processes must be "
                    "able to write it.",
                )
            if visit is not None:
                return visit
            delay = next(delays, None)
            if delay is None:
                return LOCKED
            await anyio.sleep(delay)

    def _update_file(
        self, name: str, reports: dict[str, Usage], wanted: bool, live: bool
    ) -> _Visit | None:
        """Read, change and write the file under its lock; return None if another one holds it."""
        file = self._open()
        try:
            if not try_lock(file) or not is_in_place(file, self._path):
                return None
            now = time.monotonic()
            before = read_content(file, MIN_BYTES + BYTES_PER_SLOT * self._limit.capacity)
            ledger = SharedLedger(self._limit, before, now, time.time() - now)
            if self._seen is not None:
                ledger.follow(self._seen, now)
            ledger.report(reports, now)
            if self._closing:
                ledger.forget(self._name)
            else:
                ledger.see(self._name, now)
            grant = Grant(0)
            if wanted:
                grant = ledger.take(name, self._batch_size, now, live=live)
            if ledger.changed:
                replace_content(file, ledger.content(), before)
            return _Visit(grant, ledger.version, ledger.used, ledger.clients, ledger.full_for(now))
        finally:
            os.close(file)

    def _open(self) -> int:
        # The processes of several users may share the file.
        return open_private(self._path, shared=True)
