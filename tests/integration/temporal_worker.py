"""A worker as a process, which a test may freeze or kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """The command `worker` with the settings of the test's environment."""

    def __init__(self, address: str, queue: str) -> None:
        given = {"TEMPORAL_ADDRESS": address, "COGNIGY_TASK_QUEUE": queue, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "cognigy_async", "worker", "--quiet"]
        command += ["--max-in-flight", "8"]
        self._process = subprocess.Popen(command, env=os.environ | given)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it as `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; return its exit status."""
        self._process.terminate()
        return self._process.wait(120)
