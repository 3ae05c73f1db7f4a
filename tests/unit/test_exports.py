"""What `cognigy_async` exports, and what importing it costs in dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import cognigy_async

EXTRAS = (
    "aiohttp",
    "dotenv",
    "fastapi",
    "httptools",
    "httpx2",
    "opentelemetry",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
)
EDGES = ("bulk", "cli", "crm", "distributed", "emulator", "integrations", "sync", "testing")


def test_the_exported_names_are_sorted_and_exist() -> None:
    exported = cognigy_async.__all__
    assert list(exported) == sorted(set(exported))
    assert [name for name in exported if not hasattr(cognigy_async, name)] == []


def test_nothing_else_is_visible() -> None:
    for name in cognigy_async.__all__:
        getattr(cognigy_async, name)
    visible = {
        name
        for name, value in vars(cognigy_async).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert visible == set(cognigy_async.__all__)


def test_every_exported_name_has_a_home() -> None:
    assert list(cognigy_async._HOMES) == list(cognigy_async.__all__)


def test_type_checkers_see_the_same_homes() -> None:
    tree = ast.parse(Path(cognigy_async.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {name.name: node.module for node in imports for name in node.names}
    assert seen == cognigy_async._HOMES


def test_the_package_imports_without_any_extra() -> None:
    program = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
import cognigy_async
for name in cognigy_async.__all__:
    getattr(cognigy_async, name)
"""
    assert run_python(program) == ""


def test_the_package_imports_no_edge_and_no_more_than_its_dependencies_do() -> None:
    # httpx imports rich of its own accord where it is installed.
    edges = tuple(f"cognigy_async.{edge}" for edge in EDGES)
    program = f"""
import sys
import anyio, httpx, pydantic, tenacity
theirs = set(sys.modules)
import cognigy_async
ours = sys.modules.keys() - theirs
print(*sorted(ours & {{*{EXTRAS + edges}, "trio", "uvloop"}}))
"""
    assert run_python(program).strip() == ""


def test_the_version_is_that_of_the_distribution_and_is_read_only_when_asked_for() -> None:
    assert cognigy_async.__version__ == version("cognigy-async")
    assert "__version__" in dir(cognigy_async)
    program = """
import sys
import cognigy_async
assert "importlib.metadata" not in sys.modules
import importlib.metadata
def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = missing
print(cognigy_async.__version__)
"""
    assert run_python(program).strip() == "0+unknown"


def run_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
