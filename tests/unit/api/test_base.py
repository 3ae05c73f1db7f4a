"""The protocol of an API."""

from __future__ import annotations

import inspect

import pytest

from cognigy_async import RuntimeApi, SessionsApi
from cognigy_async.api.base import StateApi

MEMBERS = sorted(name for name in vars(StateApi) if not name.startswith("_"))


@pytest.mark.parametrize("api", [RuntimeApi(), SessionsApi()], ids=["runtime", "sessions"])
@pytest.mark.parametrize("name", MEMBERS)
def test_each_api_has_each_member_with_the_same_parameters(api: StateApi, name: str) -> None:
    promised, given = getattr(StateApi, name), getattr(type(api), name, None)
    if callable(promised):
        assert callable(given)
        assert list(inspect.signature(given).parameters) == list(
            inspect.signature(promised).parameters
        )
    else:
        assert hasattr(api, name)
