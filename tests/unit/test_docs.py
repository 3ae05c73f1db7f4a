"""The code blocks of the documentation run, page by page, against the emulator."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import httpx
import pytest

import cognigy_async
from cognigy_async import ApiKey, AsyncStateClient, HttpxTransport
from cognigy_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = {"start.md", "fastapi.md", "aiohttp.md", "sync.md", "testing.md", "observing.md"}
PROGRAMS |= {"auditing.md", "from-the-tutorial.md", "transports.md"}
"""Whole programs, which other tests run."""


def blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PAGES = [page for page in sorted(DOCS.glob("*.md")) if blocks(page) and page.name not in PROGRAMS]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    logger = logging.getLogger("cognigy_async")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def compiled(block: str, name: str) -> CodeType:
    code: CodeType = compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_blocks_run_in_their_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may use an open `client`, its `arguments` and `emulator`, and all public names."""
    monkeypatch.chdir(tmp_path)
    emulator = Emulator(api_key="k")

    def transport() -> HttpxTransport:
        return HttpxTransport(httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator)))

    arguments: dict[str, Any] = {"base_url": "http://localhost", "auth": ApiKey("k")}
    names = {name: getattr(cognigy_async, name) for name in cognigy_async.__all__}
    async with AsyncStateClient(**arguments, transport=transport()) as client:
        names |= {"client": client, "emulator": emulator, "__name__": page.stem}
        for number, block in enumerate(blocks(page), 1):
            names["arguments"] = {**arguments, "transport": transport()}
            outcome = eval(compiled(block, f"{page.name} block {number}"), names)
            if inspect.isawaitable(outcome):
                await outcome
    assert not emulator.stats.violations()


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_installing_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = (DOCS / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"cognigy-async\[([\w-]+)\]", told)) == set(
        project["optional-dependencies"]
    )
