"""The names for the project's own edges."""

from __future__ import annotations

import cognigy_async
from cognigy_async import spi


def test_they_exist_and_are_not_public() -> None:
    assert len(spi.__all__) == len(set(spi.__all__))
    assert all(hasattr(spi, name) for name in spi.__all__)
    assert not set(spi.__all__) & set(cognigy_async.__all__)
