"""What `cognigy_async` exports, and what importing it costs in dependencies."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import cognigy_async

EXTRAS = (
    "aiohttp",
    "fastapi",
    "httptools",
    "httpx2",
    "opentelemetry",
    "pydantic_settings",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
)
EDGES = ("bulk", "cli", "crm", "distributed", "emulator", "integrations", "settings")
INTERNAL = frozenset(
    {
        "_exchange",
        "_flight",
        "_oauth",
        "admission",
        "api.answers",
        "api.privacy",
        "advice",
        "audit.chain",
        "audit.channel",
        "audit.slots",
        "audit.trail",
        "background",
        "calls",
        "checks",
        "countdown",
        "course",
        "deadlines",
        "dispatcher",
        "engine",
        "entries",
        "groups",
        "hooks",
        "lane",
        "lanes",
        "learned",
        "ledger",
        "life",
        "linger",
        "merging",
        "limiters",
        "logs",
        "metadata",
        "names",
        "pacing",
        "quota",
        "recovery",
        "room",
        "rows",
        "sender",
        "settlement",
        "sharing",
        "sleepers",
        "surroundings",
        "transports._aiohttp_parts",
        "transports._aiohttp_session",
        "transports._aiohttp_wire",
        "transports._content",
        "transports._failures",
        "underway",
        "upkeep",
        "wakes",
        "window",
    }
)
"""Core modules all of whose names are for the other modules of the library."""
INTERNAL_NAMES = {
    "audit.records": {"Draft", "canonical", "draft_of", "record_of"},
    "credentials": {"TokenStatistics"},
    "callbacks": {"Delivery", "Hook", "HookOwner"},
    "metrics": {"Histogram"},
    "observing": {"Observations"},
}
"""Single names of that kind in modules that have public ones as well."""


def core_modules() -> list[ModuleType]:
    modules = pkgutil.walk_packages(cognigy_async.__path__, "cognigy_async.")
    names = [
        module.name for module in modules if module.name.split(".")[1] not in (*EDGES, "__main__")
    ]
    return [importlib.import_module(name) for name in names]


def short_name(module: ModuleType) -> str:
    return module.__name__.removeprefix("cognigy_async.")


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


@pytest.mark.parametrize("module", core_modules(), ids=short_name)
def test_every_public_name_of_a_core_module_is_exported_or_listed_as_internal(
    module: ModuleType,
) -> None:
    assert hasattr(module, "__all__"), "a core module says what is public"
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    internal = INTERNAL_NAMES.get(short_name(module), set())
    assert internal <= set(module.__all__)
    public = set() if short_name(module) in INTERNAL else set(module.__all__) - internal
    assert sorted(public - set(cognigy_async.__all__)) == []
    for name in public:
        assert getattr(cognigy_async, name) is getattr(module, name)


def test_every_exported_name_is_public_where_it_comes_from() -> None:
    public = {
        name
        for module in core_modules()
        if short_name(module) not in INTERNAL
        for name in set(module.__all__) - INTERNAL_NAMES.get(short_name(module), set())
    }
    assert set(cognigy_async.__all__) == public


def test_what_is_listed_as_internal_exists() -> None:
    assert INTERNAL | INTERNAL_NAMES.keys() <= {short_name(module) for module in core_modules()}


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


def run_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
