"""Group commit: which items share a group, who waits for it, and what a failure does."""

from __future__ import annotations

import threading

import anyio
import pytest

from cognigy_async._utils.group_commit import GroupCommit


class FullError(Exception):
    pass


class Lines:
    """Storage that has groups of lines, written or refused."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.groups: list[list[str]] = []
        self.threads: set[int] = set()
        self.began: list[float] = []
        self.is_full = False

    def take(self) -> list[str]:
        self.began.append(anyio.current_time())
        group, self.noted = self.noted, []
        return group

    def write(self, group: list[str]) -> None:
        self.threads.add(threading.get_ident())
        if self.is_full:
            raise FullError
        self.groups.append(group)


async def test_what_nobody_waits_for_is_gathered() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commits.run)
        for line in "ab":
            lines.noted.append(line)
            commits.noted.set()
            await anyio.sleep(0.4)
        assert lines.groups == []
        await anyio.sleep(1)
        assert lines.began == [1]
        commits.close()
    assert lines.groups == [["a", "b"], []]
    assert threading.get_ident() not in lines.threads


async def test_a_single_caller_never_waits_for_others() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=1.0, interval=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commits.run)
        for line in "abc":
            lines.noted.append(line)
            assert await commits.written() is None
        assert lines.groups == [["a"], ["b"], ["c"]]
        assert anyio.current_time() == 0
        commits.close()


async def test_groups_of_several_callers_keep_their_distance() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=9.0, interval=1.0)

    async def caller(name: str) -> None:
        for _ in range(3):
            lines.noted.append(name)
            assert await commits.written() is None

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as callers:
            callers.start_soon(caller, "a")
            callers.start_soon(caller, "b")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(commits.run)
        commits.close()
    assert [sorted(group) for group in lines.groups if group] == [["a", "b"]] * 3
    assert lines.began[:3] == [0, 1, 2]


async def test_what_was_noted_is_written_when_it_is_cancelled() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=60.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commits.run)
        lines.noted.append("a")
        commits.noted.set()
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert lines.groups == [["a"]]


async def test_a_failure_ends_it_and_reaches_all_who_wait() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=1.0)
    lines.is_full = True
    errors: list[FullError | None] = []

    def wait_again(error: FullError | None) -> None:
        errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commits.run)
        commits.when_written(wait_again)
        assert type(await commits.written()) is FullError
        assert commits.failure is not None
        assert await commits.written() is commits.failure
    assert errors == [commits.failure]
    lines.is_full = False
    await commits.commit()
    assert lines.groups == [[]]


async def test_or_is_reported_to_those_of_its_group() -> None:
    lines = Lines()
    commits = GroupCommit(lines, FullError, gathering=1.0, ends_on_error=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commits.run)
        lines.is_full = True
        assert type(await commits.written()) is FullError
        lines.is_full = False
        lines.noted.append("b")
        assert await commits.written() is None
        assert lines.groups == [["b"]]
        commits.close()


async def test_an_unknown_error_tells_nobody_of_a_success() -> None:
    class Broken(Lines):
        def write(self, group: list[str]) -> None:
            raise ZeroDivisionError

    commits = GroupCommit(Broken(), FullError, gathering=1.0)
    woken: list[FullError | None] = []
    commits.when_written(woken.append)
    with pytest.raises(ZeroDivisionError):
        await commits.commit()
    assert woken == []


async def test_a_call_in_its_thread_ends_although_it_is_cancelled() -> None:
    commits = GroupCommit(Lines(), FullError, gathering=1.0)
    done: list[list[str]] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await commits.in_thread(done.append, ["x"])
        await anyio.sleep(1)
    assert done == [["x"]]
