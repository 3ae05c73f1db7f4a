"""Rows whose sessions end: told before the job, never sent after, dead letters with the reason."""

from __future__ import annotations

import gzip
import json
import logging
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import RateLimit
from cognigy_async.bulk import BulkJob, JobOptions, JobResult, LateRows, TableOptions, resume
from tests.simulation.world import Wire, client_of, every, never, on_each_api

QUOTA = RateLimit(10, per=100)


def at(seconds: float, hours: float = 0) -> str:
    """The time so many seconds from now, as a zone tells it that is so many hours east."""
    zone = timezone(timedelta(hours=hours))
    return datetime.fromtimestamp(time.time() + seconds, zone).isoformat()


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"dialog_id": f"d{n}", "session": {"seq": n}} | fields for n in range(count)]


async def tick() -> None:
    """Keep virtual time from a leap to the end of a session while a thread writes the journal."""
    while True:  # noqa: ASYNC110 - the thread has no event for it
        await anyio.sleep(0.05)


class Job:
    """A job in a folder, with what it told of late rows."""

    def __init__(self, folder: Path, given: list[dict[str, Any]], **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.source = folder / "rows.jsonl"
        self.source.write_text("".join(json.dumps(row) + "\n" for row in given))
        self.options = JobOptions(**options)
        self.late: list[tuple[LateRows, int]] = []

    async def run(self, wire: Wire, **client: Any) -> JobResult:
        made: dict[str, Any] = {"rate_limit": QUOTA} | client

        def note(late: LateRows) -> None:
            self.late.append((late, len(wire.sent)))

        async with client_of(wire, **made) as opened:
            job = BulkJob(self.source, options=self.options, on_late=note)
            return await job.run(opened)

    async def cut_off(self, wire: Wire, requests: int, **client: Any) -> None:
        """A run that is torn down a little after so many requests were sent."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: self.run(wire, **client))
            while len(wire.sent) < requests:  # noqa: ASYNC110 - the wire has no event for it
                await anyio.sleep(0.01)
            await anyio.sleep(0.3)
            tasks.cancel_scope.cancel()

    def begin_earlier(self, seconds: float) -> None:
        """As if the job had begun so many seconds before."""
        with closing(sqlite3.connect(f"{self.source}.journal")) as connection, connection:
            connection.execute("UPDATE runs SET began = began - ?", (seconds,))

    def settled_within(self) -> float:
        """The seconds between the first outcome and the last."""
        with closing(sqlite3.connect(f"{self.source}.journal")) as connection:
            query = "SELECT max(settled) - min(settled) FROM outcomes"
            seconds: float = connection.execute(query).fetchone()[0]
            return seconds

    @property
    def letters(self) -> list[dict[str, Any]]:
        lines = Path(f"{self.source}.dead.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@on_each_api
@pytest.mark.parametrize("by", ["expires_at", "session_ttl"])
async def test_what_the_quota_does_not_send_in_time_is_told_and_not_sent(
    tmp_path: Path, by: str
) -> None:
    end = at(150, hours=-5)
    job = Job(tmp_path, rows(30, expires_at=end) if by == "expires_at" else rows(30))
    if by == "session_ttl":
        job.options = JobOptions(session_ttl=150)
    wire = Wire()
    result = await job.run(wire)
    # The last slot of a window may come earlier than its estimate.
    assert result.succeeded in (19, 20)
    assert (result.succeeded + result.failed, result.pending) == (30, 0)
    assert result.requests == len(wire.sent) == result.succeeded
    assert all(sent.at < wire.sent[0].at + 150 for sent in wire.sent)
    # The dead letters did not wait for the quota.
    assert job.settled_within() < 151
    ((late, sent),) = job.late
    assert (late.rows, late.ended, late.first_line, late.assumed) == (11, 0, 20, False)
    assert sent == 0
    assert len(job.letters) == result.failed
    for letter in job.letters:
        error = letter["_error"]
        assert error["type"] == "DeadlineExceededError"
        assert error["message"].startswith("The session ends at ")
        assert f"by {by}, and the deadline " in error["message"]
        assert "call again" not in error["message"]
    told = datetime.fromisoformat(error["message"].split()[4])
    assert told.utcoffset() == timedelta(0)
    assert abs((told - datetime.fromisoformat(end)).total_seconds()) < 5


async def test_a_row_whose_session_has_ended_is_not_sent_and_others_are(tmp_path: Path) -> None:
    given = rows(6)
    given[1]["expires_at"] = at(-1)
    given[3] |= {"expires_at": at(-1), "next_step": "pay"}
    given[4]["expires_at"] = at(3600)
    given[5]["expires_at"] = None
    job = Job(tmp_path, given)
    wire = Wire()
    result = await job.run(wire, rate_limit=None)
    assert (result.succeeded, result.failed) == (4, 2)
    assert [sent.dialog_id for sent in wire.writes()] == ["d0", "d2", "d4", "d5"]
    assert [letter["expires_at"] for letter in job.letters] == [
        given[1]["expires_at"],
        given[3]["expires_at"],
    ]
    ((late, _),) = job.late
    assert (late.rows, late.ended, late.first_line, late.assumed) == (2, 2, 2, True)
    # Run as they are, they are as late as before.
    again = Job(tmp_path / "again", job.letters)
    assert (await again.run(Wire(), rate_limit=None)).failed == 2


async def test_the_earlier_end_counts(tmp_path: Path) -> None:
    given = [
        {"dialog_id": "a", "session": {"n": 1}, "expires_at": at(10)},
        {"dialog_id": "b", "session": {"n": 1}, "expires_at": at(1000)},
        {"dialog_id": "c", "session": {"n": 1}},
    ]
    job = Job(tmp_path, given, session_ttl=100)
    wire = Wire()
    wire.script(*[503] * 1000)
    result = await job.run(wire, retry=every(4, max_elapsed=1e6, max_attempts=10_000))
    assert result.failed == 3
    # The first after 10 s, the others after 100 s.
    assert job.settled_within() == pytest.approx(90, abs=1)
    ends = {letter["dialog_id"]: letter["_error"]["message"] for letter in job.letters}
    assert {name: "by expires_at" in message for name, message in ends.items()} == {
        "a": True,
        "b": False,
        "c": False,
    }
    # What failed last is told as well.
    assert all("the last failure was" in message for message in ends.values())
    assert job.late == []


async def test_rows_with_the_same_end_share_a_request(tmp_path: Path) -> None:
    end = at(100_000)
    given = [{"dialog_id": "d", "session": {f"v{n}": n}, "expires_at": end} for n in range(5)]
    job = Job(tmp_path, given, coalesce=True)
    wire = Wire(takes=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        assert (await job.run(wire, max_in_flight=1)).succeeded == 5
        tasks.cancel_scope.cancel()
    assert len(wire.sent) < 5


async def test_the_ttl_counts_from_the_first_run(tmp_path: Path) -> None:
    job = Job(tmp_path, rows(4), session_ttl=1000)
    wire = Wire()
    wire.script(200, 200, never, never)
    await job.cut_off(wire, 4, rate_limit=None)
    job.begin_earlier(2000)
    again = Wire()
    result = await job.run(again)
    assert (result.succeeded, result.failed, result.skipped) == (2, 2, 2)
    assert again.sent == []
    ((late, _),) = job.late
    # Rows that are done are not counted.
    assert (late.rows, late.ended, late.first_line) == (2, 2, 3)


async def test_a_row_that_an_earlier_run_sent_stays_ambiguous(tmp_path: Path) -> None:
    given = [{"dialog_id": "a", "next_step": "pay"}]
    job = Job(tmp_path, given, session_ttl=1000)
    wire = Wire(answer=never)
    # The state was read before, so that the transition has an etag.
    wire.script(200)
    job.source.write_text(
        json.dumps({"dialog_id": "a", "session": {"n": 1}}) + "\n" + json.dumps(given[0]) + "\n"
    )
    await job.cut_off(wire, 2, rate_limit=None)
    job.begin_earlier(2000)
    again = Wire()
    result = await job.run(again)
    assert (result.succeeded, result.ambiguous) == (1, 1)
    assert again.sent == []
    assert job.letters[0]["_error"]["type"] == "AmbiguousUpdateError"


@pytest.mark.parametrize("before", [True, False], ids=["ended", "ends"])
async def test_rows_that_an_earlier_run_sent_together_stay_ambiguous(
    tmp_path: Path, before: bool
) -> None:
    given = [{"dialog_id": "d", "session": {f"v{n}": n}} for n in range(5)]
    # The rows of `d` wait for the only worker, and then share a request.
    given.insert(0, {"dialog_id": "x", "session": {"n": 1}})
    job = Job(tmp_path, given, coalesce=True, session_ttl=1000)
    wire = Wire(takes=1, answer=never)
    wire.script(200, dialog_id="x")
    await job.cut_off(wire, 2, max_in_flight=1, rate_limit=None)
    job.begin_earlier(2000 if before else 950)
    again = Wire(answer=503)
    forever = every(4, max_elapsed=1e6, max_attempts=10_000)
    result = await job.run(again, rate_limit=None, retry=forever)
    assert result.pending == 0
    assert (result.succeeded, result.ambiguous) == (1, 5)
    assert {letter["_error"]["type"] for letter in job.letters} == {"AmbiguousUpdateError"}
    assert (again.sent == []) is before


async def test_nothing_is_told_where_nothing_is_late(tmp_path: Path) -> None:
    job = Job(tmp_path, rows(10, expires_at=at(150)))
    assert (await job.run(Wire())).succeeded == 10
    assert job.late == []


async def test_late_rows_are_logged_by_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cognigy_async")
    job = Job(tmp_path, rows(2, expires_at=at(-10)))
    async with client_of(Wire()) as client:
        await BulkJob(job.source).run(client)
    (line,) = [record for record in caplog.records if "session" in record.getMessage()]
    assert line.getMessage().startswith("2 rows cannot be sent before their sessions end, at 1,000")


async def test_an_end_in_the_past_is_told_in_utc(tmp_path: Path) -> None:
    job = Job(tmp_path, rows(1, expires_at="2026-01-02T01:00:00+02:00"))
    await job.run(Wire())
    message = job.letters[0]["_error"]["message"]
    assert datetime(2026, 1, 1, 23, tzinfo=UTC).isoformat() in message


@pytest.mark.parametrize("offset", ["Z", "+01:00", "+23:59", "-11:00"])
async def test_a_row_with_the_first_moment_of_all_ends_like_others(
    tmp_path: Path, offset: str
) -> None:
    job = Job(tmp_path, rows(1, expires_at=f"0001-01-01T00:00:00{offset}"))
    wire = Wire()
    result = await job.run(wire)
    assert (result.failed, wire.sent) == (1, [])
    (letter,) = job.letters
    assert "The session ends at 0001-01-01T" in letter["_error"]["message"]


@pytest.mark.parametrize("kind", ["gzip", "UTF-16", "mapped", "blocks"])
async def test_late_rows_of_each_kind_of_file_are_told(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = at(-5)
    text = "".join(json.dumps(row) + "\n" for row in rows(3, expires_at=end))
    source, table = tmp_path / "rows.jsonl", TableOptions()
    if kind == "gzip":
        source = tmp_path / "rows.jsonl.gz"
        source.write_bytes(gzip.compress(text.encode()))
    elif kind == "UTF-16":
        source.write_text(text, "utf-16")
    elif kind == "mapped":
        source = tmp_path / "rows.csv"
        source.write_text(f"dialog_id,session.n,Ende\nd0,1,{end}\nd1,1,{end}\nd2,1,\n")
        table = TableOptions(columns={"Ende": "expires_at"})
    else:
        source.write_text(text)
        # The name may be on both sides of the end of a block.
        monkeypatch.setattr(resume, "BLOCK", 7)
    told: list[LateRows] = []
    async with client_of(Wire()) as client:
        job = BulkJob(source, options=JobOptions(table=table), on_late=told.append)
        await job.run(client)
    assert [late.rows for late in told] == [2 if kind == "mapped" else 3]
