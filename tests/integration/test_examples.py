"""The other examples and the programs of the documentation against the emulator, over real HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest

from cognigy_async.emulator import Faults

from .services import (
    FASTAPI,
    HOST,
    ROOT,
    STARTUP,
    UVICORN,
    Kind,
    Service,
    World,
    running,
    wait_for,
    world,
)
from .test_snippets import snippets

BRIDGE = Kind("bridge", [*UVICORN, "--port", "{port}", "examples.webhook_bridge:app"], "Uvicorn")
WEBHOOK_SECRET = "webhook-canary"


@pytest.fixture
def surroundings() -> Iterator[World]:
    with world() as surroundings:
        yield surroundings


# The webhook bridge.


@pytest.fixture
def bridge_service(surroundings: World, tmp_path: Path) -> Iterator[Service]:
    surroundings.environment["WEBHOOK_SECRET"] = WEBHOOK_SECRET
    with running(BRIDGE, surroundings, tmp_path) as service:
        yield service
        assert WEBHOOK_SECRET not in service.read_log()


@pytest.fixture
def bridge(bridge_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bridge_service.base_url, trust_env=False) as http:
        yield http


def peak_memory(service: Service) -> int:
    """Return the peak of a service in bytes; 0 where the system does not tell."""
    status = Path(f"/proc/{service.processes[0].pid}/status")
    if not status.exists():
        return 0
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
    return int(kilobytes) * 1024


def deliver(
    http: httpx.Client,
    event: object,
    *,
    secret: str = WEBHOOK_SECRET,
    age: float = 0,
    timestamp: str | None = None,
) -> httpx.Response:
    """Sign and send an event, as JSON unless it is bytes; `timestamp` replaces the signed one."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    signed = str(int(time.time() - age))
    message = signed.encode() + b"." + body
    headers = {
        "X-Timestamp": signed if timestamp is None else timestamp,
        "X-Signature": hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(),
        "Content-Type": "application/json",
    }
    return http.post("/webhooks/crm", content=body, headers=headers)


def test_a_webhook_becomes_an_update_once(bridge: httpx.Client, surroundings: World) -> None:
    event = {
        "event_id": "e-1",
        "dialog_id": "d-1",
        "contact": {"name": "Ada", "tier": "gold"},
        "next_step": "greet_again",
    }
    assert [deliver(bridge, event).status_code for _ in range(2)] == [200, 200]
    dialog = surroundings.emulator.dialogs["d-1"]
    assert dialog.user == {"crm_contact": {"name": "Ada", "tier": "gold"}}
    assert dialog.next_step == "greet_again"
    assert [entry.key for entry in dialog.history] == ["e-1"]
    assert surroundings.emulator.stats.replayed == 1


def test_a_webhook_with_a_wrong_signature_is_refused(
    bridge: httpx.Client, surroundings: World
) -> None:
    event = {"event_id": "e-1", "dialog_id": "d-1", "contact": {"name": "Ada"}}
    assert deliver(bridge, event, secret="guessed").status_code == 401
    answer = bridge.post(
        "/webhooks/crm",
        json=event,
        headers=httpx.Headers(
            {"X-Signature": "\xe9", "X-Timestamp": str(int(time.time()))}, encoding="latin-1"
        ),
    )
    assert answer.status_code == 401
    assert bridge.post("/webhooks/crm", json=event).status_code == 422
    assert surroundings.emulator.stats.requests == 0


def test_a_webhook_is_not_parsed_before_its_signature_is_checked(bridge: httpx.Client) -> None:
    for body in (b"{", b"[" * 100_000, b"\xff", b'{"event_id": "webhook-canary"}'):
        assert deliver(bridge, body, secret="guessed").status_code == 401
        answer = deliver(bridge, body)
        assert (answer.status_code, answer.json()) == (422, {"detail": "the body is not an event"})


