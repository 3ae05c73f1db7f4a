"""The messages that the page about troubleshooting quotes are those of the library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "…"
FORMATTED = re.compile(r"%[-.\d]*[srdgf]|\{[\w.:,!]*\}")
"""Places of values in a message that is formatted later."""
LEAST = 8
"""Characters that the longest fixed part of a quoted message has at least."""


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield each text of a module, with `VARIES` in the place of values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VARIES
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield FORMATTED.sub(VARIES, node.value)


SOURCE = "\n".join(
    text
    for path in (ROOT / "cognigy_async").rglob("*.py")
    for text in texts(ast.parse(path.read_text(encoding="utf-8")))
)


def quoted() -> list[str]:
    """Return the messages in the first column of the tables of the section "By message"."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## By message\n")[2]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def fixed_parts(message: str) -> list[str]:
    return [part.strip() for part in re.split(f"{VARIES}", message)]


def test_the_page_quotes_messages() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## By message\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(quoted()) == len(rows) > 50


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert max(map(len, fixed_parts(message))) >= LEAST
    for part in fixed_parts(message):
        assert part in SOURCE, part
