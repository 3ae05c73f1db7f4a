"""`CallbackRegistry` and `Register`: who gets which event, and when sending has to wait."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import anyio
import pytest

from cognigy_async import ConfigurationError, UpdateEvent
from cognigy_async.hooks.registry import Register
from tests.unit.hooks._events import event, publish, registry, running


async def test_a_callback_gets_the_events_of_its_kind() -> None:
    hooks, metrics, _ = registry()
    applied: list[UpdateEvent] = []
    failed: list[UpdateEvent] = []

    @Register(hooks, failures=False)
    async def on_applied(of: UpdateEvent) -> None:
        applied.append(of)

    @Register(hooks, failures=True)(retries=0)
    async def on_failed(of: UpdateEvent) -> None:
        failed.append(of)

    good, bad = event(), event(failed=True)
    async with running(hooks):
        publish(hooks, good)
        publish(hooks, bad)
        await hooks.wait_delivered()
        assert not hooks.busy
    assert (applied, failed, metrics.events_delivered) == ([good], [bad], 2)


def test_registering_returns_the_callback_itself() -> None:
    hooks, _, _ = registry()
    assert not hooks.has_callbacks
    register = Register(hooks, failures=False)
    assert register(print) is print
    assert register(print, retries=1) is print
    assert register(timeout=1.0)(print) is print
    assert hooks.has_callbacks
    assert repr(hooks).count("print") == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ConfigurationError),
        ({"timeout": float("inf")}, ConfigurationError),
        ({"retries": -1}, ConfigurationError),
        ({"concurrency": 0}, ConfigurationError),
        ({"max_queue": 0}, ConfigurationError),
        ({"overflow": "drop"}, ConfigurationError),
        ({"on_dead_letter": 7}, TypeError),
        ({"retry": 1}, TypeError),
    ],
    ids=str,
)
def test_an_invalid_option_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    hooks, _, _ = registry()
    with pytest.raises(error):
        Register(hooks, failures=False)(print, **options)
    assert not hooks.has_callbacks


def test_what_cannot_be_called_is_refused() -> None:
    hooks, _, _ = registry()
    wrong: Any = "print"
    with pytest.raises(TypeError, match="a callback must be callable, not str"):
        Register(hooks, failures=False)(wrong)


@pytest.mark.parametrize("failures", [False, True])
def test_what_takes_no_event_is_refused_when_it_is_registered(failures: bool) -> None:
    hooks, _, _ = registry()

    async def sync_crm(crm: object, event: UpdateEvent) -> None: ...

    wrong: Any = sync_crm
    with pytest.raises(TypeError, match=r"sync_crm does not take that \(missing .*'event'\)"):
        Register(hooks, failures=failures)(wrong)
    assert not hooks.has_callbacks


async def test_sending_waits_for_a_full_queue_and_is_woken() -> None:
    hooks, _, waker = registry()
    Register(hooks, failures=False)(print, max_queue=2)
    Register(hooks, failures=False)(print, max_queue=1, overflow="dead_letter")
    assert (hooks.full, hooks.free_slots(1000)) == (False, 2)
    reserved = [hooks.reserve(), hooks.reserve(), hooks.reserve()]
    assert (hooks.full, hooks.free_slots(1000)) == (True, 0)
    for one in reserved:
        hooks.publish(None, copy_context(), one, from_callback=False, watch=None, index=-1)
    assert (hooks.full, waker.woken) == (False, 1)


def test_without_callbacks_nothing_is_full() -> None:
    hooks, _, _ = registry()
    assert (hooks.full, hooks.free_slots(7), hooks.reserve(), hooks.busy) == (False, 7, (), False)


async def test_a_callback_knows_its_own_client() -> None:
    hooks, other = registry()[0], registry()[0]
    seen: list[tuple[bool, bool]] = []

    @Register(hooks, failures=False)
    async def note(_: UpdateEvent) -> None:
        seen.append((hooks.inside_callback(), other.inside_callback()))

    async with running(hooks):
        publish(hooks, event())
        await hooks.wait_delivered()
    assert seen == [(True, False)]
    assert not hooks.inside_callback()


async def test_what_is_left_at_the_end_goes_to_the_dead_letter_handlers() -> None:
    hooks, metrics, _ = registry()
    letters: list[Any] = []

    async def bury(letter: Any) -> None:
        letters.append((letter.event.dialog_id, str(letter.error)))

    @Register(hooks, failures=False)(on_dead_letter=bury)
    async def hang(_: UpdateEvent) -> None:
        await anyio.sleep_forever()

    async with running(hooks):
        publish(hooks, event("a"))
        publish(hooks, event("b"))
        assert hooks.busy
        await anyio.sleep(1)
    assert letters == []
    assert not hooks.busy
    await hooks.dead_letter_rest()
    closed = "the client was closed before the event was delivered"
    assert sorted(letters) == [("a", closed), ("b", closed)]
    assert hooks.free_slots(10_000) == 10_000
    assert metrics.events_dropped == 2


async def test_dead_letter_handlers_have_a_second_at_the_end() -> None:
    hooks, _, _ = registry()

    async def hang(_: Any) -> None:
        await anyio.sleep_forever()

    Register(hooks, failures=False)(hang, on_dead_letter=hang)
    async with running(hooks):
        publish(hooks, event())
    before = anyio.current_time()
    await hooks.dead_letter_rest()
    assert anyio.current_time() - before == 1.0


def test_observers_are_kept_in_their_order() -> None:
    hooks, _, _ = registry()
    one: Any = object()
    other: Any = object()
    hooks.add_observer(one)
    hooks.add_observer(other)
    assert hooks.observers == (one, other)
