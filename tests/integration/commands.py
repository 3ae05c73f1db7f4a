"""Run the command as a process in a clean environment.

`CommandProcess` starts quickly, because it is forked from a process that has imported everything.
Signals, limits, files and `kill -9` work as in a process that was started by a shell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

PRELOADED = [
    "aiohttp",
    "cognigy_async.cli.app",
    "cognigy_async.transports.httpx",
    "cognigy_async.transports.pyreqwest",
    # Another user may be unable to read it where Python is installed.
    "encodings.utf_8_sig",
    "pytest",
    "tests.integration.commands",
    "tests.integration.outbox_service",
]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def command_environment(**variables: str) -> dict[str, str]:
    """Return an environment with PATH, HOME and LANG only, so that no setting hides a fault."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return inherited | {"PYTHONPATH": str(ROOT)} | variables


class CommandProcess:
    """A process of `cognigy-async`.

    Args:
        place: path of its output, without the suffixes `.out` and `.err`.
        largest: maximum size in bytes of the files that it writes.
        user: id of the user to run as; None for the user of the tests.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        place: Path,
        largest: int | None = None,
        user: int | None = None,
    ) -> None:
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        given = (list(arguments), folder, dict(variables), self._out, self._err, largest, user)
        # A process that is killed at once has not created them.
        self._out.touch()
        self._err.touch()
        self._process = CONTEXT.Process(target=_main, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_over(self) -> bool:
        return self._process.exitcode is not None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self._process.kill()
        self._process.join()

    def result(self, timeout: float) -> tuple[int, str, str]:
        """Wait for its end; return exit status, stdout and stderr."""
        self._process.join(timeout)
        status = self._process.exitcode
        assert status is not None, "it does not end"
        return status, self._out.read_text(), self._err.read_text()

    def end(self) -> None:
        """Kill it and release its resources."""
        self.kill()
        self._process.close()


def _main(
    arguments: list[str],
    folder: Path,
    variables: dict[str, str],
    out: Path,
    err: Path,
    largest: int | None,
    user: int | None,
) -> None:
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    if largest is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["cognigy-async", *arguments]
    from cognigy_async.cli import main

    main()
