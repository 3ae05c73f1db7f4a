"""All faults of the emulator, by probability and by script."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from cognigy_async.emulator import Emulator, Faults, Rules, Throttling
from tests.unit.emulator._client import KEY, SEQ, Bare, bare_client

pytestmark = pytest.mark.anyio

ERRORS = ["error_500", "error_502", "error_503", "error_504"]


def always(**faults: Any) -> Emulator:
    return Emulator(api_key=KEY, faults=Faults(**faults))


async def never(answer: Any) -> None:
    """Assert that no response comes within 1,000 seconds."""
    with anyio.move_on_after(1000) as scope:
        await answer
    assert scope.cancelled_caught


async def test_without_faults_there_are_none() -> None:
    emulator = Emulator(api_key=KEY)
    async with bare_client(emulator) as client:
        assert {(await client.patch()).status_code for _ in range(100)} == {200}
    assert emulator.stats.faults == {}
    assert emulator.stats.answers == {200: 100}


async def test_latency_passes_before_and_after_the_write() -> None:
    emulator = always(latency=2.0)
    async with bare_client(emulator) as client, anyio.create_task_group() as tasks:
        start = anyio.current_time()
        tasks.start_soon(client.patch)
        await anyio.sleep(0.9)
        assert emulator.dialogs == {}
        await anyio.sleep(0.2)
        assert emulator.dialogs["d-1"].version == 1
        await client.get()
        assert anyio.current_time() - start == pytest.approx(3.1, abs=0.1)


async def test_latency_varies_by_its_jitter() -> None:
    emulator = always(latency=1.0, latency_jitter=2.0)
    took = []
    async with bare_client(emulator) as client:
        for _ in range(100):
            start = anyio.current_time()
            await client.get()
            took.append(anyio.current_time() - start)
    assert 1.0 <= min(took) < 1.2
    assert 2.8 < max(took) <= 3.1


@pytest.mark.parametrize("fault", ERRORS)
async def test_errors_are_not_applied(fault: str) -> None:
    emulator = always(**{fault: 1})
    async with bare_client(emulator) as client:
        write, read = await client.patch(), await client.get()
    assert write.status_code == read.status_code == int(fault[-3:])
    assert write.json()["message"]
    assert "retry-after" not in write.headers
    assert emulator.dialogs == {}
    assert emulator.stats.faults == {fault: 2}


@pytest.mark.parametrize("fault", ["error_500", "error_502", "error_504"])
async def test_error_applies_applies_before_the_error(fault: str) -> None:
    emulator = always(**{fault: 1, "error_applies": 1})
    async with bare_client(emulator) as client:
        assert (await client.patch()).status_code == int(fault[-3:])
        assert emulator.dialogs["d-1"].version == 1
        emulator.faults = Faults()
        emulator.script(f"{fault}_applied")  # type: ignore[arg-type]
        assert (await client.patch()).status_code == int(fault[-3:])
    assert emulator.dialogs["d-1"].version == 2
    assert emulator.stats.faults == {f"{fault}_applied": 2}


async def test_a_503_is_never_applied_and_may_have_retry_after() -> None:
    emulator = always(error_503=1, error_applies=1, retry_after_503=1.5)
    async with bare_client(emulator) as client:
        write, read = await client.patch(key="k"), await client.get()
    assert write.status_code == 503
    assert (write.headers["retry-after"], read.headers["retry-after"]) == ("2", "2")
    assert "x-ratelimit-scope" not in write.headers
    assert emulator.dialogs == {}


@pytest.mark.parametrize(("fault", "version"), [("drop_before", None), ("drop_after", 1)])
async def test_a_dropped_connection(fault: str, version: int | None) -> None:
    emulator = always(**{fault: 1})
    async with bare_client(emulator) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await client.patch()
        assert getattr(emulator.dialogs.get("d-1"), "version", None) == version
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get()
    assert emulator.stats.dropped == 2
    assert emulator.stats.answers == {}
    assert emulator.stats.abandoned == 0


async def test_drop_error_is_raised_for_a_dropped_connection() -> None:
    emulator = Emulator(
        api_key=KEY, faults=Faults(drop_before=1), rules=Rules(drop_error=ConnectionResetError)
    )
    async with bare_client(emulator) as client:
        with pytest.raises(ConnectionResetError):
            await client.patch()


@pytest.mark.parametrize("applies", [False, True])
async def test_a_request_that_is_never_answered(applies: bool) -> None:
    emulator = always(hang=1, hang_applies=applies)
    async with bare_client(emulator) as client:
        await never(client.patch())
        await never(client.get())
    assert ("d-1" in emulator.dialogs) is applies
    assert emulator.stats.abandoned == 2
    assert emulator.stats.answers == {}
    assert emulator.stats.faults == {"hang_applied" if applies else "hang": 2}


async def test_a_competing_writer_comes_first() -> None:
    emulator = always(competitor=1)
    async with bare_client(emulator) as client:
        assert (await client.patch({"session": {"a": 1}})).json()["version"] == 2
        late = await client.patch({"session": {"a": 2}}, if_match='"2"')
        assert (late.status_code, late.headers["etag"]) == (409, '"3"')
        read = await client.get()
    assert read.json()["session"] == {"a": 1, "competitor": 2}
    assert [e.competitor for e in emulator.dialogs["d-1"].history] == [True, False, True]
    assert emulator.stats.faults == {"competitor": 2}
    assert emulator.stats.applied == 1


async def test_a_competing_writer_replaces_a_variable_of_another_type() -> None:
    emulator = always(competitor=1)
    emulator.add_dialog("d-1", session={"competitor": "x"})
    async with bare_client(emulator) as client:
        await client.patch({"session": {"a": 1}})
    assert emulator.dialogs["d-1"].session == {"competitor": 1, "a": 1}


async def test_a_conflict_without_a_precondition() -> None:
    emulator = always(conflict=1)
    async with bare_client(emulator) as client:
        answer = await client.patch()
        assert (answer.status_code, answer.headers["etag"]) == (409, '"0"')
        assert answer.json()["version"] == 0
        assert (await client.patch(if_match='"0"')).status_code == 409
        assert (await client.get()).status_code == 200
    assert emulator.dialogs == {}


async def test_throttling_the_tenant() -> None:
    emulator = always(throttle_tenant=1, throttle_seconds=5)
    async with bare_client(emulator) as client:
        first = await client.patch()
        assert (first.status_code, first.headers["retry-after"]) == (429, "5")
        assert first.headers["x-ratelimit-scope"] == "tenant"
        emulator.faults = Faults()
        await anyio.sleep(3)
        other = await client.get("d-2")
        assert (other.status_code, other.headers["retry-after"]) == (429, "2")
        await anyio.sleep(2)
        assert (await client.patch()).status_code == 200
    assert emulator.stats.faults == {"throttle_tenant": 1}


async def test_throttling_a_dialog() -> None:
    emulator = always(throttle_dialog=1, throttle_seconds=2)
    async with bare_client(emulator) as client:
        first = await client.get()
        assert (first.status_code, first.headers["retry-after"]) == (429, "2")
        assert first.headers["x-ratelimit-scope"] == "dialog"
        emulator.faults = Faults()
        assert (await client.patch()).status_code == 429
        assert (await client.patch(dialog_id="d-2")).status_code == 200
        await anyio.sleep(2)
        assert (await client.patch()).status_code == 200


async def test_token_expiry_revokes_the_token() -> None:
    emulator = Emulator()
    async with bare_client(emulator) as client, bare_client(emulator) as other:
        await client.log_in()
        await other.log_in()
        emulator.script("token_expiry")
        assert (await client.patch()).status_code == 401
        assert (await client.get()).status_code == 401
        assert (await other.patch()).status_code == 200
    assert emulator.dialogs["d-1"].version == 1
    assert emulator.stats.faults == {"token_expiry": 1}


async def test_the_token_endpoint_fails() -> None:
    emulator = Emulator(faults=Faults(token_failure=1))
    async with bare_client(emulator) as client:
        failed = await client.token()
        assert (failed.status_code, failed.json()["error"]) == (500, "server_error")
        emulator.faults = Faults()
        emulator.script("token_failure")
        assert (await client.token()).status_code == 500
        assert (await client.token()).status_code == 200
    assert emulator.stats.token_answers == {500: 2, 200: 1}
    assert emulator.stats.faults == {"token_failure": 2}
    assert emulator.stats.tokens_issued == 1


async def test_token_latency_delays_the_token_endpoint_only() -> None:
    emulator = Emulator(faults=Faults(token_latency=3, latency=100), rules=Rules(token_lifetime=10))
    async with bare_client(emulator) as client:
        start = anyio.current_time()
        await client.log_in()
        assert anyio.current_time() - start == pytest.approx(3, abs=0.1)
        emulator.faults = Faults()
        await anyio.sleep(9)
        assert (await client.get()).status_code == 200


async def test_malformed_truncates_the_response() -> None:
    emulator = always(malformed=1)
    async with bare_client(emulator) as client:
        for answer in (await client.patch(), await client.get()):
            assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
            assert answer.content.startswith(b'{"dialogId":')
            with pytest.raises(json.JSONDecodeError):
                answer.json()
        refused = await client.patch({})
        assert (refused.status_code, refused.json()["traceId"]) == (400, "emulator-1")
    assert emulator.dialogs["d-1"].version == 1


async def test_fail_status_answers_all_requests_but_token_requests() -> None:
    emulator = Emulator(faults=Faults(fail_status=503, retry_after_503=7))
    async with bare_client(emulator) as client:
        assert (await client.patch()).status_code == 503
        read = await client.get()
        assert (read.status_code, read.headers["retry-after"]) == (503, "7")
        assert (await client.token()).status_code == 200
        emulator.faults = Faults(fail_status=302)
        moved = await client.get()
        assert (moved.status_code, moved.headers["location"]) == (302, "/elsewhere")
    assert emulator.dialogs == {}


async def test_only_redirects_have_a_location() -> None:
    emulator = Emulator(api_key=KEY)
    emulator.script(300, 399, 400, "ok")
    async with bare_client(emulator) as client:
        answers = [await client.patch() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [300, 399, 400, 200]
    assert ["location" in answer.headers for answer in answers] == [True, True, False, False]


async def test_a_script_is_taken_step_by_step_by_its_dialog() -> None:
    emulator = Emulator(api_key=KEY, faults=Faults(error_502=1))
    emulator.script("error_503", 418, "ok", dialog_id="d-1")
    emulator.script(404)
    emulator.script(400, method="GET")
    async with bare_client(emulator) as client:
        assert (await client.patch(dialog_id="d-2")).status_code == 404
        statuses = [(await client.patch()).status_code for _ in range(4)]
        assert statuses == [503, 418, 200, 502]
        assert [(await client.get()).status_code for _ in range(2)] == [400, 502]
    assert emulator.stats.faults == {"404": 1, "418": 1, "400": 1, "error_503": 1, "error_502": 2}


async def test_the_steps_that_are_left() -> None:
    emulator = Emulator(api_key=KEY)
    emulator.script(503, "competitor", "token_failure", dialog_id="d-1")
    emulator.script(404, method="GET")
    async with bare_client(emulator) as client:
        assert (await client.patch()).status_code == 503
    assert emulator.untaken_steps == {
        ("PATCH", "d-1"): ("competitor",),
        ("POST", None): ("token_failure",),
        ("GET", None): (404,),
    }
    emulator.reset()
    assert emulator.untaken_steps == {}


async def test_a_refused_request_takes_no_step() -> None:
    emulator = Emulator(api_key=KEY, throttling=Throttling(dialog_quota=(1, 10)))
    emulator.script(418)
    async with bare_client(emulator) as client:
        await client.get()
        assert (await client.patch()).status_code == 429
        assert (await Bare(client.http).patch(dialog_id="d-2")).status_code == 418


async def test_an_invalid_script_is_not_kept() -> None:
    emulator = Emulator(api_key=KEY)
    with pytest.raises(ValueError, match="no step 'dorp_after'"):
        emulator.script("error_503", "dorp_after")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no step '503'; use the number 503, without quotes"):
        emulator.script("503")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"use competitor, conflict, .*, or a status from 300"):
        emulator.script("200")  # type: ignore[arg-type]
    async with bare_client(emulator) as client:
        assert (await client.patch()).status_code == 200


async def test_faults_occur_as_probable_and_repeat_with_the_seed() -> None:
    faults = Faults(error_500=0.2, drop_before=0.1, conflict=0.1)

    async def met(seed: int) -> list[int]:
        emulator = Emulator(api_key=KEY, faults=faults, seed=seed)
        statuses = []
        async with bare_client(emulator) as client:
            for _ in range(1000):
                try:
                    statuses.append((await client.patch(SEQ)).status_code)
                except httpx.RemoteProtocolError:
                    statuses.append(0)
        return statuses

    first = await met(1)
    assert await met(1) == first
    assert await met(2) != first
    assert 160 <= first.count(500) <= 240
    assert 50 <= first.count(0) <= 115
    assert 45 <= first.count(409) <= 105


NUMBERS = {
    **dict.fromkeys([*ERRORS, "error_applies", "drop_before", "drop_after", "competitor"], 1.01),
    **dict.fromkeys(["conflict", "throttle_tenant", "throttle_dialog", "token_failure"], 1.01),
    **dict.fromkeys(["token_expiry", "malformed", "hang"], 1.01),
    **dict.fromkeys(["latency", "latency_jitter", "throttle_seconds"], float("inf")),
    **dict.fromkeys(["retry_after_503", "token_latency"], float("inf")),
}


@pytest.mark.parametrize(("field", "too_much"), NUMBERS.items())
def test_numbers_out_of_range_are_refused_by_name(field: str, too_much: float) -> None:
    for wrong in (too_much, -0.01, float("nan"), "0.5", True):
        with pytest.raises(ValueError, match=rf"Faults\({field}="):
            Faults.of({field: wrong})
    for right in (0, 1, 0.5):
        assert getattr(Faults.of({field: right}), field) == right


def test_other_invalid_fields_are_refused() -> None:
    for status in (200, 299, 600, 503.0, True, "503"):
        with pytest.raises(ValueError, match=r"Faults\(fail_status="):
            Faults(fail_status=status)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Faults\(hang_applies="):
        Faults(hang_applies=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no field 'lag', 'leg'"):
        Faults.of({"leg": 1, "lag": 1})
    assert Faults.of({"hang": 0.5, "fail_status": None}) == Faults(hang=0.5)


async def test_a_brown_out_is_slow_and_fails_in_part_and_ends() -> None:
    faults = Faults(brown_out=1, brown_out_seconds=20, brown_out_latency=2, brown_out_errors=0.5)
    emulator = Emulator(api_key=KEY, faults=faults)
    async with bare_client(emulator) as client:
        statuses = []
        for _ in range(10):
            began = anyio.current_time()
            statuses.append((await client.get()).status_code)
            assert anyio.current_time() - began == pytest.approx(2)
            emulator.faults = Faults(brown_out_latency=2, brown_out_errors=0.5)
        assert set(statuses) == {200, 503}
        await anyio.sleep(1)
        began = anyio.current_time()
        assert {(await client.get()).status_code for _ in range(20)} == {200}
        assert anyio.current_time() == began


@pytest.mark.parametrize("name", ["brown_out", "brown_out_errors"])
def test_fields_of_a_brown_out_are_probabilities(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=2"):
        Faults(**{name: 2})
