"""`BulkJob` in virtual time: rows applied, recorded and refused, run by run."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AccessToken,
    ClientClosedError,
    ConfigurationError,
    Endpoint,
    Limits,
    RateLimit,
    Request,
    Response,
    RuntimeApi,
    SessionsApi,
)
from cognigy_async.bulk import (
    BulkJob,
    InputError,
    JobOptions,
    JobResult,
    JournalError,
    JournalRefusedError,
    RowFault,
    dry_run,
    explain_dialog,
    read_summary,
)
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.resume import open_job
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Wire,
    client_of,
    every,
    never,
    on_each_api,
    state,
    status,
    throttled,
)

Row = dict[str, Any]


class Folder:
    """An input, its journal and its dead letters."""

    def __init__(self, path: Path) -> None:
        self.rows = path / "rows.jsonl"
        self.journal = path / "job.journal"
        self.dead = path / "dead.jsonl"

    def write(self, rows: list[Row]) -> None:
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def job(self, *, force: bool = False, **options: Any) -> BulkJob:
        return BulkJob(
            self.rows,
            journal=self.journal,
            dead_letters=self.dead,
            options=JobOptions(**options),
            force=force,
        )

    async def run(
        self,
        wire: Wire,
        *,
        force: bool = False,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> JobResult:
        pauses = options.get("on_failure", "continue") != "continue"
        made = {"on_failure": "pause" if pauses else "continue"} | (client or {})
        async with client_of(wire, **made) as opened:
            return await self.job(force=force, **options).run(opened)

    async def cut_off(
        self, wire: Wire, requests: int, *, client: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """A run that is torn down a little after so many requests were sent."""
        pauses = options.get("on_failure", "continue") != "continue"
        made = {"on_failure": "pause" if pauses else "continue"} | (client or {})
        async with client_of(wire, **made) as opened, anyio.create_task_group() as tasks:

            async def run() -> None:
                await self.job(**options).run(opened)
                raise AssertionError("it was not cut off")

            tasks.start_soon(run)
            await sent(wire, requests)
            await anyio.sleep(0.3)
            tasks.cancel_scope.cancel()

    @property
    def letters(self) -> list[Row]:
        return [json.loads(line) for line in self.dead.read_text().splitlines()]


async def sent(wire: Wire, requests: int) -> None:
    """Until so many were sent. Threads open files, and virtual time does not wait for them."""
    while len(wire.sent) < requests:  # noqa: ASYNC110 - the wire has no event for it
        await anyio.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def rows_of(count: int, dialogs: int = 10, **more: Any) -> list[Row]:
    return [{"dialog_id": f"d{n % dialogs}", "session": {"seq": n}, **more} for n in range(count)]


def counts(result: JobResult) -> tuple[int, int, int, int, int]:
    return (
        result.inputs,
        result.succeeded,
        result.failed,
        result.ambiguous,
        result.pending,
    )


def refusing(*numbers: int) -> Callable[[Request], Any]:
    """Answers 400 to the rows with these numbers, and 200 to the others."""

    async def answer(request: Request) -> Response:
        body = json.loads(request.content)
        seq = (body.get("session") or body.get("context") or {}).get("seq")
        return status(400, message="no") if seq in numbers else status(200, version=1)

    return answer


@on_each_api
async def test_all_rows_are_applied_in_the_order_of_each_dialog(folder: Folder) -> None:
    wire = Wire()
    folder.write(rows_of(500))
    result = await folder.run(wire)
    assert counts(result) == (500, 500, 0, 0, 0)
    assert result.ok
    assert (result.ended, result.skipped, result.requests) == ("complete", 0, 500)
    for dialog in range(10):
        seqs = [sent.seq for sent in wire.writes(f"d{dialog}")]
        assert seqs == list(range(dialog, 500, 10))
    assert folder.letters == []


@on_each_api
async def test_a_job_that_is_done_does_nothing_when_it_is_run_again(folder: Folder) -> None:
    folder.write(rows_of(50))
    await folder.run(Wire())
    wire = Wire()
    result = await folder.run(wire)
    assert counts(result) == (50, 50, 0, 0, 0)
    assert (result.skipped, result.requests, wire.sent) == (50, 50, [])


async def test_rows_without_update_id_have_keys_that_stay_the_same(folder: Folder) -> None:
    folder.write([*rows_of(3), {"dialog_id": "x", "session": {"seq": 9}, "update_id": "mine"}])
    wire = Wire()
    await folder.run(wire)
    with Journal(folder.journal) as journal:
        names = [f"{journal.job_id}-{line}" for line in (1, 2, 3)]
    assert sorted(str(sent.key) for sent in wire.sent) == sorted([*names, "mine"])


async def test_what_was_in_flight_when_a_run_was_cut_off_is_sent_again_with_its_key(
    folder: Folder,
) -> None:
    folder.write(rows_of(40))
    wire = Wire(takes=1.0)
    await folder.cut_off(wire, 12, client={"max_in_flight": 4})
    before = {sent.key for sent in wire.sent}
    # A thread writes the journal, and virtual time does not wait for it: it may have fewer rows.
    with Journal(folder.journal) as journal:
        recorded = {f"{journal.job_id}-{line}" for line in journal.completed(1, 40)}
    again = Wire()
    result = await folder.run(again)
    assert counts(result) == (40, 40, 0, 0, 0)
    repeated = {sent.key for sent in again.sent} & before
    assert repeated == before - recorded
    assert len(repeated) >= 4
    assert result.skipped == len(recorded)
    assert len(again.sent) == 40 - len(recorded)


@on_each_api
async def test_a_refused_row_becomes_a_dead_letter_that_stays_one(folder: Folder) -> None:
    folder.write([*rows_of(5), {"dialog_id": "bad", "session": {"a-b": 1}, "_note": "kept"}])
    wire = Wire(answer=refusing(3))
    for _ in range(2):
        result = await folder.run(wire)
        assert counts(result) == (6, 4, 2, 0, 0)
        assert not result.ok
        by_line = {letter["_error"]["line"]: letter for letter in folder.letters}
        assert by_line.keys() == {4, 6}
        assert by_line[4]["session"] == {"seq": 3}
        error = by_line[4]["_error"]
        assert (error["type"], error["status"]) == ("BadRequestError", 400)
        assert by_line[6]["_note"] == "kept"
        assert by_line[6]["_error"]["type"] == "UpdateValidationError"
    assert len(wire.writes()) == 5


@on_each_api
async def test_the_dead_letters_run_again_as_they_are(folder: Folder, tmp_path: Path) -> None:
    folder.write(rows_of(20))
    await folder.run(Wire(answer=refusing(3, 7)))
    second = Folder(tmp_path / "second")
    second.rows.parent.mkdir()
    second.rows.write_bytes(folder.dead.read_bytes())
    wire = Wire()
    assert counts(await second.run(wire)) == (2, 2, 0, 0, 0)
    assert sorted(sent.seq for sent in wire.writes()) == [3, 7]


# Failures.


@on_each_api
async def test_pause_dialog_holds_back_what_follows_until_the_next_run(folder: Folder) -> None:
    folder.write(rows_of(30, dialogs=3))
    wire = Wire(answer=refusing(4))
    result = await folder.run(wire, on_failure="pause-dialog")
    assert counts(result) == (30, 21, 1, 0, 8)
    assert [letter["_error"]["line"] for letter in folder.letters] == [5]
    assert [sent.seq for sent in wire.writes("d1")] == [1, 4]
    again = Wire()
    result = await folder.run(again, on_failure="pause-dialog")
    assert counts(result) == (30, 29, 1, 0, 0)
    assert [sent.seq for sent in again.writes()] == list(range(7, 30, 3))


async def test_a_row_that_is_not_valid_pauses_its_dialog_too(folder: Folder) -> None:
    rows = rows_of(9, dialogs=3)
    rows[3]["session"] = {"a-b": 1}
    folder.write(rows)
    result = await folder.run(Wire(), on_failure="pause-dialog")
    assert counts(result) == (9, 7, 1, 0, 1)


@on_each_api
async def test_a_pause_outlives_a_run_that_is_cut_off(folder: Folder) -> None:
    folder.write(rows_of(40, dialogs=2))

    async def answer(request: Request) -> Response:
        await anyio.sleep(1.0)
        return await refusing(0)(request)  # type: ignore[no-any-return]

    wire = Wire(answer=answer)
    await folder.cut_off(wire, 5, client={"max_in_flight": 2}, on_failure="pause-dialog")
    again = Wire()
    result = await folder.run(again, on_failure="pause-dialog")
    assert {sent.dialog_id for sent in again.writes()} == {"d1"}
    assert counts(result) == (40, 20, 1, 0, 19)


async def test_stop_ends_the_job_at_the_first_failure(folder: Folder) -> None:
    folder.write(rows_of(1000))
    wire = Wire(answer=refusing(30))
    result = await folder.run(wire, on_failure="stop")
    assert result.ended == "stopped"
    assert result.reason == "a row was not applied, and on_failure is stop"
    assert result.failed == 1
    assert len(wire.writes()) < 200
    assert 40 not in [sent.seq for sent in wire.writes()]


async def test_a_job_that_was_stopped_by_a_failure_goes_on_after_it(folder: Folder) -> None:
    folder.write(rows_of(1000))
    assert (await folder.run(Wire(answer=refusing(30)), on_failure="stop")).ended == "stopped"
    again = await folder.run(Wire(answer=refusing(30)), on_failure="stop")
    assert counts(again) == (1000, 999, 1, 0, 0)
    assert again.ended == "complete"


async def test_options_that_need_a_pausing_client_say_so(folder: Folder) -> None:
    folder.write(rows_of(1))
    async with client_of(Wire()) as client:
        with pytest.raises(ConfigurationError, match='on_failure="pause"'):
            await folder.job(on_failure="stop").run(client)


async def test_more_failures_than_allowed_stop_the_job(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    result = await folder.run(Wire(answer=refusing(*range(100, 900))), max_failures=5)
    assert result.ended == "stopped"
    assert 6 <= result.failed <= 6 + 2 * 32
    assert str(result.reason).endswith("more than max_failures=5")
    assert result.at_limit
    lines = {letter["_error"]["line"] for letter in folder.letters}
    assert len(lines) == result.failed
    wire = Wire()
    again = await folder.run(wire, max_failures=5)
    assert (again.failed, again.at_limit, wire.sent) == (result.failed, True, [])
    assert {letter["_error"]["line"] for letter in folder.letters} == lines


async def test_the_dead_letters_are_complete_where_a_run_was_interrupted(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    await folder.run(Wire(answer=refusing(3, 900)))
    async with client_of(Wire()) as client:
        job = folder.job()
        job.stop()
        result = await job.run(client)
    assert (result.ended, result.failed) == ("interrupted", 2)
    assert [letter["_error"]["line"] for letter in folder.letters] == [4, 901]


@pytest.mark.parametrize(("bad", "ended"), [(1, "stopped"), (0, "complete")])
async def test_the_canary_goes_first_and_alone(folder: Folder, bad: int, ended: str) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    wire = Wire(answer=refusing(*range(bad)))
    result = await folder.run(wire, canary="1%")
    assert result.ended == ended
    assert len(wire.writes()) == (10 if bad else 1000)
    assert "the canary" in str(result.reason) or not bad


async def test_a_canary_without_a_rate_says_nothing_of_the_other_rows(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    result = await folder.run(Wire(answer=refusing(*range(500, 600))), canary="1%")
    assert counts(result) == (1000, 900, 100, 0, 0)


async def test_a_rate_that_is_given_is_of_the_rows_after_the_canary_too(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    wire = Wire(answer=refusing(*range(500, 1000)))
    result = await folder.run(wire, canary="1%", max_failure_rate=0.0)
    assert "max_failure_rate=0" in str(result.reason)
    assert result.pending


async def test_a_canary_may_fail_as_much_as_it_is_allowed_to(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    result = await folder.run(Wire(answer=refusing(0)), canary=10, max_failure_rate="10%")
    assert (result.ended, result.failed, result.succeeded) == ("complete", 1, 999)


async def test_a_failure_rate_without_a_canary_is_that_of_all_rows(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    wire = Wire(answer=refusing(*range(0, 1000, 4)))
    result = await folder.run(wire, max_failure_rate=0.2)
    assert result.ended == "stopped"
    assert 100 <= result.succeeded + result.failed < 400


async def test_no_access_stops_the_job_and_fails_no_row(folder: Folder) -> None:
    folder.write(rows_of(100))
    result = await folder.run(Wire(answer=401))
    assert (result.ended, result.succeeded, result.failed) == ("stopped", 0, 0)
    assert type(result.fault).__name__ == "AuthenticationError"
    assert counts(await folder.run(Wire())) == (100, 100, 0, 0, 0)


class FreshTokens:
    """Gives another token each time."""

    async def get_token(self) -> AccessToken:
        return AccessToken("authorization", "Bearer t")

    def invalidate(self, token: AccessToken) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def test_tokens_that_expire_early_do_not_stop_the_job(folder: Folder) -> None:
    folder.write(rows_of(1000, dialogs=1000))
    refused = 0

    async def answer(request: Request) -> Response:
        nonlocal refused
        if request.url.endswith("/d7/state") and refused < 12:
            refused += 1
            return status(401)
        await anyio.sleep(0.1)
        return status(200, version=1)

    result = await folder.run(
        Wire(answer=answer), client={"max_in_flight": 2, "auth": FreshTokens()}
    )
    assert (result.ok, refused) == (True, 12)


@on_each_api
async def test_a_server_that_is_away_for_five_minutes_is_waited_for(folder: Folder) -> None:
    folder.write(rows_of(300))

    async def answer(request: Request) -> Response:
        await anyio.sleep(0.1)
        down = 2.0 < anyio.current_time() < 302.0
        return status(503) if down else status(200, version=1)

    result = await folder.run(Wire(answer=answer))
    assert counts(result) == (300, 300, 0, 0, 0)
    assert result.elapsed > 300
    assert folder.letters == []


# Selections.


async def test_limit_and_only_dialogs_select_rows(folder: Folder) -> None:
    folder.write(rows_of(100))
    wire = Wire()
    result = await folder.run(wire, only_dialogs=("d3", "d4"), limit=5)
    assert counts(result) == (5, 5, 0, 0, 0)
    assert sorted(sent.seq for sent in wire.writes()) == [3, 4, 13, 14, 23]
    again = await folder.run(Wire(), only_dialogs=("d3", "d4"), limit=5)
    assert (again.inputs, again.skipped) == (5, 5)


async def test_a_client_that_is_not_open_is_refused_before_anything_is_made(
    folder: Folder,
) -> None:
    folder.write(rows_of(1))
    client = client_of(Wire())
    with pytest.raises(ClientClosedError, match="is not open"):
        await folder.job().run(client)
    assert not folder.journal.exists()
    async with client:
        pass
    with pytest.raises(ClientClosedError, match="is closed"):
        await folder.job().run(client)


@pytest.mark.parametrize("limit", [None, RateLimit(100_000, per=1.0)])
async def test_a_client_that_is_closed_stops_the_job(
    folder: Folder, limit: RateLimit | None
) -> None:
    folder.write(rows_of(1000))
    wire = Wire(takes=1.0)
    async with client_of(wire, rate_limit=limit) as client, anyio.create_task_group() as tasks:

        async def close() -> None:
            await sent(wire, 20)
            await client.aclose(drain=False)

        tasks.start_soon(close)
        result = await folder.job().run(client)
    assert (result.ended, type(result.fault)) == ("stopped", ClientClosedError)
    assert (result.failed, result.succeeded) == (0, len(wire.sent))
    assert counts(await folder.run(Wire()))[:2] == (1000, 1000)


async def test_the_same_update_twice_is_sent_once(folder: Folder) -> None:
    row = {"dialog_id": "d", "session": {"seq": 1}, "update_id": "u"}
    folder.write([row, row, {**row, "session": {"seq": 2}}])
    wire = Wire()
    result = await folder.run(wire)
    assert counts(result) == (3, 2, 1, 0, 0)
    assert len(wire.writes()) == 1
    assert "is that of line 1 too" in folder.letters[0]["_error"]["message"]


# Transitions.


async def test_a_transition_is_recorded_as_sent_before_it_is_sent(folder: Folder) -> None:
    folder.write([{"dialog_id": "d", "next_step": "go"}])
    seen: list[Any] = []

    async def answer(_: Request) -> Response:
        with sqlite3.connect(folder.journal) as connection:
            seen.extend(connection.execute("SELECT line, dialog, open FROM sends"))
        connection.close()
        return status(200, version=1)

    await folder.run(Wire(answer=answer))
    assert seen == [(1, "d", 1)]


async def cut_off_in_a_transition(folder: Folder, *, etag_known: bool) -> None:
    rows: list[Row] = [{"dialog_id": "d", "next_step": "go"}]
    if etag_known:
        rows.insert(0, {"dialog_id": "d", "session": {"seq": 0}})
    folder.write([*rows, {"dialog_id": "d", "session": {"seq": 9}}])
    wire = Wire()

    async def first(_: Request) -> Response:
        return Response(200, {"etag": '"7"'}, b"{}")

    wire.script(*([first] if etag_known else []), never)
    await folder.cut_off(wire, 2 if etag_known else 1)


async def test_a_transition_that_was_cut_off_is_sent_again_on_the_same_condition(
    folder: Folder,
) -> None:
    await cut_off_in_a_transition(folder, etag_known=True)
    wire = Wire()
    wire.versions["d"] = 7
    result = await folder.run(wire)
    assert counts(result) == (3, 3, 0, 0, 0)
    moved, last = wire.sent
    assert moved.headers["if-match"] == '"7"'
    assert last.seq == 9


async def test_it_is_ambiguous_where_the_state_changed(folder: Folder) -> None:
    await cut_off_in_a_transition(folder, etag_known=True)
    wire = Wire()
    wire.script(412)
    result = await folder.run(wire)
    assert counts(result) == (3, 2, 0, 1, 0)
    assert [sent.headers.get("if-match") for sent in wire.writes()] == ['"7"', None]
    assert folder.letters[0]["_error"]["type"] == "AmbiguousUpdateError"


@pytest.mark.parametrize("refusal", [400, 403, 404, 501])
async def test_it_is_ambiguous_where_its_repeat_is_refused(folder: Folder, refusal: int) -> None:
    await cut_off_in_a_transition(folder, etag_known=True)
    wire = Wire()
    wire.script(refusal)
    assert counts(await folder.run(wire)) == (3, 2, 0, 1, 0)


async def test_it_stays_in_doubt_through_further_runs(folder: Folder) -> None:
    await cut_off_in_a_transition(folder, etag_known=True)
    # The repeat is refused for now, and the second run is cut off as well.
    wire = Wire()
    wire.script(503)
    await folder.cut_off(wire, 1, client={"retry": every(100.0)})
    wire = Wire()
    wire.script(412)
    assert counts(await folder.run(wire)) == (3, 2, 0, 1, 0)
    assert [sent.headers.get("if-match") for sent in wire.writes()] == ['"7"', None]


async def test_a_lost_answer_stays_in_doubt_after_a_refusal(folder: Folder) -> None:
    folder.write([{"dialog_id": "d", "session": {"seq": 0}}, {"dialog_id": "d", "next_step": "go"}])
    wire = Wire()
    wire.script(200, DROPPED, 503)
    await folder.cut_off(wire, 3, client={"retry": every(10.0)})
    again = Wire()
    again.script(412)
    assert counts(await folder.run(again)) == (2, 1, 0, 1, 0)
    assert [sent.headers.get("if-match") for sent in again.writes()] == ['"1"']


async def test_it_is_ambiguous_where_no_version_was_known(folder: Folder) -> None:
    await cut_off_in_a_transition(folder, etag_known=False)
    wire = Wire()
    assert counts(await folder.run(wire)) == (2, 1, 0, 1, 0)
    assert [sent.seq for sent in wire.sent] == [9]


async def test_it_is_sent_again_where_the_server_honours_keys(folder: Folder) -> None:
    await cut_off_in_a_transition(folder, etag_known=False)
    wire = Wire()
    api = RuntimeApi(honours_idempotency_keys=True)
    assert counts(await folder.run(wire, client={"api": api})) == (2, 2, 0, 0, 0)


@pytest.mark.parametrize("reply", [503, throttled("100"), 409])
async def test_a_rejected_transition_is_sent_again(folder: Folder, reply: Any) -> None:
    folder.write([{"dialog_id": "d", "next_step": "go"}])
    wire = Wire()
    wire.script(reply)
    await folder.cut_off(wire, 1, client={"retry": every(100.0)})
    again = Wire()
    assert counts(await folder.run(again)) == (1, 1, 0, 0, 0)
    assert [sent.method for sent in again.sent] == ["PATCH"]


async def test_its_repeat_waits_for_a_server_that_is_away(folder: Folder) -> None:
    await cut_off_in_a_transition(folder, etag_known=True)
    wire = Wire()
    wire.script(*[DROPPED] * 30)
    assert counts(await folder.run(wire)) == (3, 3, 0, 0, 0)


# Messages.

MESSAGE: Row = {"dialog_id": "d", "inject": {"text": "wake up"}, "user_id": "u-1"}


@pytest.mark.parametrize("api", [RuntimeApi(), RuntimeApi(honours_idempotency_keys=True)])
@pytest.mark.parametrize("known", [True, False], ids=["version-known", "version-unknown"])
async def test_a_message_that_was_cut_off_is_ambiguous(
    folder: Folder, known: bool, api: RuntimeApi
) -> None:
    before: list[Row] = [{"dialog_id": "d", "session": {"seq": 0}}] if known else []
    folder.write([*before, MESSAGE, {"dialog_id": "d", "session": {"seq": 9}}])
    wire = Wire()
    wire.script(*([state(7)] if known else []), never)
    await folder.cut_off(wire, 2 if known else 1, client={"api": api})
    again = Wire()
    result = await folder.run(again, client={"api": api})
    count = len(before) + 2
    assert counts(result) == (count, count - 1, 0, 1, 0)
    assert [sent.seq for sent in again.sent] == [9]
    (letter,) = folder.letters
    assert letter["_error"]["type"] == "AmbiguousUpdateError"
    assert letter["inject"] == {"text": "wake up"}


async def test_a_message_is_recorded_as_sent_before_it_is_sent(folder: Folder) -> None:
    folder.write([MESSAGE | {"session": {"seq": 1}}])
    seen: list[Any] = []

    async def answer(_: Request) -> Response:
        with sqlite3.connect(folder.journal) as connection:
            seen.append(connection.execute("SELECT line, dialog, open FROM sends").fetchall())
        connection.close()
        return state(1)

    await folder.run(Wire(answer=answer))
    # The variables before it may be assigned twice.
    assert seen == [[], [(1, "d", 1)]]


async def test_a_row_that_was_cut_off_before_its_message_is_sent_again(folder: Folder) -> None:
    folder.write([MESSAGE | {"session": {"seq": 1}}])
    wire = Wire()
    wire.script(never)
    await folder.cut_off(wire, 1)
    again = Wire()
    assert counts(await folder.run(again)) == (1, 1, 0, 0, 0)
    assert [sent.message or sent.method for sent in again.sent] == ["PATCH", "inject"]


@pytest.mark.parametrize("reply", [503, throttled("100"), REFUSED])
async def test_a_rejected_message_is_sent_again(folder: Folder, reply: Any) -> None:
    folder.write([MESSAGE | {"session": {"seq": 1}}])
    wire = Wire()
    wire.script(200, reply)
    await folder.cut_off(wire, 2, client={"retry": every(100.0)})
    again = Wire()
    assert counts(await folder.run(again)) == (1, 1, 0, 0, 0)
    assert [sent.message or sent.method for sent in again.sent] == ["PATCH", "inject"]


# Requests that have another effect when they are sent twice.

ONCE = {
    "replaced": (SessionsApi(user_id="u-1", inject="replace"), {"a": 1}),
    "appended-sessions": (
        SessionsApi(user_id="u-1", merged_values="objects and lists"),
        {"a": [1]},
    ),
    "appended-runtime": (RuntimeApi(merged_values="objects and lists"), {"a": {"b": [1]}}),
}
MOVED_WITH_PROFILE: Row = {
    "dialog_id": "d",
    "next_step": "go",
    "user": {"vip": True},
    "profile_id": "0123456789abcdef01234567",
}


@pytest.mark.parametrize("case", ONCE)
async def test_variables_that_count_once_are_recorded_before_they_are_sent(
    folder: Folder, case: str
) -> None:
    api, session = ONCE[case]
    folder.write([{"dialog_id": "d", "session": session}, {"dialog_id": "e", "next_step": "go"}])
    wire = Wire()
    wire.script(never, dialog_id="d")
    await folder.cut_off(wire, 1, client={"api": api}, limit=1)
    again = Wire()
    result = await folder.run(again, client={"api": api})
    assert counts(result) == (2, 1, 0, 1, 0)
    assert [sent.dialog_id for sent in again.sent] == ["e"]
    assert folder.letters[0]["_error"]["type"] == "AmbiguousUpdateError"


@pytest.mark.parametrize("case", ONCE)
async def test_variables_that_count_once_are_sent_again_if_they_were_rejected(
    folder: Folder, case: str
) -> None:
    api, session = ONCE[case]
    folder.write([{"dialog_id": "d", "session": session}])
    wire = Wire()
    wire.script(503)
    await folder.cut_off(wire, 1, client={"api": api, "retry": every(100.0)})
    assert counts(await folder.run(Wire(), client={"api": api})) == (1, 1, 0, 0, 0)


async def test_a_group_that_counts_once_is_ambiguous_after_it_was_cut_off(folder: Folder) -> None:
    client = {"api": RuntimeApi(merged_values="objects and lists"), "max_in_flight": 1}
    first = {"dialog_id": "e", "session": {"seq": 0}}
    folder.write([first, *({"dialog_id": "d", "session": {name: [1]}} for name in "ab")])
    wire = Wire(takes=1.0)
    wire.script(never, dialog_id="d")
    await folder.cut_off(wire, 2, client=client, coalesce=True)
    assert wire.sent[-1].session == {"a": [1], "b": [1]}
    again = Wire()
    assert counts(await folder.run(again, client=client, coalesce=True)) == (3, 1, 0, 2, 0)
    assert again.sent == []


@pytest.mark.parametrize("reply", [503, throttled("100"), REFUSED])
async def test_a_row_is_not_moved_again_if_only_its_profile_was_rejected(
    folder: Folder, reply: Any
) -> None:
    api = SessionsApi(user_id="u-1")
    folder.write([MOVED_WITH_PROFILE, {"dialog_id": "d", "session": {"seq": 9}}])
    wire = Wire()
    wire.script(200, reply)
    await folder.cut_off(wire, 2, client={"api": api, "retry": every(100.0)})
    assert [sent.method for sent in wire.sent] == ["POST", "PATCH"]
    again = Wire()
    assert counts(await folder.run(again, client={"api": api})) == (2, 1, 0, 1, 0)
    assert [sent.seq for sent in again.sent] == [9]


async def test_a_row_is_not_moved_again_if_a_run_is_stopped_at_its_profile(folder: Folder) -> None:
    api = SessionsApi(user_id="u-1")
    folder.write([MOVED_WITH_PROFILE])
    wire = Wire()
    job = folder.job()

    async def stop(_: Request) -> Response:
        job.stop()
        return status(503)

    wire.script(200, stop)
    async with client_of(wire, api=api) as opened:
        assert counts(await job.run(opened)) == (1, 0, 0, 0, 1)
    again = Wire()
    assert counts(await folder.run(again, client={"api": api})) == (1, 0, 0, 1, 0)
    assert again.sent == []


async def test_a_rejected_transition_is_sent_again_after_its_variables(folder: Folder) -> None:
    api = SessionsApi(user_id="u-1")
    folder.write([{"dialog_id": "d", "session": {"seq": 1}, "next_step": "go"}])
    wire = Wire()
    wire.script(200, 503)
    await folder.cut_off(wire, 2, client={"api": api, "retry": every(100.0)})
    assert counts(await folder.run(Wire(), client={"api": api})) == (1, 1, 0, 0, 0)


async def test_variables_that_count_once_are_not_sent_again_before_a_rejected_transition(
    folder: Folder,
) -> None:
    api = SessionsApi(user_id="u-1", inject="replace")
    folder.write([{"dialog_id": "d", "session": {"seq": 1}, "next_step": "go"}])
    wire = Wire()
    wire.script(200, 503)
    await folder.cut_off(wire, 2, client={"api": api, "retry": every(100.0)})
    again = Wire()
    assert counts(await folder.run(again, client={"api": api})) == (1, 0, 0, 1, 0)
    assert again.sent == []


async def test_a_transition_of_several_requests_that_was_cut_off_is_ambiguous(
    folder: Folder,
) -> None:
    limits = replace(Limits(), safe_payload_bytes=1000)
    session = {name: name * 600 for name in "ab"}
    folder.write([{"dialog_id": "d", "session": session, "next_step": "go"}])
    wire = Wire()
    wire.script(200, never)
    await folder.cut_off(wire, 2, client={"limits": limits})
    assert wire.sent[1].headers["if-match"] == '"1"'
    again = Wire()
    assert counts(await folder.run(again, client={"limits": limits})) == (1, 0, 0, 1, 0)
    assert again.sent == []


async def test_the_rows_of_a_job_need_an_endpoint_for_their_messages(folder: Folder) -> None:
    folder.write([MESSAGE, {"dialog_id": "d", "session": {"seq": 1}, "notify": {"data": {"a": 1}}}])
    faults: list[RowFault] = []
    found = dry_run(folder.rows, JobOptions(), api=RuntimeApi(), on_fault=faults.append)
    assert (found.faulty, [fault.path for fault in faults]) == (2, ["inject", "notify"])
    faults.clear()
    endpoint = Endpoint("https://endpoint.example", "token")
    found = dry_run(
        folder.rows, JobOptions(), api=RuntimeApi(), endpoint=endpoint, on_fault=faults.append
    )
    # The second row has a variable and a message, and names no user.
    assert (found.requests, [fault.path for fault in faults]) == (1, ["user_id"])
    api = SessionsApi(user_id="u")
    found = dry_run(folder.rows, JobOptions(), api=api, endpoint=endpoint, on_fault=faults.append)
    assert (found.faulty, found.requests) == (0, 3)
    result = await folder.run(Wire(), client={"endpoint": None})
    assert (result.failed, result.requests) == (2, 0)
    assert "needs the endpoint service" in folder.letters[0]["_error"]["message"]


async def test_columns_of_a_table_may_be_parts_of_a_message(folder: Folder) -> None:
    folder.rows = folder.rows.with_name("rows.csv")
    folder.rows.write_text(
        "dialog_id,user_id,session.n,inject.text,inject.data,notify.text\n"
        "d,u-1,1,,,00123\n"
        'd,u-1,,00123,"{""pages"": 3}",\n'
    )
    wire = Wire()
    result = await folder.run(wire, client={"api": SessionsApi()})
    assert counts(result) == (2, 2, 0, 0, 0)
    assert [(sent.message, sent.body.get("text"), sent.body.get("data")) for sent in wire.sent] == [
        (None, None, None),
        ("notify", "00123", {}),
        ("inject", "00123", {"pages": 3}),
    ]


async def test_another_endpoint_is_another_job(folder: Folder) -> None:
    folder.write([MESSAGE] * 2)
    wire = Wire()
    wire.script(never)
    await folder.cut_off(wire, 1)
    endpoint = Endpoint("https://endpoint.example", "token")
    with pytest.raises(JournalRefusedError, match="endpoint"):
        await folder.run(Wire(), client={"endpoint": endpoint})


# Groups.


async def test_a_group_that_was_cut_off_is_sent_again_as_it_was(folder: Folder) -> None:
    folder.write(rows_of(60, dialogs=3))
    wire = Wire(answer=never)
    await folder.cut_off(wire, 2, client={"max_in_flight": 2}, coalesce=True)
    before = {request.key: request.body for request in wire.writes()}
    assert len(before) == 2
    again = Wire()
    result = await folder.run(again, coalesce=True, client={"max_in_flight": 2})
    assert counts(result) == (60, 60, 0, 0, 0)
    bodies = {request.key: request.body for request in again.writes()}
    for key, body in before.items():
        assert bodies[key] == body
    for dialog in range(3):
        seqs = [request.seq for request in again.writes(f"d{dialog}")]
        assert seqs == sorted(seqs)
        assert seqs[-1] == 57 + dialog


async def test_rows_that_are_merged_otherwise_are_applied_again_in_their_order(
    folder: Folder,
) -> None:
    client = {"max_in_flight": 1}
    last = [{"dialog_id": "d", "session": one} for one in ({"o": 1}, {"b": 1}, {"o": {"p": 2}})]
    folder.write([{"dialog_id": "e", "session": {"seq": 0}}, *last])
    wire = Wire()
    wire.script(never)
    await folder.cut_off(wire, 1, client=client, coalesce=True)
    # As if the run had sent each row of `d` alone before it was cut off.
    with Journal(folder.journal) as journal:
        used = {f"{journal.job_id}-{line}" for line in (2, 3, 4)}
    values: dict[str, Any] = {"o": {"p": 2}, "b": 1}

    async def apply(request: Request) -> Response:
        if (key := request.headers["idempotency-key"]) not in used:
            used.add(key)
            values.update(json.loads(request.content)["session"])
        return state(1)

    again = Wire(takes=1.0, answer=apply)
    assert counts(await folder.run(again, client=client, coalesce=True)) == (4, 4, 0, 0, 0)
    assert [sent.session for sent in again.sent[1:]] == [{"o": 1, "b": 1}, {"o": {"p": 2}}]
    assert values["o"] == {"p": 2}


async def test_a_list_that_a_keyed_server_may_have_appended_is_not_sent_with_another_key(
    folder: Folder,
) -> None:
    keyed = RuntimeApi(honours_idempotency_keys=True, merged_values="objects and lists")
    folder.write([{"dialog_id": "d", "session": {"a": [1]}}])
    wire = Wire()
    wire.script(never)
    await folder.cut_off(wire, 1, client={"api": keyed}, coalesce=True)
    again = Wire()
    result = await folder.run(again, client={"api": keyed}, coalesce=True)
    assert counts(result) == (1, 0, 0, 1, 0)
    assert again.sent == []


async def test_a_group_that_was_cut_off_keeps_its_user_and_its_profile(folder: Folder) -> None:
    client = {"api": SessionsApi(user_id="u-1"), "max_in_flight": 1}
    people = {"user_id": "u-7", "profile_id": "0123456789abcdef01234567"}
    values: list[Row] = [{"session": {"a": 1}}, {"user": {"vip": True}}]
    folder.write(
        [
            {"dialog_id": "e", "session": {"seq": 0}},
            *({"dialog_id": "d", **people, **one} for one in values),
        ]
    )
    wire = Wire(takes=1.0)
    wire.script(never, dialog_id="d")
    await folder.cut_off(wire, 2, client=client, coalesce=True)
    again = Wire()
    assert counts(await folder.run(again, client=client, coalesce=True)) == (3, 3, 0, 0, 0)
    injection, profile = again.sent
    assert injection.body == {"userId": "u-7", "context": {"a": 1}}
    assert (profile.dialog_id, profile.body) == (people["profile_id"], {"profile": {"vip": True}})


# Stopping.


@on_each_api
async def test_stop_lets_what_is_in_flight_end(folder: Folder) -> None:
    folder.write(rows_of(5_000))
    wire = Wire(takes=1.0)
    async with client_of(wire, max_in_flight=5) as client:
        job = folder.job()
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await sent(wire, 10)
                job.stop()

            tasks.start_soon(stop_soon)
            result = await job.run(client)
    assert (result.ended, result.succeeded, result.failed) == ("interrupted", 10, 0)
    assert len(wire.sent) == 10
    # Rows that were read ahead are left as well.
    assert (result.inputs, result.pending, result.counted) == (5_000, 4_990, True)
    summary = read_summary(folder.journal)
    assert (summary.left, summary.counted) == (4_990, True)
    again = Wire()
    assert counts(await folder.run(again, limit=500)) == (500, 500, 0, 0, 0)
    assert len(again.sent) == 490
    assert read_summary(folder.journal).left == 0


async def test_the_rows_left_of_a_long_input_are_an_estimate(folder: Folder) -> None:
    folder.write(rows_of(30_000))
    wire = Wire(takes=1.0)
    async with client_of(wire, max_in_flight=5) as client:
        job = folder.job(on_failure="continue", max_failures=0)
        wire.script(status(400))
        result = await job.run(client)
    assert result.ended == "stopped"
    assert not result.counted
    summary = read_summary(folder.journal)
    assert not summary.counted
    assert summary.left == pytest.approx(30_000, rel=0.05)


async def test_rows_of_a_job_that_was_stopped_or_cut_off_are_in_the_journal_not_in_the_log(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write(rows_of(200, dialogs=200))
    await folder.cut_off(Wire(takes=1.0), 40, max_failures=0)
    wire = Wire(takes=0.1, answer=refusing(100))
    assert (await folder.run(wire, max_failures=0)).ended == "stopped"
    again = Wire()
    assert (await folder.run(again, max_failures=0)).ended == "stopped"
    assert again.sent == []
    gc.collect()
    assert "left early" not in caplog.text


@on_each_api
async def test_what_waits_to_be_repeated_is_left_for_the_next_run(folder: Folder) -> None:
    folder.write(rows_of(3, dialogs=3))
    wire = Wire(answer=503)
    async with client_of(wire, retry=every(1000.0)) as client:
        job = folder.job()
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await sent(wire, 3)
                await anyio.sleep(1.0)
                job.stop()

            tasks.start_soon(stop_soon)
            result = await job.run(client)
    assert counts(result)[1:] == (0, 0, 0, 3)
    assert folder.letters == []
    assert counts(await folder.run(Wire())) == (3, 3, 0, 0, 0)


@pytest.mark.parametrize(("answered", "steps"), [(503, 3), (401, 3), (500, 2)])
async def test_a_transition_rejected_while_a_run_stopped_is_not_ambiguous(
    folder: Folder, answered: int, steps: int
) -> None:
    folder.write([{"dialog_id": f"d{n}", "next_step": "go"} for n in range(3)])
    release = anyio.Event()

    async def answer(_: Request) -> Response:
        await release.wait()
        return status(answered)

    wire = Wire(answer=200)
    wire.script(answer)
    async with client_of(wire, max_in_flight=1) as client:
        job = folder.job()
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await sent(wire, 1)
                job.stop()
                release.set()

            tasks.start_soon(stop_soon)
            await job.run(client)
    result = await folder.run(Wire())
    assert (result.succeeded, result.succeeded + result.ambiguous) == (steps, 3)


# Journals that cannot be used.


async def test_another_input_is_refused_with_the_difference(folder: Folder) -> None:
    folder.write(rows_of(10))
    await folder.run(Wire())
    folder.write(rows_of(11))
    wire = Wire()
    with pytest.raises(JournalRefusedError, match=r"another input: .* its size went from"):
        await folder.run(wire)
    assert wire.sent == []
    assert counts(await folder.run(wire, force=True)) == (11, 11, 0, 0, 0)
    assert [sent.seq for sent in wire.sent] == [10]


async def test_an_input_of_the_same_size_is_compared_by_its_content(folder: Folder) -> None:
    rows = rows_of(10)
    folder.write(rows)
    await folder.run(Wire())
    folder.write(rows[::-1])
    with pytest.raises(JournalRefusedError, match="its content differs"):
        await folder.run(Wire())
    folder.write(rows)
    assert (await folder.run(Wire())).ok


async def halfway(folder: Folder) -> list[Row]:
    """A job that was stopped early, on an input of which much was not read yet."""
    rows = rows_of(30_000)
    folder.write(rows)
    result = await folder.run(Wire(answer=refusing(30)), on_failure="stop")
    assert result.ended == "stopped"
    return rows


@pytest.mark.quick("asyncio")
async def test_a_copy_of_the_input_is_accepted_and_the_uncompared_part_is_noted(
    folder: Folder,
) -> None:
    rows = await halfway(folder)
    folder.rows.unlink()
    folder.write(rows)
    os.utime(folder.rows, ns=(0, 0))
    result = await folder.run(Wire(answer=refusing(30)), on_failure="stop")
    assert counts(result) == (30_000, 29_999, 1, 0, 0)
    (note,) = result.notes
    assert "has another time than before" in note
    assert "the rest had not been read and cannot be compared" in note
    again = await folder.run(Wire(), on_failure="stop")
    assert again.notes == ()
    # All of it was read: there is nothing left that cannot be compared.
    os.utime(folder.rows, ns=(1, 1))
    assert (await folder.run(Wire(), on_failure="stop")).notes == ()


async def test_a_change_where_the_input_was_read_is_refused(folder: Folder) -> None:
    rows = await halfway(folder)
    rows[600]["session"]["seq"] = 601
    folder.write(rows)
    os.utime(folder.rows, ns=(0, 0))
    with pytest.raises(JournalRefusedError, match="its content differs"):
        await folder.run(Wire(), on_failure="stop")


async def test_a_limit_may_change_from_run_to_run(folder: Folder) -> None:
    folder.write(rows_of(30))
    wire = Wire()
    for limit, done in ((5, 5), (12, 12), (3, 12), (None, 30)):
        result = await folder.run(wire, limit=limit)
        assert (result.ended, len(wire.sent)) == ("complete", done)
    assert sorted(sent.seq or 0 for sent in wire.sent) == list(range(30))


async def test_a_journal_that_is_deleted_while_the_job_runs_stops_it(folder: Folder) -> None:
    folder.write(rows_of(500, dialogs=500))

    async def answer(_: Request) -> Response:
        folder.journal.unlink(missing_ok=True)
        await anyio.sleep(1.0)
        return status(200, version=1)

    wire = Wire(answer=answer)
    result = await folder.run(wire)
    assert (result.ended, type(result.fault)) == ("stopped", JournalError)
    assert "was deleted while the job ran" in str(result.reason)
    assert len(wire.sent) < 500
    # What is left is not taken for a new job.
    for _ in range(2):
        with pytest.raises(JournalRefusedError, match=r"job\.journal-wal, with the newest"):
            await folder.run(wire)


async def test_a_journal_that_turns_out_to_be_damaged_stops_the_job(folder: Folder) -> None:
    folder.write(rows_of(10))
    await folder.run(Wire())
    with closing(sqlite3.connect(folder.journal)) as connection, connection:
        connection.execute("UPDATE outcomes SET dialog = CAST(x'ff' AS TEXT) WHERE line = 7")
    wire = Wire()
    result = await folder.run(wire)
    assert (result.ended, type(result.fault)) == ("stopped", JournalRefusedError)
    assert "is damaged: Could not decode to UTF-8" in str(result.reason)
    assert wire.sent == []


async def test_other_options_are_refused_by_name(folder: Folder) -> None:
    folder.write(rows_of(10))
    await folder.run(Wire(answer=refusing(3)), max_failures=5)
    wire = Wire()
    message = (
        r"other options: coalesce: false before, true now; max_failures: 5 before, not set now"
    )
    with pytest.raises(JournalRefusedError, match=message):
        await folder.run(wire, coalesce=True)
    assert (await folder.run(wire, coalesce=True, force=True)).inputs == 10
    assert wire.sent == []


async def test_another_api_is_another_job(folder: Folder) -> None:
    folder.write(rows_of(1))
    await folder.run(Wire())
    with pytest.raises(JournalRefusedError, match='api: "RuntimeApi" before, "SessionsApi" now'):
        await folder.run(Wire(), client={"api": SessionsApi(user_id="u")})


async def test_a_run_of_which_nothing_was_recorded_may_have_sent_something(folder: Folder) -> None:
    folder.write(rows_of(1))
    made: dict[str, Any] = {"limits": Limits(), "api": RuntimeApi(), "force": False}
    open_job(folder.rows, folder.journal, JobOptions(), {}, **made).close()
    with pytest.raises(JournalRefusedError, match="coalesce: false before, true now"):
        open_job(folder.rows, folder.journal, JobOptions(coalesce=True), {}, **made)


async def test_a_second_run_on_a_journal_is_refused_at_once(folder: Folder) -> None:
    folder.write(rows_of(10))
    with (
        Journal(folder.journal),
        pytest.raises(JournalRefusedError, match=r"in use by process \d+ on host .* since"),
    ):
        await folder.run(Wire())
    assert (await folder.run(Wire())).ok
    assert not list(folder.journal.parent.glob("job.journal?*"))


async def test_a_second_run_is_refused_whatever_link_leads_to_the_journal(folder: Folder) -> None:
    folder.write(rows_of(10))
    link = folder.journal.with_name("link")
    link.symlink_to(folder.journal)
    job = BulkJob(folder.rows, journal=link)
    async with client_of(Wire()) as client:
        with Journal(folder.journal), pytest.raises(JournalRefusedError, match="in use"):
            await job.run(client)
        before = folder.journal.read_bytes()
        with pytest.raises(JournalRefusedError, match=r"link cannot be .*: it is a symbolic link"):
            await job.run(client)
        assert folder.journal.read_bytes() == before
        assert (await folder.run(Wire())).ok
        assert read_summary(link).owner is None


@pytest.mark.parametrize("damage", ["header", "middle", "cut"])
async def test_a_damaged_journal_is_named(folder: Folder, damage: str) -> None:
    folder.write(rows_of(3000))
    await folder.run(Wire())
    content = bytearray(folder.journal.read_bytes())
    if damage == "header":
        content[:100] = bytes(100)
    elif damage == "middle":
        content[20_000:24_000] = b"\xa5" * 4000
    else:
        del content[len(content) // 2 :]
    folder.journal.write_bytes(content)
    wire = Wire()
    with pytest.raises(JournalRefusedError, match=r"job\.journal is damaged: [^*:]+") as refused:
        await folder.run(wire)
    assert "***" not in str(refused.value)
    assert wire.sent == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM meta WHERE key = 'job'", "it has no job"),
        ("UPDATE meta SET value = 'x' WHERE key = 'pass'", "invalid literal"),
        ("UPDATE meta SET value = '{' WHERE key = 'options'", "Expecting"),
        ("UPDATE meta SET value = '{}' WHERE key = 'input'", "it has no size"),
    ],
)
async def test_a_journal_that_lacks_something_is_named(
    folder: Folder, damage: str, message: str
) -> None:
    folder.write(rows_of(10))
    await folder.run(Wire())
    with closing(sqlite3.connect(folder.journal)) as connection, connection:
        connection.execute(damage)
    wire = Wire()
    for _ in range(2):
        with pytest.raises(JournalRefusedError, match=rf"job\.journal is damaged: {message}"):
            await folder.run(wire)
    assert wire.sent == []
    if "'job'" in damage:
        with pytest.raises(JournalRefusedError, match=rf"job\.journal is damaged: {message}"):
            read_summary(folder.journal)


async def test_a_journal_of_another_version_is_refused(folder: Folder) -> None:
    folder.write(rows_of(1))
    await folder.run(Wire())
    with closing(sqlite3.connect(folder.journal)) as connection:
        connection.execute("PRAGMA user_version = 9")
    message = r"another version of cognigy_async \(format 9, and this one has 1\)"
    with pytest.raises(JournalRefusedError, match=message):
        await folder.run(Wire())
    with pytest.raises(JournalRefusedError, match=message):
        read_summary(folder.journal)


async def test_a_journal_in_a_folder_that_cannot_be_written_can_be_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(rows_of(10))
    await folder.run(Wire())
    place = folder.journal.parent
    if os.geteuid() == 0:
        # Root writes everywhere; what is asked is what others would hear.
        monkeypatch.setattr(os, "access", lambda *_: False)
    place.chmod(0o555)
    try:
        before = place.stat().st_mtime_ns
        assert read_summary(folder.journal).totals.succeeded == 10
        assert place.stat().st_mtime_ns == before
    finally:
        place.chmod(0o755)


async def test_another_database_is_no_journal(folder: Folder) -> None:
    folder.write(rows_of(1))
    connection = sqlite3.connect(folder.journal)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(JournalRefusedError, match="no journal of a job"):
        await folder.run(Wire())


async def test_a_folder_that_is_not_there(folder: Folder, tmp_path: Path) -> None:
    folder.write(rows_of(1))
    folder.journal = tmp_path / "no" / "journal"
    with pytest.raises(JournalRefusedError, match="cannot be created or written"):
        await folder.run(Wire())


async def test_files_that_are_one_are_refused(folder: Folder, tmp_path: Path) -> None:
    folder.write(rows_of(1))
    for wrong in ({"journal": folder.rows}, {"dead_letters": folder.rows}):
        with pytest.raises(ConfigurationError, match="are one file"):
            BulkJob(folder.rows, **wrong)


async def test_an_input_that_is_not_there(folder: Folder) -> None:
    with pytest.raises(InputError, match="no such file"):
        await folder.run(Wire())
    assert not folder.journal.exists()


@pytest.mark.parametrize("step", [None, "go"])
async def test_a_journal_that_cannot_be_written_stops_the_job(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, step: str | None
) -> None:
    rows = rows_of(400, dialogs=40)
    folder.write([{**row, "next_step": step} if step else row for row in rows])
    fill = Journal._fill

    def full(journal: Journal, batch: Batch) -> None:
        if any(outcome[0] > 40 for outcome in batch.outcomes):
            raise sqlite3.OperationalError("database or disk is full")
        fill(journal, batch)

    monkeypatch.setattr(Journal, "_fill", full)
    wire = Wire(takes=1.0)
    result = await folder.run(wire)
    assert isinstance(result.fault, JournalError)
    assert "disk is full" in str(result.reason)
    assert result.failed == 0
    assert result.ended == "stopped"
    monkeypatch.setattr(Journal, "_fill", fill)
    again = Wire()
    result = await folder.run(again)
    assert result.inputs == 400
    assert result.succeeded + result.ambiguous == 400
    assert result.ambiguous == 0 or step


# Reading a journal.


async def test_the_timeline_of_a_dialog(folder: Folder) -> None:
    folder.write(rows_of(4, dialogs=2))
    wire = Wire(takes=1.0)
    wire.script(503, dialog_id="d0")
    wire.script(200, 400, dialog_id="d1")
    await folder.run(wire, client={"retry": every(5.0)})
    moments = explain_dialog(str(folder.journal), "d0")
    assert [one.at for one in moments] == sorted(one.at for one in moments)
    for line, whats in (
        (1, ["queued", "sent", "503", "settled: applied after 2 requests"]),
        (3, ["queued", "sent", "settled: applied"]),
    ):
        assert [one.what for one in moments if one.line == line] == whats
    wait = next(one for one in explain_dialog(folder.journal, "d0") if one.what == "503")
    assert wait.until == pytest.approx(wait.at + 5.0)
    refused = [one for one in explain_dialog(folder.journal, "d1") if one.line == 4]
    whats = ["queued", "sent", "settled: failed, BadRequestError 400"]
    assert [one.what for one in refused] == whats
    queued, sent, settled = (one.at for one in refused)
    assert sent - queued == pytest.approx(1.0, abs=0.1)
    assert settled - sent == pytest.approx(1.0, abs=0.1)
    assert explain_dialog(folder.journal, "d9") == []


async def test_the_timeline_names_the_line_with_which_a_row_was_sent(folder: Folder) -> None:
    rows = rows_of(5, dialogs=1)
    folder.write(rows)
    wire = Wire(answer=refusing(4))
    result = await folder.run(wire, coalesce=True)
    assert result.failed
    moments = explain_dialog(folder.journal, "d0")
    first, *others = [one for one in moments if one.what.startswith("sent")]
    assert first.what == "sent"
    assert [one.what for one in others] == [f"sent, with line {first.line}"] * (len(rows) - 1)
    assert sum("failed" in one.what for one in moments) == len(rows)


async def test_the_timeline_of_an_ambiguous_row_has_its_send(folder: Folder) -> None:
    folder.write(rows_of(1, next_step="go"))
    wire = Wire()
    wire.script(never)
    await folder.cut_off(wire, 1)
    assert (await folder.run(Wire())).ambiguous == 1
    # The virtual time of the first run may end after the second one begins.
    whats = sorted(one.what for one in explain_dialog(folder.journal, "d0"))
    assert whats == ["sent", "settled: ambiguous, AmbiguousUpdateError"]


async def test_the_summary_of_a_journal(folder: Folder) -> None:
    folder.write(rows_of(20))
    wire = Wire(answer=refusing(3))
    wire.script(503)
    await folder.run(wire)
    summary = read_summary(folder.journal)
    assert (summary.totals.succeeded, summary.totals.failed) == (19, 1)
    assert summary.totals.retries == {"unavailable": 1}
    assert summary.owner is None
    assert summary.runs[-1].ended == "complete"
    with pytest.raises(JournalRefusedError, match="there is no journal"):
        read_summary(folder.rows.with_name("none"))


async def test_no_value_of_a_variable_is_in_the_journal(folder: Folder) -> None:
    canary = "canary-51d7"
    rows: list[Row] = [
        {"dialog_id": "a", "session": {"n": canary}},
        {"dialog_id": "b", "session": {"n": canary}, "next_step": "go"},
        {"dialog_id": "c", "session": {"a-b": canary}},
        {"dialog_id": "d", "session": {"n": canary, "seq": 3}},
    ]
    folder.write(rows)

    async def answer(request: Request) -> Response:
        if b'"seq":3' in request.content:
            return status(400, message=f"bad {canary}")
        return status(200, version=1)

    await folder.run(Wire(answer=answer))
    for file in folder.journal.parent.glob("job.journal*"):
        assert canary.encode() not in file.read_bytes()
    assert canary in folder.dead.read_text()


# Quotas and other APIs.


async def test_what_an_earlier_run_used_of_the_quota_counts(folder: Folder) -> None:
    folder.write(rows_of(40, dialogs=40))
    limit = RateLimit(10, per=100.0)
    wire = Wire()
    await folder.cut_off(wire, 10, client={"rate_limit": limit})
    again = Wire()
    async with client_of(again, rate_limit=limit) as client:
        job = folder.job()
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await anyio.sleep(50.0)
                job.stop()

            tasks.start_soon(stop_soon)
            result = await job.run(client)
    # The clock of the machine hardly moved since, so the window is still used up.
    assert (result.ended, len(again.sent)) == ("interrupted", 0)
    assert result.quota_utilisation is not None


async def test_rows_that_the_api_cannot_carry_are_faults_of_both_runs(folder: Folder) -> None:
    folder.write([{"dialog_id": "d", "session": {"n": 1}}, {"dialog_id": "d", "user": {"n": 1}}])
    api = SessionsApi(user_id="u-1")
    faults: list[RowFault] = []
    found = dry_run(folder.rows, JobOptions(), api=api, on_fault=faults.append)
    assert (found.faulty, [fault.line for fault in faults]) == (1, [2])
    result = await folder.run(Wire(), client={"api": api})
    assert (result.inputs, result.failed) == (2, 1)
    assert folder.letters[0]["_error"]["line"] == 2


async def test_a_job_of_transitions_asks_a_throttled_server_every_hour(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write([{"dialog_id": f"d-{number}", "next_step": "go"} for number in range(20)])
    wire = Wire(takes=0.1)

    async def serve_after_three_hours(_: Request) -> Response:
        return throttled("1000000000") if anyio.current_time() < 3 * 3600 else state(1)

    wire.answers(serve_after_three_hours)
    result = await folder.run(wire, client={"max_in_flight": 4})
    assert result.succeeded == 20
    # Up to four were in flight when the pause began; then one asks every hour.
    asked = [round(sent.at) for sent in wire.sent if 1 < sent.at < 10_799]
    assert asked == [3600, 7200]
