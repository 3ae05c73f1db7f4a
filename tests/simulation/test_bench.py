"""The measurements of `cognigy-async bench`, over a transport whose times are known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

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
from cognigy_async.cli._options import LoopName, TransportName
from cognigy_async.cli.bench import runner as runner_module
from cognigy_async.cli.bench.load import Load
from cognigy_async.cli.bench.report import result_lines
from cognigy_async.cli.bench.runner import (
    BenchOptions,
    Measurement,
    Mode,
    Runner,
    format_per_second,
    warm_up_count,
)
from cognigy_async.integrations.settings import ClientArguments

each_mode = pytest.mark.parametrize("mode", get_args(Mode))


@dataclass
class Wire:
    """Transport with a given duration and status for each request, by number from 0."""

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


def runner_of(
    mode: Mode,
    *levels: int,
    rounds: int = 1,
    count: int | None = None,
    seconds: float | None = None,
) -> Runner:
    arguments = ClientArguments(
        base_url="https://api.test",
        auth=ApiKey("key"),
        api=RuntimeApi(),
        allow_insecure=False,
        rate_limit=(RateLimit(200, per=10),),
        endpoint=None,
    )
    load = Load(range(50), "bench-", payload_bytes=200, count=count, seconds=seconds)
    options = BenchOptions(
        target="emulator",
        mode=mode,
        load=load,
        levels=levels,
        rounds=rounds,
        transport=TransportName.HTTPX,
        loop=LoopName.ASYNCIO,
        client_arguments=arguments,
    )
    return Runner(options, clock=anyio.current_time)


async def measured(wire: Wire, runner: Runner, in_flight: int) -> Measurement:
    measurement = Measurement(in_flight)
    async with client_of(wire, in_flight) as client:
        await runner.measure(client, measurement)
    return measurement


def outcomes(measurement: Measurement) -> tuple[int, int, int]:
    counts = measurement.outcomes
    return counts["applied"], counts["failed"], counts["ambiguous"]


@each_mode
async def test_a_round_with_a_number_of_updates(mode: Mode) -> None:
    wire = Wire()
    measurement = await measured(wire, runner_of(mode, count=100), 10)
    assert outcomes(measurement) == (100, 0, 0)
    assert measurement.totals.requests == len(wire.requests) == 100
    assert measurement.elapsed == pytest.approx(1.0)
    assert measurement.per_second == [pytest.approx(100)]
    assert measurement.cpu > 0
    assert {len(request.content) for request in wire.requests} == {200}
    written = [json.loads(request.content)["session"]["bench"]["n"] for request in wire.requests]
    assert sorted(written) == list(range(100))
    assert len({request.url for request in wire.requests}) == 50


@each_mode
async def test_a_round_with_a_duration(mode: Mode) -> None:
    wire = Wire()
    measurement = await measured(wire, runner_of(mode, seconds=1.05), 10)
    assert outcomes(measurement) == (100, 0, 0)
    assert measurement.elapsed == pytest.approx(1.05)
    # Requests in flight at the end are neither counted nor cancelled.
    assert len(wire.requests) == wire.ended == 110


@each_mode
async def test_percentiles_of_a_known_distribution(mode: Mode) -> None:
    wire = Wire(takes=lambda number: (number + 1) / 1000)
    row = (await measured(wire, runner_of(mode, count=1000), 1)).row()
    for share, seconds in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert row["latency"][share] == pytest.approx(seconds, rel=0.02)
    assert row["latency"]["max"] == pytest.approx(1.0)
    assert row["per_second"] == pytest.approx(1000 / 500.5, rel=0.02)


@each_mode
async def test_outcomes_are_counted_by_kind(mode: Mode) -> None:
    wire = Wire(status=lambda number: {10: 403, 20: 0, 30: 0}.get(number, 200))
    runner = runner_of(mode, count=100)
    measurement = await measured(wire, runner, 10)
    assert outcomes(measurement) == (97, 1, 2)
    assert isinstance(measurement.first_error, PermissionDeniedError)
    (remark,) = remarks(runner, measurement)
    assert remark.startswith(
        "10 in flight: 97 applied, 1 failed, 2 ambiguous; first error: PermissionDeniedError: "
    )
    assert str(measurement.first_error) in remark
    assert measurement.row()["first_error"]["status"] == 403


def lines_of(runner: Runner, *measurements: Measurement) -> list[str]:
    return list(result_lines(runner.options, [each.row() for each in measurements]))


def remarks(runner: Runner, *measurements: Measurement) -> list[str]:
    return [line for line in lines_of(runner, *measurements) if " in flight: " in line]


@each_mode
async def test_retries_of_the_round_alone(mode: Mode) -> None:
    wire = Wire(status=lambda number: 503 if number in (3, 30, 31) else 200)
    runner, measurement = runner_of(mode, count=100), Measurement(5)
    async with client_of(wire, 5) as client:
        await runner.warm_up(client, 5)
        assert client.metrics.retries == {"unavailable": 1}
        await runner.measure(client, measurement)
    assert measurement.totals.retries == {"unavailable": 2}
    assert outcomes(measurement) == (100, 0, 0)
    assert measurement.totals.requests == 102
    assert remarks(runner, measurement) == ["5 in flight: retries: 2 (unavailable (503): 2)"]


@each_mode
async def test_memory_growth(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([10_000_000, 12_500_000, 12_500_000, 12_500_000])
    monkeypatch.setattr(runner_module, "resident_bytes", lambda: next(resident))
    runner, measurement = runner_of(mode, count=5), Measurement(1)
    async with client_of(Wire(), 1) as client:
        for _ in range(2):
            await runner.measure(client, measurement)
    assert measurement.memory_growth == [2_500_000, 0]
    assert measurement.row()["memory_growth"] == 2_500_000
    assert lines_of(runner, measurement)[1].endswith(" +2.5")
    monkeypatch.setattr(runner_module, "resident_bytes", lambda: None)
    measurement = await measured(Wire(), runner, 1)
    assert measurement.row()["memory_growth"] is None
    assert lines_of(runner, measurement)[1].endswith(" -")


async def test_the_warm_up_opens_every_connection() -> None:
    wire = Wire()
    async with client_of(wire, 40) as client:
        await runner_of("update_many", count=1).warm_up(client, 40)
    assert len(wire.requests) == warm_up_count(40) == 80
    assert wire.times.count(wire.times[0]) == 40


async def test_a_warm_up_that_applies_nothing_raises_the_first_error() -> None:
    wire = Wire(status=lambda number: 401)
    async with client_of(wire, 5) as client:
        with pytest.raises(AuthenticationError):
            await runner_of("update", count=1).warm_up(client, 5)
    wire = Wire(status=lambda number: 200 if number == 7 else 403)
    async with client_of(wire, 5) as client:
        await runner_of("update", count=1).warm_up(client, 5)


@each_mode
async def test_a_cancelled_round_is_measured_up_to_its_end(mode: Mode) -> None:
    wire, measurement = Wire(), Measurement(10)
    async with client_of(wire, 10) as client:
        with anyio.move_on_after(0.55) as scope:
            await runner_of(mode, count=100).measure(client, measurement)
        assert scope.cancelled_caught
    assert outcomes(measurement) == (50, 0, 0)
    assert measurement.elapsed == pytest.approx(0.55)
    assert wire.ended == len(wire.requests) == 60


async def test_rounds_take_turns_and_share_the_quota(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire = Wire()
    monkeypatch.setattr(TransportName, "create", lambda name: wire)
    runner = runner_of("update", 1, 8, rounds=2, count=80)
    await runner.run()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if "round" in line][
        -1
    ] == "round 2 of 2, 1 in flight"
    measurements = runner.measurements
    assert {level: len(each.per_second) for level, each in measurements.items()} == {1: 2, 8: 2}
    assert sum(each.totals.requests for each in measurements.values()) == 320
    times = wire.times
    assert len(times) == 400
    # No ten seconds have more, also where one client ends and the next one begins.
    for number in range(len(times) - 200):
        assert times[number + 200] - times[number] >= 10
    rows = [each.row() for each in measurements.values()]
    assert [row["succeeded"] for row in rows] == [160, 160]
    assert all(row["quota_utilisation"] for row in rows)
    assert all(each.totals.latency.count == 160 for each in measurements.values())
    heading, first, second, *_ = lines_of(runner, *measurements.values())
    assert heading.split()[:2] == ["in", "flight"]
    assert (first.split()[0], second.split()[0]) == ("1", "8")
    assert len({len(line) for line in (heading, first, second)}) == 1
    notes = remarks(runner, *measurements.values())
    assert [note.split(": ")[0] for note in notes] == ["1 in flight", "8 in flight"]
    assert all("% of the quota was used" in note for note in notes)


async def test_a_long_round_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire = Wire(status=lambda number: 503 if number == 30 else 200)
    monkeypatch.setattr(TransportName, "create", lambda name: wire)
    await runner_of("update", 1, count=150).run()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("round 1 of 1, 1 in flight: ")
    assert "updates applied so far, warm-up included, retries: 1 (unavailable" in lines[0]
    assert " of 200 in 10 s" in lines[0]
    assert lines[-1].endswith(" updates/s")


async def test_an_error_is_not_raised_in_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TransportName, "create", lambda name: Wire(status=lambda number: 401))
    runner = runner_of("update", 1, count=1)
    with pytest.raises(AuthenticationError):
        await runner.run()
    assert [each.per_second for each in runner.measurements.values()] == [[]]


@each_mode
async def test_a_round_without_a_completed_update_is_left_out(mode: Mode) -> None:
    measurement = await measured(Wire(takes=lambda number: 5.0), runner_of(mode, seconds=1), 5)
    assert measurement.per_second == measurement.cpu_us == []
    assert (measurement.elapsed, measurement.totals.requests) == (0.0, 0)


def test_few_updates_per_second_have_a_decimal() -> None:
    assert [format_per_second(number) for number in (0.0, 3.33, 99.94, 1234.5)] == [
        "0.0",
        "3.3",
        "99.9",
        "1,234",
    ]


def test_a_round_without_outcomes_is_left_out() -> None:
    measurement = Measurement(1)
    client = AsyncStateClient("https://server.example", auth=ApiKey("key"), transport=Wire())
    with measurement.round(client, itertools.count().__next__):
        pass
    assert measurement.per_second == measurement.cpu_us == measurement.memory_growth == []
    assert measurement.elapsed == 0.0
