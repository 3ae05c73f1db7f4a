"""The measuring of `cognigy-async bench`, over a transport whose times are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    AuthenticationError,
    NoResponseError,
    PermissionDeniedError,
    RateLimit,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
)
from cognigy_async.cli import bench_measure
from cognigy_async.cli._options import TransportName
from cognigy_async.cli.bench_load import Load, Mode, NumberedDialogs, warm_up_of
from cognigy_async.cli.bench_measure import Sample, run_round, warm_up
from cognigy_async.cli.bench_report import Row, table, told_speed
from cognigy_async.cli.bench_run import Bench

each_mode = pytest.mark.parametrize("mode", list(Mode))


@dataclass
class Wire:
    """Answers after as many seconds as `takes` says for the request of a number, from 0."""

    takes: Callable[[int], float] = lambda number: 0.1
    status: Callable[[int], int] = lambda number: 200
    requests: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ended: int = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        number = len(self.requests)
        self.requests.append(request)
        self.times.append(anyio.current_time())
        await anyio.sleep(self.takes(number))
        self.ended += 1
        status = self.status(number)
        if not status:
            raise NoResponseError("The connection was closed")
        return Response(status, {}, b"{}")

    async def aclose(self) -> None:
        pass


def client_of(wire: Wire, in_flight: int) -> AsyncStateClient:
    return AsyncStateClient(
        "https://api.test",
        auth=ApiKey("key"),
        max_in_flight=in_flight,
        transport=wire,
        retry=RetryPolicy(ambiguous="raise"),
    )


def load_of(mode: Mode, count: int | None = None, seconds: float | None = None) -> Load:
    dialogs = NumberedDialogs("bench-", 50)
    return Load(mode, dialogs, payload_bytes=200, count=count, seconds=seconds)


async def measured(wire: Wire, load: Load, in_flight: int) -> Sample:
    sample = Sample()
    async with client_of(wire, in_flight) as client:
        await run_round(client, load, in_flight, sample, anyio.current_time)
    return sample


@each_mode
async def test_a_round_of_so_many_updates(mode: Mode) -> None:
    wire = Wire()
    sample = await measured(wire, load_of(mode, count=100), 10)
    assert (sample.applied, sample.failed, sample.ambiguous) == (100, 0, 0)
    assert sample.requests == len(wire.requests) == 100
    assert sample.elapsed == pytest.approx(1.0)
    assert sample.per_second == pytest.approx(100)
    assert sample.cpu > 0
    assert {len(request.content) for request in wire.requests} == {200}
    written = [json.loads(request.content)["session"]["bench"]["n"] for request in wire.requests]
    assert sorted(written) == list(range(100))
    assert len({request.url for request in wire.requests}) == 50


@each_mode
async def test_a_round_of_so_many_seconds(mode: Mode) -> None:
    wire = Wire()
    sample = await measured(wire, load_of(mode, seconds=1.05), 10)
    assert (sample.applied, sample.elapsed) == (100, pytest.approx(1.05))
    # What was in flight at the end is not counted, and not torn down.
    assert len(wire.requests) == wire.ended == 110


@each_mode
async def test_percentiles_of_a_known_distribution(mode: Mode) -> None:
    wire = Wire(takes=lambda number: (number + 1) / 1000)
    sample = await measured(wire, load_of(mode, count=1000), 1)
    row = Row.of(1, [sample])
    assert row is not None
    for share, seconds in (
        (row.latency.p50, 0.5),
        (row.latency.p95, 0.95),
        (row.latency.p99, 0.99),
    ):
        assert share == pytest.approx(seconds, rel=0.02)
    assert row.latency.max == pytest.approx(1.0)
    told = row.record()
    assert told["latency"]["p95"] == pytest.approx(0.95, rel=0.02)
    assert told["per_second"] == pytest.approx(1000 / 500.5, rel=0.02)


@each_mode
async def test_what_is_not_applied_is_counted_by_kind(mode: Mode) -> None:
    wire = Wire(status=lambda number: {10: 403, 20: 0, 30: 0}.get(number, 200))
    sample = await measured(wire, load_of(mode, count=100), 10)
    assert (sample.applied, sample.failed, sample.ambiguous) == (97, 1, 2)
    assert isinstance(sample.first_error, PermissionDeniedError)
    row = Row.of(10, [sample])
    assert row is not None
    assert not row.ok
    (remark,) = row.remarks()
    assert remark.startswith(
        "10 in flight: 97 applied, 1 failed, 2 ambiguous; the first: PermissionDeniedError: "
    )
    assert str(sample.first_error) in remark
    assert row.record()["first_error"]["status"] == 403


@each_mode
async def test_retries_of_the_round_alone(mode: Mode) -> None:
    wire = Wire(status=lambda number: 503 if number in (3, 30, 31) else 200)
    sample = Sample()
    load = load_of(mode, count=100)
    async with client_of(wire, 5) as client:
        await warm_up(client, load, 5)
        assert client.metrics.retries == {"unavailable": 1}
        await run_round(client, load, 5, sample, anyio.current_time)
    assert sample.retries == {"unavailable": 2}
    assert (sample.applied, sample.requests) == (100, 102)
    row = Row.of(5, [sample])
    assert row is not None
    assert list(row.remarks()) == ["5 in flight: retries: 2 (unavailable (503): 2)"]


@each_mode
async def test_how_much_memory_grew(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([10_000_000, 12_500_000, 12_500_000, 12_500_000])
    monkeypatch.setattr(bench_measure, "resident_bytes", lambda: next(resident))
    samples = [await measured(Wire(), load_of(mode, count=5), 1) for _ in range(2)]
    assert [sample.grown for sample in samples] == [2_500_000, 0]
    row = Row.of(1, samples)
    assert row is not None
    assert row.record()["memory_growth"] == 2_500_000
    assert row.cells()[-1] == "+2.5"
    monkeypatch.setattr(bench_measure, "resident_bytes", lambda: None)
    row = Row.of(1, [await measured(Wire(), load_of(mode, count=5), 1)])
    assert row is not None
    assert (row.record()["memory_growth"], row.cells()[-1]) == (None, "-")


async def test_the_warm_up_opens_every_connection() -> None:
    wire = Wire()
    async with client_of(wire, 40) as client:
        await warm_up(client, load_of(Mode.UPDATE_MANY, count=1), 40)
    assert len(wire.requests) == warm_up_of(40) == 80
    assert wire.times.count(wire.times[0]) == 40


async def test_a_warm_up_in_which_nothing_is_applied_tells_why() -> None:
    wire = Wire(status=lambda number: 401)
    async with client_of(wire, 5) as client:
        with pytest.raises(AuthenticationError):
            await warm_up(client, load_of(Mode.UPDATE, count=1), 5)
    wire = Wire(status=lambda number: 200 if number == 7 else 403)
    async with client_of(wire, 5) as client:
        await warm_up(client, load_of(Mode.UPDATE, count=1), 5)


@each_mode
async def test_a_round_that_is_cancelled_has_measured_so_far(mode: Mode) -> None:
    wire, sample = Wire(), Sample()
    async with client_of(wire, 10) as client:
        with anyio.move_on_after(0.55) as scope:
            await run_round(client, load_of(mode, count=100), 10, sample, anyio.current_time)
        assert scope.cancelled_caught
    assert (sample.applied, sample.elapsed) == (50, pytest.approx(0.55))
    assert wire.ended == len(wire.requests) == 60


def bench_of(
    monkeypatch: pytest.MonkeyPatch, wire: Wire, load: Load, *levels: int, rounds: int = 2
) -> Bench:
    monkeypatch.setattr(TransportName, "create", lambda name: wire)
    arguments = {
        "base_url": "https://api.test",
        "auth": ApiKey("key"),
        "api": RuntimeApi(),
        "allow_insecure": False,
        "rate_limit": (RateLimit(200, per=10),),
    }
    return Bench(arguments, load, levels, rounds, TransportName.HTTPX, clock=anyio.current_time)  # type: ignore[arg-type]


async def test_rounds_take_turns_and_share_the_quota(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire = Wire()
    bench = bench_of(monkeypatch, wire, load_of(Mode.UPDATE, count=80), 1, 8)
    await bench.run()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if "round" in line][
        -1
    ] == "round 2 of 2, 1 in flight"
    assert {level: len(samples) for level, samples in bench.samples.items()} == {1: 2, 8: 2}
    assert sum(sample.requests for samples in bench.samples.values() for sample in samples) == 320
    times = wire.times
    assert len(times) == 400
    # No ten seconds have more, also where one client ends and the next one begins.
    for number in range(len(times) - 200):
        assert times[number + 200] - times[number] >= 10
    rows = [row for level in (1, 8) if (row := Row.of(level, bench.samples[level]))]
    assert [row.succeeded for row in rows] == [160, 160]
    assert all(row.quota and row.latency.count == 160 for row in rows)
    heading, first, second, *remarks = table(rows)
    assert heading.split()[:2] == ["in", "flight"]
    assert (first.split()[0], second.split()[0]) == ("1", "8")
    assert len({len(line) for line in (heading, first, second)}) == 1
    assert [remark.split(": ")[0] for remark in remarks] == ["1 in flight", "8 in flight"]
    assert all("% of the quota was used" in remark for remark in remarks)


async def test_a_round_that_takes_its_time_tells_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire = Wire(status=lambda number: 503 if number == 30 else 200)
    bench = bench_of(monkeypatch, wire, load_of(Mode.UPDATE, count=150), 1, rounds=1)
    await bench.run()
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("round 1 of 1, 1 in flight: ")
    assert "updates applied so far, the warm-up included, retries: 1 (unavailable (503)" in told[0]
    assert " of 200 in 10 s" in told[0]
    assert told[-1].endswith(" updates/s")


async def test_the_first_error_of_a_bench_is_not_in_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = bench_of(monkeypatch, Wire(status=lambda number: 401), load_of(Mode.UPDATE, count=1), 1)
    with pytest.raises(AuthenticationError):
        await bench.run()
    assert bench.samples == {}


def test_nothing_settled_is_no_row() -> None:
    assert Row.of(1, []) is None
    assert Row.of(1, [Sample(elapsed=1.0)]) is None
    assert table([]) == []


def test_few_updates_a_second_are_told_with_a_decimal() -> None:
    assert [told_speed(number) for number in (0.0, 3.33, 99.94, 1234.5)] == [
        "0.0",
        "3.3",
        "99.9",
        "1,234",
    ]
