"""The client in a FastAPI application, on both event loops and in virtual time."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from fastapi import Body, Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Message

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    ClientClosedError,
    ClientUsageError,
    CloseReport,
    ConfigurationError,
    DeadLetter,
    StateConflictError,
    StateUpdate,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
)
from cognigy_async.crm import Outbox
from cognigy_async.emulator import Faults
from cognigy_async.integrations.fastapi import (
    Health,
    StateClient,
    add_error_handlers,
    client_lifespan,
    get_client,
    health,
)
from tests.integration.applications import maker, served, started
from tests.simulation.world import applied, client_of, emulator, eventually, oauth

CANARY = "canary-4711"

WithClient = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]


def service(lifespan: Any) -> FastAPI:
    """Return an application that writes request bodies to a dialog."""
    app = FastAPI(lifespan=lifespan)
    add_error_handlers(app)

    @app.post("/dialogs/{dialog_id}")
    async def change(dialog_id: str, session: dict[str, Any], client: StateClient) -> str:
        result = await client.update(dialog_id, session=session)
        return result.update_id

    return app


# A `StateUpdate` as the body of a request.


class Order(BaseModel):
    """A body with an update in it."""

    update: StateUpdate
    note: str


def bodies() -> FastAPI:
    """Return an application that returns the updates in its request bodies."""
    app = FastAPI()

    @app.post("/one")
    async def one(update: StateUpdate) -> StateUpdate:
        return update

    @app.post("/untyped")
    async def untyped(update: StateUpdate) -> Any:
        return update

    @app.post("/optional")
    async def optional(update: StateUpdate | None = None) -> StateUpdate | None:
        return update

    @app.post("/many")
    async def many(updates: list[StateUpdate]) -> list[StateUpdate]:
        return updates

    @app.post("/two")
    async def two(first: StateUpdate, second: StateUpdate) -> list[StateUpdate]:
        return [first, second]

    @app.post("/embedded")
    async def embedded(update: Annotated[StateUpdate, Body(embed=True)]) -> StateUpdate:
        return update

    @app.post("/order")
    async def order(order: Order) -> Order:
        return order

    return app


UPDATE = {"dialog_id": "d-1", "session": {"cart": {"total": 149.99}}}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/one", UPDATE, UPDATE),
        ("/optional", UPDATE, UPDATE),
        ("/optional", None, None),
        ("/many", [UPDATE, UPDATE], [UPDATE, UPDATE]),
        ("/two", {"first": UPDATE, "second": UPDATE}, [UPDATE, UPDATE]),
        ("/embedded", {"update": UPDATE}, UPDATE),
        ("/order", {"update": UPDATE, "note": "n"}, {"update": UPDATE, "note": "n"}),
    ],
)
async def test_an_update_is_the_body_of_a_request(path: str, body: Any, expected: Any) -> None:
    async with served(bodies()) as http:
        answer = await http.post(path, json=body)
        assert (answer.status_code, answer.json()) == (200, expected)


async def test_an_update_is_returned_without_a_type_as_well() -> None:
    async with served(bodies()) as http:
        answer = await http.post("/untyped", json=UPDATE)
        assert {name: value for name, value in answer.json().items() if value} == UPDATE


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dialog_id": "d", "session": {"1x": CANARY}}, "session.1x: a variable's name must be"),
        ({"session": {"a": CANARY}}, "dialog_id: is missing"),
        ({"dialog_id": "d", "session": CANARY}, "session: is of type str"),
        ([CANARY], "give a mapping of the arguments of StateUpdate"),
        (CANARY, "give a mapping of the arguments of StateUpdate"),
    ],
)
async def test_a_wrong_body_is_answered_422_without_its_values(body: Any, message: str) -> None:
    async with served(bodies()) as http:
        answer = await http.post("/one", json=body)
        assert answer.status_code == 422
        (fault,) = answer.json()["detail"]
        assert fault["loc"] == ["body"]
        assert message in fault["msg"]
        assert CANARY not in answer.text
        second = await http.post("/many", json=[UPDATE, body])
        assert [fault["loc"] for fault in second.json()["detail"]] == [["body", 1]]
        assert CANARY not in second.text


async def test_the_documentation_describes_the_body() -> None:
    async with served(bodies()) as http:
        described = (await http.get("/openapi.json")).json()
    schemas = described["components"]["schemas"]
    assert schemas["StateUpdate"]["required"] == ["dialog_id"]
    operation = described["paths"]["/one"]["post"]
    assert "parameters" not in operation
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/StateUpdate"}


# The lifespan.


async def test_a_handler_gets_the_client() -> None:
    server = emulator()
    async with served(service(client_lifespan(maker(server)))) as http:
        answer = await http.post("/dialogs/d-1", json={"a": 1})
        assert answer.status_code == 200
    (entry,) = applied(server, "d-1")
    assert (entry.key, entry.body) == (answer.json(), {"session": {"a": 1}})


async def test_a_lifespan_around_the_client_has_tasks_that_use_the_open_client() -> None:
    server = emulator()
    with_client: WithClient = client_lifespan(maker(server))
    ended: list[bool] = []

    async def tick(client: AsyncStateClient) -> None:
        try:
            await client.update("d-1", session={"tick": 1})
            await anyio.sleep_forever()
        finally:
            ended.append(health(client).alive)

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with with_client(app) as state, anyio.create_task_group() as tasks:
            tasks.start_soon(tick, state["cognigy_client"])
            yield state
            tasks.cancel_scope.cancel()

    async with served(service(own)) as http:
        assert (await http.post("/dialogs/d-2", json={"a": 1})).status_code == 200
    assert len(applied(server, "d-1")) == 1
    assert ended == [True]


async def test_an_own_lifespan_is_around_the_client_and_keeps_its_state() -> None:
    server = emulator()
    events: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("own begins")
        yield {"crm": events, "other": 7}
        events.append("own ends")

    def make(state: Mapping[str, Any]) -> AsyncStateClient:
        client = client_of(server)
        crm = state["crm"]
        crm.append("made")

        @client.on_state_updated
        async def sync_crm(event: UpdateEvent) -> None:
            await anyio.sleep(1)
            crm.append(f"synced {event.dialog_id}")

        return client

    app = service(client_lifespan(make, lifespan=own))

    @app.get("/state")
    async def state(request: Request) -> tuple[bool, int]:
        return request.state.crm is events, request.state.other

    async with served(app) as http:
        assert (await http.get("/state")).json() == [True, 7]
        await http.post("/dialogs/d-1", json={"a": 1})
        events.append("shutdown")
    assert events == ["own begins", "made", "shutdown", "synced d-1", "own ends"]


async def test_an_own_lifespan_may_yield_nothing() -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield

    async with served(service(client_lifespan(maker(emulator()), lifespan=own))) as http:
        assert (await http.post("/dialogs/d-1", json={"a": 1})).status_code == 200


async def test_an_application_may_be_started_again() -> None:
    server = emulator()
    app = service(client_lifespan(maker(server)))
    for number in (1, 2):
        async with served(app) as http:
            await http.post("/dialogs/d-1", json={"a": number})
    assert len(applied(server, "d-1")) == 2


async def test_a_client_that_cannot_be_made_stops_the_start_and_ends_the_own_lifespan() -> None:
    events = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            events.append("own ends")

    def make(state: Mapping[str, Any]) -> AsyncStateClient:
        raise ConfigurationError("no settings")

    with pytest.raises(ConfigurationError, match="no settings"):
        async with served(service(client_lifespan(make, lifespan=own))):
            pass
    assert events == ["own ends"]


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan")])
def test_an_invalid_drain_timeout_is_refused_early(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="drain_timeout="):
        client_lifespan(maker(emulator()), drain_timeout=seconds)


async def test_the_error_without_the_lifespan_says_what_to_do() -> None:
    app = service(None)
    async with served(app) as http:
        with pytest.raises(ClientUsageError, match="lifespan=client_lifespan"):
            await http.post("/dialogs/d-1", json={"a": 1})


async def test_a_test_can_override_the_client() -> None:
    server, other = emulator(), emulator()
    app = service(client_lifespan(maker(server)))
    async with client_of(other) as client, served(app) as http:
        app.dependency_overrides[get_client] = lambda: client
        await http.post("/dialogs/d-1", json={"a": 1})
    assert not applied(server, "d-1")
    assert len(applied(other, "d-1")) == 1


async def visits(client: StateClient) -> int:
    state = await client.get_state("d-1")
    return int(state.session.get("visits", 0))


async def test_a_dependency_may_build_on_the_client() -> None:
    server = emulator()
    app = service(client_lifespan(maker(server)))

    @app.get("/visits")
    async def show(count: Annotated[int, Depends(visits)]) -> int:
        return count

    async with served(app) as http:
        await http.post("/dialogs/d-1", json={"visits": 3})
        assert (await http.get("/visits")).json() == 3


# Shutting down.


def background_service(lifespan: Any) -> FastAPI:
    """Return an application that answers as soon as an update is accepted."""
    app = FastAPI(lifespan=lifespan)

    @app.post("/dialogs/{dialog_id}", status_code=202)
    async def change(dialog_id: str, session: dict[str, Any], client: StateClient) -> str:
        pending = await client.submit({"dialog_id": dialog_id, "session": session})
        return pending.update_id

    return app


async def test_the_shutdown_sends_accepted_updates() -> None:
    server = emulator(faults=Faults(latency=1.0))
    app = background_service(client_lifespan(maker(server, max_in_flight=2)))
    async with served(app) as http:
        ids = [(await http.post(f"/dialogs/d-{n}", json={"a": n})).json() for n in range(10)]
        assert not server.dialogs
    assert [applied(server, f"d-{n}")[0].key for n in range(10)] == ids


async def test_updates_not_sent_within_the_drain_timeout_are_logged_by_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = emulator(faults=Faults(hang=1.0))
    make = maker(server, max_in_flight=1)
    app = background_service(client_lifespan(make, drain_timeout=5.0))
    async with served(app) as http:
        ids = [
            (await http.post(f"/dialogs/d-{n}", json={"secret": CANARY})).json() for n in range(3)
        ]
        await anyio.sleep(0.1)
        before = anyio.current_time()
    assert anyio.current_time() - before == pytest.approx(5.0, abs=0.5)

    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert {each.name for each in warnings} == {"cognigy_async"}
    logged = {(vars(each)["update_id"], vars(each)["dialog_id"]): each for each in warnings}
    assert logged.keys() == {(ids[n], f"d-{n}") for n in range(3)}
    # The first one was in flight, so that it may have been applied.
    texts = [logged[ids[n], f"d-{n}"].getMessage() for n in range(3)]
    assert "AmbiguousUpdateError" in texts[0]
    assert texts[1] == f"update {ids[1]} of dialog 'd-1' was not sent: the client was closed"
    assert texts[2] == f"update {ids[2]} of dialog 'd-2' was not sent: the client was closed"
    assert CANARY not in caplog.text


async def test_updates_that_the_shutdown_cuts_off_reach_the_callback_or_its_dead_letters() -> None:
    server = emulator(faults=Faults(hang=1.0))
    missed: list[str] = []

    async def keep_missed(letter: DeadLetter) -> None:
        missed.append(letter.event.dialog_id)

    async def keep_unknown(event: UpdateEvent) -> None:
        assert isinstance(event.error, AmbiguousUpdateError)
        missed.append(event.dialog_id)

    def make(state: Mapping[str, Any]) -> AsyncStateClient:
        client = client_of(server, max_in_flight=20)
        client.on_update_failed(keep_unknown, concurrency=1, on_dead_letter=keep_missed)
        return client

    app = background_service(client_lifespan(make, drain_timeout=1.0))
    async with served(app) as http:
        for n in range(20):
            await http.post(f"/dialogs/d-{n}", json={"a": n})
        await anyio.sleep(0.1)
    assert sorted(missed) == sorted(f"d-{n}" for n in range(20))


@pytest.mark.parametrize("plain", [False, True])
async def test_the_application_gets_the_report_of_the_closed_client(plain: bool) -> None:
    server = emulator(faults=Faults(hang=1.0))
    resource_open = False
    reports: list[tuple[CloseReport, bool]] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        nonlocal resource_open
        resource_open = True
        yield
        resource_open = False

    def keep(report: CloseReport) -> None:
        reports.append((report, resource_open))

    async def store(report: CloseReport) -> None:
        await anyio.sleep(1.0)
        keep(report)

    app = background_service(
        client_lifespan(
            maker(server, max_in_flight=1),
            lifespan=own,
            drain_timeout=5.0,
            on_closed=keep if plain else store,
        )
    )
    async with served(app) as http:
        for n in range(3):
            await http.post(f"/dialogs/d-{n}", json={"a": n})
        await anyio.sleep(0.1)
    ((report, was_open),) = reports
    assert was_open
    assert (report.applied, report.ambiguous) == (0, 1)
    assert [update.dialog_id for update in report.unsent] == ["d-1", "d-2"]


async def test_a_cancelled_shutdown_passes_the_report_and_waits_two_seconds_for_the_function() -> (
    None
):
    reports: list[CloseReport] = []

    async def store(report: CloseReport) -> None:
        await anyio.sleep(1.0)
        reports.append(report)
        await anyio.sleep_forever()

    server = emulator(faults=Faults(hang=1.0))
    app = background_service(client_lifespan(maker(server), drain_timeout=1000.0, on_closed=store))
    with pytest.raises(TimeoutError), anyio.move_on_after(1.0):
        async with served(app) as http:
            await http.post("/dialogs/d-1", json={"a": 1})
            await anyio.sleep(0.1)
    (report,) = reports
    assert report.ambiguous == 1
    assert anyio.current_time() < 20


async def test_an_application_that_fails_sends_nothing_more_and_cuts_nothing_off() -> None:
    server = emulator(faults=Faults(latency=1.0))
    app = background_service(client_lifespan(maker(server, max_in_flight=1)))
    with pytest.raises(ZeroDivisionError):
        async with served(app) as http:
            for n in range(3):
                await http.post(f"/dialogs/d-{n}", json={"a": n})
            await anyio.sleep(0.5)
            raise ZeroDivisionError
    assert list(server.dialogs) == ["d-0"]
    assert server.stats.abandoned == 0


async def test_an_application_that_is_cancelled_gives_what_is_in_flight_its_time() -> None:
    server = emulator(faults=Faults(latency=1.0))
    app = background_service(client_lifespan(maker(server, max_in_flight=1)))
    with anyio.move_on_after(0.5) as scope:
        async with served(app) as http:
            for n in range(3):
                await http.post(f"/dialogs/d-{n}", json={"a": n})
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert list(server.dialogs) == ["d-0"]
    assert server.stats.abandoned == 0


async def test_a_shutdown_that_is_cancelled_ends_at_once_and_settles_everything() -> None:
    server = emulator(faults=Faults(hang=1.0))
    clients: list[AsyncStateClient] = []

    def make(state: Mapping[str, Any]) -> AsyncStateClient:
        clients.append(client_of(server))
        return clients[0]

    app = background_service(client_lifespan(make, drain_timeout=1000.0))
    with anyio.move_on_after(2.0) as scope:
        async with served(app) as http:
            await http.post("/dialogs/d-1", json={"a": 1})
            await anyio.sleep(0.1)
    assert scope.cancelled_caught
    assert anyio.current_time() < 20
    report = clients[0].close_report
    assert report is not None
    assert (report.ambiguous, report.unsent) == (1, ())


# Callers that disconnect.


async def test_a_caller_that_disconnects_does_not_abort_a_write() -> None:
    server = emulator(faults=Faults(latency=1.0))
    synced: list[str] = []

    def make(state: Mapping[str, Any]) -> AsyncStateClient:
        client = client_of(server)

        @client.on_state_updated
        async def sync_crm(event: UpdateEvent) -> None:
            synced.append(event.dialog_id)

        return client

    app = FastAPI(lifespan=client_lifespan(make))
    ended: list[str] = []

    @app.post("/dialogs/{dialog_id}")
    async def change(dialog_id: str, request: Request, client: StateClient) -> None:
        """Cancel the handler when the caller disconnects, as some middleware does."""
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                try:
                    await client.update(dialog_id, session={"a": 1})
                finally:
                    ended.append(dialog_id)

            tasks.start_soon(write)
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

    async with started(app) as running:
        await call_and_leave(running, "/dialogs/d-1")
        assert ended == ["d-1"]
        assert not server.dialogs, "it is still under way"
    assert len(applied(server, "d-1")) == 1
    assert synced == ["d-1"]
    assert server.stats.abandoned == 0


async def call_and_leave(app: ASGIApp, path: str) -> None:
    """Send a POST whose caller disconnects after a quarter of a second."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await anyio.sleep(0.25)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("service", 80),
    }
    await app(scope, receive, send)


