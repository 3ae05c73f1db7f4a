"""The example services as processes: responses and shutdown, over real HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cognigy_async.emulator import Faults

from .services import (
    CRM_SECRET,
    KINDS,
    SECRET,
    Kind,
    call_together,
    running,
    wait_for,
    world,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")

ALONE = [kind for kind in KINDS if kind.name in ("uvicorn", "hypercorn-trio", "aiohttp")]
"""One service for each framework and event loop."""

VALUE = "the-value-of-a-variable"


def name(kind: Kind) -> str:
    return kind.name


@pytest.mark.quick("uvicorn-2-workers")
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_sigterm_amid_requests_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    terminate_amid_requests(kind, tmp_path, impatient=False)


@pytest.mark.quick("hypercorn-trio")
@pytest.mark.parametrize("kind", ALONE, ids=name)
def test_sigterm_amid_requests_whose_callers_leave(kind: Kind, tmp_path: Path) -> None:
    terminate_amid_requests(kind, tmp_path, impatient=True)


def terminate_amid_requests(kind: Kind, tmp_path: Path, *, impatient: bool) -> None:
    with world(latency=0.1) as surroundings, running(kind, surroundings, tmp_path) as service:
        call = partial(
            call_together,
            callers=200,
            impatient=impatient,
            terminate_when=lambda stats: stats.applied >= 20,
        )
        answers = surroundings.portal.call(call, service, surroundings)
        statuses = service.wait_until(answers.terminated_at + 10)
        log = service.read_log()

        assert set(statuses) <= {0, -15}, log
        applied = surroundings.applied()
        assert 20 <= answers.applied_before < len(applied), "SIGTERM came amid the work"
        assert set(answers.succeeded) <= applied
        assert set(answers.refused) <= {503}
        assert len(answers.succeeded) >= 20
        assert bool(answers.left) == impatient
        stats = surroundings.emulator.stats
        # Each worker orders its own updates only.
        assert stats.violations().keys() <= ({"overlapping_writes"} if kind.workers > 1 else set())
        assert stats.abandoned == 0, "no request was torn down"
        for retry_state in ("Traceback", "was not sent", "not delivered", SECRET, CRM_SECRET):
            assert retry_state not in log
        crm = surroundings.crm
        # What is left is delivered by the next process.
        with running(kind, surroundings, tmp_path):
            wait_for(lambda: set(crm.keys) == applied, lambda: f"{applied - set(crm.keys)}")


def test_a_service_ends_in_time_although_the_server_hangs(tmp_path: Path) -> None:
    with ExitStack() as stack:
        calls = []
        for kind in ALONE:
            surroundings = stack.enter_context(world())
            directory = tmp_path / kind.name
            directory.mkdir()
            service = stack.enter_context(running(kind, surroundings, directory))
            surroundings.emulator.faults = Faults(hang=1.0)
            call = partial(
                call_together,
                callers=60,
                # As many as the client has in flight.
                terminate_when=lambda stats: stats.writes >= 32,
            )
            begun = surroundings.portal.start_task_soon(call, service, surroundings)
            calls.append((kind, surroundings, service, begun))
        for kind, surroundings, service, call_of_all in calls:
            answers = call_of_all.result()
            statuses = service.wait_until(answers.terminated_at + 10)
            log = service.read_log()
            assert statuses in ([0], [-15]), log
            assert answers.succeeded == []
            # Updates in flight are logged by id.
            logged = re.findall(
                r"^WARNING:cognigy_async:.*'(d-\d+)', update '([^']+)'", log, re.MULTILINE
            )
            ids = {update_id for _, update_id in logged}
            assert len(ids) >= 32, log
            assert SECRET not in log
            # The server may have applied them, so that the CRM has to ask for the state.
            crm = surroundings.crm
            with running(kind, surroundings, service.log_path.parent):
                wait_for(partial(ids.issubset, crm.failed))


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Allow more open files: both ends of a thousand connections are on this machine."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"a process may open {hard} files, and 4,096 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.quick("aiohttp-200")
@pytest.mark.usefixtures("_many_files")
@pytest.mark.parametrize("callers", [200, 1000])
@pytest.mark.parametrize("kind", [ALONE[0], ALONE[-1]], ids=name)
def test_many_handlers_make_one_token_request(kind: Kind, callers: int, tmp_path: Path) -> None:
    # The token is slow, so that callers wait for it together.
    with world(token_latency=0.5) as surroundings, ExitStack() as stack:
        # Independent of the speed of the machine.
        surroundings.environment["ANSWER_WITHIN"] = "50"
        service = stack.enter_context(running(kind, surroundings, tmp_path))
        call = partial(call_together, callers=callers)
        answers = surroundings.portal.call(call, service, surroundings)
        assert len(set(answers.succeeded)) == callers
        assert surroundings.applied() == set(answers.succeeded)
        assert surroundings.emulator.stats.token_requests == 1
        assert surroundings.emulator.stats.violations() == {}


@pytest.mark.parametrize("kind", ALONE, ids=name)
def test_what_a_service_answers(kind: Kind, tmp_path: Path) -> None:
    with (
        world() as surroundings,
        running(kind, surroundings, tmp_path) as service,
        httpx.Client(base_url=service.base_url, trust_env=False) as http,
    ):
        for path in ("/health/live", "/health/ready"):
            answer = http.get(path)
            assert answer.status_code == 200
            assert answer.json()["alive"] is answer.json()["ready"] is True

        answer = http.post(
            "/dialogs/d-1",
            json={"session": {"cart": [1]}, "user": {"name": VALUE}, "next_step": "checkout"},
            headers={"Idempotency-Key": "order-4711"},
        )
        assert answer.status_code == 200
        assert answer.json()["update_id"] == "order-4711"
        assert (answer.json()["version"], answer.json()["etag"]) == (1, '"1"')
        dialog = surroundings.emulator.dialogs["d-1"]
        assert (dialog.session, dialog.user) == ({"cart": [1]}, {"name": VALUE})
        assert dialog.next_step == "checkout"
        assert [entry.key for entry in dialog.history] == ["order-4711"]

        answer = http.post("/dialogs/d-1", json={"session": {"_cognigy_x": VALUE, "a-b": VALUE}})
        assert answer.status_code == 400
        assert answer.headers["Content-Type"] == "application/problem+json"
        paths = [fault["path"] for fault in answer.json()["faults"]]
        assert paths == ["session._cognigy_x", "session.a-b"]
        assert VALUE not in answer.text

        invalid = {"Idempotency-Key": f"order {VALUE}"}
        answer = http.post("/dialogs/d-1", json={"user": {"name": 1}}, headers=invalid)
        assert answer.status_code == 400
        assert [fault["path"] for fault in answer.json()["faults"]] == ["update_id"]

        stale = {"If-Match": '"0"'}
        answer = http.post("/dialogs/d-1", json={"user": {"name": VALUE}}, headers=stale)
        assert (answer.status_code, answer.json()["current_etag"]) == (409, '"1"')

        surroundings.emulator.faults = Faults(throttle_tenant=1.0, throttle_seconds=30.0)
        answer = http.post("/dialogs/d-1", json={"user": {"name": VALUE}})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert VALUE not in answer.text

        # Callers during the pause get the rest of it as Retry-After; nothing is queued.
        answer = http.post("/dialogs/d-2", json={"user": {"name": VALUE}})
        assert answer.status_code == 503
        assert 5 <= int(answer.headers["Retry-After"]) <= 40

        answer = http.get("/metrics")
        assert VALUE not in answer.text
        if kind.name == "aiohttp":
            metrics = answer.json()
            assert (metrics["applied"], metrics["failed"], metrics["pending"]) == (1, 2, 0)
            assert metrics["latency"]["count"] == 1
        else:
            samples = exposed(answer)
            updates = {
                labels["cognigy_outcome"]: value
                for labels, value in samples["cognigy_client_updates_total"]
            }
            assert updates == {"applied": 1, "failed": 2, "ambiguous": 0, "withdrawn": 0}
            assert [value for _, value in samples["cognigy_client_updates_pending"]] == [0]
            # Labels hold no ids.
            assert '"d-1"' not in answer.text
            assert "/d-1" not in answer.text


@pytest.mark.parametrize("kind", ALONE, ids=name)
def test_callers_are_answered_in_time(kind: Kind, tmp_path: Path) -> None:
    with world() as surroundings, ExitStack() as stack:
        surroundings.environment["ANSWER_WITHIN"] = "0.2"
        surroundings.emulator.faults = Faults(fail_status=503)
        service = stack.enter_context(running(kind, surroundings, tmp_path))
        answer = httpx.post(
            f"{service.base_url}/dialogs/d-1", json={"user": {"name": VALUE}}, trust_env=False
        )
        assert (answer.status_code, answer.json()["error"]) == (503, "DeadlineExceededError")
        assert int(answer.headers["Retry-After"]) >= 1
        assert surroundings.applied() == set()


def exposed(answer: httpx.Response) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the Prometheus samples in a response, by name."""
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples
