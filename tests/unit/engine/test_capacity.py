"""Places for accepted updates: dialogs take turns, and none is lost."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from cognigy_async import ClientClosedError
from cognigy_async.engine.capacity import PendingLimit


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await checkpoint()


class Crowd:
    """Tasks that want a place, and when they got it."""

    def __init__(self, pending_limit: PendingLimit, group: TaskGroup) -> None:
        self.pending_limit = pending_limit
        self.group = group
        self.came: list[str] = []
        self.refused: list[str] = []
        self.gone: list[str] = []
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def arrive(self, *names: str) -> None:
        for name in names:
            self.group.start_soon(self._wait, name)
            await settled()

    async def _wait(self, name: str) -> None:
        with anyio.CancelScope() as scope:
            self.scopes[name] = scope
            try:
                await self.pending_limit.acquire()
            except ClientClosedError:
                self.refused.append(name)
                return
            self.came.append(name)
        if scope.cancelled_caught:
            self.gone.append(name)


async def test_there_are_as_many_places_as_the_capacity() -> None:
    pending_limit = PendingLimit(2)
    await pending_limit.acquire()
    assert pending_limit.try_acquire()
    assert not pending_limit.try_acquire()
    pending_limit.release()
    assert pending_limit.try_acquire()
    assert (pending_limit.used, pending_limit.capacity) == (2, 2)


async def test_a_place_that_is_free_is_taken_without_waiting() -> None:
    pending_limit = PendingLimit(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pending_limit.acquire()
    assert pending_limit.used == 1


async def test_places_go_to_those_who_wait_longest() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a", "b", "c")
        assert crowd.came == []
        for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
            pending_limit.release()
            await settled()
            assert crowd.came == expected
            assert pending_limit.used == 1
    pending_limit.release()
    assert pending_limit.used == 0


async def test_nobody_overtakes_those_who_wait() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a")
        pending_limit.release()
        # The place is given, although who waits for it has not run yet.
        assert not pending_limit.try_acquire()
        await crowd.arrive("b")
        assert crowd.came == ["a"]
        pending_limit.release()
    assert crowd.came == ["a", "b"]


async def test_places_beyond_the_capacity_are_not_handed_on() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    pending_limit.acquire_beyond_capacity()
    pending_limit.acquire_beyond_capacity()
    assert pending_limit.used == 3
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a")
        for used in (2, 1):
            pending_limit.release()
            await settled()
            assert (pending_limit.used, crowd.came) == (used, [])
        pending_limit.release()
        await settled()
        assert (pending_limit.used, crowd.came) == (1, ["a"])


def early(pending_limit: PendingLimit, scope: anyio.CancelScope) -> None:
    """Cancelled while it waits, and a place is given back afterwards."""
    scope.cancel()
    pending_limit.release()


def late(pending_limit: PendingLimit, scope: anyio.CancelScope) -> None:
    """Cancelled when the place was given already, and before it could be taken."""
    pending_limit.release()
    scope.cancel()


@pytest.mark.parametrize("moment", [early, late])
@pytest.mark.parametrize("who", ["a", "b", "c"])
async def test_a_place_is_not_lost_with_one_who_gives_up(
    moment: Callable[[PendingLimit, anyio.CancelScope], None], who: str
) -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a", "b", "c")
        moment(pending_limit, crowd.scopes[who])
        await settled()
        left = [name for name in ("a", "b", "c") if name != who]
        if crowd.came[:1] == [who]:
            # Some event loops finish what was already granted.
            left.insert(0, who)
        assert crowd.came == left[:1]
        for taken in range(2, len(left) + 1):
            pending_limit.release()
            await settled()
            assert crowd.came == left[:taken]
        pending_limit.release()
        assert pending_limit.used == 0
        assert pending_limit.try_acquire()


async def test_one_who_gives_up_after_a_while_leaves_no_trace() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    for _ in range(50):
        with anyio.move_on_after(1.0):
            await pending_limit.acquire()
    assert "waiting=0" in repr(pending_limit)
    pending_limit.release()
    assert (pending_limit.used, pending_limit.try_acquire()) == (0, True)


async def test_when_it_is_closed_those_who_wait_are_told() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a", "b")
        pending_limit.close()
        await settled()
        # Those who are woken at once may run in any order.
        assert sorted(crowd.refused) == ["a", "b"]
    assert (pending_limit.used, crowd.came) == (1, [])
    pending_limit.release()
    assert pending_limit.used == 0


async def test_a_place_given_just_before_the_end_is_kept_and_the_others_are_told() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a", "b")
        pending_limit.release()
        pending_limit.close()
    assert (crowd.came, crowd.refused, pending_limit.used) == (["a"], ["b"], 1)


async def test_cancelled_and_closed_at_once_loses_nothing() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire()
    async with anyio.create_task_group() as group:
        crowd = Crowd(pending_limit, group)
        await crowd.arrive("a", "b")
        crowd.scopes["a"].cancel()
        pending_limit.close()
    assert sorted(crowd.refused + crowd.gone) == ["a", "b"]
    assert pending_limit.used == 1


async def test_the_repr_tells_how_full_it_is() -> None:
    pending_limit = PendingLimit(3)
    await pending_limit.acquire()
    assert repr(pending_limit) == "<PendingLimit used=1/3 waiting=0>"


async def test_dialogs_take_turns_and_within_one_nobody_overtakes() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire("a")
    came: list[str] = []

    async def one(dialog_id: str, name: str) -> None:
        await pending_limit.acquire(dialog_id)
        came.append(name)

    async with anyio.create_task_group() as group:
        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            group.start_soon(one, name[0], name)
            await settled()
        assert repr(pending_limit) == "<PendingLimit used=1/1 waiting=6>"
        for _ in range(6):
            pending_limit.release()
            await settled()
    assert came == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_dialog_for_which_nobody_waits_any_more_has_no_turn() -> None:
    pending_limit = PendingLimit(1)
    await pending_limit.acquire("a")
    async with anyio.create_task_group() as group:
        group.start_soon(pending_limit.acquire, "b")
        await settled()
        with anyio.move_on_after(1):
            await pending_limit.acquire("a")
        pending_limit.release()
    assert repr(pending_limit) == "<PendingLimit used=1/1 waiting=0>"
    pending_limit.release()
    assert pending_limit.try_acquire()
