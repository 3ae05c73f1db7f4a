"""A journal that is written, closed and killed at any moment: it has what was written, and once."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cognigy_async.bulk import JournalError
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.schema import CompletedRow, Failure, OpenSend, Status

from ._journals import wal

LINES = 6
lines = st.integers(1, LINES)
statuses = st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.AMBIGUOUS])


class JournalMachine(RuleBasedStateMachine):
    """A journal against dicts, which are taken back when a batch fails."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kills = 0
        self.outcomes: dict[int, tuple[Status, int]] = {}
        self.failures: dict[int, str] = {}
        self.sends: dict[int, tuple[str | None, bool, str | None]] = {}
        self.runs: dict[int, int] = {}
        self.current_pass = 1

    @initialize()
    def begin(self) -> None:
        self.journal = Journal(self.folder / "0.journal")
        self.job = self.journal.job_id
        self.begin_run()

    def begin_run(self) -> None:
        """Begin as a job does after it has opened its journal."""
        assert self.journal.job_id == self.job
        assert self.journal.run == len(self.runs) + 1
        self.journal.begin_run({"input": "{}"}, same_input=True)
        self.runs[self.journal.run] = 0

    @rule(
        outcomes=st.dictionaries(lines, statuses, max_size=4),
        sends=st.dictionaries(
            lines,
            st.tuples(st.sampled_from([None, '"1"']), st.booleans(), st.sampled_from([None, "k"])),
            max_size=3,
        ),
        durable=st.booleans(),
        fails=st.sampled_from([False, False, False, True]),
        requests=st.integers(0, 9),
        ends_pass=st.sampled_from([False, False, True]),
    )
    def write(
        self,
        outcomes: dict[int, Status],
        sends: dict[int, tuple[str | None, bool, str | None]],
        durable: bool,
        fails: bool,
        requests: int,
        ends_pass: bool,
    ) -> None:
        number = self.current_pass
        batch = Batch(
            outcomes=[
                (line, f"d-{line}", int(status), number, None, 1.0, 2.0, 1, None)
                for line, status in outcomes.items()
            ],
            failures=[(line, "ServerError", f"pass {number}", 500) for line in outcomes],
            sends=[
                (line, f"d-{line}", 1.0, etag, int(may_be_applied), carrier)
                for line, (etag, may_be_applied, carrier) in sends.items()
            ],
            run=(self.journal.run, 1.0, 2.0, 1.0, requests, "{}", None),
            durable=durable,
        )
        if ends_pass:
            batch.meta["pass"] = str(number + 1)
        if fails:
            # The last of all that is written.
            batch.meta["broken"] = None  # type: ignore[assignment]
            with pytest.raises(JournalError, match="cannot be written"):
                self.journal.write(batch)
            return
        self.journal.write(batch)
        for line, status in outcomes.items():
            self.outcomes[line] = (status, number)
            self.failures[line] = f"pass {number}"
        self.sends.update(sends)
        self.runs[self.journal.run] = requests
        if ends_pass:
            # It begins with the next run.
            self.close()

    @rule()
    def close(self) -> None:
        self.journal.close()
        assert not wal(self.journal.path).exists()
        self.reopen(self.journal.path)

    @rule()
    def is_killed(self) -> None:
        """Go on with what is on disk, in another place, as the other one has the lock."""
        before, self.kills = self.journal, self.kills + 1
        path = self.folder / f"{self.kills}.journal"
        shutil.copyfile(before.path, path)
        shutil.copyfile(wal(before.path), wal(path))
        before.close()
        self.reopen(path)

    def reopen(self, path: Path) -> None:
        self.journal = Journal(path)
        assert self.journal.resumed == bool(self.runs)
        self.current_pass = self.journal.current_pass
        self.begin_run()

    @invariant()
    def it_has_what_was_written(self) -> None:
        if not hasattr(self, "journal"):
            return
        kept = (Status.FAILED, Status.AMBIGUOUS)
        assert self.journal.completed(1, LINES) == {
            line: CompletedRow(
                f"d-{line}",
                number == self.journal.current_pass,
                Failure("ServerError", self.failures[line], 500) if status in kept else None,
            )
            for line, (status, number) in self.outcomes.items()
        }
        assert self.journal.last_line() == max(self.outcomes, default=0)
        earlier = self.journal.earlier_runs()
        open_lines = sorted(self.sends.keys() - self.outcomes.keys())
        assert earlier.sends == [
            OpenSend(line, f"d-{line}", self.sends[line][0])
            for line in open_lines
            if self.sends[line][1]
        ]
        assert earlier.groups == {
            line: self.sends[line][2] for line in open_lines if self.sends[line][2] is not None
        }
        totals = self.journal.totals()
        by_status = Counter(status for status, _ in self.outcomes.values())
        assert totals.requests == sum(self.runs.values())
        assert totals.failed == by_status[Status.FAILED]
        assert totals.ambiguous == by_status[Status.AMBIGUOUS]
        assert totals.completed == len(self.outcomes)

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
        shutil.rmtree(self.folder)


class JournalMachineForLong(JournalMachine):
    pass


TestJournal: Any = JournalMachine.TestCase
TestJournal.settings = settings(deadline=None, max_examples=5, stateful_step_count=15)
TestJournalForLong: Any = pytest.mark.thorough(JournalMachineForLong.TestCase)
TestJournalForLong.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
