"""What a job leaves out of its rows, and that its baseline never has what was not applied."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    BadRequestError,
    CognigyError,
    Limits,
    StateConflictError,
)
from cognigy_async.bulk import JobOptions
from cognigy_async.bulk.baseline import Baseline
from cognigy_async.bulk.baseline_filter import MOST_DEFERRED, BaselineFilter
from cognigy_async.bulk.input.row import Row, parse_row

JOB = "job"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "baseline"


class Rows:
    """Rows of a file, in order."""

    def __init__(self) -> None:
        self._line = 0

    def row(self, dialog_id: str = "d", **fields: Any) -> Row:
        self._line += 1
        source = json.dumps({"dialog_id": dialog_id, **fields}).encode()
        return parse_row(self._line, source, Limits(), f"{JOB}-{self._line}")


@pytest.fixture
def rows() -> Rows:
    return Rows()


def opened(path: Path, **options: Any) -> BaselineFilter:
    known = {
        name: options.pop(name) for name in ("keeps_other_variables", "whole") if name in options
    }
    job_options = JobOptions(baseline=path, **options)
    return BaselineFilter(Baseline.open(path), job_options, **known)


@pytest.fixture
def changes(path: Path) -> Iterator[BaselineFilter]:
    found = opened(path)
    yield found
    found.close()


def applied(changes: BaselineFilter, *rows: Row) -> None:
    """Compare rows and apply them, one after another."""
    for row in rows:
        assert changes.compare([row]) == [row]
        changes.settle(row, applied=True)


def session(row: Row) -> dict[str, Any] | None:
    """What is sent of a row; None if nothing is."""
    assert row.update is not None
    return None if row.unchanged else row.update.session


def test_only_what_changes_is_sent(changes: BaselineFilter, rows: Rows) -> None:
    applied(changes, rows.row(session={"a": 1, "b": 2, "c": {"x": [1]}}))
    same = rows.row(session={"b": 2, "a": 1})
    some = rows.row(session={"a": 1, "b": 3, "c": {"x": [1]}})
    other = rows.row("e", session={"a": 1})
    user = rows.row(session={"a": 1}, user={"n": 1})
    for row in (same, some, other, user):
        applied(changes, row)
    assert [session(row) for row in (same, some, other)] == [None, {"b": 3}, {"a": 1}]
    assert user.update is not None
    assert user.update.payload() == {"user": {"n": 1}}
    assert not user.unchanged
    # The same user variables are sent again: a profile belongs to several dialogs.
    again = rows.row(user={"n": 1})
    applied(changes, again)
    assert not again.unchanged


def test_one_id_stands_for_one_body(path: Path, rows: Rows) -> None:
    changes = opened(path)
    applied(changes, rows.row(session={"a": 1, "b": 2}))
    trimmed, whole = rows.row(session={"a": 1, "b": 3}), rows.row(session={"a": 2, "b": 4})
    applied(changes, trimmed, whole)
    own = rows.row(session={"a": 2, "b": 5}, update_id="order-1")
    applied(changes, own)
    assert trimmed.update is not None
    assert whole.update is not None
    assert own.update is not None
    assert trimmed.update.update_id is not None
    assert trimmed.update.update_id.startswith("job-2-")
    assert whole.update.update_id == "job-3"
    # The id of a row's own stands for the whole row, in every job.
    assert own.update.session == {"a": 2, "b": 5}
    assert own.update.update_id == "order-1"
    again = rows.row(session={"a": 2, "b": 5}, update_id="order-2")
    applied(changes, again)
    assert again.unchanged
    changes.close()


@pytest.mark.parametrize(
    "error", [None, BadRequestError("no"), AmbiguousUpdateError("?")], ids=["unsent", "400", "?"]
)
def test_what_was_not_applied_is_unknown(
    changes: BaselineFilter, rows: Rows, error: CognigyError | None
) -> None:
    applied(changes, rows.row(session={"a": 1, "b": 1}))
    (failed,) = changes.compare([rows.row(session={"a": 2})])
    changes.settle(failed, applied=False, error=error)
    again = rows.row(session={"a": 1, "b": 1})
    applied(changes, again)
    # After a failure without doubt the others are still known.
    ambiguous = isinstance(error, AmbiguousUpdateError)
    assert session(again) == ({"a": 1, "b": 1} if ambiguous else {"a": 1})


def test_a_conflict_forgets_the_dialog(changes: BaselineFilter, rows: Rows) -> None:
    applied(changes, rows.row(session={"a": 1, "b": 1}))
    (refused,) = changes.compare([rows.row(session={"a": 2}, if_match='"1"')])
    changes.settle(refused, applied=False, error=StateConflictError("412"))
    again = rows.row(session={"b": 1})
    applied(changes, again)
    assert session(again) == {"b": 1}


def test_a_conditional_write_is_sent_whole_and_is_known_afterwards(
    changes: BaselineFilter, rows: Rows
) -> None:
    conditional = [rows.row(session={"a": 1}, if_match=f'"{n}"') for n in range(2)]
    again = rows.row(session={"a": 1})
    applied(changes, *conditional, again)
    assert [session(row) for row in (*conditional, again)] == [{"a": 1}, {"a": 1}, None]


MOVES: list[dict[str, Any]] = [
    {"next_step": "pay"},
    {"inject": {"text": "go"}},
    {"notify": {"text": "go"}},
]


@pytest.mark.parametrize("moves", MOVES)
def test_a_move_is_sent_whole_and_forgets_the_dialog(
    changes: BaselineFilter, rows: Rows, moves: dict[str, Any]
) -> None:
    applied(changes, rows.row(session={"a": 1, "b": 1}), rows.row("e", session={"a": 1}))
    move = rows.row(session={"a": 1}, **moves)
    after = rows.row(session={"a": 1, "b": 1})
    applied(changes, move, after)
    assert session(move) == {"a": 1}
    assert session(after) == {"a": 1, "b": 1}
    other = rows.row("e", session={"a": 1})
    applied(changes, other)
    assert other.unchanged


@pytest.mark.parametrize("moves", MOVES)
def test_a_write_before_a_move_is_not_known_after_it(
    changes: BaselineFilter, rows: Rows, moves: dict[str, Any]
) -> None:
    first, move = rows.row(session={"a": 1}), rows.row(**moves)
    assert changes.compare([first, move]) == [first, move]
    changes.settle(first, applied=True)
    changes.write()
    changes.settle(move, applied=True)
    after = rows.row(session={"a": 1})
    applied(changes, after)
    assert session(after) == {"a": 1}


def test_a_row_waits_for_the_row_whose_value_it_repeats(
    changes: BaselineFilter, rows: Rows
) -> None:
    first, again = rows.row(session={"a": 1}), rows.row(session={"a": 1, "b": 1})
    behind, other = rows.row(session={"c": 1}), rows.row("e", session={"a": 1})
    assert changes.compare([first, again, behind, other]) == [first, other]
    assert changes.release() == []
    assert changes.waits_for(first)
    assert not changes.waits_for(other)
    changes.settle(first, applied=True)
    # One by one, in order: the next row may depend on this one.
    assert changes.release() == [again]
    assert session(again) == {"b": 1}
    assert changes.release() == []
    late = rows.row(session={"c": 2})
    assert changes.compare([late]) == []
    changes.settle(again, applied=True)
    assert changes.release() == [behind]
    changes.settle(behind, applied=True)
    assert changes.release() == [late]
    assert changes.deferred == 0
    assert not changes.waits_for(first)
    changes.settle(late, applied=True)
    both = [rows.row(session={"c": n}) for n in (3, 4)]
    assert changes.compare(both) == both


def test_a_row_is_sent_if_the_row_that_it_repeats_fails(
    changes: BaselineFilter, rows: Rows
) -> None:
    applied(changes, rows.row(session={"a": 0}))
    first, again = rows.row(session={"a": 1}), rows.row(session={"a": 1})
    assert changes.compare([first, again]) == [first]
    changes.settle(first, applied=False, error=BadRequestError("no"))
    assert changes.release() == [again]
    assert session(again) == {"a": 1}


def test_a_row_with_another_value_does_not_wait(changes: BaselineFilter, rows: Rows) -> None:
    applied(changes, rows.row(session={"a": 1, "b": 1}))
    several = [rows.row(session={"a": n, "b": 1}) for n in (2, 1, 2)]
    assert changes.compare(several) == several
    assert [session(row) for row in several] == [{"a": 2}, {"a": 1}, {"a": 2}]
    # The first two were applied, and the third is under way: nothing is known of `a`.
    for row in several[:2]:
        changes.settle(row, applied=True)
    changes.write()
    assert changes._baseline.known("d", None).keys() == {"b"}
    changes.settle(several[2], applied=True)
    last = rows.row(session={"a": 2})
    applied(changes, last)
    assert last.unchanged


def test_what_is_under_way_is_unknown_in_the_file(path: Path, rows: Rows) -> None:
    changes = opened(path)
    applied(changes, rows.row(session={"a": 1, "b": 1}))
    changes.compare([rows.row(session={"a": 2, "b": 1})])
    # As after a kill: nobody writes the outcome.
    changes.close()
    changes = opened(path)
    before = rows.row(session={"a": 1, "b": 1})
    applied(changes, before)
    assert session(before) == {"a": 1}
    changes.close()


def test_rows_that_may_share_a_request_are_whole_and_do_not_wait(path: Path, rows: Rows) -> None:
    changes = opened(path, coalesce=True, whole={5})
    applied(changes, rows.row(session={"a": 1, "b": 1}))
    several = [rows.row(session=values) for values in ({"a": 1}, {"a": 1, "b": 2}, {"b": 2})]
    assert changes.compare(several) == several
    assert [session(row) for row in several] == [None, {"a": 1, "b": 2}, {"b": 2}]
    # The rest of a request that an earlier run sent is sent again.
    rest = rows.row(session={"a": 1})
    assert rest.line == 5
    assert changes.compare([rest]) == [rest]
    assert session(rest) == {"a": 1}
    changes.close()


def test_where_a_request_drops_other_variables_rows_are_whole(path: Path, rows: Rows) -> None:
    changes = opened(path, keeps_other_variables=False)
    several = [
        rows.row(session=values) for values in ({"a": 1, "b": 1}, {"b": 1, "a": 1}, {"a": 1})
    ]
    applied(changes, *several)
    assert [session(row) for row in several] == [{"a": 1, "b": 1}, None, {"a": 1}]
    user = rows.row(session={"a": 1}, user={"n": 1})
    applied(changes, user)
    assert user.update is not None
    assert user.update.payload() == {"user": {"n": 1}}
    changes.close()


def test_few_rows_wait_at_a_time(changes: BaselineFilter, rows: Rows) -> None:
    several = [rows.row(session={"a": 1}) for _ in range(MOST_DEFERRED + 1)]
    assert changes.compare(several) == several[:1]
    assert not changes.is_full
    assert changes.compare([rows.row(session={"a": 1})]) == []
    assert changes.is_full
    changes.settle(several[0], applied=True)
    assert len(changes.release()) == MOST_DEFERRED + 1
    assert not changes.is_full
    assert (changes._dialogs, changes._deferring) == ({}, {})


class Server:
    """A server, and a job on it that is killed again and again.

    Args:
        refused: Lines of the rows that the server always refuses.
    """

    def __init__(self, path: Path, chance: random.Random, rows: list[Row]) -> None:
        self.chance = chance
        self.path = path
        self.rows = rows
        self.refused = {row.line for row in rows if chance.random() < 0.15}
        self.state: dict[str, dict[str, Any]] = {}
        self.journal: set[int] = set()
        self.unchanged = 0
        self._left: list[Row] = []
        self._queues: dict[str, list[Row]] = {}
        self._finished: list[int] = []

    def run(self) -> None:
        """Run the job once, until its end or a kill."""
        left = [parse_row(r.line, r.source, Limits(), f"{JOB}-{r.line}") for r in self.rows]
        self._left = [row for row in left if row.line not in self.journal]
        self._queues, self._finished = {}, []
        changes = opened(self.path)
        for _ in range(self.chance.randrange(2 * len(left))):
            steps = [self._read] * bool(self._left) + [self._send] * any(self._queues.values())
            steps += [self._release] * bool(changes.deferred)
            if not steps:
                break
            self.chance.choice(steps)(changes)
            if self.chance.random() < 0.3:
                changes.write()
                self.check(changes)
        changes.close()
        # The journal may lack the latest outcomes, as the baseline may.
        self.journal.update(self._finished[: self.chance.randrange(len(self._finished) + 1)])

    def _read(self, changes: BaselineFilter) -> None:
        count = self.chance.randrange(1, 6)
        self._take(changes.compare(self._left[:count]))
        del self._left[:count]

    def _release(self, changes: BaselineFilter) -> None:
        self._take(changes.release())

    def _take(self, rows: list[Row]) -> None:
        for row in rows:
            if row.unchanged:
                self.unchanged += 1
                self._finished.append(row.line)
            else:
                self._queues.setdefault(str(row.dialog_id), []).append(row)

    def _send(self, changes: BaselineFilter) -> None:
        """Send the oldest row of a dialog. It is applied, refused, or nobody knows."""
        queue = self.chance.choice([queue for queue in self._queues.values() if queue])
        row = queue.pop(0)
        error: CognigyError | None = None
        if row.line in self.refused:
            error = BadRequestError("refused")
        else:
            self.apply(row)
            if self.chance.random() < 0.15:
                error = AmbiguousUpdateError("applied, but nobody knows")
        if self.chance.random() < 0.1:
            # The answer does not come before the kill.
            queue.clear()
            del self._left[:]
            return
        changes.settle(row, applied=error is None, error=error)
        self._finished.append(row.line)

    def apply(self, row: Row) -> None:
        assert row.update is not None
        state = self.state.setdefault(row.update.dialog_id, {})
        state.update(row.update.session)
        if row.update.next_step is not None:
            # The flow acts.
            state.clear()

    def check(self, changes: BaselineFilter) -> None:
        """Check that the server has what the baseline says."""
        baseline = changes._baseline
        for dialog_id, state in self.state.items():
            for name, digest in baseline.known(dialog_id, None).items():
                assert name in state
                assert digest == baseline.digest(dialog_id, None, name, state[name])


@pytest.mark.parametrize("seed", range(60))
def test_the_final_state_is_that_of_a_job_without_a_baseline(path: Path, seed: int) -> None:
    chance, made = random.Random(seed), Rows()
    rows = []
    for _ in range(60):
        names = chance.sample("abcd", chance.randrange(1, 4))
        fields: dict[str, Any] = {"session": {name: chance.randrange(3) for name in names}}
        if chance.random() < 0.05:
            fields["next_step"] = "n"
        rows.append(made.row(f"d{chance.randrange(3)}", **fields))
    job = Server(path, chance, rows)
    for _ in range(1000):
        job.run()
        changes = opened(path)
        job.check(changes)
        changes.close()
        if len(job.journal) == len(rows):
            break
    else:
        raise AssertionError("the job does not end")
    without = Server(path, chance, rows)
    for row in rows:
        if row.line not in job.refused:
            without.apply(row)
    assert job.state == without.state
    assert job.unchanged
