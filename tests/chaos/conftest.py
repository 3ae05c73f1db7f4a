"""The option of the seed, which each test prints."""

from __future__ import annotations

import time

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seed", type=int, help="seed of the faults, as a run printed it")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--chaos-seed")
    seed = time.time_ns() // 1000 if given is None else given
    print(f"seed {seed}: nox -s chaos -- --chaos-seed {seed}")
    return seed
