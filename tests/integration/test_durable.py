"""The service of the documentation whose 202 lasts, killed while orders are open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from cognigy_async.emulator import Faults

from .services import ROOT, STARTUP, UVICORN, Kind, running, wait_for, world
from .test_snippets import snippets

WAIT = "move_on_after(3.0)"
PATH = '"orders.db"'


def saved(folder: Path) -> Path:
    """Save the programs of the page, and return the path of their database."""
    database = folder / "orders.db"
    programs = {each.title: each.text for each in snippets(ROOT / "docs" / "fastapi.md")}
    durable = programs["durable.py"]
    assert durable.count(WAIT) == durable.count(PATH) == 1
    durable = durable.replace(WAIT, "move_on_after(0.5)").replace(PATH, repr(str(database)))
    (folder / "app.py").write_text(programs["app.py"], encoding="utf-8")
    (folder / "durable.py").write_text(durable, encoding="utf-8")
    return database


def open_orders(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as db:
        return [key for (key,) in db.execute("SELECT key FROM orders WHERE open ORDER BY number")]


def put(base_url: str, key: str, total: int, dialog: str = "d-1") -> int:
    headers = {"Idempotency-Key": key}
    url = f"{base_url}/orders/{dialog}"
    answer = httpx.put(url, json={"total": total}, headers=headers, timeout=20, trust_env=False)
    return answer.status_code


def test_orders_outlive_a_killed_service_and_only_the_newest_is_sent_again(tmp_path: Path) -> None:
    database = saved(tmp_path)
    arguments = [*UVICORN, "--port", "{port}", "--app-dir", str(tmp_path), "durable:app"]
    kind = Kind("durable", arguments, STARTUP)
    with world() as surroundings:
        emulator = surroundings.emulator
        with running(kind, surroundings, tmp_path) as service:
            assert put(service.base_url, "k-0", 0) == 200
            wait_for(lambda: open_orders(database) == [])
            emulator.faults = Faults(error_503=1.0)
            assert put(service.base_url, "k-1", 1) == 202
            assert put(service.base_url, "k-2", 2) == 202
            assert put(service.base_url, "k-3", 3, "d-2") == 202
            assert open_orders(database) == ["k-1", "k-2", "k-3"]
        # `running` kills the service.
        emulator.faults = Faults()
        with running(kind, surroundings, tmp_path) as service:
            wait_for(lambda: open_orders(database) == [])
            assert surroundings.applied() == {"k-0", "k-2", "k-3"}
            assert emulator.dialogs["d-1"].session == {"total": 2}
            # A known key is sent only once.
            assert put(service.base_url, "k-2", 2) == 202
            assert put(service.base_url, "a b", 4) == 400
            emulator.script(400)
            assert put(service.base_url, "k-4", 4) == 502
            wait_for(lambda: open_orders(database) == [])
            assert put(service.base_url, "k-4", 4) == 200
            assert [entry.key for entry in emulator.dialogs["d-1"].history] == ["k-0", "k-2", "k-4"]
            service.terminate()
            assert [process.wait(20) for process in service.processes] == [-15]
