"""Jobs with a baseline in virtual time: what is sent, in which order, and what is known after."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import RateLimit, Request, Response, RuntimeApi, SessionsApi
from cognigy_async.bulk import (
    BulkJob,
    DryRun,
    JobOptions,
    JobResult,
    JournalError,
    JournalRefusedError,
    LateRows,
    RowFault,
    dry_run,
    explain_dialog,
    forget_dialogs,
    read_summary,
)
from cognigy_async.bulk.baseline import Baseline
from tests.simulation.world import DROPPED, Wire, at_once, client_of, on_each_api, state

Rows = list[dict[str, Any]]


class Nights:
    """Jobs with one baseline, each with an input and a journal of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.baseline = folder / "nightly.baseline"
        self.night = 0

    @property
    def rows(self) -> Path:
        return self.folder / f"rows-{self.night}.jsonl"

    @property
    def journal(self) -> Path:
        return self.folder / f"rows-{self.night}.jsonl.journal"

    def write(self, rows: Rows) -> None:
        self.night += 1
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def job(self, **options: Any) -> BulkJob:
        return BulkJob(self.rows, options=JobOptions(baseline=self.baseline, **options))

    async def run(
        self,
        wire: Wire,
        rows: Rows | None = None,
        *,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> JobResult:
        if rows is not None:
            self.write(rows)
        pauses = options.get("on_failure", "continue") != "continue"
        made = {"on_failure": "pause" if pauses else "continue"} | (client or {})
        async with client_of(wire, **made) as opened:
            return await self.job(**options).run(opened)

    def plan(
        self, baseline: Path | None = None, rate_limit: RateLimit | None = None, **options: Any
    ) -> DryRun:
        faults: list[RowFault] = []
        found = dry_run(
            self.rows,
            JobOptions(baseline=baseline or self.baseline, **options),
            api=RuntimeApi(),
            rate_limit=rate_limit,
            on_fault=faults.append,
        )
        assert not faults
        return found

    def known(self, dialog_id: str) -> set[str]:
        baseline = Baseline.open(self.baseline)
        try:
            return set(baseline.known(dialog_id, None))
        finally:
            baseline.close()


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def row(dialog_id: str, **session: Any) -> dict[str, Any]:
    return {"dialog_id": dialog_id, "session": session}


def bodies(wire: Wire) -> list[dict[str, Any]]:
    """The session variables of each write, in order."""
    return [sent.body.get("session") or sent.body["context"] for sent in wire.writes()]


def counts(result: JobResult) -> tuple[int, int, int, int]:
    return (result.inputs, result.succeeded, result.unchanged, result.requests)


@on_each_api
async def test_only_what_changed_is_sent(nights: Nights) -> None:
    rows = [row(f"d{n}", seq=n, same=True) for n in range(200)]
    result = await nights.run(Wire(), rows)
    assert counts(result) == (200, 200, 0, 200)
    for n in range(7, 200, 50):
        rows[n]["session"]["seq"] = -n
    wire = Wire()
    result = await nights.run(wire, rows)
    assert counts(result) == (200, 4, 196, 4)
    assert result.ok
    assert result.record()["unchanged"] == 196
    assert sorted(body["seq"] for body in bodies(wire)) == [-157, -107, -57, -7]
    assert {len(body) for body in bodies(wire)} == {1}
    moments = explain_dialog(nights.journal, "d0")
    assert [moment.what for moment in moments] == ["settled: unchanged, not sent"]
    summary = read_summary(nights.journal)
    assert summary.record()["unchanged"] == 196
    assert summary.left == 0
    # The same night once more: the journal has all rows.
    again = Wire()
    assert counts(await nights.run(again)) == (200, 4, 196, 4)
    assert again.sent == []


@on_each_api
async def test_rows_are_compared_with_the_rows_before_them(nights: Nights) -> None:
    rows = [row("d", a=1, b=1), row("d", a=1, b=2), row("d", b=2), row("d", a=1), row("d", b=1)]
    rows += [row("e", a=1), row("e", a=2), row("e", a=2), row("e", a=1)]
    wire = Wire(takes=1.0)
    result = await nights.run(wire, rows)
    assert counts(result) == (9, 6, 3, 6)
    found = {
        dialog_id: [
            sent.body.get("session") or sent.body["context"] for sent in wire.writes(dialog_id)
        ]
        for dialog_id in "de"
    }
    assert found == {
        "d": [{"a": 1, "b": 1}, {"b": 2}, {"b": 1}],
        "e": [{"a": n} for n in (1, 2, 1)],
    }


async def test_a_row_is_sent_after_all_if_the_row_that_it_repeats_fails(nights: Nights) -> None:
    rows = [row("d", a=1), row("d", a=1), row("d", b=1), row("d", a=2)]
    wire = Wire(takes=1.0)
    wire.script(400)
    result = await nights.run(wire, rows)
    assert (result.succeeded, result.failed, result.unchanged) == (3, 1, 0)
    assert bodies(wire) == [{"a": 1}, {"a": 1}, {"b": 1}, {"a": 2}]


async def test_a_dialog_that_waits_does_not_delay_others(nights: Nights) -> None:
    rows = [row("d", a=1), row("d", a=1), *(row(f"e{n}", a=1) for n in range(300))]
    wire = Wire()

    async def answer(request: Request) -> Response:
        # Until all other rows were sent.
        while len(wire.sent) < 301:  # noqa: ASYNC110 - the wire has no event for it
            await anyio.sleep(0.01)
        return state(1)

    wire.script(answer, dialog_id="d")
    result = await nights.run(wire, rows, client={"timeout": 1e6})
    assert counts(result) == (302, 301, 1, 301)


@pytest.mark.parametrize("seed", range(4))
async def test_order_and_final_state_are_those_of_the_file(nights: Nights, seed: int) -> None:
    chance = random.Random(seed)
    rows = []
    for number in range(600):
        names = chance.sample("abcd", chance.randrange(1, 4))
        rows.append(
            row(f"d{chance.randrange(12)}", **{name: chance.randrange(3) for name in names})
        )
        if number % 50 == 0:
            rows[-1]["next_step"] = f"s{number}"
    wire = Wire(takes=0.05)
    for _ in range(100):
        wire.script(503, 200, 200)
    retry = at_once(max_attempts=50)
    result = await nights.run(wire, rows, client={"retry": retry, "max_in_flight": 4})
    assert result.ok
    assert 0 < result.unchanged < 600
    for dialog_id in {each["dialog_id"] for each in rows}:
        expected: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for each in rows:
            if each["dialog_id"] == dialog_id:
                expected |= each["session"]
        for sent in wire.applied:
            if sent.dialog_id == dialog_id:
                found |= sent.body.get("session", {})
        assert found == expected


async def test_rows_that_are_sent_again_are_applied_again_in_their_order(nights: Nights) -> None:
    values: dict[str, Any] = {}
    used: set[str] = set()
    at: list[Path] = []

    async def apply(request: Request) -> Response:
        """Apply each key once, and keep the files of the job as they are at this moment."""
        at.append(nights.folder / f"at-{len(at)}")
        at[-1].mkdir()
        for path in nights.folder.glob(f"{nights.journal.name}*"):
            shutil.copy(path, at[-1])
        shutil.copy(nights.baseline, at[-1])
        key = request.headers["idempotency-key"]
        if key not in used:
            used.add(key)
            values.update(json.loads(request.content)["session"])
        return state(len(at))

    await nights.run(Wire(answer=apply), [row("d", a=1, b=0)])
    rows = [row("d", a=1, b=1), row("d", a=2, b=1)]
    await nights.run(Wire(answer=apply), rows)
    assert values == {"a": 2, "b": 1}
    # As if the process was killed now: the journal has no outcome, and `a` was forgotten.
    for path in at[1].glob(f"{nights.journal.name}*"):
        shutil.copy(path, nights.folder)
    shutil.copy(at[2] / nights.baseline.name, nights.baseline)
    assert counts(await nights.run(Wire(answer=apply)))[:2] == (2, 2)
    assert values == {"a": 2, "b": 1}


async def test_rows_at_a_transition_are_whole(nights: Nights) -> None:
    await nights.run(Wire(), [row("d", a=1, b=1)])
    move = row("d", a=1) | {"next_step": "pay"}
    wire = Wire()
    result = await nights.run(wire, [row("d", a=1), move, row("d", a=1), row("d", a=1)])
    assert counts(result) == (4, 2, 2, 2)
    assert bodies(wire) == [{"a": 1}, {"a": 1}]
    assert nights.known("d") == {"a"}


async def test_what_ended_ambiguous_is_forgotten(nights: Nights) -> None:
    api = RuntimeApi(conditional_writes=False)
    await nights.run(Wire(), [row("d", a=1, b=1), row("e", a=1)], client={"api": api})
    move = row("d", a=2) | {"next_step": "pay"}
    options: dict[str, Any] = {"retry": at_once(max_attempts=2), "api": api}
    result = await nights.run(Wire(answer=DROPPED), [move, row("e", a=1)], client=options)
    assert (result.ambiguous, result.unchanged) == (1, 1)
    assert nights.known("d") == set()
    assert nights.known("e") == {"a"}


async def test_with_coalesce_rows_are_whole_and_share_requests(nights: Nights) -> None:
    rows = [row("d", a=1), row("d", a=1), row("d", a=2, b=1), row("d", a=2, b=1), row("e", a=1)]
    wire = Wire(takes=1.0)
    client = {"max_in_flight": 1, "coalesce": True}
    result = await nights.run(wire, rows, coalesce=True, client=client)
    assert result.ok
    assert result.requests < 5
    assert nights.known("d") == {"a", "b"}
    wire = Wire()
    result = await nights.run(wire, [row("d", a=2, b=1), row("d", a=2, b=3)], coalesce=True)
    assert counts(result) == (2, 1, 1, 1)
    assert bodies(wire) == [{"a": 2, "b": 3}]


async def test_a_row_of_a_paused_dialog_is_held_back_and_sent_by_the_next_run(
    nights: Nights,
) -> None:
    rows = [row("d", a=1), row("d", a=1), row("d", a=3), row("e", a=1)]
    wire = Wire(takes=1.0)
    wire.script(400, dialog_id="d")
    result = await nights.run(wire, rows, on_failure="pause-dialog")
    assert (result.succeeded, result.failed, result.pending) == (1, 1, 2)
    again = Wire()
    result = await nights.run(again, on_failure="pause-dialog")
    assert (result.succeeded, result.failed, result.pending) == (3, 1, 0)
    assert bodies(again) == [{"a": 1}, {"a": 3}]


async def test_a_canary_ends_although_its_rows_wait_for_each_other(nights: Nights) -> None:
    rows = [*(row("d", a=1) for _ in range(10)), *(row(f"e{n}", a=1) for n in range(200))]
    wire = Wire(takes=1.0)
    result = await nights.run(wire, rows, canary=10)
    assert (result.ended, result.succeeded, result.unchanged) == ("complete", 201, 9)
    first, *others = wire.writes()
    assert (first.dialog_id, first.at + 1.0 <= others[0].at) == ("d", True)


async def test_rows_that_wait_are_left_to_the_next_run_if_the_job_is_stopped(
    nights: Nights,
) -> None:
    nights.write([*(row("d", a=1, n=n % 2) for n in range(40)), row("e", a=1)])
    wire = Wire(takes=1.0)
    async with client_of(wire) as client:
        job = nights.job()

        async def stop_later() -> None:
            while len(wire.sent) < 5:  # noqa: ASYNC110 - the wire has no event for it
                await anyio.sleep(0.1)
            job.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_later)
            result = await job.run(client)
    assert (result.ended, result.pending > 30) == ("interrupted", True)
    again = Wire()
    result = await nights.run(again)
    assert result.ok
    assert result.inputs == 41
    values = [body["n"] for body in [*bodies(wire), *bodies(again)] if "n" in body]
    assert values == [n % 2 for n in range(40)]


