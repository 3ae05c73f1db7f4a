"""`plan`: the estimate of a job, compared with what a client then sends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from cognigy_async import (
    ConfigurationError,
    Fault,
    Limits,
    RateLimit,
    Request,
    RuntimeApi,
    StateUpdate,
    UpdateValidationError,
)
from cognigy_async.client.plan import Plan, plan
from cognigy_async.engine.coalescing import MOST_MERGED
from cognigy_async.ratelimit.estimate import seconds_under
from tests.chance import Chance
from tests.simulation.world import Wire, client_of


@dataclasses.dataclass(frozen=True)
class Limit:
    """The numbers of a rate limit that a plan uses."""

    capacity: int
    per: float
    guard: float = 0.0
    burst: int | None = None


def rows(count: int, dialogs: int = 10, **fields: Any) -> Iterator[dict[str, Any]]:
    for seq in range(count):
        yield {"dialog_id": f"d-{seq % dialogs}", "session": {"seq": seq}} | fields


def test_each_update_is_a_request() -> None:
    assert plan(rows(100)) == Plan(
        updates=100, invalid=0, dialogs=10, requests=100, seconds=None, warning=None
    )
    assert plan([]) == Plan(0, 0, 0, 0, None, None)
    assert plan([StateUpdate("d", session={"a": 1})]).requests == 1


def test_what_is_not_valid_is_counted_and_takes_no_request() -> None:
    good = {"dialog_id": "d", "session": {"a": 1}}
    bad: list[Any] = [{}, {"dialog_id": "d"}, {"dialog_id": "d", "session": {"_user": 1}}, 7, None]
    found = plan([good, *bad, good])
    assert (found.updates, found.invalid, found.dialogs, found.requests) == (2, 5, 1, 2)


def test_a_large_update_is_several_requests() -> None:
    large = {"dialog_id": "d", "session": dict.fromkeys("abc", "x" * 150)}
    limits = Limits(safe_payload_bytes=300)
    assert plan([large], limits=limits).requests == 3
    assert plan([large]).requests == 1
    # It joins nothing, and nothing joins it.
    small = {"dialog_id": "d", "session": {"s": 1}}
    assert plan([small, small, large, small, small], limits=limits, coalesce=True).requests == 5


def test_limits_are_those_of_the_api_unless_given() -> None:
    class Small(RuntimeApi):
        limits = Limits(max_context_bytes=50, max_variable_bytes=50)

    large = {"dialog_id": "d", "session": {"a": "x" * 100}}
    assert plan([large], api=Small()).invalid == 1
    assert plan([large], api=Small(), limits=Limits()).requests == 1


def test_what_the_api_cannot_carry_is_not_valid() -> None:
    class Narrow(RuntimeApi):
        def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
            if update.user:
                raise UpdateValidationError((Fault("user", "no profile", "name one"),))
            return super().writes(base_url, update, update_id)

    given = [{"dialog_id": "d", "session": {"a": 1}}, {"dialog_id": "d", "user": {"a": 1}}]
    found = plan(given, api=Narrow(), coalesce=True)
    assert (found.updates, found.invalid, found.requests) == (1, 1, 1)


def test_what_the_api_cannot_carry_together_goes_alone() -> None:
    class Narrow(RuntimeApi):
        def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
            if len(update.session) > 1:
                raise UpdateValidationError((Fault("session", "too many", "send one"),))
            return super().writes(base_url, update, update_id)

    given = [{"dialog_id": "d", "session": {name: 1}} for name in "abc"]
    assert plan(given, api=Narrow(), coalesce=True).requests == 3


def test_an_api_that_needs_a_request_for_each_context() -> None:
    class Two(RuntimeApi):
        def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
            (one,) = super().writes(base_url, update, update_id)
            return [one] * (bool(update.session) + bool(update.user))

    given = [{"dialog_id": "d", kind: {"a": 1}} for kind in ("session", "user", "session")]
    assert plan(given, api=Two()).requests == 3
    assert plan(given, api=Two(), coalesce=True).requests == 2


def test_coalesced_updates_of_a_dialog_share_a_request() -> None:
    found = plan(rows(100), coalesce=True)
    assert (found.updates, found.dialogs, found.requests) == (100, 10, 10)
    assert plan(rows(100, next_step="s"), coalesce=True).requests == 100
    assert plan(rows(MOST_MERGED + 1, dialogs=1), coalesce=True).requests == 2


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("seed", range(20))
async def test_it_is_what_a_client_sends(seed: int, coalesce: bool) -> None:
    chance = Chance(seed)
    limits = Limits(safe_payload_bytes=400)
    given: list[dict[str, Any]] = []
    for _ in range(100):
        row: dict[str, Any] = {"dialog_id": f"d{chance.random.randrange(4)}", **chance.payload()}
        if chance.random.random() < 0.1:
            row["next_step"] = "s"
        if chance.random.random() < 0.1:
            row["session"] = dict.fromkeys("abc", "x" * 150)
        given.append(row)
    found = plan(given, coalesce=coalesce, limits=limits)
    wire = Wire()
    async with client_of(wire, coalesce=coalesce, limits=limits) as client:
        for row in given:
            client.submit_nowait(row)
    assert found.requests == len(wire.sent)
    assert found.updates == client.metrics.applied == 100
    assert (found.requests < 100) is coalesce or found.requests > 100


@pytest.mark.parametrize(
    ("limit", "requests", "seconds"),
    [
        (Limit(1000, 300), 0, 0),
        (Limit(1000, 300), 900, 0),
        # The last tenth of a window is spread over it.
        (Limit(1000, 300), 950, 150),
        (Limit(1000, 300), 1000, 300),
        (Limit(1000, 300), 1900, 300),
        (Limit(1000, 300), 100_000, 30_000),
        (Limit(1000, 300, guard=0.01), 100_000, 30_300),
        (Limit(1000, 300, burst=1), 101, 30),
        (Limit(1000, 300, burst=1), 10_001, 3000),
        (Limit(5, 10), 5, 0),
        (Limit(5, 10), 6, 10),
        (Limit(5, 10), 11, 20),
    ],
    ids=str,
)
def test_time_under_the_quota(limit: Limit, requests: int, seconds: float) -> None:
    assert plan(rows(requests, 5000), rate_limit=limit).seconds == pytest.approx(seconds)
    assert seconds_under(limit, requests) == pytest.approx(seconds)


def test_a_rate_limit_of_a_client() -> None:
    limit = RateLimit(1000, per=300, reserve=0.2, guard=0.01)
    assert plan(rows(8000), rate_limit=limit).seconds == pytest.approx(10 * 303)


def test_of_several_limits_the_slowest_counts() -> None:
    several = [Limit(10, 1), Limit(1000, 300)]
    assert plan(rows(2000, 50), rate_limit=several).seconds == pytest.approx(600)
    assert plan(rows(2000, 50), rate_limit=()).seconds is None


def test_a_job_that_outlasts_the_sessions_is_warned_of() -> None:
    limit = Limit(1000, 300)
    found = plan(rows(10_000), rate_limit=limit, session_ttl=1800)
    assert found.seconds == 3000
    assert found.warning is not None
    assert "3000 s" in found.warning
    assert "1800 s" in found.warning
    assert plan(rows(10_000), rate_limit=limit, session_ttl=3000).warning is None
    assert plan(rows(10_000), rate_limit=limit, session_ttl=1800, coalesce=True).warning is None
    # Without a quota nothing is known of the time.
    assert plan(rows(10_000), session_ttl=1).warning is None


def test_a_plan_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan([]).requests = 7  # type: ignore[misc]


def test_input_is_taken_one_by_one() -> None:
    class Row(dict[str, Any]):
        alive = 0

        def __init__(self, seq: int) -> None:
            super().__init__(dialog_id=f"d-{seq % 3}", session={f"v{seq % 5}": "x" * 100})
            Row.alive += 1

        def __del__(self) -> None:
            Row.alive -= 1

    def given() -> Iterator[Row]:
        for seq in range(500):
            assert Row.alive <= 3
            yield Row(seq)

    assert plan(given(), coalesce=True).requests == 3


@pytest.mark.parametrize("bad", ["abc", b"abc", {"dialog_id": "d"}, 7, None])
def test_what_is_no_iterable_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="iterable"):
        plan(bad)


def test_an_input_that_fails_is_not_swallowed() -> None:
    def given() -> Iterator[dict[str, Any]]:
        yield from rows(1)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk"):
        plan(given())


@pytest.mark.parametrize("bad", ["auto", 7, [7]], ids=str)
def test_a_rate_limit_without_numbers_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate_limit="):
        plan([], rate_limit=bad)


@pytest.mark.parametrize("bad", [-1, float("nan"), "1"], ids=str)
def test_a_session_ttl_that_is_no_number_of_seconds_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="session_ttl="):
        plan([], session_ttl=bad)
