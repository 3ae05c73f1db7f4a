"""A worker as a process that tests may kill: `python -m tests.integration.temporal_worker`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A worker with the settings of the test's environment."""

    def __init__(self, address: str, queue: str, **variables: str) -> None:
        given = {"TEMPORAL_ADDRESS": address, "COGNIGY_TASK_QUEUE": queue, **variables}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.temporal_worker"],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | given,
        )

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it as `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; return its exit status."""
        self._process.terminate()
        return self._process.wait(20)


async def main() -> None:
    """Work until SIGTERM."""
    from cognigy_async.integrations.settings import Settings
    from cognigy_async.temporal import StateWorker, connect

    settings = Settings()
    arguments = settings.client_arguments()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with StateWorker(
        await connect(settings),
        arguments.pop("base_url"),
        task_queue=settings.task_queue,
        quota_share=settings.quota_share,
        max_in_flight=int(os.environ.get("TEST_MAX_IN_FLIGHT", "8")),
        **arguments,
    ):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
