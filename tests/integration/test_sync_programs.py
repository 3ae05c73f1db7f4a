"""The programs of the page about the synchronous client do what it says, over sockets."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator, Faults, serve
from tests.integration.test_snippets import snippets

ROOT = Path(__file__).parents[2]
FILES = {each.title: each.text for each in snippets(ROOT / "docs" / "sync.md") if each.title}


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


def save(folder: Path, *titles: str) -> None:
    for title in titles:
        (folder / title).parent.mkdir(exist_ok=True)
        (folder / title).write_text(FILES[title], encoding="utf-8")


def run(folder: Path, variables: dict[str, str], *command: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def test_the_script(tmp_path: Path, emulator: Emulator, variables: dict[str, str]) -> None:
    save(tmp_path, "greet.py")
    output = run(tmp_path, variables, "-W", "error", "greet.py")
    assert output == "version 1\ntotal 149.99\napplied 101\n"
    assert len(emulator.dialogs) == 101
    assert emulator.stats.violations() == {}


def test_the_cron_job(tmp_path: Path, emulator: Emulator, variables: dict[str, str]) -> None:
    """Each exit status that the page names, and what is logged."""
    save(tmp_path, "totals.csv", "totals.py")

    assert run(tmp_path, variables, "totals.py").endswith(" INFO 2 applied, 0 failed, 0 not sent\n")
    assert {key: each.session for key, each in emulator.dialogs.items()} == {
        "d-8f3a": {"cart_total": 149.99},
        "d-77b1": {"cart_total": 20.0},
    }

    emulator.script(400, dialog_id="d-77b1")
    output = run(tmp_path, variables, "totals.py", status=1)
    assert " ERROR row 1: " in output
    assert output.endswith(" INFO 1 applied, 1 failed, 0 not sent\n")

    output = run(tmp_path, {**variables, "COGNIGY_BASE_URL": ""}, "totals.py", status=2)
    assert "COGNIGY_BASE_URL" in output


def save_many_rows(folder: Path, count: int) -> None:
    save(folder, "totals.py")
    lines = "".join(f"d-{number},{number}.5\n" for number in range(count))
    (folder / "totals.csv").write_text(f"dialog_id,cart_total\n{lines}", encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_cron_job_stops_at_a_signal(
    tmp_path: Path, emulator: Emulator, variables: dict[str, str], number: signal.Signals
) -> None:
    save_many_rows(tmp_path, 5000)
    emulator.faults = Faults(latency=0.2)
    with subprocess.Popen(
        [sys.executable, "totals.py"],
        cwd=tmp_path,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + 30
        while not emulator.dialogs:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    # The requests in flight ended, and each is counted.
    assert 0 < len(emulator.dialogs) < 5000
    applied = len(emulator.dialogs)
    assert output.endswith(f" INFO {applied} applied, 0 failed, {5000 - applied} not sent\n")


def test_the_cron_job_stops_at_refused_credentials(
    tmp_path: Path, emulator: Emulator, variables: dict[str, str]
) -> None:
    save_many_rows(tmp_path, 5000)
    output = run(tmp_path, {**variables, "COGNIGY_CLIENT_SECRET": "other"}, "totals.py", status=1)
    assert 1 <= output.count(" ERROR row ") < 1000
    assert output.endswith(" INFO 0 applied, 0 failed, 5000 not sent\n")
    assert emulator.stats.requests == 0


def test_rows_of_a_database(tmp_path: Path, emulator: Emulator, variables: dict[str, str]) -> None:
    """The next run takes what is open or unknown, and leaves rows that must be corrected."""
    save(tmp_path, "accounts.py")
    assert run(tmp_path, variables, "accounts.py") == ""
    with closing(sqlite3.connect(tmp_path / "accounts.db")) as database:

        def rows() -> list[tuple[str, str]]:
            return database.execute("SELECT status, error FROM accounts ORDER BY id").fetchall()

        insert = "INSERT INTO accounts (dialog_id, total) VALUES (?, ?)"
        database.executemany(insert, [("d-1", 1.5), ("d-2", 2.5), ("", 3.5), ("d-4", 4.5)])
        database.execute("UPDATE accounts SET status = 'unknown' WHERE dialog_id = 'd-4'")
        database.commit()
        emulator.script(403, dialog_id="d-2")
        run(tmp_path, variables, "accounts.py")
        assert [status for status, _ in rows()] == ["applied", "open", "failed", "applied"]
        assert rows()[1][1].startswith("PermissionDeniedError: ")
        run(tmp_path, variables, "accounts.py")
        assert [status for status, _ in rows()] == ["applied", "applied", "failed", "applied"]
    versions = {dialog_id: dialog.version for dialog_id, dialog in emulator.dialogs.items()}
    assert versions == {"d-1": 1, "d-2": 1, "d-4": 1}


def test_the_line_for_cron_starts_nothing_while_a_run_is_busy(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    line = FILES["crontab"].removeprefix("*/15 * * * * ")
    assert "cd /srv/totals" in line
    assert ".venv/bin/python" in line
    command = line.replace("/srv/totals", ".").replace(".venv/bin/python", sys.executable)
    save(tmp_path, "totals.csv", "totals.py")

    def cron() -> int:
        return subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=os.environ | variables, timeout=50, check=False
        ).returncode

    with (tmp_path / "totals.lock").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert cron() == 75
        assert (tmp_path / "totals.log").read_text() == ""
    assert cron() == 0
    assert " INFO 2 applied, 0 failed" in (tmp_path / "totals.log").read_text()


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
    _, open_cell, use_cell, close_cell = FILES["notebook.py"].split("# %%")
    cells = [f"#{open_cell}\nclient.is_open", f"#{use_cell}", f"#{close_cell}"]
    output = run(tmp_path, variables, "-W", "error", "-c", program, *cells)
    assert output.startswith("False\n1\n<CloseReport 1 applied, 0 failed")


def test_the_django_application(
    tmp_path: Path, emulator: Emulator, variables: dict[str, str]
) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    save(tmp_path, "shop/cognigy.py", "shop/views.py")
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
    save(tmp_path, "tasks.py")
    program = """
from celery.signals import worker_process_shutdown
import tasks
print(tasks.set_total.apply(args=("d-1", 10.5)).get())
worker_process_shutdown.send(None)
print(tasks.client.is_open)
"""
    assert run(tmp_path, variables, "-c", program) == "1\nFalse\n"
    assert emulator.dialogs["d-1"].session == {"cart_total": 10.5}
