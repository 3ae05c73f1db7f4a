"""README and docs say what is true: commands, links, the example, the map."""

from __future__ import annotations

import ast
import builtins
import re
import tomllib
from pathlib import Path

import pytest

import cognigy_async
from cognigy_async import bulk, crm, spi, sync, temporal
from cognigy_async.integrations import aiohttp, fastapi

ROOT = Path(__file__).parents[2]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


README = ROOT / "README.md"
SYNC = [sync.StateClient, sync.UpdateHandle, sync.Outcomes]
NAMES = {*cognigy_async.__all__, *bulk.__all__, *crm.__all__, *aiohttp.__all__, *fastapi.__all__}
NAMES |= {*temporal.__all__}
NAMES |= {each.__name__ for each in SYNC}
ALSO = {
    "AliasChoices",
    "AliasPath",
    "CognigyJob",
    "BaseModel",
    "DataFrame",
    "FastAPI",
    "SecretBytes",
    "SecretStr",
    "TestClient",
    "TypedDict",
    "MySession",
}
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
        ".venv/bin/pip install -q '.[cli,emulator]'",
        ".venv/bin/cognigy-async demo",
    ]


def test_ci_runs_the_last_command_and_what_it_leaves_out() -> None:
    command = blocks("sh")[-1].strip()
    assert command.startswith("python3 -m venv .venv && ")
    after = text_of(README).partition(command)[2].partition("\n## ")[0]
    (rest,) = re.findall("`(.*? -t all)`", after)
    commands = [
        line for line in text_of(ROOT / ".ci" / "run").splitlines() if line.startswith((".", "py"))
    ]
    assert commands == [command, rest]


def test_the_readme_says_which_python_is_needed() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    least = project["requires-python"].removeprefix(">=")
    before = text_of(README).partition("```sh")[0]
    assert f"Python {least} or later" in before


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
