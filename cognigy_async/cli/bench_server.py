"""The emulator of a benchmark, in a process of its own, which ends with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import anyio
import anyio.to_thread

from cognigy_async import ConfigurationError
from cognigy_async.emulator import Emulator, Rules, serve

KEY = "bench"
"""Good for this emulator alone, which listens on this machine only and forgets everything."""

LISTENING = "listening on "
PATIENCE = 10.0
"""Seconds that it is given to end."""


@contextmanager
def emulator_process(core: int | None) -> Iterator[str]:
    """An emulator that takes `KEY`, on a core where one is given; yields its base URL.

    Raises:
        ConfigurationError: it does not start; says why.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # An interrupt of the terminal is for the client, which still has requests to end.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if core is not None and sys.platform == "linux":
            os.sched_setaffinity(process.pid, {core})
        told = process.stdout.readline().rstrip("\n")
        if not told.startswith(LISTENING):
            raise ConfigurationError(
                f"the emulator does not start: {told or 'its process ended'}; measure a server of "
                "yours with --target tenant"
            )
        yield told.removeprefix(LISTENING)
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


async def _serve() -> None:
    # Of each dialog no more is kept than what the next answer needs: it is not to grow meanwhile.
    emulator = Emulator(api_key=KEY, rules=Rules(history_limit=1))
    async with serve(emulator) as base_url:
        sys.stdout.write(f"{LISTENING}{base_url}\n")
        sys.stdout.flush()
        # The end of the input comes when the client closes it, or is no more.
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def main() -> None:
    """Serve until the end of the input."""
    try:
        anyio.run(_serve, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except (ImportError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
