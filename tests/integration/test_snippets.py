"""Every snippet of the README and of the documentation runs exactly as pasted.

Each page has an empty folder with the ``.env`` of an emulator, and a shell. Its snippets run from
top to bottom:

- ``python``: a complete program. Saved under its title and run; by pytest if so named.
- ``sh``: pasted into the shell. Titled "exit status N", its last command ends so. Titled "in a
  terminal of its own", it is a server.
- any other language with a title: the content of a file of that name.

The ports 8000, 8321 and 8400 stand for free ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator, serve

from .ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SERVER = "in a terminal of its own"
STATUS = "exit status "
BLOCK_TIMEOUT = 60.0
"""Seconds that one snippet may take."""

NOT_HERE = {
    "pip": "needs a package index",
    "python3": "makes an environment, which needs a package index",
    "nox": "runs these tests",
    "psql": "needs a database",
    "duckdb": "needs files of Parquet",
    "aws": "needs an account",
    "temporal": "starts a cluster; see test_temporal_live.py",
}
"""First words of snippets that are left out, and the reasons."""

BUILTINS = {"cd", "export"}
"""Commands of the shell itself."""


@dataclass(frozen=True)
class Snippet:
    """One block of code of a page; `line` counts from 1."""

    line: int
    language: str
    title: str
    text: str

    @property
    def left_out(self) -> str:
        """Return the reason why this snippet cannot run here, or nothing."""
        if self.language != "sh":
            return ""
        commands = re.sub(r"\\\n", " ", self.text).splitlines()
        commands = [re.sub(r"^(\w+=\S+ +)+", "", command) for command in commands]
        words = re.findall(r"(?:^|[|;&(] *)([\w./-]+)", "\n".join(commands), re.MULTILINE)
        for word in words:
            name = word.rpartition("/")[2]
            if name in NOT_HERE:
                return f"{name} {NOT_HERE[name]}"
        first = words[0] if words else ""
        if first and first not in BUILTINS and not shutil.which(first, path=search_path()):
            return f"{first} is not installed"
        return ""


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(text.count("\n", 0, match.start()) + 1, match[1], match[2] or "", match[3])
        for match in FENCE.finditer(text)
    ]


def search_path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def plugin_variables() -> dict[str, str]:
    """Return what loads the plugin of pytest: an editable install may be older than the plugin."""
    plugin = "_cognigy_async_pytest"
    installed = plugin in {each.value for each in entry_points(group="pytest11")}
    return {} if installed else {"PYTEST_PLUGINS": plugin}


class Shell:
    """A shell in `folder`, into which the snippets of one page are pasted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: str(free_port()) for port in ("8000", "8321", "8400")}
        (folder / ".snippets").mkdir()
        self._count = 0
        reading, writing = os.pipe()
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith("COGNIGY_")
        }
        with (folder / ".snippets" / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=folder,
                env={
                    **variables,
                    **plugin_variables(),
                    "PATH": search_path(),
                    "TERM": "dumb",
                    "STATUS_FD": str(writing),
                },
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
            )
        os.close(writing)
        self._statuses = os.fdopen(reading, "rb")
        os.set_blocking(reading, False)

    def output(self) -> str:
        return (self.folder / ".snippets" / "output").read_text("utf-8", "replace")

    def run(self, script: str) -> int:
        """Paste a script and wait for it; return the first exit status that is not 0, or 0."""
        self._count += 1
        name = f".snippets/{self._count}.sh"
        (self.folder / name).write_text(script, encoding="utf-8")
        assert self._process.stdin is not None
        line = f"failed=0; trap 'failed=$?' ERR; . {name}; trap - ERR; echo $failed >&$STATUS_FD\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        limit = time.monotonic() + BLOCK_TIMEOUT
        while not (told := self._statuses.readline()):
            assert self._process.poll() is None, "the shell ended"
            assert time.monotonic() < limit, f"longer than {BLOCK_TIMEOUT:g} s"
            time.sleep(0.02)
        return int(told)

    def serve(self, script: str) -> None:
        """Run a server in the background until it listens on the last port of its command."""
        port = max(self.ports.values(), key=script.rfind)
        assert port in script
        assert self.run(f"{{ {script.strip()}\n}} &\n") == 0
        limit = time.monotonic() + BLOCK_TIMEOUT
        while True:
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", int(port))) == 0:
                    return
            assert time.monotonic() < limit, "the server does not listen"
            time.sleep(0.05)

    def close(self) -> None:
        """End the shell and all that it started, which is one group of processes."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._statuses.close()


def paste(shell: Shell, snippet: Snippet, number: int) -> None:
    text = snippet.text
    if snippet.language == "sh":
        for port, free in shell.ports.items():
            text = re.sub(rf"\b{port}\b", free, text)
        if snippet.title == SERVER:
            shell.serve(text)
            return
        expected = int(snippet.title.removeprefix(STATUS)) if STATUS in snippet.title else 0
        assert shell.run(text) == expected
        return
    if snippet.language != "python" and not snippet.title:
        return  # what something printed
    path = shell.folder / (snippet.title or f"snippet_{number}.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if snippet.language == "python":
        name = path.relative_to(shell.folder)
        if name.name.startswith("test_"):
            options = "-q -W error -p no:cacheprovider -p no:asyncio"
            assert shell.run(f"python -m pytest {options} {name}\n") == 0
        elif name.name != "conftest.py":
            program = str(name.with_suffix("")).replace(os.sep, ".")
            assert shell.run(f"python -W error -m {program} 2> .snippets/errors\n") == 0
            assert (shell.folder / ".snippets" / "errors").read_text(encoding="utf-8") == ""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    emulator = Emulator()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
    ):
        settings = tmp_path / ".env"
        settings.write_text(
            f"COGNIGY_BASE_URL={base_url}\n"
            "COGNIGY_CLIENT_ID=emulator-client\n"
            "COGNIGY_CLIENT_SECRET=emulator-secret\n",
            encoding="utf-8",
        )
        shell = Shell(tmp_path)
        try:
            yield shell
        finally:
            shell.close()
        assert emulator.stats.violations() == {}


@pytest.mark.quick("README.md", "fastapi.md", "aiohttp.md", "errors.md")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name
)
def test_the_snippets_of_a_page(page: Path, shell: Shell) -> None:
    for number, snippet in enumerate(snippets(page), 1):
        if reason := snippet.left_out:
            print(f"{page.name}:{snippet.line}: left out: {reason}")
            continue
        try:
            paste(shell, snippet, number)
        except AssertionError as error:
            errors = shell.folder / ".snippets" / "errors"
            told = errors.read_text(encoding="utf-8") if errors.exists() else ""
            where = f"{page.name}:{snippet.line}: {error}\n{snippet.text}\n"
            raise AssertionError(where + shell.output()[-2000:] + told) from error
