"""Validation of the emulator's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async.emulator import Rules, Throttling

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (Rules, "merge", "deep"),
        (Rules, "inject", "deep"),
        (Rules, "conflict_status", 400),
        (Rules, "token_lifetime", 0),
        (Rules, "token_lifetime", INF),
        (Rules, "max_body_bytes", 0),
        (Rules, "max_payload_bytes", 0),
        (Rules, "history_limit", 0),
        (Throttling, "retry_after", "minutes"),
        (Throttling, "quota_headers", "y"),
        (Throttling, "notice", -1),
        (Throttling, "notice", NAN),
        (Throttling, "tenant_quota", (0, 1)),
        (Throttling, "address_quota", (0, 1)),
        (Throttling, "dialog_quota", (1, 0)),
        (Throttling, "dialog_quota", (1, INF)),
    ],
)
def test_an_invalid_field_is_refused_by_name(config: Any, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as raised:
        config(**{field: value})
    assert f"{config.__name__}({field}={value!r}): must be" in str(raised.value)


def test_an_invalid_choice_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="ietf-early"):
        Throttling(quota_headers="y")  # type: ignore[arg-type]