@on_each_api
async def test_a_row_that_is_withdrawn_before_the_row_before_it_is_answered(nights: Nights) -> None:
    nights.write([row("d", a=1), row("d", a=2)])
    wire = Wire()
    job = nights.job()

    async def stop(_: Request) -> Response:
        job.stop()
        await anyio.sleep(1.0)
        return state(1)

    wire.script(stop)
    async with client_of(wire) as opened:
        result = await job.run(opened)
    assert (result.ended, counts(result)) == ("interrupted", (2, 1, 0, 1))
    assert nights.known("d") == set()
    again = Wire()
    await nights.run(again)
    assert bodies(again) == [{"a": 2}]
    assert nights.known("d") == {"a"}


async def test_an_input_that_ends_with_a_fault_sends_the_rows_before_it(nights: Nights) -> None:
    nights.write([row("d", a=1), row("d", a=1), row("d", a=2)])
    damaged = nights.rows.with_suffix(".jsonl.gz")
    damaged.write_bytes(gzip.compress(nights.rows.read_bytes())[:-4])
    wire = Wire(takes=1.0)
    async with client_of(wire) as client:
        options = JobOptions(baseline=nights.baseline)
        result = await BulkJob(damaged, options=options).run(client)
    assert result.ended == "stopped"
    assert "cut off" in str(result.reason)
    assert (result.succeeded, result.unchanged) == (2, 1)


