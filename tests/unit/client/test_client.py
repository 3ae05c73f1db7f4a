"""`AsyncStateClient`: its signatures agree with the typed dictionaries; what needs no server."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest

from cognigy_async import ConfigurationError, RuntimeApi, SessionsApi, StateUpdate, UpdateFields
from cognigy_async.client.client import AsyncStateClient
from cognigy_async.client.config import ClientConfig, SendArguments, SubmitArguments
from tests.simulation.world import Wire, client_of
from tests.unit.client._parts import NullTransport, config


def arguments_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_update_takes_the_fields_of_an_update_and_the_send_arguments() -> None:
    fields, sending = UpdateFields.__annotations__, SubmitArguments.__annotations__
    assert arguments_of(StateUpdate.__init__) == [*fields, "encode"]
    assert set(arguments_of(AsyncStateClient.update)) == {*fields, *sending} - {"watch"}
    assert SendArguments.__annotations__.items() <= sending.items()


def test_the_configuration_holds_each_argument_of_the_client() -> None:
    own = {name for name in ClientConfig.__dataclass_fields__ if name != "default_options"}
    # The model of the variables is a part of the limits.
    assert set(arguments_of(AsyncStateClient.__init__)) == own | {"variables"}


def test_a_missing_auth_says_what_to_pass() -> None:
    make: Any = AsyncStateClient
    with pytest.raises(ConfigurationError, match=r"auth=OAuthTokenProvider.*auth=ApiKey"):
        make("https://api.example")


@pytest.mark.parametrize("name", ["submit", "submit_nowait", "update_many", "get_state", "modify"])
async def test_an_unknown_argument_is_refused(name: str) -> None:
    async with client() as one:
        with pytest.raises(TypeError, match="unexpected keyword argument 'prio'"):
            made = getattr(one, name)(*_positional(name), prio="live")
            await made


def _positional(name: str) -> tuple[Any, ...]:
    row = {"dialog_id": "d", "session": {"a": 1}}
    by_name: dict[str, tuple[Any, ...]] = {
        "update_many": ([row],),
        "get_state": ("d",),
        "modify": ("d", lambda _: None),
    }
    return by_name.get(name, (row,))


def client(**changes: Any) -> AsyncStateClient:
    own = config()
    changes.setdefault("transport", NullTransport())
    return AsyncStateClient(own.base_url, auth=own.auth, **changes)


def test_limits_are_those_of_the_api_unless_given() -> None:
    assert client().limits == RuntimeApi().limits
    sessions = SessionsApi(user_id="u")
    assert client(api=sessions).limits is sessions.limits


async def test_arguments_of_one_call_reach_its_request() -> None:
    class Timed(NullTransport):
        timeouts: typing.ClassVar[list[float]] = []

        async def send(self, request: Any, *, timeout: float) -> Any:
            self.timeouts.append(timeout)
            return await super().send(request, timeout=timeout)

    row: UpdateFields = {"dialog_id": "d", "session": {"a": 1}}
    async with client(transport=Timed(), timeout=9.0) as one:
        await one.update("d", session={"a": 1}, timeout=1.0)
        await (await one.submit(row, timeout=2.0))
        await one.submit_nowait(row, timeout=3.0)
        async for outcome in one.update_many([row], timeout=4.0):
            assert outcome.ok
        await one.update("d", session={"a": 1})
    assert Timed.timeouts == [1.0, 2.0, 3.0, 4.0, 9.0]


def test_the_repr_says_where_it_is_in_its_life() -> None:
    assert repr(client()).startswith("<AsyncStateClient https://api.example not open ")


@pytest.mark.parametrize("name", ["coalesce", "watch", "nonsense"])
async def test_a_keyword_that_a_method_does_not_have_is_refused(name: str) -> None:
    async with client_of(Wire()) as client:
        unknown: Any = {name: None}
        refusal = rf"\(\) got an unexpected keyword argument '{name}'"
        with pytest.raises(TypeError, match="get_state" + refusal):
            await client.get_state("d-1", **unknown)
        with pytest.raises(TypeError, match="modify" + refusal):
            await client.modify("d-1", lambda _: None, **unknown)
        if name == "nonsense":
            with pytest.raises(TypeError, match="submit_nowait" + refusal):
                client.submit_nowait({"dialog_id": "d-1", "session": {"a": 1}}, **unknown)
            with pytest.raises(TypeError, match="update_many" + refusal):
                client.update_many([], **unknown)
