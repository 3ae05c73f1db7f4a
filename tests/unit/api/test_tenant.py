"""Profiles of tenants: their JSON, the faults in it, and the API that follows from one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cognigy_async import ConfigurationError, Limits, RuntimeApi, SessionsApi
from cognigy_async.api.tenant import FORMAT, TenantProfile


def made(api: str = "sessions", **sections: Any) -> TenantProfile:
    content = {"format": FORMAT, "version": 1, "api": api, **sections}
    return TenantProfile.from_json(json.dumps(content))


def test_a_profile_is_the_same_after_its_json() -> None:
    profile = made(
        writes={"inject": "merge", "merged_levels": "all", "merges_lists": True},
        reads={"works": True, "delay_seconds": 1.5},
        states={"unknown_state": "refused", "status": 400, "known_states": ["a"]},
        rate_limit={"headers": "x", "requests": 5},
        clock={"skew_seconds": -3.5},
        token={"url": "https://e/oauth/token", "path": "/oauth/token", "client_auth": "basic"},
        body={"accepted_bytes": 60_000, "refused_bytes": 61_000, "refused_status": 413},
    )
    text = profile.to_json()
    assert TenantProfile.from_json(text) == profile
    assert text.startswith('{\n  "format": "cognigy-async tenant profile",\n  "version": 1,\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tenant profile"),
        (b"\xff", "is not a tenant profile"),
        ("[" * 100_000, "is not a tenant profile"),
        ("[]", "is not a tenant profile"),
        ("{}", "is not a tenant profile"),
        ({"version": 2}, "version 2, and this program reads version 1"),
        ({"version": None}, "version None"),
        (
            {"api": "other"},
            "api: must be 'runtime' or 'sessions'; correct it, or write a new one with",
        ),
        ({"reads": {}}, "reads.works: is missing; correct it, or write a new one with"),
        ({"reads": {"works": True, "delay_seconds": -1}}, "reads.delay_seconds: "),
        ({"reads": {"works": True, "delay": 1}}, "reads.delay: is not a member of a profile"),
        ({"clock": {"skew_seconds": "NaN"}}, "clock.skew_seconds: "),
        ({"token": {"url": "u", "path": "/evil", "client_auth": "post"}}, "token.path: "),
        ({"body": {"accepted_bytes": 0}}, "body.accepted_bytes: "),
        ({"writes": {"merged_levels": 3}}, "writes.merged_levels"),
    ],
)
def test_what_is_no_profile_is_refused_with_the_member(
    content: bytes | str | dict[str, Any], message: str
) -> None:
    if isinstance(content, dict):
        content = json.dumps({"format": FORMAT, "version": 1, "api": "sessions", **content})
    with pytest.raises(ConfigurationError) as caught:
        TenantProfile.from_json(content)
    assert message in str(caught.value)
    assert caught.value.__context__ is None


MERGED = {
    (None, None): "objects",
    (0, None): "objects",
    (0, False): "none",
    (1, False): "objects",
    ("all", False): "objects",
    (0, True): "objects and lists",
    ("all", True): "objects and lists",
}


@pytest.mark.parametrize(("levels", "lists"), MERGED, ids=str)
@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_merged_values_follow_the_writes(api: str, levels: Any, lists: bool | None) -> None:
    profile = made(api, writes={"merged_levels": levels, "merges_lists": lists})
    found = profile.state_api()
    assert found.merged_values == profile.merged_values == MERGED[levels, lists]


def test_the_sessions_api_that_follows() -> None:
    api = made().state_api(user_id="u-1")
    assert isinstance(api, SessionsApi)
    assert (api.user_id, api.inject, api.merged_values) == ("u-1", "merge", "objects")
    assert api.limits == Limits.cognigy_saas()
    profile = made(writes={"inject": "replace"}, reads={"works": True})
    api = profile.state_api()
    assert isinstance(api, SessionsApi)
    assert (api.inject, api.keeps_other_variables) == ("replace", False)
    api.check_use("get_state")
    api = profile.state_api(inject="merge", reads_state=False)
    assert isinstance(api, SessionsApi)
    assert api.inject == "merge"
    with pytest.raises(Exception, match="get_state"):
        api.check_use("get_state")


@pytest.mark.parametrize(
    ("etags", "conditional"),
    [
        (None, True),
        ({"kind": "strong", "if_match": "honoured"}, True),
        ({"kind": "weak", "if_match": "honoured"}, True),
        ({"kind": "strong", "if_match": "ignored"}, False),
        ({"kind": "weak", "if_match": "refused"}, False),
        ({"kind": "none"}, False),
    ],
)
def test_the_runtime_api_that_follows(etags: Any, conditional: bool) -> None:
    api = made("runtime", etags=etags, reads={"works": True, "delay_seconds": 2.5}).state_api()
    assert isinstance(api, RuntimeApi)
    assert (api.conditional_writes, api.read_delay) == (conditional, 2.5)


@pytest.mark.parametrize(
    ("api", "size", "expected"),
    [
        ("sessions", 20_000, (20_000, 65_000, 65_000)),
        ("sessions", 300_000, (300_000, 300_000, 300_000)),
        ("runtime", 20_000, (20_000, 1_048_576, 1_048_576)),
        ("runtime", 2_000_000, (524_288, 1_048_576, 1_048_576)),
    ],
)
def test_limits_follow_the_size_of_a_body(
    api: str, size: int, expected: tuple[int, int, int]
) -> None:
    limits = made(api, body={"accepted_bytes": size}).state_api(user_id="u").limits
    found = (limits.safe_payload_bytes, limits.max_variable_bytes, limits.max_context_bytes)
    assert found == expected
