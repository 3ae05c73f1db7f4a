"""What must pass before a change goes in.

``nox`` checks style and types and runs the tests, on the Python that runs nox. ``nox -t all`` runs
the rest: thorough tests, the tests on the other Pythons there are, Temporal, browser, costs. CI
runs both.
One part: ``nox -s lint``, ``nox -s tests-3.12 -- -k order``. A list: ``nox -l``.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
# It comes with nox, and its pip is a new one, whichever Python it makes an environment for.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = sorted({"3.11", "3.12", "3.13", RUNNING}, key=lambda version: int(version[2:]))

os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
# Settings of whoever runs this must not reach the tests.
for name in [name for name in os.environ if name.startswith("COGNIGY_")]:
    del os.environ[name]
# Without bytecode, each of the hundreds of processes that tests start would compile everything.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


LOCKS = {
    "tools": ("--group", "tools"),
    "dev": (
        *("--all-extras", "--group", "bench", "--group", "dev"),
        *("--group", "docs", "--group", "package"),
    ),
    "floors": (
        *("--all-extras", "--group", "build", "--group", "test"),
        *("--resolution", "lowest-direct"),
    ),
}
"""Options of uv for the lock files, which hold the requirements of the package too."""


def install(session: nox.Session, lock: str = "dev", *, package: bool = True) -> None:
    """Install what a lock file names, by hash, and the package itself without anything more."""
    # Most of it is never imported, and compiling it takes as long as the rest.
    session.install("-q", "--no-compile", "--require-hashes", "-r", f".ci/{lock}.txt")
    if package:
        session.install("-q", "--no-deps", "--no-build-isolation", "-e", ".")


def candidates(version: str) -> Iterator[str]:
    """Where a Python of this version may be: here, on the path, or with pyenv."""
    yield sys.executable
    for command in (f"python{version}", "python3", "python"):
        if found := shutil.which(command):
            yield found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for directory in sorted(root.glob(f"versions/{version}.*"), reverse=True):
        yield str(directory / "bin" / "python")


@functools.cache
def version_of(python: str) -> str:
    """What it is when it is run: pyenv has commands for versions that are not switched on."""
    program = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [python, "-c", program], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def interpreter(version: str) -> str | None:
    return next((path for path in candidates(version) if version_of(path) == version), None)


# Many tests wait for sockets and processes, so that four keep two cores busy. Those of one file
# stay together; in the order of collection, those that take long are not the last.
# Without a limit, xdist waits for ever for the tests of a worker that died.
SPREAD = (
    *("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder"),
    *("--max-worker-restart", "0"),
)
# A test that waits for sockets, processes and the clock of the machine may fail once for a machine
# that stands still. Which did is in the summary; a second failure counts. See tests/conftest.py.
RERUNS = ("--reruns", "1")


def check_style(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--cache-dir", ".cache/import_linter")
    session.run("python", "-m", "tests.check_style")


def check_types(session: nox.Session, *beside: tuple[str, ...]) -> None:
    """Run mypy and pyright, and other commands beside them: each keeps one core busy."""
    packages = ("benchmarks", "cognigy_async", "examples", "tests/typing")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    commands = [("mypy", "_cognigy_async_pytest.py", *packages), ("pyright",), *beside]
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(session.run, *command, silent=True) for command in commands]
    for each in running:
        each.result()


def run_tests(session: nox.Session, marks: str) -> None:
    # The official JavaScript client, for tests/interop: not within the time of a test.
    session.run("python", "-m", "tests.interop.official")
    session.run("pytest", "-q", "-m", marks, *SPREAD, *RERUNS, *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Style, types and tests, on the Python that runs nox; in one environment, which saves time."""
    install(session)
    check_style(session)
    # Pytest compiles the tests, which otherwise each of its workers does for itself.
    check_types(session, ("pytest", "-q", "--collect-only"))
    run_tests(session, "not browser and not thorough and not temporal")


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Check style, layers, and the rules of tests/check_style.py."""
    install(session, "tools", package=False)
    check_style(session)


@nox.session(default=False)
def types(session: nox.Session) -> None:
    """mypy and pyright, on the package and on a program that uses it."""
    install(session)
    check_types(session)


@nox.session(default=False, tags=["all"])
def thorough(session: nox.Session) -> None:
    """The tests that `check` leaves out because they take long."""
    install(session)
    run_tests(session, "thorough and not browser and not temporal")


def add_tests(version: str) -> None:
    python = interpreter(version)
    tags = [] if version == RUNNING else ["all"]
    # What differs between versions differs most between the oldest and the newest.
    between = version not in (RUNNING, PYTHONS[0], PYTHONS[-1])

    @nox.session(name=f"tests-{version}", python=python or False, default=False, tags=tags)
    def tests(session: nox.Session) -> None:
        """All tests on one Python; without the thorough ones if it is neither first nor last."""
        if python is None:
            session.skip(f"no Python {version} that can make a venv was found")
        install(session)
        marks = "not browser and not temporal"
        run_tests(session, f"{marks} and not thorough" if between else marks)


for version in PYTHONS:
    add_tests(version)


@nox.session(default=False, tags=["all"])
def browser(session: nox.Session) -> None:
    """What reports look like in Chromium; skipped where there is none."""
    install(session)
    session.run("pytest", "-q", "-m", "browser", *session.posargs)


@nox.session(default=False, tags=["all"])
def temporal(session: nox.Session) -> None:
    """The tests on a development server of Temporal, one after another: it needs the machine."""
    install(session)
    session.run("pytest", "-q", "tests/integration", "-m", "temporal", *RERUNS, *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation as pages, into .cache/site; a dead link is an error."""
    install(session)
    # Material announces its successor in the log, which --strict would count.
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """Wheel and sdist, installed into empty environments with each extra alone.

    These environments get the newest dependencies, as those of users do.
    """
    install(session, package=False)
    session.run("pytest", "-q", "tests/packaging", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Jobs and outboxes that are killed two hundred times, and an hour of load.

    Arguments are those of pytest; ``--minutes`` is the length of the load of each transport.
    """
    install(session)
    session.run("pytest", "-q", "tests/soak", *session.posargs)


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Each transport over a network that breaks connections; ``--chaos-seed`` gives its faults."""
    install(session)
    session.run("pytest", "-q", "-s", "tests/chaos", *session.posargs)


@nox.session(default=False, tags=["all"])
def simulate(session: nox.Session) -> None:
    """Three thousand seeds of the simulation; ``-- --seeds 1000000`` goes on."""
    install(session)
    arguments = session.posargs or ("--seeds", "3000")
    session.run("python", "-m", "cognigy_async.testing", *arguments)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Faults in the client that the simulation must catch; ``--write docs/proof.md`` keeps them."""
    install(session)
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session(default=False, tags=["all"])
def cost(session: nox.Session) -> None:
    """CPU and memory of an update, relative to a calibration in the same run."""
    install(session, "tools")
    # So many that one dialog or update that is kept would show, in a few seconds.
    few = ("--memory", "300000")
    session.run("python", "benchmarks/overhead.py", "--check", *few, *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """All benchmarks, into docs/benchmarks and its page; takes about 40 minutes."""
    install(session)
    for name in ("tenant", "throughput", "in_flight", "latency", "dialogs"):
        session.run("python", f"benchmarks/{name}.py", "--json", f"docs/benchmarks/{name}.json")
    with Path(f"docs/benchmarks/overhead-{RUNNING}.json").open("w", encoding="utf-8") as file:
        session.run("python", "benchmarks/overhead.py", "--rate-limit", "--json", stdout=file)
    session.run("python", "benchmarks/plots.py", "docs/benchmarks")


@nox.session(default=False)
def floors(session: nox.Session) -> None:
    """The tests with the oldest dependencies that pyproject.toml admits."""
    install(session, "floors")
    session.run("pytest", "-q", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Adapt the lock files to pyproject.toml; with ``-- --upgrade``, to the newest versions."""
    session.install("-q", "uv")
    for name, options in LOCKS.items():
        session.run(
            *("uv", "pip", "compile", "-q", "pyproject.toml", *options),
            *("--universal", "--python-version", PYTHONS[0], "--generate-hashes", "--no-annotate"),
            *("--output-file", f".ci/{name}.txt", *session.posargs),
            env={"UV_CUSTOM_COMPILE_COMMAND": "nox -s lock"},
        )
    with session.chdir("tests/interop"):
        options = ("--package-lock-only", "--omit-lockfile-registry-resolved", "--ignore-scripts")
        session.run("npm", "install", "--silent", *options, external=True)
