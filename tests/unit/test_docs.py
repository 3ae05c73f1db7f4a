"""The documentation has each page in its navigation and names each extra."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_installing_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = (DOCS / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"cognigy-async\[([\w-]+)\]", told)) == set(
        project["optional-dependencies"]
    )
