"""Dry runs: all faults with their places, and what a job would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from cognigy_async import ConfigurationError, RateLimit, RuntimeApi, StateUpdate, plan
from cognigy_async.bulk import JobOptions, dry_run

from ._rows import GOOD, dry, written


@pytest.mark.parametrize(
    ("line", "column", "path"),
    [
        (b"this is no JSON", 2, "row"),
        (b'{"dialog_id": "x", "session": {"n": 1}', 38, "row"),
        (b'["dialog_id"]', 1, "row"),
        (b'"x"', 1, "row"),
        (b"null", 1, "row"),
        (b'{"session": {"n": 1}}', 1, "dialog_id"),
        (b'{"dialog_id": "", "session": {"n": 1}}', 2, "dialog_id"),
        (b'{"dialog_id": "x", "session": {"_cognigy_n": 1}}', 32, "session._cognigy_n"),
        (b'{"dialog_id": "x", "session": {"a-b": 1}}', 32, "session.a-b"),
        (b'{"dialog_id": "x", "session": {"n": 9007199254740992}}', 32, "session.n"),
        (b'{"dialog_id": "x", "session": {"a": [1, [[[[2]]]]]}}', 43, "session.a[1][0][0]"),
        (b'{"dialog_id": "x"}', 1, "update"),
        (b'{"dialog_id": "x", "session": {"n": "\xff"}}', 38, "row"),
        (b'{"dialog_id": "x", "session": {"n": NaN}}', 32, "session.n"),
        (b'{"dialog_id": "x", "sesion": {"n": 1}}', 20, "sesion"),
    ],
)
def test_a_fault_has_line_column_and_path(
    tmp_path: Path, line: bytes, column: int, path: str
) -> None:
    found, faults = dry(written(tmp_path / "rows.jsonl", GOOD, line, GOOD))
    assert (found.rows, found.faulty) == (3, 1)
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [(2, column, path)]


def test_all_faults_of_all_rows_are_reported(tmp_path: Path) -> None:
    bad = b'{"dialog_id": 5, "session": {"a-b": 1, "c": null}, "next_step": ""}'
    found, faults = dry(written(tmp_path / "rows.jsonl", bad, GOOD, bad))
    assert (found.faulty, found.faults) == (2, 8)
    paths = ["dialog_id", "next_step", "session.a-b", "session.c"]
    assert [(fault.line, fault.path) for fault in faults] == [
        (line, path) for line in (1, 3) for path in paths
    ]


def test_a_message_holds_no_value(tmp_path: Path) -> None:
    canary = b"canary-8c1f"
    lines = [
        b'{"dialog_id": "x", "session": {"n": "' + canary + b'"',
        b'{"dialog_id": "x", "session": {"a-b": "' + canary + b'"}}',
        b'{"dialog_id": "x", "session": {"n": "\xff' + canary + b'"}}',
        canary,
    ]
    _, faults = dry(written(tmp_path / "rows.jsonl", *lines))
    assert len(faults) == 4
    assert canary.decode() not in " ".join(map(str, faults))


def test_an_empty_file_is_noted(tmp_path: Path) -> None:
    found, faults = dry(written(tmp_path / "rows.jsonl", end=b""))
    assert (found.rows, found.requests, faults) == (0, 0, [])
    assert found.notes == ("The input has no rows.",)


def test_an_input_without_rows_of_the_selected_dialogs_is_noted(tmp_path: Path) -> None:
    found, _ = dry(written(tmp_path / "rows", GOOD), only_dialogs=("other", "d-2"))
    assert found.notes == ("The input has no rows of 'd-2', 'other'.",)


@pytest.mark.parametrize(
    ("ids", "is_noted"),
    [
        (("K-1", "K-2", "Gesamtergebnis"), True),
        (("K-1", "Anna", "Summe"), False),
        (("K-1", "Summe", "K-2"), False),
        (("K-1", "K-2", "K-3"), False),
        (("Anna", "Zoe", "Summe"), False),
    ],
)
def test_a_total_line_at_the_end_is_noted(
    tmp_path: Path, ids: tuple[str, ...], is_noted: bool
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "".join(f"{text},1\n" for text in ("dialog_id", *ids)).replace(",1", ",session.a", 1)
    )
    notes = dry(path)[0].notes
    assert [note[:42] for note in notes] == (
        ["The last row, line 4, may be a total line:"] if is_noted else []
    )
    assert not is_noted or ("'Gesamtergebnis'" in notes[0] and "--limit 2" in notes[0])


def test_only_rows_that_a_job_holds_together_share_a_request(tmp_path: Path) -> None:
    line = '{"dialog_id": "d%d", "session": {"v%d": 1}}'
    near = [(line % (n % 10, n)).encode() for n in range(1000)]
    far = [(line % (n % 6000, n)).encode() for n in range(12_000)]
    assert dry(written(tmp_path / "near", *near), coalesce=True)[0].requests == 10
    assert dry(written(tmp_path / "far", *far), coalesce=True)[0].requests == 12_000


@pytest.mark.parametrize(
    "limits",
    [
        (),
        (RateLimit(10, per=60),),
        (RateLimit(100, per=300, burst=20), RateLimit(7, per=1)),
    ],
    ids=["none", "one", "two"],
)
def test_the_time_is_that_of_a_plan(tmp_path: Path, limits: tuple[RateLimit, ...]) -> None:
    path = written(tmp_path / "rows.jsonl", *[GOOD] * 1234)
    api = RuntimeApi()
    found = dry_run(path, JobOptions(), api=api, rate_limit=limits, on_fault=print)
    updates = [StateUpdate("d", session={"n": 1})] * 1234
    assert found.seconds == plan(updates, rate_limit=limits).seconds
    assert (found.seconds is None) is not bool(limits)


def test_a_rate_limit_that_is_not_known_has_no_time(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", GOOD)
    with pytest.raises(ConfigurationError, match="a plan needs numbers"):
        dry_run(
            path,
            JobOptions(),
            api=RuntimeApi(),
            rate_limit="auto",  # type: ignore[arg-type]
            on_fault=print,
        )