@pytest.mark.quick("trio")
async def test_a_thousand_handlers_make_one_token_request() -> None:
    server = emulator(api_key=None, faults=Faults(token_latency=3.0))
    # Two applications share the provider.
    provider = oauth(server)
    app = service(client_lifespan(maker(server, auth=provider)))
    other = service(client_lifespan(maker(server, auth=provider)))
    statuses: list[int] = []

    async def call(http: httpx.AsyncClient, n: int) -> None:
        answer = await http.post(f"/dialogs/d-{n % 100}", json={f"n{n}": n})
        statuses.append(answer.status_code)

    async with served(app) as http, served(other) as second, anyio.create_task_group() as tasks:
        for n in range(500):
            tasks.start_soon(call, http, n)
            tasks.start_soon(call, second, 500 + n)
    assert statuses == [200] * 1000
    assert server.stats.token_requests == 1
    assert server.stats.applied == 1000


# Errors.


async def test_a_validation_fault_is_answered_with_its_path() -> None:
    server = emulator()
    async with served(service(client_lifespan(maker(server)))) as http:
        answer = await http.post("/dialogs/d-1", json={"a-b": CANARY, "fine": CANARY})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert [fault["path"] for fault in answer.json()["faults"]] == ["session.a-b"]
    assert CANARY not in answer.text
    assert server.stats.requests == 0


