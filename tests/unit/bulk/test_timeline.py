"""Timelines and summaries of journals."""

from __future__ import annotations

from pathlib import Path

from cognigy_async.bulk import explain_dialog
from cognigy_async.bulk.journal.journal import Batch, Journal


def test_moments_are_in_order_and_waits_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.write(
            Batch(
                outcomes=[
                    (1, "d", 1, 1, 1.0, 2.0, 9.0, 2, None),
                    (2, "d", 4, 1, None, None, 9.5, 0, 1),
                    (3, "d", 2, 1, 1.0, 2.0, 9.0, 1, 1),
                ],
                failures=[(3, "BadRequestError", "m", 400)],
                sends=[(4, "d", 3.0, None, 1, None), (5, "other", 3.0, None, 1, None)],
                events=[
                    (1, "d", 2.5, "unavailable", 4.0),
                    (1, "d", 10.0, "hook crm: delivered", 0.0),
                    (1, "d", 2.6, "of a later version", 1.0),
                ],
            )
        )
    assert [(one.at, one.line, one.what, one.until) for one in explain_dialog(path, "d")] == [
        (1.0, 1, "queued", None),
        (1.0, 3, "queued", None),
        (2.0, 1, "sent", None),
        (2.0, 3, "sent, with line 1", None),
        (2.5, 1, "503", 6.5),
        (2.6, 1, "of a later version", 3.6),
        (3.0, 4, "sent, and no outcome is recorded", None),
        (9.0, 1, "settled: applied after 2 requests", None),
        (9.0, 3, "settled: failed, BadRequestError 400", None),
        (9.5, 2, "settled: the same update as line 1", None),
        (10.0, 1, "hook crm: delivered", None),
    ]
