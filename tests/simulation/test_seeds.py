"""Seeds of the simulation: each drives one client under faults, and the oracle checks its log."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from cognigy_async.testing import Breach, Schedule, Violation, check, simulate
from cognigy_async.testing.log import Exchange
from cognigy_async.testing.schedule import FAULTS
from cognigy_async.testing.simulation import execute

EACH = 50
"""Seeds of one test of the default run."""
DEFAULT = [*range(0, 6 * EACH, EACH)]
THOROUGH = [*range(6 * EACH, 1000 + 6 * EACH, 250)]
"""Of trio alone: `nox -s simulate` runs three thousand on asyncio."""


@pytest.mark.parametrize("first", DEFAULT)
def test_seeds(first: int) -> None:
    for seed in range(first, first + EACH):
        simulate(seed)


@pytest.mark.parametrize("first", DEFAULT[:1])
def test_seeds_on_trio(first: int) -> None:
    for seed in range(first, first + EACH):
        simulate(seed, backend="trio")


@pytest.mark.thorough
@pytest.mark.parametrize("first", THOROUGH)
def test_many_seeds_on_trio(first: int) -> None:
    for seed in range(first, first + 250):
        simulate(seed, backend="trio")


def test_a_seed_is_one_exact_run_and_the_seeds_inject_every_fault() -> None:
    faults: Counter[str] = Counter()
    for seed in range(1000, 1040):
        once, again = execute(Schedule.of(seed)), execute(Schedule.of(seed))
        assert once.facts() == again.facts()
        faults.update(once.faults)
    assert set(FAULTS) <= set(faults)


def test_a_violation_tells_how_to_replay_it() -> None:
    schedule = next(
        each for each in map(Schedule.of, range(100)) if each.strength == 0 and not each.coalesce
    )
    log = execute(schedule)
    assert check(schedule, log) == []
    # A server that saw one update twice at one time.
    sent = next(each for each in log.exchanges if each.updates)
    assert isinstance(sent, Exchange)
    log.exchanges.insert(log.exchanges.index(sent) + 1, replace(sent, applied_at=[1.0]))
    breach = check(schedule, log)[0]
    assert breach == Breach("P1 order: overlapping", sent.dialog_id, breach.text)
    text = str(Violation(schedule, breach, log))
    assert f"python -m cognigy_async.testing {schedule.seed}\n" in text
    assert f"PATCH {list(sent.updates)}" in text
    assert text.startswith("P1 order")
