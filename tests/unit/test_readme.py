"""README and docs say what is true: commands, links, the example, the map."""

from __future__ import annotations

import ast
import builtins
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

import cognigy_async
from cognigy_async import spi, sync
from cognigy_async.emulator import Emulator, serve
from cognigy_async.integrations import aiohttp, fastapi

ROOT = Path(__file__).parents[2]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


README = ROOT / "README.md"
SYNC = [sync.StateClient, sync.UpdateHandle, sync.Outcomes]
NAMES = {*cognigy_async.__all__, *aiohttp.__all__, *fastapi.__all__}
NAMES |= {each.__name__ for each in SYNC}
ALSO = {"BaseModel", "DataFrame", "FastAPI", "TestClient", "TypedDict"}
"""Names of other libraries that pages may use."""
PARTS = {
    class_.name
    for path in (ROOT / "cognigy_async").glob("*/*.py")
    for class_ in ast.walk(ast.parse(text_of(path)))
    if isinstance(class_, ast.ClassDef)
}
"""Parts that the page about the design and the changelog may name."""
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def blocks(language: str, page: Path = README) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    found: list[str] = re.findall(pattern, text_of(page), re.MULTILINE | re.DOTALL)
    return found


def test_the_first_command_runs_the_demo_in_an_environment_of_its_own() -> None:
    steps = blocks("sh")[0].strip().split(" && ")
    assert steps == [
        "python3 -m venv .venv",
        ".venv/bin/pip install -q '.[all]'",
        ".venv/bin/cognigy-async demo",
    ]


def test_the_second_command_is_the_one_that_ci_runs() -> None:
    command = blocks("sh")[1].strip()
    assert command in text_of(ROOT / ".ci" / "run").splitlines()
    assert command.startswith("python3 -m venv .venv && ")


def test_the_readme_says_which_python_is_needed() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    least = project["requires-python"].removeprefix(">=")
    before = text_of(README).partition("```sh")[0]
    assert f"Python {least} or later" in before


@pytest.fixture
def emulator() -> Iterator[tuple[Emulator, str]]:
    emulator = Emulator()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
    ):
        yield emulator, base_url


def test_the_example_runs_as_it_is(tmp_path: Path, emulator: tuple[Emulator, str]) -> None:
    server, base_url = emulator
    (program,) = blocks("python")
    (tmp_path / "example.py").write_text(program)
    variables = {
        "COGNIGY_BASE_URL": base_url,
        "COGNIGY_CLIENT_ID": "emulator-client",
        "COGNIGY_CLIENT_SECRET": "emulator-secret",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "version 1 after 1 requests" in done.stdout
    assert "visits 1" in done.stdout
    assert "applied 102" in done.stdout
    assert done.stdout.count("to the CRM: ") == 102
    dialog = server.dialogs["d-8f3a"]
    assert dialog.session == {"cart_total": 149.99, "visits": 1}
    assert (dialog.user, dialog.next_step) == ({"lifetime_orders": 12}, "process_checkout")
    assert len(server.dialogs) == 101
    assert server.stats.violations() == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page)):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_library_exist(page: Path) -> None:
    for name in re.findall(r"`([A-Z][a-z]+[A-Z]\w+)[`(]", text_of(page)):
        internal = PARTS.union(spi.__all__) if page.name in ("design.md", "CHANGELOG.md") else set()
        assert name in {*NAMES, *ALSO, *internal, *vars(builtins)}, name