def test_a_recorded_webhook_is_refused_later(bridge: httpx.Client, surroundings: World) -> None:
    event = {"event_id": "e-1", "dialog_id": "d-1", "contact": {"name": "Ada"}}
    now = int(time.time())
    for refused in (
        deliver(bridge, event, age=400),
        deliver(bridge, event, age=-400),
        deliver(bridge, event, age=400, timestamp=str(now)),
        deliver(bridge, event, timestamp=str(now - 60)),
    ):
        assert refused.status_code == 401
    for malformed in ("", "now", "-1", f"{now}.5", f"{now} {now}", "9" * 5000, "1e9"):
        assert deliver(bridge, event, timestamp=malformed).status_code == 422
    assert surroundings.emulator.stats.requests == 0
    assert deliver(bridge, event, age=200).status_code == 200


def test_no_more_of_a_webhook_is_kept_than_an_event_takes(
    bridge: httpx.Client, bridge_service: Service, surroundings: World
) -> None:
    event = {"event_id": "e-1", "dialog_id": "d-1", "contact": {"notes": "x" * 200_000}}
    assert deliver(bridge, event).status_code == 200
    event["contact"] = {"notes": "x" * 300_000}
    assert deliver(bridge, event).status_code == 413
    assert surroundings.emulator.stats.requests == 1

    before = peak_memory(bridge_service)
    megabytes = (b"x" * 1_000_000 for _ in range(300))
    headers = {"X-Timestamp": str(int(time.time())), "X-Signature": "0"}
    assert bridge.post("/webhooks/crm", content=megabytes, headers=headers).status_code == 413
    assert peak_memory(bridge_service) - before < 30_000_000


def test_responses_tell_the_crm_whether_to_repeat(
    bridge: httpx.Client, surroundings: World
) -> None:
    # No repeat: it will never succeed.
    answer = deliver(bridge, {"event_id": "e 1", "dialog_id": "d-1", "contact": {"name": None}})
    assert (answer.status_code, answer.json()) == (422, {"detail": ["update_id"]})
    # Repeat after this time.
    surroundings.emulator.faults = Faults(throttle_tenant=1.0, throttle_seconds=60.0)
    answer = deliver(bridge, {"event_id": "e-1", "dialog_id": "d-1", "contact": {"name": "Ada"}})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) <= 60


def test_the_bridge_does_not_start_without_its_secret(surroundings: World) -> None:
    done = subprocess.run(
        [sys.executable, *UVICORN, "--port", "0", "examples.webhook_bridge:app"],
        cwd=ROOT,
        env=surroundings.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "set WEBHOOK_SECRET" in done.stderr


# The data job.

ORDERS = pl.DataFrame(
    {
        "dialog_id": ["d-1", "d-2", "d-1", "", "d-1"],
        "amount": [10.0, 5.5, 20.25, 1.0, 0.5],
        "ordered_at": ["2026-01-03", "2026-01-01", "2026-02-01", "2026-01-01", "2026-01-31"],
    }
)


def run_job(surroundings: World, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/data_job.py", *map(str, arguments)],
        cwd=ROOT,
        env=surroundings.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.quick(".parquet")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_frame_becomes_one_update_for_each_dialog(
    surroundings: World, tmp_path: Path, suffix: str
) -> None:
    orders = tmp_path / f"orders{suffix}"
    good = ORDERS.filter(pl.col("dialog_id") != "")
    if suffix == ".csv":
        good.write_csv(orders)
    else:
        good.write_parquet(orders)
    done = run_job(surroundings, orders)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 applied, 0 not\n", "")
    dialogs = surroundings.emulator.dialogs
    assert dialogs["d-1"].user == {
        "lifetime_orders": 3,
        "lifetime_value": 30.75,
        "last_order": "2026-02-01",
    }
    assert dialogs["d-2"].user["lifetime_orders"] == 1
    assert surroundings.emulator.stats.writes == 2


def test_failed_updates_are_written_with_the_reason(surroundings: World, tmp_path: Path) -> None:
    orders, failed = tmp_path / "orders.parquet", tmp_path / "failed.parquet"
    ORDERS.write_parquet(orders)
    surroundings.emulator.script(400, dialog_id="d-2")
    done = run_job(surroundings, orders, "--failed", failed)
    assert (done.returncode, done.stdout) == (1, "1 applied, 2 not\n")
    rows = pl.read_parquet(failed).sort("dialog_id").rows(named=True)
    assert [(row["dialog_id"], row["error"]) for row in rows] == [
        ("", "UpdateValidationError"),
        ("d-2", "BadRequestError"),
    ]
    assert "is empty" in rows[0]["message"]


# Services, called by others.

SERVICES = [
    Kind("fastapi", [*UVICORN, "--port", "{port}", FASTAPI], STARTUP),
    Kind("aiohttp", ["examples/aiohttp_service.py", "--port", "{port}"], "Running on"),
]


@pytest.mark.quick("fastapi")
@pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.name)
def test_a_service_refuses_bodies_that_it_cannot_use(
    surroundings: World, tmp_path: Path, kind: Kind
) -> None:
    with (
        running(kind, surroundings, tmp_path) as service,
        httpx.Client(base_url=service.base_url, trust_env=False) as http,
    ):
        url, as_json = "/dialogs/d-1", {"Content-Type": "application/json"}
        for body in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 5000, b"{"):
            answer = http.post(url, content=body, headers=as_json)
            assert answer.status_code in (400, 422)
        body, as_text = b'{"session": {"a": 1}}', {"Content-Type": "text/plain"}
        assert http.post(url, content=body, headers=as_text).status_code in (415, 422)
        before = peak_memory(service)
        megabytes = (b" " * 1_000_000 for _ in range(300))
        assert http.post(url, content=megabytes, headers=as_json).status_code == 413
        assert peak_memory(service) - before < 30_000_000
        assert surroundings.emulator.stats.requests == 0
        value = {"session": {"a": "x" * 500_000}}
        assert http.post(url, json=value).status_code == 200


