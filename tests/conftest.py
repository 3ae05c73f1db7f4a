"""Every coroutine test runs on asyncio and on trio, in virtual time unless marked `real_time`."""

from __future__ import annotations

import asyncio
import contextvars
import fnmatch
import functools
import gc
import inspect
import itertools
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio.testing

from cognigy_async.testing.virtual_time import backend_options

LOOPS = ["asyncio", "trio"]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of a test, with a clock of its own."""
    if request.node.get_closest_marker("real_time"):
        return request.param, {}
    return request.param, backend_options(request.param)


@pytest.fixture(autouse=True)
def _no_task_is_left(request: pytest.FixtureRequest) -> None:
    """Set up before, and so torn down after, every other asynchronous fixture of a test."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_tasks_are_gone")


@pytest.fixture
async def _tasks_are_gone(anyio_backend_name: str) -> AsyncIterator[None]:
    if anyio_backend_name == "asyncio":
        before = _tasks()
        yield
        # What has just ended or been cancelled has its last steps to do.
        for _ in range(3):
            await asyncio.sleep(0)
        left = _tasks() - before
        assert not left, f"tasks outlive the test: {left}"
    else:
        alive = trio.lowlevel.current_statistics().tasks_living
        yield
        await trio.testing.wait_all_tasks_blocked()
        more = trio.lowlevel.current_statistics().tasks_living - alive
        assert more <= 0, f"{more} tasks outlive the test"


def _tasks() -> set[asyncio.Task[Any]]:
    # anyio has a task of its own for each step of a test.
    return {task for task in asyncio.all_tasks() if "TestRunner." not in repr(task.get_coro())}


def pytest_configure() -> None:
    """Give the files of tests the same modes everywhere."""
    os.umask(0o022)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Apply the marks `quick`, and let a plain test fail at its timeout.

    By default the timeout of a plain test ends the whole process.
    """
    _mark_thorough(config, items)
    for item in items:
        if not (item.get_closest_marker("real_time") or "integration" in item.path.parts):
            # In virtual time nothing depends on the machine: it fails at the first failure.
            item.add_marker(pytest.mark.flaky(reruns=0))
    if not hasattr(signal, "SIGALRM"):
        return
    for item in items:
        if isinstance(item, pytest.Function) and not inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            seconds = marker.args[0] if marker else float(item.config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(seconds, method="signal"), append=False)


def _mark_thorough(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark `thorough` which cases of a test no pattern of its marks `quick` matches.

    Of a test without such a mark that has several cases, each runs quickly on one event loop, and
    the next one on the other.
    """
    cases: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    on_loops: dict[str, dict[str, dict[str, pytest.Item]]] = defaultdict(lambda: defaultdict(dict))
    for item in items:
        callspec = getattr(item, "callspec", None)
        test, name = item.nodeid.partition("[")[0], "" if callspec is None else callspec.id
        marks = list(item.iter_markers("quick"))
        for mark in marks:
            cases[test, mark.args].append(name)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in mark.args):
                item.add_marker("thorough")
        if not marks and callspec is not None and callspec.params.get("anyio_backend") in LOOPS:
            loop = callspec.params["anyio_backend"]
            case = "-".join(part for part in name.split("-") if part != loop)
            on_loops[test][case][loop] = item
    for each in on_loops.values():
        if len(each) > 1:
            for case, loop in zip(each.values(), itertools.cycle(LOOPS), strict=False):
                if len(case) == len(LOOPS):
                    case[loop].add_marker("thorough")
    # A test that is named with its parameters is there without its other cases.
    if not any("::" in argument for argument in config.args):
        for (test, patterns), names in cases.items():
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    raise pytest.UsageError(f"{test}: quick({pattern!r}) matches no case: {names}")


def pytest_collection_finish() -> None:
    """Take what was collected, which stays for ever, out of each garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo it for plugins, such as that of hypothesis, that look for referrers of objects."""
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failed test at once: a run that is cut off has no summary."""
    is_rerun = report.outcome == "rerun"
    if (report.failed or is_rerun) and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = (
            report.longreprtext
            if crash is None
            else f"{crash.path}:{crash.lineno}: {crash.message}"
        )
        outcome = "RERUN" if is_rerun else "FAILED"
        sys.stderr.write(f"\n{outcome} {report.nodeid} ({report.when})\n{reason}\n")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Let a coroutine test fail at half of its timeout, and the others go on.

    pytest-timeout knows no event loop: all that it can do is to end the whole process.
    """
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        marker = pyfuncitem.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else float(pyfuncitem.config.getini("timeout"))
        pyfuncitem.obj = _within(seconds / 2, pyfuncitem.obj)


def _within(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def limited(**fixtures: Any) -> None:
        scope = anyio.CancelScope()
        waiting: list[str] = []

        def stop() -> None:
            waiting.extend(f"\n  {info.name}: {_place(info)}" for info in anyio.get_running_tasks())
            scope.cancel()

        call_soon = _threadsafe_call()
        timer = threading.Timer(seconds, call_soon, [contextvars.copy_context().run, stop])
        timer.daemon = True
        timer.start()
        try:
            with scope:
                await test(**fixtures)
        finally:
            timer.cancel()
        if scope.cancelled_caught:
            pytest.fail(f"still running after {seconds:g} real seconds:{''.join(waiting)}")

    return limited


def _threadsafe_call() -> Callable[..., object]:
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return trio.lowlevel.current_trio_token().run_sync_soon


def _place(info: anyio.TaskInfo) -> str:
    """Where a task waits, from the outermost to the innermost function."""
    places = []
    step: Any = info.coro
    while frame := getattr(step, "cr_frame", None):
        places.append(f"{step.cr_code.co_name} line {frame.f_lineno}")
        step = step.cr_await
    return " > ".join(places)
