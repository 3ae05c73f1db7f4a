"""`Lifecycle`: a client is opened once and closed once, and says where it is in its life."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async import (
    ClientClosedError,
    ClientUsageError,
    CloseReport,
    ConfigurationError,
    Metrics,
)
from cognigy_async._utils.waker import Waker
from cognigy_async.client.lifecycle import Lifecycle
from cognigy_async.hooks.invocation import Call, current_call
from cognigy_async.hooks.registry import CallbackRegistry
from tests.unit.client._parts import NullTransport, config

EMPTY = CloseReport(0, 0, 0, (), 0)


def lifecycle(**changes: Any) -> Lifecycle:
    metrics, waker = Metrics(None), Waker()
    hooks = CallbackRegistry(metrics, waker)
    return Lifecycle(config(**changes), metrics, hooks, None, None, waker)


async def test_the_way_of_a_client() -> None:
    transport = NullTransport()
    life = lifecycle(transport=transport)
    assert str(life) == "not open"
    for refused in (life.check_open, life.require_engine, life.require_open_engine):
        with pytest.raises(ClientClosedError, match="not open: use it inside"):
            refused()
    await life.open()
    assert str(life) == "open"
    assert life.check_open() is life.admission
    assert life.require_open_engine() is life.engine
    assert life.report is None
    await life.exit(drain=True)
    assert (str(life), life.report, transport.closed) == ("closed", EMPTY, 1)
    with pytest.raises(ClientClosedError, match="closed"):
        life.require_open_engine()
    assert life.require_engine() is life.engine


async def test_it_is_opened_once() -> None:
    life = lifecycle()
    await life.open()
    with pytest.raises(ClientUsageError, match="opened once"):
        await life.open()
    await life.exit(drain=False)
    with pytest.raises(ClientUsageError, match="opened once"):
        await life.open()


async def test_one_that_was_closed_before_is_not_opened() -> None:
    life = lifecycle()
    assert await life.close(drain=True, timeout=1.0) == EMPTY
    assert str(life) == "closed"
    with pytest.raises(ClientUsageError, match="opened once"):
        await life.open()


async def test_a_second_close_waits_for_the_first() -> None:
    life = lifecycle()
    await life.open()
    reports: list[CloseReport] = []

    async def close(drain: bool) -> None:
        reports.append(await life.close(drain=drain, timeout=5.0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close, True)
        tasks.start_soon(close, False)
    assert reports == [EMPTY, EMPTY]
    await life.exit(drain=True)


async def test_a_callback_cannot_close_its_client() -> None:
    life = lifecycle()
    await life.open()
    token = current_call.set(Call(life._hooks._tasks))
    with pytest.raises(ClientUsageError, match="the callback that calls it"):
        await life.close(drain=True, timeout=1.0)
    current_call.reset(token)
    await life.exit(drain=True)


async def test_a_deadline_is_a_time_of_the_clock() -> None:
    life = lifecycle()
    with pytest.raises(ClientClosedError):
        life.deadline_after(1.0)
    await life.open()
    clock = life.require_engine().clock
    assert life.deadline_after(2) == pytest.approx(clock() + 2.0, abs=0.5)
    with pytest.raises(ConfigurationError, match="deadline="):
        life.deadline_after(float("nan"))
    await life.exit(drain=True)


async def test_a_transport_that_fails_to_close_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(NullTransport):
        async def aclose(self) -> None:
            raise OSError("secret")

    life = lifecycle(transport=Failing())
    await life.open()
    await life.exit(drain=True)
    assert life.report == EMPTY
    assert "the transport could not be closed: OSError" in caplog.messages
    assert "secret" not in caplog.text
