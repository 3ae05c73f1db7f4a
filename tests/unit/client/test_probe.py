"""`probe_inject`: what the answers to two injections say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cognigy_async.client.probe import probe_inject

FIRST, SECOND = {"first": True}, {"second": True}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"probe_kept": True, "probe_object": SECOND}, "merge"),
        ({"probe_kept": True, "probe_object": FIRST | SECOND}, "merge recursively"),
        ({"probe_object": SECOND}, "replace"),
        ({"probe_kept": True}, None),
        ({"probe_object": "text"}, None),
        (None, None),
        ([], None),
    ],
)
async def test_the_second_answer_decides(body: Any, expected: str | None) -> None:
    sent: list[Any] = []

    class Client:
        async def update(self, dialog_id: str, **fields: Any) -> Any:
            sent.append((dialog_id, fields))
            return SimpleNamespace(body=body)

    client: Any = Client()
    assert await probe_inject(client, "s-1", user_id="u-1") == expected
    assert sent == [
        ("s-1", {"session": {"probe_kept": True, "probe_object": FIRST}, "user_id": "u-1"}),
        ("s-1", {"session": {"probe_object": SECOND}, "user_id": "u-1"}),
    ]
