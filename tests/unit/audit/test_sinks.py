"""The sinks that need no file."""

from __future__ import annotations

import logging

import pytest

from cognigy_async.audit.sinks import AuditSink, LoggingAudit, MemoryAudit
from cognigy_async.errors import ConfigurationError
from tests.unit._builders import audit_record


def test_a_memory_audit_keeps_the_latest_records() -> None:
    memory = MemoryAudit(2)
    memory.write([audit_record(number) for number in range(3)])
    assert [record.update_id for record in memory.records] == ["u-1", "u-2"]
    assert repr(memory) == "<MemoryAudit 2 records>"


@pytest.mark.parametrize("kind", [MemoryAudit, LoggingAudit])
def test_sinks_are_not_strict_by_default(kind: type[MemoryAudit] | type[LoggingAudit]) -> None:
    sink: AuditSink = kind()
    assert (sink.strict, sink.max_queue) == (False, 10_000)
    sink.open()
    sink.close()


def test_counts_are_validated() -> None:
    with pytest.raises(ConfigurationError, match="max_records"):
        MemoryAudit(0)
    with pytest.raises(ConfigurationError, match="max_queue"):
        LoggingAudit(max_queue=0)


def test_a_logging_audit_logs_the_fields(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("audit.of.unit.test")
    caplog.set_level(logging.DEBUG, logger.name)
    LoggingAudit(logger, level=logging.DEBUG).write([audit_record(1)])
    (logged,) = caplog.records
    assert logged.getMessage() == "applied: update u-1 of dialog 'd-1': applied"
    assert logged.__dict__["audit"] == audit_record(1).fields()
