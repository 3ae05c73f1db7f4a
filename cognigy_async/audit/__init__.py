"""Who changed which dialog, when, and what came of it: one record for each settled update.

`AuditSink` is what takes the records; `AsyncStateClient(audit=...)` takes one or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .records import AuditRecord

__all__ = ["AuditSink"]


class AuditSink(Protocol):
    """Takes the records of settled updates. Derive from it, or have the same members.

    A client calls it in a thread of its own, one call at a time; clients that share a sink call it
    from several threads. What it raises is counted, logged once for each cause, and the call
    is repeated a few times; it never fails an update.

    Attributes:
        strict: while the sink takes no records, or its queue is full, the client takes no updates
            and raises `AuditError`; nor does it open if `open` fails. No record is given up before
            the client is closed.
        max_queue: records that wait at most; without `strict`, further ones are dropped.
    """

    strict: bool = False
    max_queue: int = 10_000

    def open(self) -> None:
        """Get ready to write; called when a client opens."""
        return

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Write records, in order of settlement: all of them, or none and raise."""
        ...

    def close(self) -> None:
        """Write out what is kept back; called when a client closes. There may be further calls."""
        return
