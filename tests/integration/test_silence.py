"""A program that does not configure logging: what it sees when it ends, and how to silence it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CANARY = "canary-4711"

PROGRAM = f"""
import asyncio, gc, logging, os, sys
from cognigy_async import ApiKey, AsyncStateClient, Response

class Transport:
    answer = None

    async def send(self, request, *, timeout):
        if self.answer is None:
            await asyncio.sleep(3600)
        return Response(self.answer, {{}}, b"{{}}")

    async def aclose(self):
        pass

transport, url = Transport(), "http://127.0.0.1"
client = AsyncStateClient(url, auth=ApiKey("k"), transport=transport, max_in_flight=2)

async def submit(count):
    for number in range(count):
        await client.submit({{"dialog_id": f"d-{{number}}", "session": {{"a": "{CANARY}"}}}})
    await asyncio.sleep(0.05)

async def left_open(count):
    await client.__aenter__()
    await submit(count)
"""

NOT_CLOSED = "the client of http://127.0.0.1 was not closed"
UNSENT = "accepted updates that were not sent: 7 (dialogs 'd-2', 'd-3', 'd-4', 'd-5', 'd-6', ...)"
USE = "Use `async with` or `await client.aclose()`; of a StateClient `with` or `close()`"


def stderr_of(program: str, *options: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stderr
    return done.stderr.splitlines()


def not_closed(lines: list[str]) -> list[str]:
    return [line for line in lines if NOT_CLOSED in line]


LEFT_OPEN = {
    # The loop cancels the tasks of the client, which logs each update that it gives up.
    "run": ("asyncio.run(left_open(9))", f"{NOT_CLOSED}; {UNSENT}. {USE}"),
    # The loop just stops.
    "loop": (
        "loop = asyncio.new_event_loop(); loop.run_until_complete(left_open(9))",
        f"{NOT_CLOSED}; {UNSENT}; updates without an outcome: 2. {USE}",
    ),
    "answered": (
        "transport.answer = 200; asyncio.run(left_open(9))",
        None,
    ),
}


@pytest.mark.quick("run", "answered")
@pytest.mark.parametrize("way", LEFT_OPEN)
def test_a_process_that_ends_with_an_open_client_says_what_was_not_sent(way: str) -> None:
    program, line = LEFT_OPEN[way]
    seen = not_closed(stderr_of(program))
    assert seen == ([line] if line is not None else [])
    warned = not_closed(stderr_of(program, "-W", "default"))
    [warning] = [each for each in warned if "ResourceWarning" in each]
    expected = line if line is not None else f"{NOT_CLOSED}. {USE}"
    assert warning.endswith(f"ResourceWarning: {expected}")
    assert [each for each in warned if each is not warning] == seen


def test_all_lines_about_an_open_client_at_the_end_tell_the_same() -> None:
    program = """
async def main():
    client.on_update_failed(hang)
    await left_open(9)

async def hang(event):
    await asyncio.sleep(60)

asyncio.run(main())
"""
    stopped = "the client stopped without being closed"
    lines = stderr_of(program)
    unsent = [line for line in lines if line.startswith("update ") and "was not sent" in line]
    undelivered = [line for line in lines if line.startswith("event of update ")]
    assert (len(unsent), len(undelivered)) == (7, 2)
    for line in unsent:
        assert line.endswith(f"was not sent: {stopped}")
    for line in undelivered:
        assert line.endswith(
            "the client stopped without being closed before the event was delivered"
        )
    assert not any("was closed" in line for line in lines)
    assert not_closed(lines) == [f"{NOT_CLOSED}; {UNSENT}. {USE}"]


def test_a_client_that_is_collected_says_so_before_the_process_ends() -> None:
    lines = stderr_of(
        "asyncio.run(left_open(9)); del client; gc.collect(); print('END', file=sys.stderr)"
    )
    assert [line for line in lines if NOT_CLOSED in line or line == "END"] == [
        f"{NOT_CLOSED}; {UNSENT}. {USE}",
        "END",
    ]


@pytest.mark.parametrize(
    "program",
    [
        "async def main():\n    async with client: pass\nasyncio.run(main())",
        "async def main():\n    await left_open(0); await client.aclose()\nasyncio.run(main())",
        "asyncio.run(client.aclose())",
        "pass",
    ],
    ids=["with", "aclose", "never opened", "never used"],
)
def test_a_process_that_ends_with_a_closed_client_says_nothing(program: str) -> None:
    assert stderr_of(program, "-W", "default") == []


FORK = """
loop = asyncio.new_event_loop()
loop.run_until_complete(left_open(9))
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    transport.answer = 200
    loop.run_until_complete(client.aclose(drain=False, timeout=0.1))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_says_nothing_of_the_client_of_its_parent() -> None:
    assert not_closed(stderr_of(FORK)) == []


def test_a_failure_is_seen_without_any_configuration() -> None:
    failing = "transport.answer = 400\nasync def main():\n    async with client: await submit(1)\n"
    lines = stderr_of(failing + "asyncio.run(main())")
    (line,) = lines
    assert "of dialog 'd-0' failed, and nobody awaited its handle: BadRequestError" in line


def test_a_failure_that_its_caller_gets_is_not_told_twice() -> None:
    program = """
transport.answer = 400
async def main():
    async with client:
        with suppress(CognigyError):
            await client.update("d-1", session={"n": 1})
        async for outcome in client.update_many([{"dialog_id": "d-2", "session": {"n": 1}}]):
            assert outcome.error is not None
"""
    imports = "from contextlib import suppress\nfrom cognigy_async import CognigyError\n"
    assert stderr_of(imports + program + "asyncio.run(main())") == []


def test_one_line_silences_the_library() -> None:
    silenced = 'logging.getLogger("cognigy_async").setLevel(logging.CRITICAL)\n'
    assert stderr_of(silenced + "asyncio.run(left_open(9))") == []


def test_a_command_that_reports_failures_itself_writes_no_log_beside_them() -> None:
    program = """
from cognigy_async.cli._run import report_errors
transport.answer = 400
async def main():
    async with client: await submit(1)
with report_errors(debug=False, log=False):
    asyncio.run(main())
"""
    assert stderr_of(program) == []
