"""The queue and the thread of one sink."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cognigy_async import Metrics
from cognigy_async.audit import sink_queue
from cognigy_async.audit.sink_queue import BATCH, SinkQueue
from tests.unit.audit._updates import Sink, completed, until

pytestmark = pytest.mark.real_time


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def started(metrics: Metrics) -> Iterator[list[SinkQueue]]:
    """Queues that end with the test."""
    queues: list[SinkQueue] = []
    yield queues
    for queue in queues:
        queue.stop()
        queue.join(time.monotonic() + 20)


def start(sink: Sink, metrics: Metrics, started: list[SinkQueue]) -> SinkQueue:
    queue = SinkQueue(sink, metrics, threading.Lock())
    queue.start()
    started.append(queue)
    return queue


def soon() -> float:
    return time.monotonic() + 20


def counts(metrics: Metrics) -> tuple[int, int, int]:
    return metrics.audit_written, metrics.audit_failed, metrics.audit_dropped


def test_updates_are_written_in_order_and_in_batches(
    metrics: Metrics, started: list[SinkQueue]
) -> None:
    sink = Sink()
    queue = start(sink, metrics, started)
    for number in range(200):
        queue.put(completed(f"u-{number}"))
    queue.flush(soon())
    assert [record.update_id for record in sink.records] == [f"u-{n}" for n in range(200)]
    assert max(sink.batches) <= BATCH
    assert counts(metrics) == (200, 0, 0)


def test_a_full_queue_drops_unless_the_sink_is_strict(
    metrics: Metrics, started: list[SinkQueue], caplog: pytest.LogCaptureFixture
) -> None:
    loose, strict = Sink(max_queue=2), Sink(max_queue=2, strict=True)
    for sink in (loose, strict):
        sink.gate.clear()
        queue = start(sink, metrics, started)
        queue.put(completed())
        until(sink.writing.is_set)
        for number in range(5):
            queue.put(completed(f"u-{number}"))
        assert queue.full
        assert queue.refusal == "its queue is full"
        sink.gate.set()
        queue.flush(soon())
    assert len(loose.records) == 3
    assert metrics.audit_dropped == 3
    assert len(strict.records) == 6
    assert caplog.text.count("its queue is full. Records are dropped") == 1


def test_a_failed_write_is_retried_and_then_lost(
    metrics: Metrics, started: list[SinkQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_queue, "RETRY_DELAYS", (0.01, 0.01))
    sink = Sink()
    queue = start(sink, metrics, started)
    queue.wait_opened(soon())
    sink.error = OSError(28, "No space left")
    queue.put(completed())
    queue.flush(soon())
    assert queue.failing
    assert queue.refusal == "No space left"
    sink.error = None
    queue.put(completed("u-1"))
    queue.flush(soon())
    assert not queue.failing
    assert [record.update_id for record in sink.records] == ["u-1"]
    assert counts(metrics) == (1, 1, 0)


def test_a_strict_sink_retries_without_end(
    metrics: Metrics, started: list[SinkQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_queue, "RETRY_DELAYS", (0.001, 0.001))
    sink = Sink(strict=True)
    queue = start(sink, metrics, started)
    queue.wait_opened(soon())
    sink.error = OSError(28, "No space left")
    queue.put(completed())
    until(lambda: queue.failing)
    time.sleep(0.05)
    assert counts(metrics) == (0, 0, 0)
    sink.error = None
    until(lambda: sink.records)


def test_records_that_a_closing_client_cannot_wait_for_are_dropped(metrics: Metrics) -> None:
    sink = Sink()
    sink.gate.clear()
    queue = SinkQueue(sink, metrics, threading.Lock())
    queue.start()
    for number in range(3):
        queue.put(completed(f"u-{number}"))
    queue.stop()
    queue.join(time.monotonic())
    assert counts(metrics) == (0, 0, 3)
    sink.gate.set()
    until(lambda: sink.closed)
    assert counts(metrics) == (0, 0, 3), "not counted twice"


def test_a_flush_does_not_wait_for_a_thread_that_has_ended(metrics: Metrics) -> None:
    opening = threading.Event()

    class Slow(Sink):
        def open(self) -> None:
            opening.wait()

    queue = SinkQueue(Slow(), metrics, threading.Lock())
    queue.start()
    assert queue.refusal == "it is still opening"
    queue.stop()
    late = soon()
    behind = threading.Thread(target=queue.flush, args=(late,))
    behind.start()
    time.sleep(0.01)
    opening.set()
    behind.join()
    queue.join(late)
    queue.flush(late)
    assert time.monotonic() < late - 10


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("canary")], ids=repr)
def test_an_exception_of_a_sink_is_named_without_its_message(
    error: BaseException,
    metrics: Metrics,
    started: list[SinkQueue],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    sink.error = error
    queue = start(sink, metrics, started)
    queue.wait_opened(soon())
    assert queue.refusal == f"it raised {type(error).__name__}"
    assert "canary" not in caplog.text
