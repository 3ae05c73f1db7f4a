"""What every other test relies on: the loops, the check for tasks left over, the time limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


CASES = """
import pytest


@pytest.mark.quick("a-*", "*-2")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_cases(letter, number):
    pass


@pytest.mark.quick({pattern!r})
@pytest.mark.parametrize("number", [1, 2])
def test_numbers(number):
    pass
"""


def collect(folder: Path, tests: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(
        "from tests.conftest import anyio_backend, pytest_collection_modifyitems"
    )
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text(
        f"[pytest]\nanyio_mode = auto\ntimeout = 2\npythonpath = {ROOT}\n"
        "markers =\n  quick: -\n  thorough: -\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.thorough
def test_cases_that_no_pattern_names_are_thorough(tmp_path: Path) -> None:
    quick = collect(tmp_path, CASES.format(pattern="1"), "-m", "not thorough").stdout
    assert re.findall(r"\[(.*)\]", quick) == ["a-1", "a-2", "b-2", "1"]
    thorough = collect(tmp_path, CASES.format(pattern="1"), "-m", "thorough").stdout
    assert re.findall(r"\[(.*)\]", thorough) == ["b-1", "2"]


@pytest.mark.thorough
def test_a_pattern_that_names_no_case_is_an_error(tmp_path: Path) -> None:
    refused = collect(tmp_path, CASES.format(pattern="3"))
    assert refused.returncode == 4
    assert "test_it.py::test_numbers: quick('3') matches no case" in refused.stderr
    # Without the other cases nobody can tell.
    assert (
        collect(tmp_path, CASES.format(pattern="3"), "test_it.py::test_numbers[1]").returncode == 0
    )


LOOPS = """
import pytest


async def test_alone():
    pass


@pytest.mark.parametrize("number", [1, 2])
async def test_numbers(number):
    pass
"""


@pytest.mark.thorough
def test_several_cases_run_quickly_on_one_event_loop_each(tmp_path: Path) -> None:
    quick = collect(tmp_path, LOOPS, "-m", "not thorough").stdout
    assert re.findall(r"\[(.*)\]", quick) == ["asyncio", "trio", "asyncio-2", "trio-1"]
    thorough = collect(tmp_path, LOOPS, "-m", "thorough").stdout
    assert re.findall(r"\[(.*)\]", thorough) == ["asyncio-1", "trio-2"]
