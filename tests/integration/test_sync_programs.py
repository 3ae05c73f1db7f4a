"""The programs of the page about the synchronous client run as pasted, over sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator, serve
from tests.unit.test_readme import blocks

ROOT = Path(__file__).parents[2]
SCRIPT, OPEN_CELL, CLOSE_CELL, DJANGO_CLIENT, DJANGO_VIEWS, CELERY_TASKS = blocks(
    "python", ROOT / "docs" / "sync.md"
)


@pytest.fixture
def emulator() -> Emulator:
    return Emulator()


@pytest.fixture
def variables(emulator: Emulator) -> Iterator[dict[str, str]]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
    ):
        yield {
            "COGNIGY_BASE_URL": base_url,
            "COGNIGY_CLIENT_ID": "emulator-client",
            "COGNIGY_CLIENT_SECRET": "emulator-secret",
            "PYTHONPATH": str(ROOT),
        }


def run(folder: Path, variables: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_script(tmp_path: Path, emulator: Emulator, variables: dict[str, str]) -> None:
    (tmp_path / "greet.py").write_text(SCRIPT, encoding="utf-8")
    output = run(tmp_path, variables, "-W", "error", "greet.py")
    assert output == "version 1\ntotal 149.99\napplied 101\n"
    assert len(emulator.dialogs) == 100
    assert emulator.stats.violations() == {}


def test_the_cells_of_a_notebook(tmp_path: Path, variables: dict[str, str]) -> None:
    """Cells run in the thread of an event loop that is running."""
    program = """
import ast, asyncio, sys

async def kernel(*cells):
    names = {}
    for cell in cells:
        tree = ast.parse(cell)
        last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, "cell", "exec"), names)
        print(eval(compile(last, "cell", "eval"), names))

asyncio.run(kernel(*sys.argv[1:]))
"""
    output = run(tmp_path, variables, "-W", "error", "-c", program, OPEN_CELL, CLOSE_CELL)
    assert output.startswith("1\n<CloseReport 1 applied, 0 failed")


def test_the_django_application(
    tmp_path: Path, emulator: Emulator, variables: dict[str, str]
) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cognigy.py").write_text(DJANGO_CLIENT, encoding="utf-8")
    (tmp_path / "shop" / "views.py").write_text(DJANGO_VIEWS, encoding="utf-8")
    program = """
import os
import django
from django.conf import settings
from django.test import RequestFactory
settings.configure(ALLOWED_HOSTS=["*"], DATABASES={})
django.setup()
from shop.views import set_total

def visit(dialog_id, total):
    response = set_total(RequestFactory().get("/", {"total": total}), dialog_id)
    print(response.status_code, sorted(__import__("json").loads(response.content)), flush=True)

# As workers of a server that loads the application before it forks.
for worker in range(2):
    if (pid := os.fork()) == 0:
        visit("d-1", 10.5 + worker)
        raise SystemExit
    os.waitpid(pid, 0)
visit("", 1)
"""
    output = run(tmp_path, variables, "-c", program)
    assert output == "200 ['update_id']\n200 ['update_id']\n502 ['error']\n"
    assert emulator.dialogs["d-1"].session == {"cart_total": 11.5}


def test_the_celery_task(tmp_path: Path, emulator: Emulator, variables: dict[str, str]) -> None:
    pytest.importorskip("celery", reason="Celery is not installed")
    (tmp_path / "tasks.py").write_text(CELERY_TASKS, encoding="utf-8")
    program = """
from celery.signals import worker_process_shutdown
import tasks
print(tasks.set_total.apply(args=("d-1", 10.5)).get())
worker_process_shutdown.send(None)
print(tasks.client.is_open)
"""
    assert run(tmp_path, variables, "-c", program) == "1\nFalse\n"
    assert emulator.dialogs["d-1"].session == {"cart_total": 10.5}
