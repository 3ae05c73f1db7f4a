"""The part of a limit that one worker may use."""

from __future__ import annotations

import pytest

from cognigy_async import ConfigurationError, RateLimit
from cognigy_async.temporal.quota import share_of


def test_limits_are_scaled() -> None:
    limits = [RateLimit(1000, per=300, reserve=0.1, burst=50), RateLimit(300, per=10)]
    assert share_of(limits, 1) is limits
    assert share_of(None, 0.5) is None
    assert share_of(limits, 1 / 4) == (
        RateLimit(250, per=300, reserve=0.1, burst=12),
        RateLimit(75, per=10),
    )
    assert share_of(limits[1], 1 / 3) == (RateLimit(100, per=10),)


@pytest.mark.parametrize(
    ("limits", "share", "message"),
    [
        (RateLimit(3, per=1), 0.25, "no request"),
        ("auto", 0.5, "auto"),
        (None, 0.0, "quota_share"),
        (None, 1.5, "quota_share"),
    ],
)
def test_a_share_that_cannot_be_kept_is_refused(limits: object, share: float, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        share_of(limits, share)  # type: ignore[arg-type]
