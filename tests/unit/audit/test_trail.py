"""The audit of one client: validation, strict sinks, closing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import AuditError, ConfigurationError, Metrics
from cognigy_async.audit.trail import AuditTrail
from tests.unit.audit._updates import Sink, completed, until

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("wrong", [7, "audit.jsonl", [None], object(), Path("audit.jsonl")])
def test_an_object_that_is_not_a_sink_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"not an audit sink.*JsonLinesAudit"):
        AuditTrail(wrong, Metrics())


@pytest.mark.parametrize("max_queue", [0, -1, "many"])
def test_a_queue_has_a_length(max_queue: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_queue"):
        AuditTrail(Sink(max_queue=max_queue), Metrics())


async def test_every_sink_gets_every_update() -> None:
    sinks = [Sink(), Sink()]
    metrics = Metrics()
    trail = AuditTrail(sinks, metrics)
    trail.start()
    await trail.ready()
    for number in range(3):
        trail.record(completed(f"u-{number}"))
    await trail.flush()
    for sink in sinks:
        assert [record.update_id for record in sink.records] == ["u-0", "u-1", "u-2"]
    await trail.close(5.0)
    assert [sink.closed for sink in sinks] == [1, 1]
    assert metrics.audit_written == 6


async def test_only_a_strict_sink_that_fails_refuses_updates() -> None:
    loose, strict = Sink(), Sink(strict=True, max_queue=1)
    trail = AuditTrail([loose, strict], Metrics())
    assert trail.strict
    trail.start()
    await trail.ready()
    loose.error = strict.error = OSError(13, "Permission denied", "audit.jsonl")
    trail.record(completed())
    until(lambda: trail._strict_queues[0].failing)
    trail.record(completed("u-1"))
    assert trail._strict_queues[0].full
    with pytest.raises(AuditError, match=r"Permission denied: audit\.jsonl. Repair the sink"):
        trail.check()
    assert not trail.slow, "a sink that fails is not slow"
    loose.error = strict.error = None
    until(lambda: len(strict.records) == len(loose.records) == 2)
    until(lambda: not trail._strict_queues[0].refusal)
    trail.check()
    await trail.close(5.0)


async def test_a_strict_sink_with_a_full_queue_is_slow() -> None:
    strict = Sink(strict=True, max_queue=1)
    strict.gate.clear()
    trail = AuditTrail(strict, Metrics())
    trail.start()
    await trail.ready()
    assert not trail.slow
    trail.record(completed())
    until(strict.writing.is_set)
    trail.record(completed())
    assert trail.slow
    with pytest.raises(AuditError, match="its queue is full"):
        trail.check()
    strict.gate.set()
    await trail.flush()
    assert not trail.slow
    trail.check()
    await trail.close(5.0)


async def test_many_flushes_at_once_take_one_thread() -> None:
    sink = Sink()
    trail = AuditTrail(sink, Metrics())
    trail.start()
    sink.gate.clear()
    trail.record(completed("u-0"))
    before = threading.active_count()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trail.flush)
        until(sink.writing.is_set)
        for number in range(1, 50):
            trail.record(completed(f"u-{number}"))
            tasks.start_soon(trail.flush)
        await anyio.sleep(0.05)
        assert threading.active_count() <= before + 1
        sink.gate.set()
    # The last call was served by a flush that began after it.
    assert len(sink.records) == 50
    await trail.close(5.0)


async def test_a_flush_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    sink = Sink()
    trail = AuditTrail(sink, Metrics())
    trail.start()
    sink.gate.clear()
    trail.record(completed())
    with anyio.move_on_after(0.05):
        await trail.flush()
    sink.gate.set()
    with anyio.fail_after(4):
        await trail.flush()
    assert len(sink.records) == 1
    await trail.close(5.0)


async def test_a_strict_sink_that_does_not_open() -> None:
    strict = Sink(strict=True)
    strict.error = PermissionError(13, "Permission denied")
    trail = AuditTrail(strict, Metrics())
    trail.start()
    with pytest.raises(AuditError, match="Permission denied"):
        await trail.ready()
    await trail.close(0.0)
    until(lambda: strict.closed)
