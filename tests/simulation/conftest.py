"""What the tests of the promises share."""

from __future__ import annotations

import pytest

from tests.simulation.world import APIS, Spoken


@pytest.fixture(params=APIS)
def each_api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test for each API: `client_of` makes clients that speak it. Its name."""
    name: str = request.param
    monkeypatch.setattr(Spoken, "api", staticmethod(APIS[name]))
    return name
