"""Probes of emulators that differ, the profiles they write, and clients that follow them."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest

from cognigy_async import (
    ApiKey,
    AuthenticationError,
    CognigyError,
    DialogNotFoundError,
    Limits,
    RetryPolicy,
    RuntimeApi,
    ServerError,
    SessionsApi,
    StateApi,
    StateUpdate,
    TenantProfile,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.cli.probe.measure import (
    MOST_REQUESTS,
    MOST_SIZE_REQUESTS,
    NAMES,
    UNKNOWN_STATE,
    Measurement,
)
from cognigy_async.cli.probe.session import ProbedSession, Target
from cognigy_async.cli.probe.tally import Tally, TallyTransport
from cognigy_async.emulator import Emulator, Faults, Merging, Rules, Throttling
from cognigy_async.emulator.rules import SkewedClock
from cognigy_async.emulator.state import Dialog
from tests.chance import Chance
from tests.simulation.world import (
    BASE_URL,
    KEY,
    client_of,
    emulator,
    outcome_of,
    transport_to,
)

SECTIONS = ("writes", "reads", "states", "etags", "rate_limit", "clock", "body")
FLAT = {"inject": "merge", "merged_levels": 0, "merges_lists": False}
AT_ONCE = {"works": True, "delay_seconds": 0.0}
NO_LIMIT = {"headers": "none", "requests": None, "seconds": None, "reset_seconds": None}
ACCEPTED = {
    "unknown_state": "accepted",
    "status": 200,
    "changes": ("state",),
    "known_states": ("default",),
}
USUAL: dict[str, dict[str, Any]] = {
    "sessions": {
        "writes": FLAT,
        "reads": AT_ONCE,
        "states": ACCEPTED,
        "etags": None,
        "rate_limit": NO_LIMIT,
        "clock": {"skew_seconds": None},
        "body": None,
    },
    "runtime": {
        "writes": FLAT,
        "reads": AT_ONCE,
        "states": None,
        "etags": {"kind": "strong", "if_match": "honoured"},
        "rate_limit": NO_LIMIT,
        "clock": {"skew_seconds": None},
        "body": None,
    },
}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # The API, options of the emulator, and what differs from the usual profile.
    "merge": ("sessions", {}, {}),
    "replace": ("sessions", {"inject": "replace"}, {"writes": FLAT | {"inject": "replace"}}),
    "recursive": (
        "sessions",
        {"merge": "recursive"},
        {"writes": FLAT | {"merged_levels": "all"}},
    ),
    "no read": (
        "sessions",
        {"reads_state": False},
        {
            "reads": {"works": False, "delay_seconds": 0.0},
            "states": ACCEPTED | {"changes": None, "known_states": ()},
        },
    ),
    "late read": (
        "sessions",
        {"read_delay": 1.2},
        {"reads": {"works": True, "delay_seconds": 2.0}},
    ),
    "weak etags": (
        "runtime",
        {"etags": "weak"},
        {"etags": {"kind": "weak", "if_match": "refused"}},
    ),
    "strong etags": ("runtime", {}, {}),
    "skewed clock": (
        "sessions",
        {"dates": True, "wall_clock": SkewedClock(-41.0)},
        {"clock": {"skew_seconds": pytest.approx(-41.0, abs=0.7)}},
    ),
    # And more.
    "one level": ("sessions", {"merge": Merging(1)}, {"writes": FLAT | {"merged_levels": 1}}),
    "two levels": ("runtime", {"merge": Merging(2)}, {"writes": FLAT | {"merged_levels": 2}}),
    "lists": (
        "runtime",
        {"merge": Merging(lists=True)},
        {"writes": FLAT | {"merged_levels": "all", "merges_lists": True}},
    ),
    "lists alone": (
        "sessions",
        {"merge": Merging(0, lists=True)},
        {"writes": FLAT | {"merges_lists": True}},
    ),
    "replace without read": (
        "sessions",
        {"inject": "replace", "reads_state": False},
        {
            "writes": FLAT | {"inject": "replace"},
            "reads": {"works": False, "delay_seconds": 0.0},
            "states": ACCEPTED | {"changes": None, "known_states": ()},
        },
    ),
    "late read of a dialog": (
        "runtime",
        {"read_delay": 0.3, "conflict_status": 412},
        {"reads": {"works": True, "delay_seconds": 0.5}},
    ),
    "no read of a dialog": (
        "runtime",
        {"reads_state": False},
        {
            "writes": {"inject": None, "merged_levels": None, "merges_lists": None},
            "reads": {"works": False, "delay_seconds": 0.0},
        },
    ),
    "reads that never show it": (
        "sessions",
        {"read_delay": 60.0},
        {
            "reads": {"works": False, "delay_seconds": 0.0},
            "states": ACCEPTED | {"changes": None},
        },
    ),
    "weak etags that match": (
        "runtime",
        {"etags": "weak", "if_match": "weak"},
        {"etags": {"kind": "weak", "if_match": "honoured"}},
    ),
    "ignored If-Match": (
        "runtime",
        {"if_match": "ignored"},
        {"etags": {"kind": "strong", "if_match": "ignored"}},
    ),
    "no etags": ("runtime", {"etags": "none"}, {"etags": {"kind": "none", "if_match": None}}),
    "known states": (
        "sessions",
        {"flow_nodes": ("default", "checkout")},
        {
            "states": {
                "unknown_state": "refused",
                "status": 400,
                "changes": None,
                "known_states": ("default",),
            }
        },
    ),
    "announced limit": (
        "sessions",
        {"tenant_quota": (1000, 300.0), "quota_headers": "ietf"},
        {
            "rate_limit": {
                "headers": "ietf",
                "requests": 1000,
                "seconds": 300.0,
                "reset_seconds": 300.0,
            }
        },
    ),
    "announced limit without window": (
        "runtime",
        {"tenant_quota": (500, 60.0), "quota_headers": "x"},
        {"rate_limit": {"headers": "x", "requests": 500, "seconds": None, "reset_seconds": 60.0}},
    ),
}
each_case = pytest.mark.parametrize("name", CASES)


async def probe(
    server: Emulator, api: str, *, sizes: bool = False, session_id: str = "s-1"
) -> tuple[TenantProfile, list[tuple[int, str]]]:
    """Return a profile, and each line with the number of requests before it."""
    tally = Tally(MOST_REQUESTS + (MOST_SIZE_REQUESTS if sizes else 0))
    transport = TallyTransport(transport_to(server), tally)
    if api == "runtime":
        target = Target(BASE_URL, RuntimeApi(), session_id)
    else:
        target = Target(BASE_URL, SessionsApi(reads_state=True), session_id, "u-1")
    lines: list[tuple[int, str]] = []

    def announce(line: str) -> None:
        lines.append((server.stats.requests, line))

    try:
        session = ProbedSession(target, ApiKey(KEY), transport)
        profile = await Measurement(session, tally, announce).run(None, sizes=sizes)
    finally:
        await transport.aclose()
    return profile, lines


def sections(profile: TenantProfile) -> dict[str, Any]:
    return {name: found for name, found in profile.model_dump().items() if name in SECTIONS}


def server_of(name: str, **options: Any) -> Emulator:
    return emulator(**CASES[name][1] | options)


def expected_of(name: str) -> dict[str, Any]:
    api, _, differs = CASES[name]
    return USUAL[api] | differs


async def profile_of(name: str) -> TenantProfile:
    profile, _ = await probe(server_of(name), CASES[name][0])
    # As it would be read from its file.
    return TenantProfile.from_json(profile.to_json())


def like(profile: TenantProfile, **options: Any) -> Emulator:
    return Emulator(
        api_key=KEY, rules=Rules.like(profile), throttling=Throttling.like(profile), **options
    )


# Measuring.


@each_case
async def test_the_probe_writes_the_right_profile(name: str) -> None:
    server = server_of(name)
    profile, lines = await probe(server, CASES[name][0])
    assert sections(profile) == expected_of(name)
    assert profile.requests == server.stats.requests <= MOST_REQUESTS - 2, "two are for tokens"
    assert KEY not in profile.to_json() + str(lines)
    assert server.stats.violations() == {}


@each_case
async def test_an_emulator_like_a_profile_has_the_same_profile(name: str) -> None:
    profile = await profile_of(name)
    again, _ = await probe(like(profile), CASES[name][0])
    found, expected = sections(again), expected_of(name)
    if name == "announced limit without window":
        # The window that was assumed is as long as the longest reset.
        expected["rate_limit"] = expected["rate_limit"] | {"reset_seconds": pytest.approx(60.0)}
    if name == "late read":
        # A bound is measured, and the emulator has the bound.
        expected["reads"] = AT_ONCE | {"delay_seconds": 2.0}
    if name == "reads that never show it":
        # The emulator has no reads, so that no state is known.
        expected["states"] = expected["states"] | {"known_states": ()}
    if name == "skewed clock":
        # Half a second each time: the header has whole seconds.
        expected["clock"] = {"skew_seconds": pytest.approx(-41.0, abs=1.3)}
    assert found == expected


@each_case
async def test_the_probe_says_what_it_will_do_before_it_does_it(name: str) -> None:
    server = server_of(name)
    _, lines = await probe(server, CASES[name][0])
    steps = [(sent, line) for sent, line in lines if re.search(r": .*\d requests?", line)]
    assert steps[0][0] == 0
    ends = [sent for sent, _ in steps[1:]] + [server.stats.requests]
    for (sent, line), end in zip(steps, ends, strict=True):
        most = max(map(int, re.findall(r"\d+", line.rpartition(":")[2].replace(" 6 s", ""))))
        assert end - sent <= most, line


def states_of(dialog: Dialog) -> tuple[dict[str, Any], str | None]:
    return dict(dialog.session), dialog.next_step


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] == "sessions"])
async def test_the_session_is_as_it_was(name: str) -> None:
    server = server_of(name)
    before = {"cart": {"items": [1, 2], "total": 9.5}, "visits": 3}
    server.add_dialog("s-1", session=before, next_step="checkout" if "known" in name else None)
    _, lines = await probe(server, "sessions")
    session, step = states_of(server.dialogs["s-1"])
    assert step in (None, "default", "checkout")
    if name == "replace without read":
        assert session.keys() <= set(NAMES)
        assert any("its other variables are lost" in line for _, line in lines)
    else:
        assert session == before


async def test_the_variables_of_a_dialog_stay_and_the_others_are_untouched() -> None:
    server = emulator()
    server.add_dialog("s-1", session={"visits": 3}, user={"a": 1}, next_step="checkout")
    _, lines = await probe(server, "runtime")
    dialog = server.dialogs["s-1"]
    assert set(dialog.session) == {"visits", *NAMES}
    assert (dialog.session["visits"], dialog.user, dialog.next_step) == (3, {"a": 1}, "checkout")
    assert any("They stay" in line for _, line in lines)


async def test_a_session_that_cannot_be_reset_keeps_the_variables() -> None:
    server = emulator()
    server.add_dialog("s-1", session={"visits": 3})
    # Two injections of variables and two of states come before the reset.
    server.script("ok", "ok", "ok", "ok", 400)
    _, lines = await probe(server, "sessions")
    assert not server.untaken_steps
    assert set(server.dialogs["s-1"].session) == {"visits", *NAMES}
    assert any("stay" in line for _, line in lines)


async def test_a_second_probe_of_the_same_session_finds_the_same() -> None:
    for name in ("recursive", "lists", "two levels"):
        server = server_of(name)
        for _ in range(2):
            profile, _ = await probe(server, CASES[name][0])
            assert sections(profile) == expected_of(name)


@pytest.mark.parametrize(
    ("method", "at"),
    [*[("PATCH", at) for at in range(6)], *[("GET", at) for at in range(3)]],
)
async def test_a_failure_midway_restores_the_session(method: Any, at: int) -> None:
    server = emulator(merge="recursive")
    server.add_dialog("s-1", session={"visits": 3}, next_step="checkout")
    steps: list[Any] = ["ok"] * at
    server.script(*steps, 503, method=method)
    with pytest.raises(ServerError) as caught:
        await probe(server, "sessions")
    assert caught.value.dialog_id == "s-1"
    assert states_of(server.dialogs["s-1"]) == ({"visits": 3}, "checkout")


@pytest.mark.parametrize("status", [401, 429, 502])
async def test_an_answer_that_says_nothing_ends_the_probe(status: int) -> None:
    server = emulator()
    server.script(status, method="GET")
    with pytest.raises(CognigyError) as caught:
        await probe(server, "sessions")
    assert server.stats.writes == 0
    if status == 401:
        assert isinstance(caught.value, AuthenticationError)


async def test_a_session_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(DialogNotFoundError):
        await probe(emulator(strict=True), "sessions")


async def test_an_invalid_session_id_is_refused_before_anything_is_sent() -> None:
    server = emulator()
    with pytest.raises(UpdateValidationError):
        await probe(server, "runtime", session_id="")
    assert server.stats.requests == 0


async def test_the_number_of_requests_has_a_bound() -> None:
    tally = Tally(2)
    transport = TallyTransport(transport_to(emulator()), tally)
    session = ProbedSession(Target(BASE_URL, RuntimeApi(), "s-1"), ApiKey(KEY), transport)
    lines: list[str] = []
    with pytest.raises(CognigyError, match="used its 2 requests"):
        await Measurement(session, tally, lines.append).run(None)
    await transport.aclose()
    assert tally.requests == 2


async def test_a_cancelled_probe_restores_the_state() -> None:
    server = emulator(faults=Faults(latency=0.1))
    server.add_dialog("s-1", session={"visits": 3}, next_step="checkout")
    with anyio.move_on_after(0.55):
        await probe(server, "sessions")
    assert server.dialogs["s-1"].next_step == "checkout"
    assert server.dialogs["s-1"].session["visits"] == 3


# Sizes.


@pytest.mark.parametrize(
    ("api", "options", "limit", "status"),
    [
        ("sessions", {"max_payload_bytes": 60_000}, 60_000, 413),
        ("sessions", {"max_payload_bytes": 16_000}, 16_000, 413),
        ("runtime", {"max_body_bytes": 300_000}, 300_000, 413),
    ],
)
async def test_the_size_at_which_a_body_is_refused(
    api: str, options: dict[str, Any], limit: int, status: int
) -> None:
    server = emulator(**options)
    server.add_dialog("s-1", session={"visits": 3})
    profile, _ = await probe(server, api, sizes=True)
    assert profile.body is not None
    assert profile.body.refused_bytes is not None
    assert profile.body.accepted_bytes <= limit < profile.body.refused_bytes
    assert profile.body.refused_bytes - profile.body.accepted_bytes <= 1024
    assert profile.body.refused_status == status
    assert profile.requests == server.stats.requests <= MOST_REQUESTS + MOST_SIZE_REQUESTS
    assert len(str(server.dialogs["s-1"].session)) < 500, "nothing large is left behind"
    # The client sends no larger one, and the emulator refuses it.
    found = profile.state_api(user_id="u-1").limits
    assert found.safe_payload_bytes == profile.body.accepted_bytes
    again, _ = await probe(like(profile), api, sizes=True)
    assert again.body is not None
    assert again.body.accepted_bytes <= profile.body.accepted_bytes


async def test_a_body_of_any_size_may_be_accepted() -> None:
    limits = Limits(max_context_bytes=10**8, max_variable_bytes=10**8)
    server = emulator(max_payload_bytes=10**8, limits=limits)
    profile, _ = await probe(server, "sessions", sizes=True)
    assert profile.body is not None
    assert (profile.body.accepted_bytes, profile.body.refused_bytes) == (4 * 1024 * 1024, None)


# Clients and jobs that follow a profile: the property tests of coalescing.


async def final_state_is_that_of_one_by_one(
    profile: TenantProfile, api: StateApi, server: Emulator, seed: int
) -> int:
    """Check the property in any weather. Return how many updates a request carried, at most."""
    chance, rules = Chance(seed), Rules.like(profile)
    expected: dict[str, Dialog] = {}
    async with client_of(
        server, api=api, coalesce=True, retry=RetryPolicy(max_attempts=50)
    ) as client:
        handles = []
        for _ in range(120):
            dialog_id = f"d-{chance.random.randrange(5)}"
            payload = chance.payload()
            if profile.api == "sessions":
                payload = {"session": payload.get("session") or payload["user"]}
            moves = profile.api == "runtime" and chance.random.random() < 0.02
            step = f"s-{chance.random.random()}" if moves else None
            update = StateUpdate(dialog_id=dialog_id, **payload, next_step=step)
            dialog = expected.setdefault(dialog_id, Dialog(dialog_id))
            if rules.inject == "replace" and profile.api == "sessions":
                dialog.session.clear()
            dialog.assign(update.payload(), merge=rules.merge, at=0.0)
            handles.append(client.submit_nowait(update))
            if chance.random.random() < 0.1:
                await anyio.sleep(0.01)
        results = [await outcome_of(handle) for handle in handles]
    # What ended as ambiguous may or may not have been applied.
    lost = {h.dialog_id for h, r in zip(handles, results, strict=True) if isinstance(r, Exception)}
    assert len(lost) < len(expected), "some dialogs are judged"
    for dialog_id in expected.keys() - lost:
        seen, dialog = server.dialogs[dialog_id], expected[dialog_id]
        assert (seen.session, seen.user) == (dialog.session, dialog.user)
        assert seen.next_step == dialog.next_step
    assert server.stats.violations() == {}
    return max(result.merged for result in results if isinstance(result, UpdateResult))


def weather(profile: TenantProfile) -> Faults:
    api = profile.state_api(user_id="u-1")
    repeats = api.keeps_other_variables and api.merged_values != "objects and lists"
    reads = profile.reads is not None and profile.reads.works
    return Faults(
        latency=0.02,
        error_503=0.1,
        # Where a repeat is not harmless, a lost answer ends as ambiguous.
        drop_before=0.1 if repeats else 0.005,
        drop_after=0.1 if repeats else 0.005,
        conflict=0.1 if reads or profile.api == "sessions" else 0.0,
    )


@each_case
@pytest.mark.parametrize("seed", range(3))
async def test_p11_coalescing_keeps_the_state_on_an_emulator_like_the_profile(
    name: str, seed: int
) -> None:
    profile = await profile_of(name)
    server = like(profile, faults=weather(profile), seed=seed)
    api = profile.state_api(user_id="u-1")
    most = await final_state_is_that_of_one_by_one(profile, api, server, seed)
    keeps = profile.writes is None or profile.writes.inject != "replace"
    assert (most > 1) == keeps


@pytest.mark.parametrize(
    ("wrong", "right"), [("merge", "recursive"), ("merge", "lists"), ("recursive", "lists")]
)
async def test_p11_coalescing_by_a_wrong_profile_loses_the_state(wrong: str, right: str) -> None:
    """The property can fail: it does where a profile is loaded that was measured elsewhere."""
    real = await profile_of(right)
    api = real.model_copy(update={"writes": (await profile_of(wrong)).writes}).state_api(
        user_id="u-1"
    )
    broken = 0
    for seed in range(5):
        server = like(real, faults=Faults(latency=0.02), seed=seed)
        try:
            await final_state_is_that_of_one_by_one(real, api, server, seed)
        except AssertionError:
            broken += 1
    assert broken


async def test_a_measured_merge_lets_objects_share_a_request() -> None:
    """Measured, not guessed: objects join where they are replaced, and nowhere else."""
    counts = {}
    for name in ("merge", "recursive"):
        profile = await profile_of(name)
        server = like(profile, faults=Faults(latency=0.02))
        async with client_of(server, api=profile.state_api(user_id="u-1"), coalesce=True) as client:
            for n in range(21):
                client.submit_nowait({"dialog_id": "d", "session": {"cart": {f"v{n}": n}}})
        counts[name] = server.stats.requests
    assert counts == {"merge": 1, "recursive": 21}


# Late reads.


@pytest.mark.parametrize(("knows", "refusals"), [(True, 1), (False, 2)])
async def test_a_late_read_is_waited_for_after_a_conflict(knows: bool, refusals: int) -> None:
    """A read that comes too early has the version that was just refused."""
    server = emulator(read_delay=1.0, conflict_status=412)
    api = RuntimeApi(read_delay=1.0 if knows else 0.0)
    async with client_of(server, api=api) as client:
        await client.update("d", session={"a": 1})
        await anyio.sleep(5)
        server.script("competitor")
        await client.update("d", session={"a": 2}, next_step="s")
    assert server.stats.answers[412] >= refusals
    assert (server.stats.answers[412] == 1) == knows
    assert server.dialogs["d"].next_step == "s"


async def test_the_unknown_state_is_not_left_behind() -> None:
    server = emulator(reads_state=False)
    await probe(server, "sessions")
    assert server.dialogs["s-1"].next_step != UNKNOWN_STATE
