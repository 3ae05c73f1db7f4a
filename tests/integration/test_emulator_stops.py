"""The emulator as a process ends on its first signal, whatever it is doing."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.commands import CommandProcess, command_environment

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the system cannot send SIGTERM to a process"
)

PATIENCE = 10.0
"""Seconds; a stop takes a small part of one."""

# A process-directed signal goes to any thread that does not block it. Then no system call of the
# main thread is interrupted, just as when the signal comes right before such a call.
IN_ANOTHER_THREAD = """
import signal, threading, time
from cognigy_async.emulator import Emulator, run
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
run(Emulator(api_key="k"), on_listening=lambda url: print("listening on", url, flush=True))
"""


def parsed(line: str) -> tuple[str, int]:
    assert line.startswith("listening on ")
    url = urlsplit(line.split()[2])
    assert url.hostname
    assert url.port
    return url.hostname, url.port


@pytest.mark.real_time
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_a_signal_that_another_thread_takes(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_THREAD], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            parsed(process.stdout.readline())
            # The main thread has time to begin to wait; the signal must end it in any case.
            time.sleep(0.3)
            process.send_signal(number)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def request(number: int) -> bytes:
    body = b'{"session": {"n": %d}}' % number
    head = b"PATCH /runtime/v2/dialogs/d-%d/state HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\n" % number
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def busy(address: tuple[str, int], chance: random.Random) -> list[socket.socket]:
    """Leave connections in each state that one may have, and return them."""
    connections = []
    for number in range(chance.randrange(12)):
        with suppress(OSError):
            connection = socket.create_connection(address, timeout=5)
            connections.append(connection)
            whole = request(number)
            kind = chance.randrange(5)
            if kind == 1:
                connection.sendall(whole[: chance.randrange(len(whole))])
            elif kind == 2:
                connection.sendall(whole * chance.randrange(1, 20))
            elif kind == 3:
                connection.sendall(whole)
                # Answered or not, depending on the latency.
                connection.settimeout(0.02)
                connection.recv(1)
            elif kind == 4:
                connection.sendall(whole)
                connection.close()
    return connections


def stop_at_random_moments(folder: Path, stops: int, seed: int) -> None:
    """Start and stop an emulator so many times, each time at another moment of its life."""
    chance = random.Random(seed)
    for index in range(stops):
        place = folder / f"stop-{index}"
        fault = chance.choice(["latency=0", "latency=0.05", "latency=30"])
        variables = command_environment(COGNIGY_API_KEY="k")
        process = CommandProcess(["emulator", "--fault", fault], folder, variables, place)
        connections: list[socket.socket] = []
        starting = index % 5 == 0
        try:
            if starting:
                time.sleep(chance.uniform(0.0, 0.2))
            else:
                address = address_in(place.with_suffix(".out"))
                connections = busy(address, chance)
                time.sleep(chance.choice([0.0, chance.uniform(0.0, 0.02), 0.1]))
            process.send_signal(chance.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT]))
            if not starting:
                # More connections while it stops.
                connections += busy(address, chance)
            status, _, err = process.result(PATIENCE)
        except AssertionError as error:
            pytest.fail(f"stop {index} of seed {seed}: {error}")
        finally:
            for connection in connections:
                connection.close()
            process.end()
        # Before it handles signals, the system or Python ends it.
        if not starting:
            assert status == 0, f"stop {index} of seed {seed}: {status}, {err}"
            assert "Stopped after" in err


def address_in(output: Path) -> tuple[str, int]:
    end = time.monotonic() + PATIENCE
    while not output.exists() or "\n" not in (text := output.read_text()):
        assert time.monotonic() < end, "it does not start"
        time.sleep(0.005)
    return parsed(text)


@pytest.mark.real_time
@pytest.mark.timeout(300)
@pytest.mark.quick("5")
@pytest.mark.parametrize("stops", [5, 50])
def test_it_ends_at_random_moments(tmp_path: Path, stops: int) -> None:
    stop_at_random_moments(tmp_path, stops, seed=time.time_ns())
