"""The emulator stopped two thousand times: minutes, not seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.test_emulator_stops import stop_at_random_moments

STOPS = 2000


@pytest.mark.real_time
@pytest.mark.timeout(3600)
def test_it_ends_at_random_moments(tmp_path: Path) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    stop_at_random_moments(tmp_path, STOPS, seed)
