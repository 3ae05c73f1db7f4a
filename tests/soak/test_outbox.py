"""An outbox under two hundred kills, and with a hundred thousand events: minutes, not seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration import test_outbox_crash as crash
from tests.integration import test_outbox_processes as processes
from tests.unit.crm import test_volume as volume

KILLS, EVENTS = 200, 100_000

pytestmark = pytest.mark.timeout(1800)


def test_nothing_applied_is_missing_after_kills_of_a_client(tmp_path: Path) -> None:
    crash.test_nothing_applied_is_missing_after_kills_at_random_moments(tmp_path, KILLS)


def test_nothing_is_lost_after_kills_of_an_outbox(tmp_path: Path) -> None:
    processes.test_a_process_that_is_killed_loses_nothing(tmp_path, KILLS)


@pytest.mark.parametrize(("make", "size"), [(volume.hubspot, 100), (volume.salesforce, 200)])
async def test_many_events_take_few_calls(tmp_path: Path, make: Any, size: int) -> None:
    await volume.test_many_events_take_few_calls(tmp_path, make, size, EVENTS)


@pytest.mark.real_time
async def test_many_events_reach_a_webhook(tmp_path: Path) -> None:
    await volume.test_many_events_reach_a_webhook(tmp_path, EVENTS)
