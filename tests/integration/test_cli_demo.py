"""The checks of the demo see each kind of broken promise; the command prints them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from cognigy_async import AmbiguousUpdateError, StateUpdate, UpdateEvent
from cognigy_async.cli import main
from cognigy_async.cli.demo import command
from cognigy_async.cli.demo.check import Outcome, run_checks
from cognigy_async.emulator import Dialog, Emulator, Faults, Step
from tests.simulation.world import client_of, emulator

LIMIT = 16


def events(dialog_id: str, seqs: Sequence[int]) -> list[UpdateEvent]:
    return [
        UpdateEvent(
            dialog_id,
            f"u-{seq}",
            StateUpdate(dialog_id=dialog_id, session={"seq": seq}),
            None,
            None,
        )
        for seq in seqs
    ]


def write(dialog: Dialog, **body: Any) -> None:
    dialog.assign(body, merge="replace", at=0.0)


class Job:
    """Three ordered updates of one dialog without faults; each test spoils one thing."""

    def __init__(self) -> None:
        self.emulator = Emulator()
        self.dialog = self.emulator.add_dialog("d-1")
        for seq in (1, 2, 3):
            write(self.dialog, session={"seq": seq})
        self.events = {"d-1": events("d-1", (1, 2, 3))}
        self.updates = 3
        self.outcomes = [Outcome("d-1", seq, None) for seq in (1, 2, 3)]

    def report_move(self, dialog_id: str, *, applied: bool) -> None:
        self.updates += 1
        self.outcomes.append(
            Outcome(dialog_id, None, None if applied else AmbiguousUpdateError("lost"))
        )

    def broken(self) -> dict[str, int]:
        checks = run_checks(self.emulator, LIMIT, self.updates, self.outcomes, self.events)
        return {name: broken for name, broken, _ in checks if broken}


async def test_the_demo_is_patient_enough_for_its_faults() -> None:
    storm = command.STORM
    counted = storm.error_500 + storm.error_503 + storm.drop_before + storm.drop_after
    updates = command.DIALOGS * command.UPDATES
    assert updates * counted**command.RETRY.max_attempts < 1e-12

    faults: list[Step] = ["error_500", "drop_after", "error_503", "drop_before"]
    server = emulator()
    server.script(*faults * 3, dialog_id="d-1")
    async with client_of(server, retry=command.RETRY) as client:
        await client.update("d-0", session={"seq": 1})  # the server is not away
        assert (await client.update("d-1", session={"seq": 1})).attempts == 13


def test_nothing_is_broken() -> None:
    assert Job().broken() == {}


def test_a_harmless_repeat_is_not_broken() -> None:
    job = Job()
    write(job.dialog, session={"seq": 3})
    assert job.broken() == {}


def test_an_applied_update_that_the_server_does_not_have_is_lost() -> None:
    job = Job()
    job.emulator.dialogs["d-1"] = Dialog("d-1")
    assert job.broken() == {"lost": 3}


def test_a_whole_dialog_is_lost() -> None:
    job = Job()
    job.emulator.dialogs.clear()
    job.report_move("d-2", applied=True)
    job.report_move("d-3", applied=False)
    job.events["d-2"] = events("d-2", ())
    assert job.broken()["lost"] == 4


def test_another_order_on_the_server() -> None:
    job = Job()
    job.dialog.history.reverse()
    assert job.broken() == {"reordered": 1}


def test_a_repeat_that_comes_too_late() -> None:
    job = Job()
    write(job.dialog, session={"seq": 2})
    assert job.broken() == {"reordered": 1}


def test_a_transition_made_twice() -> None:
    job = Job()
    job.report_move("d-1", applied=False)
    write(job.dialog, transition={"nextStep": "pay"})
    assert job.broken() == {}
    write(job.dialog, transition={"nextStep": "pay"})
    assert job.broken() == {"doubled": 1}


@pytest.mark.parametrize(
    ("counter", "check"),
    [
        ("overlapping_writes", "overlapping writes"),
        ("reordered", "reordered"),
        ("double_applies", "doubled"),
        ("early_requests", "early"),
        ("early_repeats", "early"),
    ],
)
def test_what_the_server_counts(counter: str, check: str) -> None:
    job = Job()
    setattr(job.emulator.stats, counter, 2)
    assert job.broken() == {check: 2}


def test_too_many_requests_in_flight() -> None:
    job = Job()
    job.emulator.stats.in_flight_max = LIMIT
    job.emulator.stats.token_requests_overlapping = 1
    assert job.broken() == {}
    job.emulator.stats.in_flight_max = LIMIT + 2
    job.emulator.stats.token_requests_overlapping = 2
    assert job.broken() == {"over the limit": 2, "tokens at once": 1}


def test_an_update_without_an_outcome() -> None:
    job = Job()
    job.updates = 4
    assert job.broken() == {"unsettled": 1}


@pytest.mark.parametrize("seqs", [(1, 2), (1, 3, 2), (1, 2, 2, 3), ()])
def test_events_that_are_missing_doubled_or_out_of_order(seqs: tuple[int, ...]) -> None:
    job = Job()
    job.events["d-1"] = events("d-1", seqs)
    assert list(job.broken()) == ["misdelivered"]


def test_an_event_without_an_update() -> None:
    job = Job()
    job.events["d-2"] = events("d-2", (1,))
    assert job.broken() == {"misdelivered": 1}


def run_demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["cognigy-async", "demo", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    return exited.value.code


SMALL = ("--dialogs", "2", "--updates", "2")


def test_a_broken_promise_is_printed_and_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [("lost", 7, "applied, but not on the server")]
    monkeypatch.setattr(command, "run_checks", lambda *_: broken)
    assert run_demo(monkeypatch, *SMALL) == 1
    out = capsys.readouterr().out
    assert "   lost: 7, applied, but not on the server\n" in out
    assert out.endswith("A promise was broken, or an update failed.\n")


def test_a_failed_update_is_printed_and_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = Faults(fail_status=400)
    monkeypatch.setattr(command, "STORM", refused)
    assert run_demo(monkeypatch, *SMALL) == 1
    out = capsys.readouterr().out
    assert "0 applied, 4 failed, 0 ambiguous" in out
    assert "The server rejected the payload" in out
    assert out.endswith("A promise was broken, or an update failed.\n")


def test_it_sends_over_the_fastest_transport_and_event_loop() -> None:
    program = f"""
import sys
from cognigy_async.cli import main
sys.argv = ["cognigy-async", "demo", *{SMALL}]
try:
    main()
finally:
    print([name in sys.modules for name in ("cognigy_async.transports.pyreqwest", "uvloop")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[True, True]"


def test_a_demo_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SECONDS", 0.5)
    monkeypatch.setattr(command, "STORM", Faults(hang=1))
    assert run_demo(monkeypatch) == 1
    assert "did not end within 0.5 s" in capsys.readouterr().err


def test_a_slow_machine_does_less_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "INPUT_SECONDS", 0.0)
    assert run_demo(monkeypatch) == 0
    out = capsys.readouterr().out
    assert " instead of 1,500, to end in time" in out
    assert out.endswith("Every promise was kept.\n")
    # Below the command, it fits a terminal of 24 lines.
    assert len(out.splitlines()) <= 23
