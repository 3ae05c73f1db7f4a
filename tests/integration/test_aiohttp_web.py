"""The client in an aiohttp.web application, over sockets; aiohttp runs on asyncio only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cognigy_async import AsyncStateClient, CloseReport, ConfigurationError, UpdateEvent
from cognigy_async.emulator import Emulator, Faults
from cognigy_async.integrations.aiohttp import CLIENT, client_ctx, error_middleware, health
from tests.simulation.world import applied, client_of, emulator

pytestmark = pytest.mark.real_time

CANARY = "canary-4711"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def maker(server: Emulator, **options: Any) -> Callable[[web.Application], AsyncStateClient]:
    return lambda app: client_of(server, **options)


async def change(request: web.Request) -> web.Response:
    result = await request.config_dict[CLIENT].update(
        request.match_info["dialog_id"], session=await request.json()
    )
    return web.json_response(result.update_id)


async def accept(request: web.Request) -> web.Response:
    """Answer as soon as the update is accepted."""
    update = {"dialog_id": request.match_info["dialog_id"], "session": await request.json()}
    pending = await request.config_dict[CLIENT].submit(update)
    return web.json_response(pending.update_id, status=202)


def service(*contexts: Any) -> web.Application:
    app = web.Application(middlewares=[error_middleware])
    app.cleanup_ctx.extend(contexts)
    app.router.add_post("/dialogs/{dialog_id}", change)
    app.router.add_post("/later/{dialog_id}", accept)
    return app


@asynccontextmanager
async def served(app: web.Application, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        await runner.cleanup()


async def test_a_handler_has_the_client_in_an_inner_application_too() -> None:
    server = emulator()
    inner = web.Application()
    inner.router.add_post("/dialogs/{dialog_id}", change)
    app = service(client_ctx(maker(server)))
    app.add_subapp("/inner", inner)
    async with served(app) as http:
        for path in ("/dialogs/d-1", "/inner/dialogs/d-2"):
            answer = await http.post(path, json={"a": 1})
            assert answer.status == 200
            (entry,) = applied(server, path[-3:])
            assert (entry.key, entry.body) == (await answer.json(), {"session": {"a": 1}})


async def test_earlier_contexts_outlive_the_last_callback() -> None:
    server = emulator()
    events: list[str] = []

    async def crm(app: web.Application) -> AsyncIterator[None]:
        events.append("crm begins")
        yield
        events.append("crm ends")

    def make(app: web.Application) -> AsyncStateClient:
        client = client_of(server)

        @client.on_state_updated
        async def sync_crm(event: UpdateEvent) -> None:
            await asyncio.sleep(0.2)
            events.append(f"synced {event.dialog_id}")

        return client

    async with served(service(crm, client_ctx(make))) as http:
        await http.post("/dialogs/d-1", json={"a": 1})
        events.append("shutdown")
    assert events == ["crm begins", "shutdown", "synced d-1", "crm ends"]


async def test_the_shutdown_sends_accepted_updates() -> None:
    server = emulator(faults=Faults(latency=0.1))
    async with served(service(client_ctx(maker(server, max_in_flight=2)))) as http:
        ids = [await (await http.post(f"/later/d-{n}", json={"a": n})).json() for n in range(6)]
    assert [applied(server, f"d-{n}")[0].key for n in range(6)] == ids


async def test_updates_not_sent_within_the_drain_timeout_are_logged_by_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = emulator(faults=Faults(hang=1.0))
    reports: list[CloseReport] = []
    context = client_ctx(
        maker(server, max_in_flight=1), drain_timeout=0.2, on_closed=reports.append
    )
    async with served(service(context)) as http:
        ids = [
            await (await http.post(f"/later/d-{n}", json={"secret": CANARY})).json()
            for n in range(2)
        ]
        while server.stats.requests == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    logged = {
        (vars(each)["update_id"], vars(each)["dialog_id"])
        for each in caplog.records
        if each.levelno == logging.WARNING and each.name == "cognigy_async"
    }
    assert logged == {(ids[0], "d-0"), (ids[1], "d-1")}
    (report,) = reports
    assert [update.dialog_id for update in report.unsent] == ["d-1"]
    assert CANARY not in caplog.text


@pytest.mark.parametrize("seconds", [0, float("inf")])
def test_an_invalid_drain_timeout_is_refused_early(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="drain_timeout="):
        client_ctx(maker(emulator()), drain_timeout=seconds)


async def test_a_caller_that_disconnects_does_not_abort_a_write() -> None:
    server = emulator(faults=Faults(latency=0.3))
    cancelled: list[str] = []

    async def watched(request: web.Request) -> web.Response:
        try:
            return await change(request)
        except asyncio.CancelledError:
            cancelled.append(request.match_info["dialog_id"])
            raise

    app = service(client_ctx(maker(server)))
    app.router.add_post("/watched/{dialog_id}", watched)
    async with served(app, handler_cancellation=True) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await http.post("/watched/d-1", json={"a": 1})
        while not cancelled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert cancelled == ["d-1"]
    assert len(applied(server, "d-1")) == 1
    assert server.stats.abandoned == 0


async def test_errors_are_answered_with_problem_details() -> None:
    server = emulator()
    async with served(service(client_ctx(maker(server)))) as http:
        answer = await http.post("/dialogs/d-1", json={"a-b": CANARY})
        assert answer.status == 400
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = await answer.json(content_type="application/problem+json")
        assert [fault["path"] for fault in problem["faults"]] == ["session.a-b"]
        assert CANARY not in await answer.text()

        server.faults = Faults(throttle_tenant=1.0, throttle_seconds=3600.0)
        answer = await http.post("/dialogs/d-1", json={"a": CANARY})
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3600")
        assert CANARY not in await answer.text()


async def test_a_400_is_for_what_came_from_the_caller() -> None:
    async def own(request: web.Request) -> web.Response:
        client = request.config_dict[CLIENT]
        await request.read()
        await client.update(request.match_info["dialog_id"], session={"day": {1, 2}})
        return web.Response()

    async def body(request: web.Request) -> web.Response:
        await request.config_dict[CLIENT].submit(await request.json())
        return web.Response()

    app = service(client_ctx(maker(emulator())))
    app.router.add_post("/own/{dialog_id}", own)
    app.router.add_post("/body", body)
    async with served(app) as http:
        for update in ({"dialog_id": "d-1", "session": {"a-b": CANARY}}, {"session": {"a": 1}}):
            answer = await http.post("/body", json=update)
            assert answer.status == 400
            assert CANARY not in await answer.text()
        answer = await http.post("/dialogs/%20", json={"a": 1})
        assert answer.status == 400
        answer = await http.post("/own/d-1", json={"a-b": 1})
        assert answer.status == 500


async def test_a_mistake_in_the_service_is_raised_to_aiohttp(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(request: web.Request) -> web.Response:
        raise ConfigurationError(CANARY)

    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/", fail)
    async with served(app) as http:
        answer = await http.get("/")
        assert answer.status == 500
        assert CANARY not in await answer.text()
    logged = [each.exc_info[0] for each in caplog.records if each.exc_info]
    assert logged == [ConfigurationError]


async def test_health_follows_the_client() -> None:
    async def ready(request: web.Request) -> web.Response:
        return web.json_response(health(request.config_dict[CLIENT]).ready)

    app = service(client_ctx(maker(emulator())))
    app.router.add_get("/ready", ready)
    async with served(app) as http:
        assert await (await http.get("/ready")).json() is True
    assert not health(app[CLIENT]).alive
