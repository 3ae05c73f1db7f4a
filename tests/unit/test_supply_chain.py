"""CI runs and installs only what is named by a hash."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
LOCKS = sorted((ROOT / ".ci").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PROJECT["dependency-groups"]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_named_by_its_commit(workflow: Path) -> None:
    actions = re.findall(r"uses:\s*(.+)", workflow.read_text(encoding="utf-8"))
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_keeps_no_credentials(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert re.findall(r"^( *)permissions:\n((?:\1 +.+\n)+)", text, re.MULTILINE) == [
        ("", "  contents: read\n")
    ]
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")


@pytest.mark.parametrize("workflow", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_ci_installs_by_hash(workflow: Path) -> None:
    installs = re.findall(r"pip install.*", workflow.read_text(encoding="utf-8"))
    assert all("--require-hashes -r .ci/" in line for line in installs)


def required(lock: Path) -> Iterator[Requirement]:
    """Yield the requirements of pyproject.toml that a lock file has to meet."""
    groups = {
        "tools": ["tools"],
        "dev": ["bench", "dev", "docs", "package"],
        "floors": ["build", "test"],
    }[lock.stem]
    project = PROJECT["project"]
    texts = list(project["dependencies"])
    if lock.stem != "tools":
        for extra, requirements in project["optional-dependencies"].items():
            texts += requirements if extra != "all" else ()
    while groups:
        for member in GROUPS[groups.pop()]:
            if isinstance(member, str):
                texts.append(member)
            else:
                groups.append(member["include-group"])
    yield from map(Requirement, texts)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_has_versions_with_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.rstrip("\n"))
    lines = [entry for entry in entries if not entry.startswith("#")]
    assert len(lines) > 20
    for line in lines:
        first, *hashes = line.split(" \\\n    ")
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", first), first
        assert hashes, first
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), first
    assert "://" not in text


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_meets_the_requirements(lock: Path) -> None:
    pins: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE
    ):
        pins.setdefault(name, []).append(version)
    requirements = list(required(lock))
    assert len(requirements) > 5
    for requirement in requirements:
        versions = pins.get(normalized(requirement.name), [])
        assert versions, f"{lock.name} lacks {requirement}; run nox -s lock"
        for version in versions:
            met = requirement.specifier.contains(version, prereleases=True)
            assert met, f"{lock.name} has {version} for {requirement}; run nox -s lock"


def test_there_are_lock_files_and_workflows() -> None:
    assert names(LOCKS) == ["dev.txt", "floors.txt", "tools.txt"]
    assert names(WORKFLOWS) == ["ci.yml"]


def test_the_javascript_client_is_locked_as_well() -> None:
    folder = ROOT / "tests" / "interop"
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert lock.pop("")["dependencies"] == wanted
    assert len(lock) > 10
    for name, package in lock.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
