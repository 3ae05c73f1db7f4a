"""Workers of a service share the folder of an outbox, and some of them are killed for good."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from .services import KINDS, Answers, call_together, running, wait_for, world

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="it sends SIGKILL"),
]

WORKERS, CALLERS = 4, 150


def test_the_events_of_killed_workers_are_delivered_by_the_others(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    with world(latency=0.04) as surroundings, ExitStack() as stack:
        services = []
        for number in range(WORKERS):
            (place := tmp_path / f"worker-{number}").mkdir()
            services.append(stack.enter_context(running(KINDS[0], surroundings, place, outbox)))
        # Nothing is delivered while the workers are killed.
        surroundings.crm.refusals = 1_000_000
        answers: list[Answers] = []

        def call(number: int) -> None:
            first = number * CALLERS
            called = call_together(services[number], surroundings, callers=CALLERS, first=first)
            answers.append(asyncio.run(called))

        callers = [threading.Thread(target=call, args=(number,)) for number in range(WORKERS)]
        for thread in callers:
            thread.start()
        # At least some of them by the two that are killed.
        wait_for(lambda: surroundings.emulator.stats.applied > 2 * CALLERS + 20)
        for service in services[:2]:
            for process in service.processes:
                process.kill()
                process.wait()
        for thread in callers:
            thread.join()
        succeeded = {update_id for each in answers for update_id in each.succeeded}
        assert succeeded <= surroundings.applied()
        assert sum(each.cut for each in answers) > 0
        assert surroundings.crm.keys == []
        surroundings.crm.refusals = 0
        # The others also send again what the killed ones had recorded and not sent.
        wait_for(lambda: len(list(outbox.glob("outbox-*.sqlite3"))) == 2)
        wait_for(lambda: surroundings.applied() <= set(surroundings.crm.keys))
        assert surroundings.applied() == set(surroundings.crm.keys)
