"""Server processes, each pinned to its own core, that end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import NamedTuple

import anyio
import anyio.to_thread

from cognigy_async import ConfigurationError
from cognigy_async.emulator import Emulator, Rules, serve

API_KEY = "bench"
"""Accepted by this emulator alone, which listens on loopback and keeps nothing."""
GRACE = 10.0
"""Seconds that a server has to end."""


class Cores(NamedTuple):
    """One core for the server and another one for the client."""

    server: int
    client: int


def available_cores() -> Cores | None:
    """Return two cores; None if there is only one, or if processes cannot be pinned."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Cores(cores[0], cores[-1]) if len(cores) > 1 else None


@contextmanager
def server_process(arguments: Sequence[str], cores: Cores | None) -> Iterator[tuple[str, int]]:
    """Run a server; yield its first line and pid. `cores` pins it and this process to cores."""
    before = os.sched_getaffinity(0) if cores else None
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Only the client gets an interrupt of the terminal, so it can complete its requests.
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if cores is not None:
                os.sched_setaffinity(process.pid, {cores.server})
                os.sched_setaffinity(0, {cores.client})
            yield process.stdout.readline().rstrip("\n"), process.pid
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            if before is not None:
                os.sched_setaffinity(0, before)


@contextmanager
def emulator_process(cores: Cores | None) -> Iterator[str]:
    """Run an emulator that accepts `API_KEY`; yield its base URL."""
    # Without -P, Python would import modules from the working directory, whoever put them there.
    with server_process(["-P", "-m", __name__], cores) as (line, _):
        if not line.startswith("http"):
            raise ConfigurationError(
                f"the emulator does not start: {line or 'its process ended'}. Use --target tenant "
                "to measure a server of your own."
            )
        yield line


async def _serve() -> None:
    # A short history, so that the emulator does not grow while it is used.
    emulator = Emulator(api_key=API_KEY, rules=Rules(history_limit=1))
    async with serve(emulator) as base_url:
        sys.stdout.write(f"{base_url}\n")
        sys.stdout.flush()
        # Stdin ends when the client closes it or exits.
        await anyio.to_thread.run_sync(
            sys.stdin.read, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )


if __name__ == "__main__":
    try:
        anyio.run(_serve, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except (ImportError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(1)
