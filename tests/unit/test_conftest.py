"""What every other test relies on: the loops, the check for tasks left over, the time limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.conftest import (
    _no_task_is_left, _tasks_are_gone, anyio_backend, pytest_pyfunc_call,
)
"""

TESTS = """
import asyncio

import anyio
import sniffio

kept = []


async def test_fine():
    await anyio.sleep(3600)


async def test_leaves_a_task():
    if sniffio.current_async_library() == "trio":
        import trio
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
    else:
        kept.append(asyncio.ensure_future(anyio.sleep_forever()))


async def test_hangs():
    await anyio.Event().wait()


async def test_goes_on():
    pass
"""


def test_each_coroutine_runs_on_both_loops_and_is_watched(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nanyio_mode = auto\ntimeout = 2\ntimeout_method = thread\npythonpath = "
        + str(ROOT)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    told = dict(re.findall(r"^test_it.py::(test_\w+\[\w+\]) (.*?) +\[", done.stdout, re.MULTILINE))
    for backend in ("asyncio", "trio"):
        assert told[f"test_fine[{backend}]"] == "PASSED", done.stdout
        assert told[f"test_hangs[{backend}]"] == "FAILED"
        assert told[f"test_goes_on[{backend}]"] == "PASSED"
        assert re.search(rf"ERROR at teardown of test_leaves_a_task\[{backend}\]", done.stdout)
    # The summary at the end repeats the message, where it is not shortened.
    hung = re.findall(r"^E +Failed: still running after 1 real seconds", done.stdout, re.MULTILINE)
    assert len(hung) == 2, done.stdout
    assert "test_hangs line" in done.stdout, "it is told where it hangs"
    assert "2 failed, 6 passed, 2 errors" in done.stdout
