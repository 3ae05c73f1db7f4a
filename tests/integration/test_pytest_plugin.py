"""The pytest plugin, in runs of pytest of their own, with warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.integration.test_snippets import plugin_variables, snippets

ROOT = Path(__file__).parents[2]
PLUGIN = "_cognigy_async_pytest"
TEST_FILES = {
    each.title: each.text
    for each in snippets(ROOT / "docs" / "testing.md")
    if each.title.startswith("test_")
}


def run_pytest(folder: Path, test: str, *options: str) -> tuple[int, str]:
    """Run pytest on one file; return its exit status and its output."""
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-W", "error", *options],
        cwd=folder,
        env={
            **os.environ,
            **plugin_variables(),
            "PYTHONPATH": str(ROOT),
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def passed(output: str) -> int:
    found = re.search(r"^(\d+) passed in ", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1])


@pytest.mark.quick("test_checkout*")
@pytest.mark.parametrize(
    ("title", "count"),
    [
        ("test_checkout.py", 2),
        ("test_unknown_dialog.py", 3),
        ("test_faults.py", 1),
        ("test_throttled.py", 1),
        ("test_unknown_outcome.py", 3),
        ("test_somebody_else.py", 2),
        ("test_order.py", 50),
        ("test_without_waiting.py", 1),
    ],
)
def test_the_files_of_the_documentation_run_on_asyncio_and_on_trio(
    tmp_path: Path, title: str, count: int
) -> None:
    assert len(TEST_FILES) == 8
    _, output = run_pytest(tmp_path, TEST_FILES[title], "-p", "no:asyncio")
    assert passed(output) == count


def test_a_run_without_the_fixtures_imports_neither_the_package_nor_its_dependencies(
    tmp_path: Path,
) -> None:
    test = f"""
import sys

def test_modules():
    names = {{name.partition(".")[0] for name in sys.modules}}
    assert "{PLUGIN}" in names
    assert not names & {{"cognigy_async", "httpx", "pydantic", "tenacity"}}
"""
    _, output = run_pytest(tmp_path, test, "-p", "no:asyncio")
    assert passed(output) == 1


def test_the_plugin_leaves_the_other_tests_alone(tmp_path: Path) -> None:
    """Fixtures of the same names win; nothing is added to a test that does not ask for it."""
    test = """
import pytest

@pytest.fixture
def cognigy_client():
    return "mine"

def test_mine(cognigy_client, request):
    assert cognigy_client == "mine"
    assert [name for name in request.fixturenames if "cognigy" in name] == ["cognigy_client"]

def test_none(request):
    assert [name for name in request.fixturenames if "cognigy" in name] == []
"""
    _, output = run_pytest(
        tmp_path, test, "--strict-markers", "--strict-config", "-p", "no:asyncio"
    )
    assert passed(output) == 2


def test_failures_on_demand_and_tokens(tmp_path: Path) -> None:
    test = """
import dataclasses
import pytest
from cognigy_async import StateConflictError
from cognigy_async.emulator import Faults
from cognigy_async.sync import StateClient

def test_plain(cognigy_client, cognigy_emulator):
    assert isinstance(cognigy_client, StateClient)
    cognigy_emulator.script(*[503] * 3, "token_expiry", "drop_after", dialog_id="d-1")
    assert cognigy_client.update("d-1", session={"a": 1}).attempts > 4
    assert cognigy_emulator.stats.token_requests == 2
    assert not cognigy_emulator.stats.violations()

def test_another_emulator(cognigy_emulator):
    assert cognigy_emulator.dialogs == {}

def test_a_conflict_that_never_ends(cognigy_arguments, cognigy_emulator):
    cognigy_emulator.faults = Faults(conflict=1.0)
    retry = dataclasses.replace(cognigy_arguments["retry"], max_elapsed=0.2)
    with StateClient(**{**cognigy_arguments, "retry": retry}) as client:
        with pytest.raises(StateConflictError) as caught:
            client.update("d-1", session={"a": 1})
    assert 8 < caught.value.attempts < 30
"""
    _, output = run_pytest(tmp_path, test, "--durations=1", "-p", "no:asyncio")
    assert passed(output) == 3


def test_steps_that_no_request_takes_are_an_error(tmp_path: Path) -> None:
    test = """
import pytest
from cognigy_async.emulator import Emulator

@pytest.fixture
def cognigy_emulator():
    return Emulator(strict=True)  # one's own emulator is checked too

def test_left(cognigy_client, cognigy_emulator):
    cognigy_emulator.add_dialog("d-1")
    cognigy_emulator.script("ok", "drop_after", dialog_id="d-1", method="GET")
    cognigy_emulator.script(500, "token_failure")
    assert cognigy_client.get_state("d-1").version == 0

def test_forgotten(cognigy_client, cognigy_emulator):
    cognigy_emulator.script(503)
    cognigy_emulator.reset()
"""
    status, output = run_pytest(tmp_path, test, "-p", "no:asyncio")
    assert status == 1
    assert "2 passed, 1 error" in output
    assert "GET of dialog 'd-1': 'drop_after'" in output
    assert "PATCH of any dialog: 500\n" in output
    assert "token requests" not in output


def test_the_emulator_alone_is_checked_and_a_failure_is_not_hidden(tmp_path: Path) -> None:
    test = """
def test_left(cognigy_emulator):
    cognigy_emulator.script(503)

def test_failed(cognigy_client, cognigy_emulator):
    cognigy_emulator.script(502)
    assert False, "the cause"
"""
    status, output = run_pytest(tmp_path, test, "-p", "no:asyncio")
    assert status == 1
    assert "1 failed, 1 passed, 1 error" in output
    assert "PATCH of any dialog: 503\n" in output
    assert "PATCH of any dialog: 502" not in output


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed")
    test = """
import pytest
from cognigy_async import AsyncStateClient

async def write(client, emulator):
    assert isinstance(client, AsyncStateClient)
    await client.update("d-1", session={"a": 1})
    assert emulator.dialogs["d-1"].session == {"a": 1}

@pytest.mark.asyncio
async def test_function(cognigy_client, cognigy_emulator):
    await write(cognigy_client, cognigy_emulator)

@pytest.mark.asyncio(loop_scope="session")
async def test_session(cognigy_client, cognigy_emulator):
    await write(cognigy_client, cognigy_emulator)

@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    async def test_class(self, cognigy_client, cognigy_emulator):
        await write(cognigy_client, cognigy_emulator)

def test_plain(cognigy_client):
    assert cognigy_client.update("d-1", session={"a": 1}).version == 1
"""
    if mode == "auto":
        test += """
async def test_unmarked(cognigy_client, cognigy_emulator):
    await write(cognigy_client, cognigy_emulator)
"""
    else:
        # In the mode auto, pytest-asyncio takes the tests of anyio too.
        test += """
@pytest.mark.anyio
async def test_anyio(cognigy_client, cognigy_emulator):
    await write(cognigy_client, cognigy_emulator)
"""
    options = ("-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function")
    _, output = run_pytest(tmp_path, test, *options)
    assert passed(output) == (5 if mode == "auto" else 6)


def test_a_coroutine_without_a_mark_is_told_what_to_do(tmp_path: Path) -> None:
    test = "async def test_it(cognigy_client): pass"
    status, output = run_pytest(tmp_path, test, "-p", "no:asyncio")
    assert status == 1
    assert "Mark the test with pytest.mark.anyio" in output


def test_the_plugin_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"cognigy_async": PLUGIN}
