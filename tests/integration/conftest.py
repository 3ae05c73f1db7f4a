"""Fixtures: the command in this process, and an emulator that its settings name."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.cli import main
from cognigy_async.emulator import Emulator, serve
from tests.integration.temporal_server import TemporalServer

SECRET = "correct-horse-battery-staple"
TENANT = "tenant.invalid"


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    """Serve an emulator that the settings of the process name."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COGNIGY_"):
            monkeypatch.delenv(name)
    emulator = Emulator(client_secret=SECRET)
    # Some tests reach it by this name, through a proxy.
    server = serve(emulator, allowed_hosts=[TENANT])
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(server) as base_url,
    ):
        monkeypatch.setenv("COGNIGY_BASE_URL", base_url)
        monkeypatch.setenv("COGNIGY_CLIENT_ID", "emulator-client")
        monkeypatch.setenv("COGNIGY_CLIENT_SECRET", SECRET)
        yield emulator


class Command:
    """The command in this process, with the output of its last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["cognigy-async", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err or "--debug" in arguments
        assert SECRET not in self.out + self.err
        return exited.value.code if isinstance(exited.value.code, int) else 0

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def messages(self) -> str:
        """Stderr in one line, without the frame of a usage error."""
        return " ".join(self.err.replace("│", " ").split())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the logging set-up of the command, which expects to own the process."""
    logger = logging.getLogger("cognigy_async")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """Run the development server of Temporal, with a database file, on a free port."""
    server = TemporalServer(tmp_path_factory.mktemp("temporal"))
    server.start()
    yield server
    server.stop()
