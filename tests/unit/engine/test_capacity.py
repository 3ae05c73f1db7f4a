"""Places for accepted updates: dialogs take turns, and none is lost."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from cognigy_async import ClientClosedError
from cognigy_async.engine.capacity import Room


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await checkpoint()


class Crowd:
    """Tasks that want a place, and when they got it."""

    def __init__(self, room: Room, group: TaskGroup) -> None:
        self.room = room
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
                await self.room.take()
            except ClientClosedError:
                self.refused.append(name)
                return
            self.came.append(name)
        if scope.cancelled_caught:
            self.gone.append(name)


async def test_there_are_as_many_places_as_the_capacity() -> None:
    room = Room(2)
    await room.take()
    assert room.try_take()
    assert not room.try_take()
    room.give_back()
    assert room.try_take()
    assert (room.used, room.capacity) == (2, 2)


async def test_a_place_that_is_free_is_taken_without_waiting() -> None:
    room = Room(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await room.take()
    assert room.used == 1


async def test_places_go_to_those_who_wait_longest() -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a", "b", "c")
        assert crowd.came == []
        for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
            room.give_back()
            await settled()
            assert crowd.came == expected
            assert room.used == 1
    room.give_back()
    assert room.used == 0


async def test_nobody_overtakes_those_who_wait() -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a")
        room.give_back()
        # The place is given, although who waits for it has not run yet.
        assert not room.try_take()
        await crowd.arrive("b")
        assert crowd.came == ["a"]
        room.give_back()
    assert crowd.came == ["a", "b"]


async def test_places_beyond_the_capacity_are_not_handed_on() -> None:
    room = Room(1)
    await room.take()
    room.take_anyway()
    room.take_anyway()
    assert room.used == 3
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a")
        for used in (2, 1):
            room.give_back()
            await settled()
            assert (room.used, crowd.came) == (used, [])
        room.give_back()
        await settled()
        assert (room.used, crowd.came) == (1, ["a"])


def early(room: Room, scope: anyio.CancelScope) -> None:
    """Cancelled while it waits, and a place is given back afterwards."""
    scope.cancel()
    room.give_back()


def late(room: Room, scope: anyio.CancelScope) -> None:
    """Cancelled when the place was given already, and before it could be taken."""
    room.give_back()
    scope.cancel()


@pytest.mark.parametrize("moment", [early, late])
@pytest.mark.parametrize("who", ["a", "b", "c"])
async def test_a_place_is_not_lost_with_one_who_gives_up(
    moment: Callable[[Room, anyio.CancelScope], None], who: str
) -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a", "b", "c")
        moment(room, crowd.scopes[who])
        await settled()
        left = [name for name in ("a", "b", "c") if name != who]
        if crowd.came[:1] == [who]:
            # Some event loops finish what was already granted.
            left.insert(0, who)
        assert crowd.came == left[:1]
        for taken in range(2, len(left) + 1):
            room.give_back()
            await settled()
            assert crowd.came == left[:taken]
        room.give_back()
        assert room.used == 0
        assert room.try_take()


async def test_one_who_gives_up_after_a_while_leaves_no_trace() -> None:
    room = Room(1)
    await room.take()
    for _ in range(50):
        with anyio.move_on_after(1.0):
            await room.take()
    assert "0 waiting" in repr(room)
    room.give_back()
    assert (room.used, room.try_take()) == (0, True)


async def test_when_it_is_closed_those_who_wait_are_told() -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a", "b")
        room.close()
        await settled()
        # Those who are woken at once may run in any order.
        assert sorted(crowd.refused) == ["a", "b"]
    assert (room.used, crowd.came) == (1, [])
    room.give_back()
    assert room.used == 0


async def test_a_place_given_just_before_the_end_is_kept_and_the_others_are_told() -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a", "b")
        room.give_back()
        room.close()
    assert (crowd.came, crowd.refused, room.used) == (["a"], ["b"], 1)


async def test_cancelled_and_closed_at_once_loses_nothing() -> None:
    room = Room(1)
    await room.take()
    async with anyio.create_task_group() as group:
        crowd = Crowd(room, group)
        await crowd.arrive("a", "b")
        crowd.scopes["a"].cancel()
        room.close()
    assert sorted(crowd.refused + crowd.gone) == ["a", "b"]
    assert room.used == 1


async def test_the_repr_tells_how_full_it_is() -> None:
    room = Room(3)
    await room.take()
    assert repr(room) == "<Room 1 of 3 used, 0 waiting>"


async def test_dialogs_take_turns_and_within_one_nobody_overtakes() -> None:
    room = Room(1)
    await room.take("a")
    came: list[str] = []

    async def one(dialog_id: str, name: str) -> None:
        await room.take(dialog_id)
        came.append(name)

    async with anyio.create_task_group() as group:
        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            group.start_soon(one, name[0], name)
            await settled()
        assert repr(room) == "<Room 1 of 1 used, 6 waiting>"
        for _ in range(6):
            room.give_back()
            await settled()
    assert came == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_dialog_for_which_nobody_waits_any_more_has_no_turn() -> None:
    room = Room(1)
    await room.take("a")
    async with anyio.create_task_group() as group:
        group.start_soon(room.take, "b")
        await settled()
        with anyio.move_on_after(1):
            await room.take("a")
        room.give_back()
    assert repr(room) == "<Room 1 of 1 used, 0 waiting>"
    room.give_back()
    assert room.try_take()