def own_values() -> FastAPI:
    """Return an application that passes values of its own, of its path and of its body."""
    app = FastAPI(lifespan=client_lifespan(maker(emulator(), variables=Visits)))
    add_error_handlers(app)

    @app.post("/own/{dialog_id}")
    async def own(dialog_id: str, client: StateClient) -> None:
        await client.update(dialog_id, session={"visits": datetime.date(2025, 2, 3)})

    @app.post("/path/{dialog_id}")
    async def path(dialog_id: str, client: StateClient) -> None:
        await client.update(dialog_id, session={"visits": 1})

    @app.post("/empty")
    async def empty(client: StateClient, q: str = "") -> None:
        await client.update("", session={"visits": 1})

    @app.post("/null")
    async def null(client: StateClient, given: dict[str, Any]) -> None:
        await client.update("d-1", session={"a": None})

    @app.post("/body")
    async def body(updates: list[StateUpdate], client: StateClient) -> None:
        for update in updates:
            await client.submit(update)

    return app


class Visits(BaseModel):
    """The session variables of `own_values`."""

    visits: int


async def test_a_400_is_for_what_came_from_the_caller() -> None:
    blank = quote("d-1 ")
    refused = [{"dialog_id": "d-1", "session": {"visits": CANARY}}]
    async with served(own_values()) as http:
        assert (await http.post("/path/d-1")).status_code == 200
        answer = await http.post(f"/path/{blank}")
        assert answer.status_code == 400
        assert [fault["path"] for fault in answer.json()["faults"]] == ["dialog_id"]
        answer = await http.post("/body", json=refused)
        assert answer.status_code == 400
        assert [fault["path"] for fault in answer.json()["faults"]] == ["session.visits"]
        assert CANARY not in answer.text
        # The mistakes of the application reach its server, which answers 500 and logs them.
        for path in ("/own/d-1", f"/own/{blank}"):
            with pytest.raises(UpdateValidationError, match=r"session\.visits: date is not a type"):
                await http.post(path, json=refused)
        with pytest.raises(UpdateValidationError, match="dialog_id"):
            await http.post("/empty?q=")
        with pytest.raises(UpdateValidationError, match=r"session\.a"):
            await http.post("/null", json={"a": None, "total": 1})


