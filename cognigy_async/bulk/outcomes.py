"""What became of a row, noted everywhere it counts: the journal, the dead letters, the ledger."""

from __future__ import annotations

from collections.abc import Callable

from cognigy_async import AmbiguousUpdateError, CognigyError, UpdateError, UpdateResult

from .ledger import Ledger
from .records import Failure, Status
from .rows import Row, dead_letter, error_record
from .scribe import Scribe


class Outcomes:
    """The outcomes of one run.

    Args:
        now: seconds of the epoch.
    """

    def __init__(self, scribe: Scribe, ledger: Ledger, now: Callable[[], float]) -> None:
        self._scribe = scribe
        self._ledger = ledger
        self._now = now

    def applied(self, row: Row, result: UpdateResult, at: float) -> None:
        """A row was applied; its answer came at that moment."""
        sent = at - result.latency
        self._scribe.settled(
            row.line,
            row.dialog_id,
            Status.SUCCEEDED,
            at,
            queued=sent - result.queued,
            sent=sent,
            attempts=result.attempts,
            refers=row.leader,
        )
        self._ledger.settled(row.ordinal, ok=True)

    def repeated(self, row: Row) -> None:
        """The same update, with the same `update_id`, stands further up."""
        self._scribe.settled(
            row.line, row.dialog_id, Status.REPEATED, self._now(), refers=row.repeats
        )
        self._ledger.settled(row.ordinal, ok=True)

    def failed(self, row: Row, error: CognigyError) -> None:
        """A row was not applied, or nobody can tell."""
        told = error_record(error)
        ambiguous = isinstance(error, AmbiguousUpdateError)
        at = self._now() if row.settled is None else row.settled
        queued = sent = None
        if isinstance(error, UpdateError) and error.latency is not None:
            sent = at - error.latency
            queued = sent - (error.queued or 0.0)
        self._scribe.failed(
            row.line,
            Failure(told["type"], told["message"], told["status"]),
            dead_letter(row.line, row.source, told),
        )
        self._scribe.settled(
            row.line,
            row.dialog_id,
            Status.AMBIGUOUS if ambiguous else Status.FAILED,
            at,
            queued=queued,
            sent=sent,
            attempts=getattr(error, "attempts", 0),
            refers=row.leader,
        )
        self._ledger.settled(row.ordinal, ok=False)
