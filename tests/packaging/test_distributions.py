"""The wheel and the sdist, installed into empty environments as a stranger would.

Run by `nox -s package`; it installs packages, so it is none of the default tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

NEEDS: Mapping[str, tuple[str, ...]] = {
    "": ("cognigy_async", "cognigy_async.emulator", "cognigy_async.sync"),
    "cli": ("cognigy_async.cli.app", "cognigy_async.integrations.settings"),
    "emulator": ("cognigy_async.emulator.server.sockets",),
    "aiohttp": ("cognigy_async.transports.aiohttp",),
    "pyreqwest": ("cognigy_async.transports.pyreqwest", "pyreqwest.client"),
    "aiohttp-web": ("cognigy_async.integrations.aiohttp",),
    "fastapi": ("cognigy_async.integrations.fastapi",),
    "otel": ("cognigy_async.integrations.opentelemetry",),
    "excel": ("cognigy_async.bulk", "python_calamine"),
    "parquet": ("cognigy_async.bulk", "pyarrow.parquet"),
    "report": ("cognigy_async.bulk.report", "cognigy_async.bulk.report.charts"),
    "uvloop": ("uvloop",),
    "zstd": (
        "cognigy_async.bulk",
        "zstandard" if sys.version_info < (3, 14) else "compression.zstd",
    ),
    "all": ("cognigy_async.cli.app",),
}
"""What each extra alone is for; "" is none of them."""

EVERY_NAME = "[getattr(cognigy_async, name) for name in cognigy_async.__all__]"


pytestmark = [pytest.mark.real_time, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    # With the build backend of the lock file.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT)
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of an empty virtual environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    return tmp_path / "venv" / "bin" / "python"


def install(python: Path, built: Path, extra: str) -> None:
    (wheel,) = built.glob("*.whl")
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", what)


def test_metadata_is_valid(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "cognigy_async/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "_cognigy_async_pytest.py",
        "cognigy_async",
        f"cognigy_async-{PROJECT['version']}.dist-info",
    }
    assert not [name for name in names if name.endswith((".pyc", ".svg"))]


def test_the_sdist_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "noxfile.py", "pyproject.toml", "tests/conftest.py"} <= names
    assert not [
        name for name in names if re.search(r"(^|/)(\.venv|\.nox|\.cache|__pycache__)/", name)
    ]


def test_each_extra_is_known() -> None:
    assert NEEDS.keys() - {""} == PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("extra", NEEDS, ids=lambda extra: extra or "none")
def test_an_extra_alone(environment: Path, built: Path, tmp_path: Path, extra: str) -> None:
    install(environment, built, extra)
    run(environment, "-m", "pip", "check")
    imports = "; ".join(f"import {module}" for module in NEEDS[extra])
    run(
        environment,
        "-W",
        "error",
        "-c",
        f"import cognigy_async; {imports}; {EVERY_NAME}",
        cwd=tmp_path,
    )
    if extra in ("cli", "all"):
        told = run(environment, "-m", "cognigy_async", "--version", cwd=tmp_path)
        assert told == f"cognigy-async {PROJECT['version']}\n"
        shown = run(
            environment.with_name("cognigy-async"),
            "--show-completion",
            "bash",
            cwd=tmp_path,
            _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
        )
        assert "complete" in shown


def test_types_are_seen_from_the_installed_wheel(
    environment: Path, built: Path, tmp_path: Path
) -> None:
    install(environment, built, "all")
    (tmp_path / "program.py").write_text(
        "from cognigy_async import AsyncStateClient, ApiKey\n"
        "reveal_type(AsyncStateClient('http://localhost', auth=ApiKey('k')).metrics.applied)\n",
        encoding="utf-8",
    )
    mypy = run(
        *(sys.executable, "-m", "mypy", "--strict", "--python-executable", environment),
        "program.py",
        cwd=tmp_path,
    )
    assert 'Revealed type is "int"' in mypy
    pyright = run(
        *(sys.executable, "-m", "pyright", "--pythonpath", environment, "program.py"),
        cwd=tmp_path,
        PYRIGHT_PYTHON_IGNORE_WARNINGS="1",
    )
    assert 'is "int"' in pyright


def test_pytest_finds_the_plugin_of_the_wheel(
    environment: Path, built: Path, tmp_path: Path
) -> None:
    install(environment, built, "")
    run(environment, "-m", "pip", "install", "-q", "--disable-pip-version-check", "pytest")
    first, *_ = scripts(ROOT / "docs" / "testing.md", "python")
    (tmp_path / "test_checkout.py").write_text(first, encoding="utf-8")
    output = run(environment, "-W", "error", "-m", "pytest", "-W", "error", cwd=tmp_path)
    assert "cognigy-async-" in output
    # trio is not installed.
    assert "1 passed" in output


def scripts(page: Path, language: str) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    yield from re.findall(
        rf"^```{language}(?: title=[^\n]*)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )


def test_start_in_five_minutes_to_the_letter(built: Path, tmp_path: Path) -> None:
    """In an empty folder; the package comes from here, since it is this version that is tested."""
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    script = "set -eu\ntrap 'kill $(jobs -p)' EXIT\n"
    for language, title, block in re.findall(
        r'^```(python|sh)(?: title="([^"]*)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL
    ):
        if language == "python":
            (tmp_path / title).write_text(block, encoding="utf-8")
        elif title == "in a terminal of its own":
            script += f"{block.rstrip()} > emulator.log &\n"
            # The emulator needs a moment where a person would read on.
            script += "until grep -q listening emulator.log; do sleep 0.1; done\n"
        else:
            script += block
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COGNIGY_")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**kept, "PIP_FIND_LINKS": str(built), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 2" in done.stdout
    assert done.stdout.count("applied: ") == 6
    assert done.stdout.count(" ok\n") == 5
    assert "Every promise was kept." in done.stdout