@pytest.mark.parametrize(
    ("faults", "status", "retry_after"),
    [
        (Faults(throttle_tenant=1.0, throttle_seconds=3600.0), 429, "3600"),
        (Faults(error_503=1.0, retry_after_503=3600.0), 503, "3600"),
        (Faults(fail_status=400), 502, None),
        (Faults(fail_status=500), 502, None),
        (Faults(fail_status=403), 502, None),
        (Faults(fail_status=404), 404, None),
        (Faults(hang=1.0), 504, None),
        (Faults(drop_before=1.0), 504, None),
    ],
    ids=str,
)
async def test_server_failures_are_answered_with_problem_details(
    faults: Faults, status: int, retry_after: str | None
) -> None:
    server = emulator(faults=faults)
    async with served(service(client_lifespan(maker(server)))) as http:
        answer = await http.post("/dialogs/d-1", json={"secret": CANARY})
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry_after
    assert answer.json()["dialog_id"] == "d-1"
    assert CANARY not in answer.text


async def test_an_own_error_handler_takes_precedence() -> None:
    app = FastAPI(lifespan=client_lifespan(maker(emulator())))
    add_error_handlers(app)

    @app.exception_handler(StateConflictError)
    async def conflict(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"own": True}, 418)

    @app.post("/dialogs/{dialog_id}")
    async def change(dialog_id: str, client: StateClient) -> None:
        await client.update(dialog_id, session={"a": 1}, if_match='"7"')

    async with served(app) as http:
        assert (await http.post("/dialogs/d-1")).status_code == 418


