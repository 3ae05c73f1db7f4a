"""Leave out of the rows of a job what would change nothing, as its baseline says.

A row is compared when it is read, before it is sent. All that its request will write is forgotten
in the baseline first, and known again once the row was applied, unless a later row that writes it
is under way. So a variable that the baseline knows is one that nothing under way can change.

A row may repeat what an earlier row of its dialog, still under way, is writing. Then the row waits,
and later rows of its dialog behind it, until no row of the dialog is under way.

Worker threads compare and write, one at a time. The event loop only notes outcomes, for the next of
them to take.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cognigy_async import (
    AmbiguousUpdateError,
    CognigyError,
    DialogNotFoundError,
    StateConflictError,
    StateUpdate,
)

from .baseline import Baseline
from .input.row import Row
from .options import JobOptions

DOUBTS = (AmbiguousUpdateError, DialogNotFoundError, StateConflictError)
"""Errors after which nothing is known of a dialog: its session ended, or others write to it."""

WHOLE_SESSION = ""
"""Name for all variables together, where a request drops those that it does not name."""

MOST_DEFERRED = 1000
"""Rows that may wait for earlier rows of their dialogs before no more rows are read."""
MOST_DEFERRED_BYTES = 1 << 23


@dataclass(slots=True)
class _Dialog:
    """Rows of a dialog that have no outcome yet.

    Attributes:
        under_way: Names of the variables that each row writes, by its line.
        latest: Line and hash of the latest write of each variable.
        moved_at: Line of the latest row that may move the dialog, which forgets earlier writes.
        deferred: Rows that wait until no row is under way.
        in_turn: True if rows are sent one by one, because there are deferred rows, or were.
    """

    under_way: dict[int, Iterable[str]] = field(default_factory=dict)
    latest: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    moved_at: int = 0
    deferred: deque[Row] = field(default_factory=deque)
    in_turn: bool = False


class BaselineFilter:
    """Compares rows with a baseline, and keeps the baseline up to date.

    Args:
        keeps_other_variables: See `StateApi`. If False, a row is sent whole or not at all.
        whole: Lines of rows that must be sent as they are.
        user_id: User of the rows that name none.
    """

    def __init__(
        self,
        baseline: Baseline,
        options: JobOptions,
        *,
        keeps_other_variables: bool = True,
        whole: Container[int] = (),
        user_id: str | None = None,
    ) -> None:
        self._baseline = baseline
        self._max_age = options.baseline_max_age
        # Rows that share a request are repeated unchanged after a crash. They do not wait either:
        # merging them saves more requests.
        self._coalesce = options.coalesce
        self._keeps_others = keeps_other_variables
        self._whole = whole
        self._user_id = user_id
        self._lock = threading.Lock()
        self._outcomes: deque[tuple[Row, bool, CognigyError | None]] = deque()
        """Outcomes that no worker thread has taken yet."""
        self._dialogs: dict[str, _Dialog] = {}
        self._deferring: dict[str, _Dialog] = {}
        """Dialogs with deferred rows."""
        self.deferred = 0
        """Number of deferred rows."""
        self._deferred_bytes = 0

    # Called in the event loop.

    def settle(self, row: Row, *, applied: bool, error: CognigyError | None = None) -> None:
        """Note the outcome of a row, or that it is not sent. Do so before the journal records it.

        Args:
            error: Its error; None if the row was applied or not sent.
        """
        self._outcomes.append((row, applied, error))

    def waits_for(self, row: Row) -> bool:
        """Return whether a deferred row may wait for this one."""
        return row.dialog_id in self._deferring

    @property
    def is_full(self) -> bool:
        """Return whether so many rows are deferred that no more should be read."""
        return self.deferred > MOST_DEFERRED or self._deferred_bytes > MOST_DEFERRED_BYTES

    # Called in worker threads.

    def compare(self, rows: Iterable[Row]) -> list[Row]:
        """Compare the next rows, and return those that are not deferred.

        A row that would change nothing is marked as `unchanged`. From a row that would change less
        than it assigns, the rest was removed.

        Raises:
            JournalError: The baseline cannot be written.
        """
        with self._writing():
            return [row for row in rows if self._take(row)]

    def foresee(self, row: Row) -> bool:
        """Compare a row as if all rows before it were applied; return whether it would be sent."""
        self.compare([row])
        # The next row is compared with what this one would write.
        self.settle(row, applied=True)
        return not row.unchanged

    def release(self) -> list[Row]:
        """Compare deferred rows whose earlier rows are done, and return those that may go on.

        Raises:
            JournalError: The baseline cannot be written.
        """
        released: list[Row] = []
        with self._writing():
            for dialog_id, dialog in list(self._deferring.items()):
                while dialog.deferred and not dialog.under_way:
                    row = dialog.deferred.popleft()
                    self.deferred -= 1
                    self._deferred_bytes -= len(row.source)
                    self._compare(row, dialog)
                    released.append(row)
                if not dialog.deferred:
                    del self._deferring[dialog_id]
                    self._drop_if_done(dialog_id, dialog)
        return released

    def write(self) -> None:
        """Write what the noted outcomes changed.

        Raises:
            JournalError: The baseline cannot be written.
        """
        with self._writing():
            pass

    def close(self) -> None:
        """Close the baseline."""
        self._baseline.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._baseline.transaction():
            while self._outcomes:
                self._learn(*self._outcomes.popleft())
            yield

    def _learn(self, row: Row, applied: bool, error: CognigyError | None) -> None:
        dialog_id = row.dialog_id
        if dialog_id is None or (dialog := self._dialogs.get(dialog_id)) is None:
            return
        names = dialog.under_way.pop(row.line, None)
        if names is None:
            return
        digests: dict[str, bytes] = {}
        for name in names:
            # A later row that was withdrawn, when the run was stopped, may have left before.
            latest = dialog.latest.get(name)
            if latest is not None and latest[0] == row.line:
                digests[name] = latest[1]
                del dialog.latest[name]
        if isinstance(error, DOUBTS):
            self._baseline.forget(dialog_id)
        elif applied and digests and row.line > dialog.moved_at:
            self._baseline.add(dialog_id, digests)
        if dialog_id not in self._deferring:
            self._drop_if_done(dialog_id, dialog)

    def _drop_if_done(self, dialog_id: str, dialog: _Dialog) -> None:
        if not dialog.under_way:
            del self._dialogs[dialog_id]

    def _take(self, row: Row) -> bool:
        """Compare a row, or defer it and return False."""
        update, dialog_id = row.update, row.dialog_id
        if update is None or dialog_id is None or row.duplicate_of is not None:
            return True
        dialog = self._dialogs.get(dialog_id)
        if dialog is None:
            dialog = self._dialogs[dialog_id] = _Dialog()
        elif self._must_wait(row, update, dialog):
            dialog.deferred.append(row)
            dialog.in_turn = True
            self._deferring[dialog_id] = dialog
            self.deferred += 1
            self._deferred_bytes += len(row.source)
            return False
        self._compare(row, dialog)
        self._drop_if_done(dialog_id, dialog)
        return True

    def _must_wait(self, row: Row, update: StateUpdate, dialog: _Dialog) -> bool:
        if row.line in self._whole:
            return False
        if dialog.in_turn:
            return True
        if self._coalesce or row.not_repeatable:
            return False
        latest = dialog.latest
        return any(
            name in latest and latest[name][1] == digest
            for name, digest in self._digests(update).items()
        )

    def _compare(self, row: Row, dialog: _Dialog) -> None:
        """Take out of a row what would change nothing, and forget what the rest will change."""
        update, dialog_id = row.update, row.dialog_id
        assert update is not None
        assert dialog_id is not None
        digests = self._digests(update)
        is_fixed = row.not_repeatable or row.line in self._whole
        known = self._baseline.known(dialog_id, self._max_age) if digests else {}
        same = set() if is_fixed else {name for name in digests if known.get(name) == digests[name]}
        if same:
            if len(same) == len(digests) and not update.user:
                row.unchanged = True
                return
            # An id of the row's own is the Idempotency-Key of exactly this update.
            if not self._coalesce and not row.has_own_id:
                self._trim(row, update, same)
                digests = {name: digests[name] for name in digests.keys() - same}
        if row.may_move:
            self._baseline.forget(dialog_id)
            dialog.moved_at = row.line
        elif digests:
            self._baseline.forget(dialog_id, digests)
        dialog.under_way[row.line] = tuple(digests)
        dialog.latest.update((name, (row.line, digest)) for name, digest in digests.items())

    def _digests(self, update: StateUpdate) -> dict[str, bytes]:
        """Return the hashes of the session variables by name."""
        session = update.session
        if session and not self._keeps_others:
            session = {WHOLE_SESSION: session}
        digest = self._baseline.digest
        ids = update.dialog_id, self._user_id if update.user_id is None else update.user_id
        return {name: digest(*ids, name, value) for name, value in session.items()}

    def _trim(self, row: Row, update: StateUpdate, same: set[str]) -> None:
        """Remove variables from a row. The id tells which, because it stands for one body."""
        session = {}
        if self._keeps_others:
            session = {name: value for name, value in update.session.items() if name not in same}
        update_id = None
        if update.update_id is not None:
            names = "\n".join(sorted(same)).encode()
            update_id = f"{update.update_id}-{hashlib.blake2b(names, digest_size=4).hexdigest()}"
        row.update = update.replace(session=session, update_id=update_id)
