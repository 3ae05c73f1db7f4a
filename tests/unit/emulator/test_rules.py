"""Validation of the emulator's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import TenantProfile
from cognigy_async.emulator import Rules, Throttling

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (Rules, "merge", "deep"),
        (Rules, "inject", "deep"),
        (Rules, "conflict_status", 400),
        (Rules, "etags", "odd"),
        (Rules, "if_match", "odd"),
        (Rules, "read_delay", -1),
        (Rules, "read_delay", INF),
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


def test_the_rules_of_an_empty_profile_are_the_usual_ones() -> None:
    for profile in (TenantProfile(api="runtime"), TenantProfile(api="sessions")):
        assert Rules.like(profile) == Rules()
        assert Throttling.like(profile) == Throttling()


def test_states_are_refused_only_where_some_are_known() -> None:
    refused: Any = {"unknown_state": "refused", "status": 400}
    known: Any = refused | {"known_states": ["a"]}
    assert Rules.like(TenantProfile(api="sessions", states=known)).flow_nodes == ("a",)
    assert Rules.like(TenantProfile(api="sessions", states=refused)).flow_nodes is None


@pytest.mark.parametrize(
    ("limit", "quota", "style"),
    [
        ({"headers": "ietf", "requests": 5, "seconds": 10}, (5, 10), "ietf"),
        ({"headers": "x", "requests": 5, "reset_seconds": 9}, (5, 9), "x"),
        ({"headers": "x", "requests": 5}, None, "none"),
        ({"headers": "none"}, None, "none"),
    ],
)
def test_the_quota_is_that_of_the_headers(limit: Any, quota: Any, style: str) -> None:
    throttling = Throttling.like(TenantProfile(api="sessions", rate_limit=limit))
    assert (throttling.tenant_quota, throttling.quota_headers) == (quota, style)
