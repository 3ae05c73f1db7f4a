"""Sinks that need no file: memory, and the log."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._utils.arguments import checked_count
from . import AuditSink

if TYPE_CHECKING:
    from .records import AuditRecord


class MemoryAudit(AuditSink):
    """Keeps the last records. They arrive a moment after `update` returns; `flush` waits for them.

    Args:
        max_records: older ones are forgotten.
    """

    def __init__(self, max_records: int = 10_000) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=checked_count("max_records", max_records))

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
        self.max_queue = checked_count("max_queue", max_queue)

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
