"""Sinks that need no file: memory, and the log."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .._utils.arguments import validate_count

if TYPE_CHECKING:
    from .records import AuditRecord


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


class MemoryAudit(AuditSink):
    """Keeps the last records. They arrive a moment after `update` returns; `flush` waits for them.

    Args:
        max_records: older ones are forgotten.
    """

    def __init__(self, max_records: int = 10_000) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=validate_count("max_records", max_records))

    def __repr__(self) -> str:
        return f"<MemoryAudit {len(self._records)} records>"

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        """Those that there are now, the oldest first."""
        return tuple(self._records)

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Keep records."""
        self._records.extend(records)


class LoggingAudit(AuditSink):
    """Gives each record to `logging`, as one line with the record's fields in `extra`.

    Args:
        logger: a logger or its name.
        level: of the log records.
        strict, max_queue: see `AuditSink`.

    The attribute ``audit`` of the log record has all fields, as they would stand in a file.
    """

    def __init__(
        self,
        logger: logging.Logger | str = "cognigy_async.audit",
        *,
        level: int = logging.INFO,
        strict: bool = False,
        max_queue: int = 10_000,
    ) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._level = level
        self.strict = strict
        self.max_queue = validate_count("max_queue", max_queue)

    def __repr__(self) -> str:
        return f"<LoggingAudit {self._logger.name}>"

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Log records."""
        for record in records:
            self._logger.log(
                self._level,
                "%s: update %s of dialog %r: %s",
                record.outcome,
                record.update_id,
                record.dialog_id,
                record.summary,
                extra={
                    "dialog_id": record.dialog_id,
                    "update_id": record.update_id,
                    "audit": record.fields(),
                },
            )


__all__ = ["AuditSink"]
