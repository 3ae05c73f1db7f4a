"""The shared parts of one engine."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from cognigy_async.engine.context import Context
from tests.simulation.world import Wire

from ._engines import context_over


async def test_the_shared_parts_cannot_be_replaced() -> None:
    context = context_over(Wire())
    for part in fields(Context):
        with pytest.raises(FrozenInstanceError):
            setattr(context, part.name, None)
