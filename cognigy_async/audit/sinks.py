"""`AuditSink`, the protocol of audit sinks, and the sinks that need no file: memory and logging."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .._utils.arguments import validate_count

if TYPE_CHECKING:
    from .records import AuditRecord


class AuditSink(Protocol):
    """A destination of audit records. Derive from `AuditSink`, or define the same members.

    A client calls a sink in a thread, one call at a time. Clients that share a sink call it from
    several threads. An exception of a sink fails no update. The client counts the exception, logs
    it once an hour for each cause, and retries the call for about 3 seconds.

    ```py
    class Table(AuditSink):
        def write(self, records: Sequence[AuditRecord], /) -> None:
            database.insert([record.fields() for record in records])
    ```

    Attributes:
        strict: audit every update. The client does not open if `open` fails. While the sink
            fails or its queue is full, the client refuses updates with an `AuditError`. Accepted
            updates still complete, and the client keeps their records until it closes.
        max_queue: maximum number of waiting records. The client drops further records unless
            `strict` is set.
    """

    strict: bool = False
    max_queue: int = 10_000

    def open(self) -> None:
        """Prepare for writing. A client calls this when it opens."""
        return

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Write records in order of completion. Write all records, or raise and write no record."""
        ...

    def close(self) -> None:
        """Write buffered records. A client calls this when it closes; a `write` may follow."""
        return


class MemoryAudit(AuditSink):
    """Keeps the latest records in memory. Call `client.flush()` before reading them.

    Args:
        max_records: number of records to keep.
    """

    def __init__(self, max_records: int = 10_000) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=validate_count("max_records", max_records))

    def __repr__(self) -> str:
        return f"<MemoryAudit {len(self._records)} records>"

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        """The kept records, oldest first."""
        return tuple(self._records)

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Keep records."""
        self._records.extend(records)


class LoggingAudit(AuditSink):
    """Logs each record as one line.

    The `audit` attribute of a log record has the fields of the audit record.

    Args:
        logger: a logger or its name.
        level: level of the log records.
        strict, max_queue: see `AuditSink`.
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
