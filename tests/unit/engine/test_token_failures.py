"""Failures to get a token, and the updates that share them."""

from __future__ import annotations

import anyio
import pytest

from cognigy_async import AuthenticationError
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.token_failures import SHARED_BY_BULK, TokenFailures
from tests.simulation.world import Wire
from tests.unit._builders import item

from ._engines import accept, engine_over

FINAL = AuthenticationError("refused", transient=False)


def failures_of(engine: Engine) -> TokenFailures:
    return engine._dispatcher._token_failures


async def test_a_final_failure_fails_all_that_waited_and_no_later_live_update() -> None:
    engine = engine_over(Wire())
    waiting = [item(serial=number, dialog_id=f"d-{number}") for number in (1, 2)]
    accept(engine, *waiting)
    failures = failures_of(engine)
    final = AuthenticationError("refused", transient=False)
    final.remedy = "Check the token URL."
    failures.record(final)
    later = item(serial=3, dialog_id="d-3")
    accept(engine, later)
    assert [failures.fail_next() for _ in range(3)] == [True, True, False]
    assert all(isinstance(each.error, AuthenticationError) for each in waiting)
    assert [
        each.error.dialog_id for each in waiting if isinstance(each.error, AuthenticationError)
    ] == [
        "d-1",
        "d-2",
    ]
    assert [str(each.error).endswith(final.remedy) for each in waiting] == [True, True]
    assert not later.completed


async def test_bulk_work_shares_a_final_failure_for_a_second() -> None:
    engine = engine_over(Wire())
    failures = failures_of(engine)
    failures.record(FINAL)
    first = item(serial=1, dialog_id="d-1", live=False)
    accept(engine, first)
    assert failures.fail_next()
    await anyio.sleep(SHARED_BY_BULK)
    second = item(serial=2, dialog_id="d-2", live=False)
    accept(engine, second)
    assert not failures.fail_next()
    assert first.completed
    assert not second.completed


async def test_a_transient_failure_and_other_exceptions() -> None:
    engine = engine_over(Wire())
    failures = failures_of(engine)
    transient = AuthenticationError("away", transient=True)
    assert failures.record(transient) is transient
    assert failures.last is None
    strange = failures.record(RuntimeError("strange"))
    assert "RuntimeError" in str(strange)
    assert isinstance(strange.__cause__, RuntimeError)


async def test_the_same_failure_is_logged_once_until_there_is_a_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = failures_of(engine_over(Wire()))
    for text in ("away", "late", "refused", "refused", "forbidden"):
        transient = text in ("away", "late")
        failures.record(AuthenticationError(text, transient=transient))
        await anyio.sleep(10)
    assert [line.partition(": ")[2].partition(".")[0] for line in caplog.messages] == [
        "away",
        "refused",
        "forbidden",
    ]
    failures.clear()
    assert caplog.messages[3:] == ["a token was received after 50.0 s without one"]
    failures.record(AuthenticationError("refused"))
    assert len(caplog.messages) == 5