async def test_two_jobs_do_not_share_a_baseline(nights: Nights) -> None:
    nights.write([row("d", a=1)])
    baseline = Baseline.open(nights.baseline)
    wire = Wire()
    async with client_of(wire) as client:
        with pytest.raises(JournalRefusedError, match="in use by another job"):
            await nights.job().run(client)
        assert not nights.journal.exists()
        baseline.close()
        assert (await nights.job().run(client)).ok


async def test_a_baseline_belongs_to_a_server_and_an_api(nights: Nights) -> None:
    await nights.run(Wire(), [row("d", a=1)])
    sessions = {"api": SessionsApi(user_id="u")}
    with pytest.raises(JournalRefusedError, match=r"RuntimeApi.* then, .*SessionsApi.* now"):
        await nights.run(Wire(), [row("d", a=1)], client=sessions)
    replaces = {"api": SessionsApi(user_id="u", inject="replace")}
    nights.baseline = nights.folder / "other"
    await nights.run(Wire(), [row("d", a=1, b=1)], client=replaces)
    wire = Wire()
    result = await nights.run(wire, [row("d", a=1, b=1), row("d", a=1)], client=replaces)
    assert counts(result) == (2, 1, 1, 1)
    assert bodies(wire) == [{"a": 1}]


async def test_what_is_known_of_one_user_says_nothing_of_another(nights: Nights) -> None:
    rows = [row("d", a=1), row("e", a=1) | {"user_id": "u-1"}]
    for user_id, sent in (("u-1", ["d", "e"]), ("u-1", []), ("u-2", ["d"])):
        wire = Wire()
        await nights.run(wire, rows, client={"api": SessionsApi(user_id=user_id)})
        assert sorted(one.dialog_id for one in wire.sent) == sent


