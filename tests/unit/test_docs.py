"""The documentation has each page in its navigation and names each extra."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import cognigy_async

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_the_page_about_errors_says_for_each_what_the_next_run_does() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    section = page.partition("{ #next-run }")[2].partition("\n## ")[0]
    exported = {name: getattr(cognigy_async, name) for name in cognigy_async.__all__}
    errors = {
        name
        for name, each in exported.items()
        if isinstance(each, type) and issubclass(each, cognigy_async.CognigyError)
    }
    listed = set(re.findall(r"`(\w+Error)`", section))
    assert errors - listed == {"CognigyError", "UpdateError"}
    assert listed <= errors


def test_installing_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = (DOCS / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"cognigy-async\[([\w-]+)\]", told)) == set(
        project["optional-dependencies"]
    )
