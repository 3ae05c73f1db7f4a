"""The harness of the benchmarks: work, rounds, calls at a constant rate, the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from benchmarks import server
from benchmarks.harness.figures import most_within, percentile, ratio, spread
from benchmarks.harness.scenarios import SCENARIOS
from benchmarks.harness.work import Meter, Work, arrivals
from cognigy_async.cli.bench.load import turns
from cognigy_async.testing.virtual_time import VirtualClockLoop, run

URL = "http://localhost"


# Figures.


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.95, 10), (0.99, 10), (0.1, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], share) == value


def test_spread_is_median_lowest_and_highest() -> None:
    assert spread([3.00001, 1.0, 9.0]) == {"median": 3.0, "lowest": 1.0, "highest": 9.0}


def test_a_ratio_is_made_within_each_round() -> None:
    # A round in which the machine was slow was slow for both.
    ratios = ratio([80.0, 8.0, 40.0], [100.0, 10.0, 50.0])
    assert ratios == {"median": 0.8, "lowest": 0.8, "highest": 0.8}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratio([1.0, 2.0], [1.0])


def test_most_within_a_window_whose_end_belongs_to_the_next_one() -> None:
    assert most_within([0.0, 1.0, 2.0], 1.0) == 1
    assert most_within([2.0, 0.0, 0.999, 0.5], 1.0) == 3
    assert most_within([], 1.0) == 0


# Work and rounds.


def test_neighbours_change_places() -> None:
    assert list(turns("abc", 3)) == [
        *[(0, "a"), (0, "b"), (0, "c")],
        *[(1, "c"), (1, "b"), (1, "a")],
        *[(2, "a"), (2, "b"), (2, "c")],
    ]


def test_work_goes_to_its_process_and_arrives_as_it_was() -> None:
    work = Work(URL, 10, warm_up=3, dialogs=2, rate=1.5, authority="ca.pem")
    assert Work.from_json(work.to_json()) == work


def test_workers_share_what_there_is() -> None:
    shares = Work(URL, 10, in_flight=3).shares(range(5, 9))
    assert len(shares) == 3
    assert [next(shares[place]) for place in (0, 2, 1, 1)] == [5, 6, 7, 8]


@pytest.mark.parametrize("dialogs", [1, 3, 4, 7])
def test_a_worker_has_all_updates_of_a_dialog_in_their_order(dialogs: int) -> None:
    work = Work(URL, 30, in_flight=4, dialogs=dialogs)
    shares = [list(numbers) for numbers in work.shares(range(5, 30))]
    assert len(shares) == min(4, dialogs)
    assert sorted(number for numbers in shares for number in numbers) == list(range(5, 30))
    assert all(shares)
    owners = Counter(
        d for numbers in shares for d in {work.load.dialog(number) for number in numbers}
    )
    assert set(owners.values()) == {1}
    assert all(numbers == sorted(numbers) for numbers in shares)


def test_payloads_have_the_size_that_is_asked_for() -> None:
    assert 150 < len(Work(URL, 1).content(7)) < 250
    assert 60_000 < len(Work(URL, 1, payload_bytes=65_536).content(7)) <= 65_600


def test_slow_contestants_get_fewer_updates_and_all_open_their_connections_before() -> None:
    scenario = SCENARIOS["dialogs"]
    fast = scenario.work_of("library over pyreqwest", URL, 10_000, 64)
    slow = scenario.work_of("naive gather on httpx", URL, 1_000, 64)
    assert (fast.count, fast.warm_up) == (10_000, 2_000)
    assert slow.count < 1_000
    assert slow.warm_up == 4 * 64


def test_every_pair_takes_part() -> None:
    for scenario in SCENARIOS.values():
        for pair in scenario.pairs:
            assert {pair.one, pair.other} <= set(scenario.names)


# Calls at a constant rate.


class Calls:
    """Calls that take no virtual time, except those given."""

    def __init__(self, seconds: dict[int, float], loop_busy: dict[int, float] | None = None):
        self.begun: dict[int, float] = {}
        self._seconds = seconds
        self._busy = loop_busy or {}
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        self.begun[number] = loop.time()
        loop.jump(self._busy.get(number, 0.0))
        async with self._one_at_a_time:
            await asyncio.sleep(self._seconds.get(number, 0.0))


def arriving(calls: Calls, count: int) -> list[float]:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        return await arrivals(10.0, range(count), calls, loop.time)

    return run(main, backend="asyncio")


def test_calls_begin_when_they_are_due_whatever_becomes_of_those_before() -> None:
    calls = Calls({0: 1.0})
    latencies = arriving(calls, 5)
    assert [calls.begun[n] for n in range(5)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    # A pool of one worker would have measured one slow call and four that took no time.
    assert latencies == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])


def test_a_call_that_begins_late_has_waited_since_it_was_due() -> None:
    calls = Calls({}, loop_busy={1: 0.35})
    latencies = arriving(calls, 6)
    assert [calls.begun[n] for n in range(6)] == pytest.approx([0.0, 0.1, 0.45, 0.45, 0.45, 0.5])
    assert latencies == pytest.approx([0.0, 0.35, 0.25, 0.15, 0.05, 0.0], abs=1e-9)


def test_a_pool_makes_every_call_once_and_measures_each() -> None:
    made: list[int] = []

    async def call(number: int) -> None:
        await asyncio.sleep(0)
        made.append(number)

    meter = Meter(Work(URL, 10, warm_up=2, in_flight=3, latencies=True))
    asyncio.run(meter.measure_calls(call))
    assert sorted(made) == list(range(12))
    assert len(meter.latencies) == 10
    assert min(meter.latencies) >= 0.0
    assert meter.results.keys() == {
        *("per_second", "cpu_us", "server_share", "p50_ms", "p95_ms", "p99_ms")
    }


def test_a_steady_measurement_leaves_out_how_a_run_begins_and_ends() -> None:
    begun: list[int] = []

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()

        async def call(number: int) -> None:
            begun.append(number)
            # The first and the last calls are slow.
            await asyncio.sleep(50.0 if number in (0, 1, 2, 17) else 1.0)

        meter = Meter(Work(URL, 9, warm_up=3, in_flight=3, steady=True), clock=loop.time)
        await meter.measure_calls(call)
        return meter.results["per_second"], loop.time()

    per_second, seconds = run(main, backend="asyncio")
    assert len(begun) == 3 + 9 + 2 * 3
    assert per_second == pytest.approx(3.0)
    assert seconds > 100


# The server.


class Sink(asyncio.Transport):
    """Collects what the server writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.aborted:
            raise RuntimeError
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def connected(**options: Any) -> tuple[server.Answering, Sink]:
    connection, sink = server.Answering(**options), Sink()
    connection.connection_made(sink)
    return connection, sink