async def test_the_age_of_what_is_known_may_be_limited(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1e9]
    monkeypatch.setattr("cognigy_async.bulk.baseline.time.time", lambda: clock[0])
    await nights.run(Wire(), [row("d", a=1)])
    clock[0] += 3600
    for seconds, unchanged in ((3600, 1), (3599, 0), (60, 1)):
        result = await nights.run(Wire(), [row("d", a=1)], baseline_max_age=seconds)
        assert result.unchanged == unchanged


async def test_a_forgotten_dialog_is_sent_again(nights: Nights) -> None:
    rows = [row("d", a=1, b=2), row("e", a=1)]
    await nights.run(Wire(), rows)
    assert forget_dialogs(nights.baseline, ["d"]) == 2
    wire = Wire()
    await nights.run(wire, rows)
    assert bodies(wire) == [{"a": 1, "b": 2}]


async def test_a_journal_is_continued_with_its_baseline_only(nights: Nights) -> None:
    await nights.run(Wire(), [row("d", a=1), row("e", a=1)], limit=1)
    async with client_of(Wire()) as client:
        with pytest.raises(
            JournalRefusedError, match=r"baseline: .*nightly.baseline.* before, not"
        ):
            await BulkJob(nights.rows).run(client)


async def test_a_baseline_that_cannot_be_written_stops_the_job(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nights.run(Wire(), [row(f"d{n}", a=1) for n in range(600)])
    forgets = Baseline.forget
    calls = iter(range(10_000))

    def full(self: Baseline, *arguments: Any) -> int:
        if next(calls) == 300:
            self._connection.execute("PRAGMA max_page_count = 1")
            self._connection.execute("CREATE TABLE full AS SELECT * FROM applied")
        return forgets(self, *arguments)

    monkeypatch.setattr(Baseline, "forget", full)
    wire = Wire()
    result = await nights.run(wire, [row(f"d{n}", a=2) for n in range(600)])
    assert result.ended == "stopped"
    assert isinstance(result.fault, JournalError)
    assert "baseline" in str(result.reason)
    assert "full" in str(result.reason)
    assert 0 < result.succeeded < 600
    assert len(wire.sent) <= 256
    monkeypatch.undo()
    result = await nights.run(Wire())
    assert (result.ok, result.inputs) == (True, 600)


async def test_a_dry_run_says_how_many_requests_are_saved(nights: Nights) -> None:
    rows = [row(f"d{n}", seq=n) for n in range(50)]
    await nights.run(Wire(), rows)
    rows[3]["session"]["seq"] = -1
    rows += [row("d3", seq=-1), row("d4", seq=4) | {"next_step": "pay"}, row("d4", seq=4)]
    nights.write(rows)
    before = nights.baseline.read_bytes()
    for coalesce in (False, True):
        found = nights.plan(coalesce=coalesce)
        assert (found.rows, found.unchanged) == (53, 50)
        assert found.requests == 3
        assert found.saved_requests == (49 if coalesce else 50)
        assert found.record()["saved_requests"] == found.saved_requests
    assert nights.baseline.read_bytes() == before
    wire = Wire(takes=1.0)
    assert counts(await nights.run(wire)) == (53, 3, 50, 3)
    found = nights.plan(nights.folder / "none")
    assert (found.requests, found.unchanged) == (52, 1)
    assert not (nights.folder / "none").exists()


async def test_rows_that_would_change_nothing_are_not_late(nights: Nights) -> None:
    quota = RateLimit(10, per=100)
    rows = [row(f"d{n}", seq=n) for n in range(30)]
    late: list[LateRows] = []

    async def run(wire: Wire) -> JobResult:
        options = JobOptions(baseline=nights.baseline, session_ttl=150)
        async with client_of(wire, rate_limit=quota) as opened:
            return await BulkJob(nights.rows, options=options, on_late=late.append).run(opened)

    nights.write(rows)
    expected = LateRows(11, 0, 20, assumed=False)
    assert nights.plan(session_ttl=150, rate_limit=quota).late == expected
    await run(Wire())
    assert late == [expected]
    # The late rows of the first night are unknown.
    nights.write(rows)
    assert nights.plan(session_ttl=150, rate_limit=quota).late is None
    assert (await run(Wire())).ok
    assert late == [expected]
