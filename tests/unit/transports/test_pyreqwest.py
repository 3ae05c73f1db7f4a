"""`PyreqwestTransport` without a server: its arguments, and the end of the process.

Its event loops are tested with those of aiohttp.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from cognigy_async.errors import ConfigurationError
from cognigy_async.transports.pyreqwest import PyreqwestTransport


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proxy": "http://me:c4nary@[::1"}, "proxy: must be the URL of a proxy"),
        ({"ca_file": "/dev/null"}, "it has no certificate in PEM format"),
        ({"ca_file": "/no/such/file"}, "No such file"),
        ({"connect_timeout": 0}, "connect_timeout=0"),
    ],
)
def test_an_argument_of_pyreqwest_that_is_not_valid(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        PyreqwestTransport(**arguments)
    assert "c4nary" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="there is no SCHED_BATCH")
def test_only_the_thread_of_pyreqwest_works_in_batches() -> None:
    program = """
import asyncio, os
from cognigy_async import NotSentError, PyreqwestTransport, Request
async def send():
    transport = PyreqwestTransport()
    try:
        await transport.send(Request("GET", "http://127.0.0.1:1/", {}), timeout=5)
    except NotSentError:
        pass
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/comm") as name:
            print(name.read().strip()[:9], os.sched_getscheduler(int(thread)) == os.SCHED_BATCH)
    print(os.sched_getscheduler(0) == os.SCHED_OTHER)
asyncio.run(send())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    *threads, own = done.stdout.splitlines()
    assert own == "True"
    assert [line for line in threads if line.endswith("True")] == ["pyreqwest True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_gets_an_error_that_says_so() -> None:
    program = """
import asyncio, os, sys
from cognigy_async import NotSentError, PyreqwestTransport, Request
async def send():
    transport = PyreqwestTransport()
    try:
        await transport.send(Request("GET", "http://127.0.0.1:1/", {}), timeout=5)
    except NotSentError as error:
        print(error, flush=True)
asyncio.run(send())
if not os.fork():
    asyncio.run(send())
    os._exit(0)
os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.count("No connection to 127.0.0.1:1") == 1
    assert "before fork()" in done.stdout