REQUEST = b"PATCH /d HTTP/1.1\r\nContent-Length: 3\r\nX: content-type\r\n\r\n{}\n"


@pytest.mark.parametrize("size", [1, 7, len(REQUEST), 100, 1_000])
def test_requests_may_come_in_any_pieces(size: int) -> None:
    connection, sink = connected()
    data = REQUEST * 5
    for start in range(0, len(data), size):
        connection.data_received(data[start : start + size])
    assert sink.written == server.APPLIED * 5


def test_a_request_is_not_answered_before_its_end() -> None:
    connection, sink = connected()
    connection.data_received(REQUEST[:-1])
    assert sink.written == b""


def test_each_kind_of_fault_comes_in_its_turn_over_all_connections() -> None:
    faults = server.Faults(2)
    connection, sink = connected(faults=faults)
    connection.data_received(REQUEST * 5)
    assert statuses(sink) == [200, 409, 200, 503, 200]
    assert not sink.aborted
    connection.data_received(REQUEST)
    assert statuses(sink) == [200, 409, 200, 503, 200]
    assert sink.aborted
    connection, sink = connected(faults=faults)
    connection.data_received(REQUEST * 2)
    assert statuses(sink) == [200, 429]


def statuses(sink: Sink) -> list[int]:
    return [int(part[:3]) for part in sink.written.split(b"HTTP/1.1 ")[1:]]


def test_the_server_reports_when_updates_came_and_forgets_them() -> None:
    connection, sink = connected(times=[])
    connection.data_received(REQUEST * 3 + b"GET /times HTTP/1.1\r\n\r\n")
    times = json.loads(sink.written.rpartition(b"\r\n")[2])
    assert len(times) == 3
    assert times == sorted(times)
    sink.written = b""
    connection.data_received(b"GET /times HTTP/1.1\r\n\r\n")
    assert json.loads(sink.written.rpartition(b"\r\n")[2]) == []


def test_responses_come_after_the_latency() -> None:
    async def main() -> None:
        delay = server.Delay(0.02, heavy_tail=False, clock=asyncio.get_running_loop().time)
        connection, sink = connected(delay=delay)
        gone, aborted = connected(delay=delay)
        gone.data_received(REQUEST)
        aborted.abort()
        connection.data_received(REQUEST * 2 + b"GET /latency HTTP/1.1\r\n\r\n")
        assert sink.written.count(b"HTTP/1.1") == 1, "the answer about the latency alone"
        await asyncio.sleep(0.0199)
        assert sink.written.count(server.APPLIED) == 0
        await asyncio.sleep(0.0002)
        assert sink.written.count(server.APPLIED) == 2
        assert aborted.written == b""

    run(main, backend="asyncio")


def test_a_heavy_tail_has_the_same_mean() -> None:
    async def main() -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        delay = server.Delay(0.02, heavy_tail=True, clock=loop.time)
        seconds: list[float] = []

        class Timed(Sink):
            def write(self, data: bytes | bytearray | memoryview) -> None:
                seconds.append(loop.time())

        for _ in range(5_000):
            delay.write(Timed(), b"")
        await asyncio.sleep(60)
        return seconds, delay.take_mean()

    seconds, mean = run(main, backend="asyncio")
    assert sum(seconds) / len(seconds) == pytest.approx(mean)
    assert mean == pytest.approx(0.02, rel=0.1)
    assert sorted(seconds)[2_500] < 0.7 * 0.02
    assert max(seconds) > 10 * 0.02
