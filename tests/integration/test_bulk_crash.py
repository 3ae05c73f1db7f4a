"""`bulk run` as a process: killed, interrupted, started twice, with a disk that is full."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.bulk import read_summary
from cognigy_async.bulk.baseline import Baseline
from cognigy_async.emulator import Emulator, Faults, Rules, serve

from .commands import CommandProcess, command_environment

SECRET = "correct-horse-battery-staple"
URL_TOKEN = "url-token-of-the-crashed-jobs"
ROWS, DIALOGS = 600, 60
LATENCY = 0.02  # seconds


class Jobs:
    """Runs `bulk run rows.jsonl` in processes of their own, against an emulator."""

    def __init__(self, folder: Path, base_url: str, stack: ExitStack, api: str) -> None:
        self.folder = folder
        self._stack = stack
        self._numbers = itertools.count()
        self.patience = 50.0
        self._variables = command_environment(
            COGNIGY_BASE_URL=base_url,
            COGNIGY_CLIENT_ID="emulator-client",
            COGNIGY_CLIENT_SECRET=SECRET,
            COGNIGY_API=api,
            COGNIGY_ENDPOINT_URL=base_url,
            COGNIGY_ENDPOINT_TOKEN=URL_TOKEN,
        )
        self.user_id: str | None = None
        if api == "sessions":
            self.user_id = self._variables["COGNIGY_USER_ID"] = "u-1"

    def write(self, count: int = ROWS, dialogs: int = DIALOGS, every: int = 0) -> None:
        rows = []
        for number in range(count):
            row: dict[str, Any] = {"dialog_id": f"d{number % dialogs}", "session": {"seq": number}}
            if every and number % every == 0:
                row["next_step"] = f"s{number}"
            rows.append(json.dumps(row) + "\n")
        (self.folder / "rows.jsonl").write_text("".join(rows))

    def write_messages(self, count: int, dialogs: int) -> None:
        """Write rows with a message each; every tenth assigns a variable before it."""
        rows = []
        for number in range(count):
            message = {"text": "wake up", "data": {"seq": number}}
            row: dict[str, Any] = {"dialog_id": f"d{number % dialogs}", "user_id": "u-1"}
            row |= {"inject" if number % 2 else "notify": message}
            if number % 10 == 0:
                row["session"] = {"seq": number}
            rows.append(json.dumps(row) + "\n")
        (self.folder / "rows.jsonl").write_text("".join(rows))

    def start(self, *options: str, largest: int | None = None) -> CommandProcess:
        arguments = ["bulk", "run", "rows.jsonl", "--json", "--journal", "job", *options]
        place = self.folder / f"process-{next(self._numbers)}"
        process = CommandProcess(arguments, self.folder, self._variables, place, largest)
        self._stack.callback(process.end)
        return process

    def finish(self, *options: str) -> tuple[int, dict[str, Any], str]:
        return self.result(self.start(*options))

    def result(self, process: CommandProcess) -> tuple[int, dict[str, Any], str]:
        status, out, err = process.result(timeout=self.patience)
        assert "Traceback" not in err, err
        return status, json.loads(out) if out.strip() else {}, err

    def command(self, *arguments: str) -> str:
        """What another command writes to stdout."""
        place = self.folder / f"process-{next(self._numbers)}"
        process = CommandProcess(arguments, self.folder, self._variables, place)
        self._stack.callback(process.end)
        return process.result(timeout=self.patience)[1]


@pytest.fixture
def honours_keys() -> bool:
    """Whether the server applies a repeated key once; tests of one that does not override it."""
    return True


@pytest.fixture
def emulator(honours_keys: bool) -> Emulator:
    rules = Rules(honour_idempotency_keys=honours_keys)
    return Emulator(client_secret=SECRET, url_token=URL_TOKEN, rules=rules)


@pytest.fixture
def api() -> str:
    """Which API the jobs speak; tests of both have it as a parameter."""
    return "runtime"


@pytest.fixture
def jobs(emulator: Emulator, tmp_path: Path, api: str) -> Iterator[Jobs]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
        ExitStack() as stack,
    ):
        yield Jobs(tmp_path, base_url, stack, api)


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, "it does not come about"
        time.sleep(0.005)


def written(emulator: Emulator) -> int:
    return sum(len(dialog.history) for dialog in list(emulator.dialogs.values()))


def wait_for_writes(emulator: Emulator, more: int) -> None:
    before = written(emulator)
    wait_for(lambda: written(emulator) >= before + more)


def wait_until_served(emulator: Emulator) -> int:
    """Wait for the requests of a killed process that have arrived; return the number of writes."""
    count = -1
    while count != (count := written(emulator)):
        time.sleep(10 * LATENCY)
    return count


def assert_no_step_twice(emulator: Emulator) -> None:
    for dialog in emulator.dialogs.values():
        moves = [entry.body.get("transition") for entry in dialog.history]
        steps = [move["nextStep"] for move in moves if move]
        assert len(steps) == len(set(steps))


@pytest.mark.quick("plain-sessions", "dropping-runtime", "coalescing-sessions")
@pytest.mark.real_time
@pytest.mark.parametrize("api", ["runtime", "sessions"])
@pytest.mark.parametrize(
    ("faults", "options"),
    [
        (Faults(latency=0.01), []),
        (Faults(latency=0.01, drop_before=0.03, drop_after=0.03), []),
        (Faults(latency=0.01), ["--coalesce"]),
    ],
    ids=["plain", "dropping", "coalescing"],
)
def test_kill_and_resume_until_all_is_applied(
    jobs: Jobs, emulator: Emulator, api: str, faults: Faults, options: list[str]
) -> None:
    jobs.write()
    emulator.faults = faults
    options = [*options, "--max-in-flight", "8"]
    chance = random.Random(3)
    for _ in range(4):
        process = jobs.start(*options)
        most = 3 if "--coalesce" in options else 120
        wait_for_writes(emulator, chance.randrange(1, most))
        process.kill()
    status, result, _ = jobs.finish(*options)
    assert status == 0
    assert (result["inputs"], result["succeeded"]) == (ROWS, ROWS)
    for number in range(DIALOGS):
        seqs = [entry.seq for entry in emulator.dialogs[f"d{number}"].history]
        assert seqs == sorted(seqs, key=lambda seq: seq or 0)
        assert seqs[-1] == ROWS - DIALOGS + number
    assert emulator.stats.overlapping_writes == emulator.stats.reordered == 0
    if api == "sessions":
        # It has no keys: what was in flight at a kill is assigned again.
        return
    assert emulator.stats.reused_keys == 0
    keys = Counter(entry.key for dialog in emulator.dialogs.values() for entry in dialog.history)
    assert set(keys.values()) == {1}


@pytest.mark.real_time
@pytest.mark.parametrize("honours_keys", [False])
def test_a_copy_of_the_journal_needs_its_wal(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write(every=1)
    emulator.faults = Faults(latency=LATENCY)
    process = jobs.start()
    wait_for_writes(emulator, 60)
    process.kill()
    emulator.faults = Faults()
    sent = wait_until_served(emulator)
    journal, log = jobs.folder / "job", jobs.folder / "job-wal"
    copies = [jobs.folder / name for name in ("alone", "hard", "both")]
    copies[0].write_bytes(journal.read_bytes())
    copies[1].hardlink_to(journal)
    for copy in copies[:2]:
        status, _, err = jobs.finish("--journal", copy.name)
        assert (status, written(emulator)) == (2, sent)
        assert f"{copy.name} lacks its newest records: its last run was cut off" in err
        for command in (["status", copy.name], ["explain", copy.name, "d1"]):
            assert jobs.command("bulk", *command) == ""
    # The commands that read take nothing away from a journal that has its -wal.
    for command in (["status", "job"], ["explain", "job", "d1"]):
        assert jobs.command("bulk", *command)
    assert log.stat().st_size
    copies[2].write_bytes(journal.read_bytes())
    (jobs.folder / "both-wal").write_bytes(log.read_bytes())
    _, result, _ = jobs.finish("--journal", "both")
    assert result["inputs"] == result["succeeded"] + result["ambiguous"] == ROWS
    assert result["succeeded"] + sent >= ROWS
    assert_no_step_twice(emulator)
    assert not list(jobs.folder.glob("both-*"))


@pytest.mark.real_time
@pytest.mark.parametrize("honours_keys", [False])
@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_transitions_are_not_repeated_blindly(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write(400, 40, every=2)
    emulator.faults = Faults(latency=0.02)
    for _ in range(3):
        process = jobs.start("--max-in-flight", "8")
        wait_for_writes(emulator, 60)
        process.kill()
    status, result, _ = jobs.finish("--max-in-flight", "8")
    assert result["inputs"] == result["succeeded"] + result["ambiguous"] == 400
    assert status == (1 if result["ambiguous"] else 0)
    assert result["ambiguous"] <= 3 * 8
    assert_no_step_twice(emulator)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("count", "kills"),
    [(240, 4), pytest.param(2000, 50, marks=[pytest.mark.thorough, pytest.mark.timeout(900)])],
)
@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_messages_are_delivered_at_most_once(
    jobs: Jobs, emulator: Emulator, count: int, kills: int
) -> None:
    dialogs = count // 10
    jobs.patience = 300.0
    jobs.write_messages(count, dialogs)
    emulator.faults = Faults(latency=LATENCY)
    chance = random.Random(11)
    for number in range(kills):
        process = jobs.start("--max-in-flight", "8")
        if number % 5 == 4:
            # At any moment, also before anything was sent or recorded.
            time.sleep(chance.uniform(0.0, 0.5))
        else:
            # Some of the rows must be left for the last kill; each takes up to 16 others with it.
            wait_for_writes(emulator, chance.randrange(1, count // (2 * kills)))
        process.kill()
    status, result, _ = jobs.finish("--max-in-flight", "8")
    assert result["inputs"] == result["succeeded"] + result["ambiguous"] == count
    # Of the rows in flight, and of those that are recorded and about to be sent.
    assert 0 < result["ambiguous"] <= 2 * 8 * kills
    assert status == 1
    seqs = []
    for number in range(dialogs):
        mine = [message["data"]["seq"] for message in emulator.dialogs[f"d{number}"].messages]
        assert mine == sorted(mine)
        seqs += mine
    assert len(seqs) == len(set(seqs))
    # Only the ambiguous ones may be missing.
    assert result["succeeded"] <= len(seqs) <= count
    letters = (jobs.folder / "job.dead.jsonl").read_text().splitlines()
    doubtful = {json.loads(line)["_error"]["line"] for line in letters}
    assert len(doubtful) == result["ambiguous"]
    assert {seq + 1 for seq in range(count)} - {seq + 1 for seq in seqs} <= doubtful
    assert emulator.stats.violations() == {}
    for path in jobs.folder.iterdir():
        assert URL_TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.real_time
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_what_is_in_flight_end(
    jobs: Jobs, emulator: Emulator, number: signal.Signals
) -> None:
    jobs.write()
    emulator.faults = Faults(latency=0.1)
    process = jobs.start()
    wait_for(lambda: written(emulator) > 20)
    process.send_signal(number)
    status, result, err = jobs.result(process)
    assert status == 130
    assert result["ended"] == "interrupted"
    assert "cognigy-async bulk run rows.jsonl --json --journal job" in err
    assert result["succeeded"] == written(emulator)
    emulator.faults = Faults()
    status, again, _ = jobs.finish()
    assert (status, again["skipped"]) == (0, result["succeeded"])
    assert written(emulator) == ROWS


@pytest.mark.real_time
def test_an_input_that_keeps_the_job_waiting_does_not_keep_it_from_ending(
    jobs: Jobs, emulator: Emulator
) -> None:
    path = jobs.folder / "rows.jsonl"
    os.mkfifo(path)
    # With both ends open nobody waits for the other.
    pipe = os.open(path, os.O_RDWR)
    try:
        os.write(pipe, b'{"dialog_id": "d", "session": {"seq": 1}}\n')
        process = jobs.start()
        wait_for(lambda: written(emulator))
        process.send_signal(signal.SIGTERM)
        status, result, err = jobs.result(process)
        assert (status, result["succeeded"]) == (130, 1)
        assert "To resume" in err
        # What was read counts, although it ends nowhere in particular.
        os.write(pipe, b'{"dialog_id": "e", "session": {"seq": 1}}\n')
        status, _, err = jobs.finish()
        assert (status, written(emulator)) == (2, 1)
        assert "job belongs to another input: rows.jsonl is not the input" in err
        status, _, err = jobs.finish("--canary", "1%", "--journal", "other")
        assert status == 2
        assert "give a number of rows" in err
    finally:
        os.close(pipe)


@pytest.mark.real_time
def test_a_second_interrupt_stops_at_once(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write()
    emulator.faults = Faults(latency=0.02)
    process = jobs.start()
    wait_for(lambda: written(emulator) > 20)
    emulator.faults = Faults(hang=1.0)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, _, err = jobs.result(process)
    assert status == 130
    assert time.monotonic() - began < 10
    assert "To resume:" in err
    emulator.faults = Faults()
    status, result, _ = jobs.finish()
    assert (status, result["succeeded"]) == (0, ROWS)


@pytest.mark.real_time
def test_a_second_run_is_refused_and_status_works_meanwhile(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write()
    emulator.faults = Faults(latency=0.1)
    process = jobs.start()
    wait_for(lambda: written(emulator) > 20)
    status, _, err = jobs.finish()
    assert status == 2
    assert f"in use by process {process.pid} on host" in err
    assert f"running: process {process.pid}" in jobs.command("bulk", "status", "job")
    process.send_signal(signal.SIGINT)
    assert jobs.result(process)[0] == 130


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["linked", "symbolic", "moved", "replaced", "deleted"])
def test_no_name_leads_around_a_running_job(jobs: Jobs, emulator: Emulator, how: str) -> None:
    jobs.write()
    emulator.faults = Faults(latency=0.1)
    process = jobs.start("--max-in-flight", "4")
    wait_for(lambda: written(emulator) > 8)
    journal, other = jobs.folder / "job", jobs.folder / "other"
    # What does not look like a part of the journal is removed by who tidies up.
    for path in jobs.folder.glob("*lock*"):
        path.unlink()
    if how == "linked":
        other.hardlink_to(journal)
    elif how == "symbolic":
        other.symlink_to(journal)
    elif how == "deleted":
        journal.unlink()
    else:
        journal.rename(other)
    second = jobs.start("--journal", "job" if how in ("deleted", "replaced") else "other")
    status, _, err = jobs.result(second)
    assert status == 2
    if how in ("deleted", "replaced"):
        assert "job-wal, with the newest records" in err
    elif how == "moved":
        # The job may have noticed it already, and ended.
        assert re.search(f"other (is in use by process {process.pid}|lacks its newest)", err)
    else:
        assert f"other is in use by process {process.pid}" in err
    if how in ("linked", "symbolic"):
        assert journal.exists()
        process.send_signal(signal.SIGINT)
        assert jobs.result(process)[0] == 130
    else:
        status, result, err = jobs.result(process)
        assert (status, result["ended"]) == (1, "stopped")
        message = "was deleted" if how == "deleted" else "was moved or replaced"
        assert f"Stopped: journal job {message} while the job ran" in err
    if how != "deleted":
        emulator.faults = Faults()
        if how in ("moved", "replaced"):
            other.rename(journal)
        assert jobs.finish()[0] == 0
        keys = Counter(e.key for dialog in emulator.dialogs.values() for e in dialog.history)
        assert (len(keys), set(keys.values())) == (ROWS, {1})
        assert not list(jobs.folder.glob("job?*"))


@pytest.mark.real_time
def test_a_job_that_is_watched_ends_with_one_file(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write(200)
    emulator.faults = Faults(latency=0.01)
    process = jobs.start("--max-in-flight", "4")
    wait_for(lambda: written(emulator) > 8)
    while not process.is_over:
        totals = read_summary(jobs.folder / "job").totals
        assert totals.succeeded <= 200
    assert jobs.result(process)[0] == 0
    assert [path.name for path in jobs.folder.glob("job*")] == ["job"]


@pytest.mark.real_time
def test_a_full_disk_stops_the_job_and_loses_nothing(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write(900, 90)

    status, result, err = jobs.result(jobs.start(largest=60_000))
    assert status == 1
    assert "journal job cannot be written" in err
    assert "All progress is in the journal" not in err
    assert result["failed"] == 0
    assert written(emulator) < 900
    status, result, _ = jobs.finish()
    assert (status, result["succeeded"]) == (0, 900)
    for number in range(90):
        seqs = [entry.seq for entry in emulator.dialogs[f"d{number}"].history]
        assert seqs == sorted(set(seqs))  # type: ignore[type-var]


@pytest.mark.real_time
def test_a_file_that_changes_under_a_running_job_is_noted(jobs: Jobs, emulator: Emulator) -> None:
    jobs.write()
    emulator.faults = Faults(latency=0.1)
    process = jobs.start()
    wait_for(lambda: written(emulator) > 20)
    with (jobs.folder / "rows.jsonl").open("a") as file:
        file.write('{"dialog_id": "late", "session": {"n": 1}}\n')
    status, result, err = jobs.result(process)
    assert (status, result["succeeded"]) == (0, ROWS)
    assert "rows.jsonl changed while the job ran: its size went from" in err
    assert "late" not in emulator.dialogs
    assert jobs.finish()[0] == 2


class Nights:
    """Nightly jobs with one baseline, on dialogs of which few change from night to night."""

    def __init__(self, jobs: Jobs, emulator: Emulator, seed: int) -> None:
        self._jobs = jobs
        self._emulator = emulator
        self._chance = random.Random(seed)
        self._night = 0
        self.unchanged = 0
        self.values = {f"d{number}": {"a": 0, "b": 0, "c": 0} for number in range(150)}
        self.begin()

    def begin(self) -> None:
        """Begin a night, also if the last one was not over."""
        self._night += 1
        rows: list[dict[str, Any]] = []
        for dialog_id, values in self.values.items():
            changed = self._chance.random() < 0.4
            for _ in range(self._chance.randrange(1, 4)):
                if changed:
                    values[self._chance.choice("abc")] = self._chance.randrange(3)
                rows.append({"dialog_id": dialog_id, "session": dict(values)})
        self._chance.shuffle(rows)
        # The last row of each dialog has what must be there in the end.
        rows += [{"dialog_id": one, "session": values} for one, values in self.values.items()]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self._jobs.folder / "rows.jsonl").write_text(text)

    def options(self) -> list[str]:
        name = f"night-{self._night}"
        return ["--baseline", "baseline", "--journal", name, "--max-in-flight", "8"]

    def kill_a_run(self) -> None:
        """Start the job of the night and kill it at a random moment."""
        process = self._jobs.start(*self.options())
        if self._chance.random() < 0.3:
            # In the middle of its work, however slow the machine is.
            before, more = written(self._emulator), self._chance.randrange(1, 200)
            while not process.is_over and written(self._emulator) < before + more:
                time.sleep(0.001)
        time.sleep(self._chance.random() * 0.7)
        process.kill()
        wait_until_served(self._emulator)

    def finish(self) -> None:
        """Run the job of the night to its end, and check the state of all dialogs."""
        status, result, err = self._jobs.finish(*self.options())
        assert (status, result["ended"]) == (0, "complete"), err
        assert result["succeeded"] + result["unchanged"] == result["inputs"]
        self.unchanged += result["unchanged"]
        assert self.known() == 3 * len(self.values)
        for dialog_id, values in self.values.items():
            assert self._emulator.dialogs[dialog_id].session == values

    def known(self) -> int:
        """Check that all that the baseline says is true; return the number of variables."""
        baseline = Baseline.open(self._jobs.folder / "baseline")
        known = 0
        try:
            for dialog_id in self.values:
                digests = baseline.known(dialog_id, None)
                known += len(digests)
                session = digests and self._emulator.dialogs[dialog_id].session
                for name, digest in digests.items():
                    value = session[name]
                    assert digest == baseline.digest(dialog_id, self._jobs.user_id, name, value)
        finally:
            baseline.close()
        return known


@pytest.mark.quick("runtime-8")
@pytest.mark.real_time
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [8, 100])
@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_a_baseline_is_never_ahead_of_what_was_applied(
    jobs: Jobs, emulator: Emulator, api: str, kills: int
) -> None:
    emulator.faults = Faults(latency=0.01)
    nights = Nights(jobs, emulator, seed=kills)
    known = 0
    for kill in range(kills):
        nights.kill_a_run()
        # It is up to date after a kill as well.
        known = max(known, nights.known())
        if kill % 7 == 3:
            nights.finish()
        if kill % 7 in (3, 5):
            # A night that was cut off may never be continued.
            nights.begin()
    nights.finish()
    assert known > 3 * len(nights.values) // 2
    assert nights.unchanged
    assert emulator.stats.overlapping_writes == 0
    if api == "runtime":
        # No body has the key of another one.
        assert emulator.stats.reused_keys == 0


@pytest.mark.real_time
def test_a_full_disk_leaves_a_baseline_that_is_true(jobs: Jobs, emulator: Emulator) -> None:
    emulator.faults = Faults(latency=0.002)
    nights = Nights(jobs, emulator, seed=1)
    nights.values = {f"dialog-{number:0200d}": {"a": 0, "b": 0, "c": 0} for number in range(400)}
    nights.begin()
    options = [*nights.options(), "--journal", "job"]
    status, result, err = jobs.result(jobs.start(*options, largest=150_000))
    assert (status, result["ended"]) == (1, "stopped")
    assert re.search(r"Stopped: (baseline baseline|journal job) cannot be written", err)
    assert "run the same command again" in err
    assert written(emulator)
    nights.known()
    assert jobs.finish(*options)[0] == 0
    for dialog_id, values in nights.values.items():
        assert emulator.dialogs[dialog_id].session == values
    assert nights.known() == 3 * len(nights.values)


@pytest.mark.thorough
@pytest.mark.real_time
@pytest.mark.timeout(600)
def test_a_night_with_few_changes_takes_few_requests(jobs: Jobs, emulator: Emulator) -> None:
    count, changed = 100_000, 2000
    numbers = random.Random(1).sample(range(count), changed)

    def write(changes: frozenset[int]) -> None:
        with (jobs.folder / "rows.jsonl").open("w") as file:
            for number in range(count):
                session = {"seq": number, "total": number % 7 + (number in changes), "vip": True}
                file.write(json.dumps({"dialog_id": f"d{number}", "session": session}) + "\n")

    jobs.patience = 300.0
    options = ["--baseline", "baseline", "--max-in-flight", "64", "--quiet"]
    write(frozenset())
    status, result, _ = jobs.finish(*options, "--journal", "first")
    assert (status, result["succeeded"], result["unchanged"]) == (0, count, 0)
    write(frozenset(numbers))
    dry = jobs.command("bulk", "run", "rows.jsonl", "--dry-run", "--json", *options[:2])
    assert json.loads(dry)["requests"] == changed
    assert json.loads(dry)["saved_requests"] == count - changed
    before = emulator.stats.requests
    status, result, _ = jobs.finish(*options, "--journal", "second")
    assert (status, result["succeeded"], result["unchanged"]) == (0, changed, count - changed)
    assert result["requests"] == changed
    assert emulator.stats.requests - before == changed
    for number in numbers:
        assert emulator.dialogs[f"d{number}"].session["total"] == number % 7 + 1