async def test_a_mistake_in_the_service_is_raised_to_the_server() -> None:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/")
    async def fail() -> None:
        raise ConfigurationError(CANARY)

    async with served(app) as http:
        with pytest.raises(ConfigurationError):
            await http.get("/")
        quiet = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=quiet, base_url="http://service") as caller:
            answer = await caller.get("/")
    assert answer.status_code == 500
    assert CANARY not in answer.text


async def test_a_websocket_has_the_client_and_its_errors_are_left_to_the_server() -> None:
    server = emulator()
    app = FastAPI(lifespan=client_lifespan(maker(server)))
    add_error_handlers(app)

    @app.websocket("/ws")
    async def talk(socket: WebSocket, client: StateClient) -> None:
        await socket.accept()
        result: UpdateResult = await client.update("d-1", session={"a": 1})
        await socket.send_text(result.update_id)
        await client.update("d-1", session={"a-b": 1})

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
    }
    async with started(app) as running:
        with pytest.raises(UpdateValidationError):
            await running(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send"]
    assert len(applied(server, "d-1")) == 1


# Health.


async def test_health_follows_the_client() -> None:
    server = emulator(faults=Faults(hang=1.0))
    client = client_of(server)
    assert health(client) == Health(False, False, 0, 0, 0, 0.0)
    async with client:
        assert health(client) == Health(True, True, 0, 0, 0, 0.0)
        pending = await client.submit({"dialog_id": "d-1", "session": {"a": 1}})
        await anyio.sleep(0.1)
        assert health(client, max_pending=2) == Health(True, True, 1, 1, 0, 0.0)
        assert health(client, max_pending=1) == Health(True, False, 1, 1, 0, 0.0)
        server.faults = Faults()
        await pending
        assert health(client, max_pending=1) == Health(True, True, 0, 0, 0, 1.0)
    assert health(client) == Health(False, False, 0, 0, 0, 1.0)


@pytest.mark.real_time
async def test_health_knows_the_age_of_the_oldest_event(tmp_path: Path) -> None:
    crm_is_down = True

    async def save(event: UpdateEvent) -> None:
        if crm_is_down:
            raise OSError("the CRM is down")

    outbox = Outbox(tmp_path / "outbox")
    outbox.deliver_to(save, name="crm")
    async with client_of(emulator(), outbox=outbox) as client:
        assert health(client, max_age=0.0).in_step
        await client.update("d-1", session={"a": 1})
        await eventually(lambda: health(client).oldest_event > 0)
        assert health(client, max_age=900).in_step
        assert not health(client, max_age=0.0).in_step
        crm_is_down = False
        await eventually(lambda: health(client, max_age=0.0).in_step)


async def test_health_while_the_client_drains() -> None:
    server = emulator(faults=Faults(latency=1.0))
    async with client_of(server) as client, anyio.create_task_group() as tasks:
        await client.submit({"dialog_id": "d-1", "session": {"a": 1}})
        tasks.start_soon(client.aclose)
        await anyio.sleep(0.1)
        assert not health(client).ready
        with pytest.raises(ClientClosedError):
            await client.update("d-2", session={"a": 1})


async def test_health_is_a_response_model() -> None:
    app = FastAPI(lifespan=client_lifespan(maker(emulator())))

    @app.get("/health")
    async def ready(client: StateClient) -> Health:
        return health(client)

    async with served(app) as http:
        assert (await http.get("/health")).json() == {
            "alive": True,
            "ready": True,
            "pending": 0,
            "in_flight": 0,
            "paused": 0,
            "persistence_rate": 0.0,
            "in_step": True,
            "oldest_event": 0.0,
        }