# The CRM that services and programs of the documentation keep in step.

DOTS = ["%2E", "%2E%2E"]
"""Paths of the dialogs that resolve to another path unless their dots stay encoded."""


@pytest.mark.quick("aiohttp")
@pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.name)
def test_a_service_calls_the_crm_for_ids_that_are_dots(
    surroundings: World, tmp_path: Path, kind: Kind
) -> None:
    surroundings.crm.refusals = 1
    with running(kind, surroundings, tmp_path) as service:
        for dots in DOTS:
            url = f"{service.base_url}/dialogs/{dots}"
            answer = httpx.post(url, json={"session": {"a": 1}}, trust_env=False)
            assert answer.status_code == 200
        payloads = [{"session": {"a": 1}}]
        by_dialog = surroundings.crm.by_dialog
        wait_for(lambda: by_dialog == {".": payloads, "..": payloads}, lambda: str(by_dialog))
        service.terminate()
        service.wait_until(time.monotonic() + 20)


# The programs in the documentation.

TOTAL = "cart?total=149.99"


@pytest.mark.parametrize("page", ["fastapi", "aiohttp"])
def test_the_program_of_a_page_runs(surroundings: World, tmp_path: Path, page: str) -> None:
    program, *_ = [
        snippet.text
        for snippet in snippets(ROOT / "docs" / f"{page}.md")
        if snippet.language == "python"
    ]
    # It names a CRM that does not exist here.
    program = program.replace("https://crm.example", surroundings.environment["CRM_URL"])
    (tmp_path / "page.py").write_text(program)
    kind = {
        "fastapi": Kind(
            "page", [*UVICORN, "--port", "{port}", "--app-dir", str(tmp_path), "page:app"], STARTUP
        ),
        "aiohttp": Kind("page", ["-c", RUN_AIOHTTP, str(tmp_path), "{port}"], "Running on"),
    }[page]
    surroundings.crm.refusals = 1
    with running(kind, surroundings, tmp_path) as service:
        for path in ("d-1", *DOTS):
            url = f"{service.base_url}/dialogs/{path}/{TOTAL}"
            assert httpx.post(url, trust_env=False).status_code == 200
        assert surroundings.emulator.dialogs["d-1"].session == {"cart_total": 149.99}
        service.terminate()
        service.wait_until(time.monotonic() + 20)
    payloads = [{"session": {"cart_total": 149.99}}]
    assert surroundings.crm.by_dialog == dict.fromkeys(("d-1", ".", ".."), payloads)


RUN_AIOHTTP = f"""
import sys
from aiohttp.web import main
sys.path.insert(0, sys.argv[1])
main(["--hostname", "{HOST}", "--port", sys.argv[2], "page:make_app"])
"""
