"""Contact profiles end to end: creations, which are never repeated blindly, and assignments."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    BadRequestError,
    DeadlineExceededError,
    DialogNotFoundError,
    DialogPausedError,
    MemoryAudit,
    RuntimeApi,
    SessionsApi,
    UnsupportedByApiError,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    Wire,
    at_once,
    client_of,
    emulator,
    every,
    outcome_of,
    until,
)

PROFILE = "0123456789abcdef01234567"
OTHER = "1123456789abcdef01234567"
PROJECT = "abcdef0123456789abcdef01"


def is_pending(client: AsyncStateClient, number: int) -> bool:
    return client.metrics.pending == number


def profiles(server: Emulator | Wire, **options: Any) -> AsyncStateClient:
    return client_of(server, **{"api": SessionsApi(user_id="u-1")} | options)


async def test_a_profile_is_created_and_updated() -> None:
    server = emulator(strict=True)
    async with profiles(server) as client:
        created = await client.create_profile(
            PROJECT, profile={"firstname": "Ann"}, contact_ids=["u-1"]
        )
        profile_id = created.body["_id"]
        assert (created.status, created.attempts) == (201, 1)
        assert created.dialog_id.startswith("profiles/new-")
        made = server.profiles[profile_id]
        assert (made.project_id, made.profile) == (PROJECT, {"firstname": "Ann"})
        assert (made.active, made.contact_ids) == (True, ["u-1"])
        updated = await client.update_profile(
            profile_id, profile={"age": 30}, active=False, contact_ids=()
        )
        assert (updated.status, updated.body) == (204, None)
        assert updated.dialog_id == f"profiles/{profile_id}"
        assert (made.profile, made.active) == ({"firstname": "Ann", "age": 30}, False)
        assert made.contact_ids == []
        # As an update of a session writes it.
        server.add_dialog("s")
        await client.update("s", user={"age": 31}, profile_id=profile_id)
        assert made.profile["age"] == 31
        with pytest.raises(DialogNotFoundError, match="project"):
            await client.update_profile(PROFILE, active=True)
    assert client.metrics.applied == 3
    assert server.stats.violations() == {}


APPLIED, AMBIGUOUS = UpdateResult, AmbiguousUpdateError


@pytest.mark.parametrize(
    ("step", "creation", "created", "assignment"),
    [
        ("ok", APPLIED, 1, 1),
        # Nothing was done, and the server or the connection said so.
        (503, APPLIED, 1, 1),
        ("throttle_tenant", APPLIED, 1, 1),
        ("conflict", APPLIED, 1, 1),
        ("refused", APPLIED, 1, 1),
        # Nobody knows.
        ("drop_before", AMBIGUOUS, 0, 1),
        ("drop_after", AMBIGUOUS, 1, 2),
        ("hang", AMBIGUOUS, 0, 1),
        ("hang_applied", AMBIGUOUS, 1, 2),
        (500, AMBIGUOUS, 0, 1),
        (502, AMBIGUOUS, 0, 1),
        (504, AMBIGUOUS, 0, 1),
        ("error_500_applied", AMBIGUOUS, 1, 2),
        ("error_502_applied", AMBIGUOUS, 1, 2),
        ("error_504_applied", AMBIGUOUS, 1, 2),
        # It was done, and its id is not known.
        ("malformed", APPLIED, 1, 1),
    ],
)
async def test_only_an_assignment_is_repeated_where_nobody_knows(
    step: Any, creation: type, created: int, assignment: int
) -> None:
    options = {"drop_error": httpx.ConnectError} if step == "refused" else {}
    server = emulator(**options)
    fault: Any = "drop_before" if step == "refused" else step
    async with profiles(server, timeout=3) as client:
        server.script(fault)
        outcome = await outcome_of(client.create_profile(PROJECT, contact_ids=["u-1"]))
        assert type(outcome) is creation
        assert len(server.profiles) == created
        if creation is AMBIGUOUS:
            assert server.stats.writes == 1
            assert "Cognigy.AI for the profile" in str(outcome)
        server.script(fault)
        await client.update_profile(PROFILE, profile={"a": 1})
        assert len(server.profiles[PROFILE].patches) == assignment
    assert server.stats.violations() == {}


async def test_writes_to_one_profile_do_not_overlap_and_keep_their_order() -> None:
    server = emulator(faults=Faults(latency=1.0))
    server.script(503, "drop_after", dialog_id=PROFILE)
    began = anyio.current_time()
    ended: dict[str, float] = {}
    async with profiles(server, retry=every(1), max_in_flight=8) as client:

        async def write(name: str, call: Any) -> None:
            await call
            ended[name] = anyio.current_time() - began

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                call = client.update_profile(PROFILE, profile={"n": number})
                tasks.start_soon(write, str(number), call)
                await until(partial(is_pending, client, number + 1))
            tasks.start_soon(write, "other", client.update_profile(OTHER, active=False))
            for name in ("x", "y"):
                tasks.start_soon(write, name, client.create_profile(PROJECT))
    written = [patch["profile"]["n"] for patch in server.profiles[PROFILE].patches]
    assert written == [0, 0, 1, 2, 3]
    # Two failed attempts and a second before each repeat, then one after the other.
    assert [round(ended[str(number)]) for number in range(4)] == [5, 6, 7, 8]
    # Another profile does not wait for them, nor do creations wait for each other.
    assert [round(ended[name]) for name in ("other", "x", "y")] == [1, 1, 1]
    assert len(server.profiles) == 4


async def test_a_failure_pauses_only_its_own_profile() -> None:
    server = emulator()
    async with profiles(server, retry=at_once(), on_failure="pause") as client:
        server.script(400, dialog_id=PROFILE)
        with pytest.raises(BadRequestError, match="profile schema"):
            await client.update_profile(PROFILE, profile={"a": 1})
        with pytest.raises(DialogPausedError):
            await client.update_profile(PROFILE, profile={"a": 2})
        await client.update_profile(OTHER, active=True)
        # The dialog of that name is another one.
        await client.update(PROFILE, session={"a": 1})
        assert list(client.paused_dialogs()) == [f"profiles/{PROFILE}"]
        client.resume(f"profiles/{PROFILE}")
        await client.update_profile(PROFILE, profile={"a": 3})
        server.script(400)
        with pytest.raises(BadRequestError):
            await client.create_profile(PROJECT)
        # Nothing could follow a creation.
        assert client.paused_dialogs() == {}


async def test_profiles_are_audited_and_reach_the_callbacks() -> None:
    server = emulator()
    audit = MemoryAudit()
    events: list[UpdateEvent] = []
    async with profiles(server, audit=audit) as client:

        @client.on_state_updated
        async def keep(event: UpdateEvent) -> None:
            events.append(event)

        fields = {"firstname": "Bartholomew"}
        created = await client.create_profile(
            PROJECT, profile=fields, contact_ids=["bart@example.org"]
        )
        server.script(500)
        await outcome_of(client.create_profile(PROJECT))
        await client.update_profile(PROFILE, active=False)
    first, lost, second = audit.records
    assert (first.outcome, first.variables) == ("applied", ("profile.firstname",))
    assert (first.update_id, first.dialog_id) == (created.update_id, created.dialog_id)
    assert first.summary == "applied: HTTP 201, attempts: 1"
    assert first.payload_sha256 is not None
    assert first.payload_bytes > len(fields["firstname"])
    assert (lost.outcome, lost.attempts) == ("ambiguous", 1)
    assert (second.dialog_id, second.variables) == (f"profiles/{PROFILE}", ())
    assert "Bartholomew" not in repr(audit.records)
    assert "bart@example" not in repr(audit.records)
    assert [(event.dialog_id, event.update, event.payload) for event in events] == [
        (created.dialog_id, None, {}),
        (f"profiles/{PROFILE}", None, {}),
    ]


async def test_profiles_a_deadline_holds_behind_another_call() -> None:
    server = emulator(faults=Faults(latency=2.0))
    async with profiles(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.update_profile(PROFILE, active=True))
        await until(partial(is_pending, client, 1))
        with pytest.raises(DeadlineExceededError):
            await client.update_profile(PROFILE, active=False, deadline=1.0)
    assert server.profiles[PROFILE].active is True
    assert client.metrics.requests == 1


async def test_a_profile_is_not_read_to_find_out_whether_the_server_is_there() -> None:
    wire = Wire()
    wire.script(200, *[502] * 3)
    api = SessionsApi(user_id="u-1", reads_state=True)
    async with profiles(wire, api=api, retry=every(1)) as client:
        await client.update_profile(PROFILE, active=True)
        await client.update_profile(PROFILE, active=False, priority="bulk")
    assert [sent.method for sent in wire.sent] == ["PATCH"] * 5


@pytest.mark.parametrize(
    ("method", "arguments", "path"),
    [
        ("create_profile", {"project_id": None}, "project_id"),
        ("create_profile", {"project_id": "p-1"}, "project_id"),
        ("create_profile", {"project_id": PROJECT, "profile": {"2nd": 1}}, "profile.2nd"),
        ("update_profile", {"profile_id": "p-1", "active": True}, "profile_id"),
        ("update_profile", {"profile_id": 7, "active": True}, "profile_id"),
        ("update_profile", {"profile_id": PROFILE}, "profile"),
    ],
)
async def test_profiles_what_is_not_valid_is_not_sent(
    method: str, arguments: dict[str, Any], path: str
) -> None:
    server = emulator()
    async with profiles(server) as client:
        with pytest.raises(UpdateValidationError) as caught:
            await getattr(client, method)(**arguments)
        assert caught.value.path == path
        with pytest.raises(TypeError, match=f"{method}.*'coalesce'"):
            await getattr(client, method)(PROFILE, active=True, coalesce=True)
        assert client.metrics.pending == 0
    assert server.stats.requests == 0


async def test_the_runtime_api_has_no_profiles() -> None:
    async with profiles(emulator(), api=RuntimeApi()) as client:
        with pytest.raises(UnsupportedByApiError, match=r"create_profile\(\).*SessionsApi"):
            await client.create_profile(PROJECT)
        with pytest.raises(UnsupportedByApiError, match=r"update_profile\(\).*SessionsApi"):
            await client.update_profile(PROFILE, active=True)
