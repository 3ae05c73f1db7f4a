"""A program that uses every public signature. Type checkers read it; nothing runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, assert_type

import aiohttp
import httpx
import tenacity
from pydantic import BaseModel, SecretStr

import cognigy_async as ca
from cognigy_async import bulk, spi, sync


def providers() -> list[ca.TokenProvider]:
    config = ca.OAuthConfig(
        token_url="https://api.example/oauth/token",
        client_id="id",
        client_secret=SecretStr("secret"),
        scopes=["runtime:write"],
    )
    oauth = ca.OAuthTokenProvider(config, transport=ca.HttpxTransport(), timeout=5.0)
    ca.OAuthTokenProvider(config, clock=lambda: 0.0)
    return [oauth, ca.ApiKey("key"), ca.ApiKey(SecretStr("key"), header="X-Key"), OwnProvider()]


class OwnProvider:
    """A token provider of the user's."""

    async def get_token(self) -> ca.AccessToken:
        return ca.AccessToken("Authorization", "Bearer ...")

    def invalidate(self, token: ca.AccessToken) -> None:
        assert_type(token.header, str)
        assert_type(token.value, str)

    async def aclose(self) -> None: ...


class OwnTransport:
    """A transport of the user's."""

    async def send(self, request: ca.Request, *, timeout: float) -> ca.Response:
        assert_type(request.method, str)
        assert_type(request.url, str)
        assert_type(request.content, bytes)
        request.headers["x-note"] = "1"
        response = ca.Response(200, {"etag": "1"}, b"{}")
        assert_type(response.status, int)
        assert_type(response.headers, Mapping[str, str])
        assert_type(response.content, bytes)
        raise ca.NoResponseError("lost", timed_out=True) from ca.NotSentError("refused")

    async def aclose(self) -> None: ...


class Looks:
    """An observer of the user's, and what it makes of each update."""

    def accepted(
        self, operation: ca.Operation, dialog_id: str, update_id: str
    ) -> ca.Observation | None:
        assert_type(
            operation,
            Literal[
                "update",
                "modify",
                "read",
                "reset",
                "inject",
                "notify",
                "create_profile",
                "update_profile",
            ],
        )
        return self

    def request_starts(self, request: ca.Request, attempt: int) -> None:
        request.headers["x-attempt"] = str(attempt)

    def request_ends(
        self, request: ca.Request, response: ca.Response | None, error: BaseException | None
    ) -> None: ...

    def settled(self, error: BaseException | None, attempts: int) -> None: ...


def transports() -> list[ca.Transport]:
    return [
        OwnTransport(),
        ca.HttpxTransport(),
        ca.HttpxTransport(httpx.AsyncClient(), max_response_bytes=1_000_000),
        ca.AiohttpTransport(),
        ca.AiohttpTransport(aiohttp.ClientSession(), max_response_bytes=1_000_000),
    ]


def apis() -> list[ca.StateApi]:
    def is_dialogs_own(headers: Mapping[str, str]) -> bool:
        return "x-dialog" in headers

    return [
        ca.RuntimeApi(),
        ca.RuntimeApi(honours_idempotency_keys=True, is_dialog_throttle=is_dialogs_own),
        ca.SessionsApi(),
        ca.SessionsApi(
            user_id="u-1", inject="replace", reads_state=True, is_dialog_throttle=is_dialogs_own
        ),
    ]


def client() -> ca.AsyncStateClient:
    ca.AsyncStateClient("https://api.example", auth=ca.ApiKey("key"))
    return ca.AsyncStateClient(
        "https://api.example",
        auth=providers()[0],
        api=apis()[0],
        max_in_flight=8,
        max_pending=100,
        rate_limit=limits_of_rate(),
        retry=policy(),
        limits=ca.Limits(max_depth=2),
        on_failure="pause",
        coalesce=True,
        linger=0.05,
        timeout=5.0,
        audit=sinks(),
        transport=transports()[0],
        allow_insecure=True,
    )


def limits_of_rate() -> list[ca.RateLimit]:
    ca.AsyncStateClient("https://api.example", auth=ca.ApiKey("key"), rate_limit="auto")
    ca.AsyncStateClient(
        "https://api.example", auth=ca.ApiKey("key"), rate_limit=ca.RateLimit(1000, per=300)
    )
    assert_type(ca.RateLimit(10, per=1.0).capacity, int)
    return [ca.RateLimit(1000, per=300, reserve=0.2, burst=1, guard=0.01, shared="quota")]


def quota(client: ca.AsyncStateClient) -> None:
    client.restore_quota(client.quota_state())
    assert_type(client.metrics.quota, tuple[ca.QuotaUse, ...])
    for use in client.metrics.snapshot().quota:
        assert_type((use.n, use.per, use.used), tuple[int, float, int])
        assert_type((use.utilisation, use.learned), tuple[float, bool])


class OwnSink:
    """An audit sink of the user's."""

    strict = False
    max_queue = 100

    def open(self) -> None: ...

    def write(self, records: Sequence[ca.AuditRecord], /) -> None:
        for record in records:
            assert_type(record.timestamp, datetime)
            assert_type(record.payload_sha256, str | None)
            assert_type(record.variables, tuple[str, ...])
            assert_type(record.metadata, Mapping[str, str])

    def close(self) -> None: ...


class ShortSink(ca.AuditSink):
    """Another one."""

    def write(self, records: Sequence[ca.AuditRecord], /) -> None:
        print(len(records))


def sinks() -> list[ca.AuditSink]:
    file = ca.JsonLinesAudit(
        Path("audit.jsonl"),
        key=SecretStr("key"),
        max_bytes=1_000_000,
        fsync=True,
        strict=True,
        max_queue=1000,
    )
    assert_type(file.head, str | None)
    assert_type(file.path, Path)
    memory = ca.MemoryAudit(100)
    assert_type(memory.records, tuple[ca.AuditRecord, ...])
    ca.AsyncStateClient("https://api.example", auth=ca.ApiKey("key"), audit=OwnSink())
    return [file, memory, ca.LoggingAudit("audit", level=10), OwnSink(), ShortSink()]


def verifying() -> None:
    report = ca.verify_audit(["audit.jsonl"], key="key", heads=["0" * 64], after=None)
    assert_type(report, ca.AuditReport)
    assert_type(report.ok, bool)
    assert_type(report.faults, tuple[ca.AuditFault, ...])
    for record in ca.read_audit("audit.jsonl"):
        assert_type(record, ca.AuditRecord)


def policy() -> ca.RetryPolicy:
    ca.RetryPolicy()
    retry = ca.RetryPolicy(
        max_attempts=3,
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_delay(10),
        max_elapsed=60.0,
        max_retry_after=60.0,
        budget=0.1,
        ambiguous="raise",
    )
    assert_type(retry.max_attempts, int)
    assert_type(retry.ambiguous, Literal["retry", "raise"])
    return retry


def limits() -> None:
    assert_type(ca.Limits.cognigy_saas(), ca.Limits)
    assert_type(ca.SessionsApi(limits=ca.Limits.cognigy_app()).limits, ca.Limits)
    assert_type(ca.RuntimeApi(limits=ca.Limits()).limits, ca.Limits)
    assert_type(ca.Limits().max_depth, int)
    assert_type(ca.Limits().reserved_prefixes, tuple[str, ...])


class Watch:
    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None: ...

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None: ...

    def published(self, index: int, callback: str) -> spi.DeliveryReceipt | None:
        return None


async def watching(client: ca.AsyncStateClient) -> None:
    watch: spi.UpdateWatch = Watch()
    async with client.update_many([], watch=watch) as stream:
        stream.stop()
    assert_type(client.base_url, str)
    assert_type(client.api, ca.StateApi)
    assert_type(client.limits, ca.Limits)


async def jobs(client: ca.AsyncStateClient) -> None:
    options = bulk.JobOptions(on_failure="pause-dialog", canary="1%", limit=5)
    job = bulk.BulkJob("rows.jsonl", options=options)
    assert_type(await job.run(client), bulk.JobResult)
    assert_type(job.progress, bulk.JobProgress)
    job.stop()


async def writing(client: ca.AsyncStateClient) -> None:
    result = await client.update(
        "d-1",
        session={"cart_total": 149.99, "items": [1, {"a": None}]},
        user={"lifetime_orders": 12},
        next_step="process_checkout",
        if_match='"7"',
        update_id="u-1",
        user_id="u-1",
        profile_id="0123456789abcdef01234567",
        retry=policy(),
        timeout=3.0,
        deadline=10.0,
        coalesce=True,
        priority="bulk",
        metadata={"actor": "agent-7"},
    )
    assert_type(result, ca.UpdateResult)
    assert_type(result.merged, int)
    assert_type(result.carried_by, str)
    assert_type(result.dialog_id, str)
    assert_type(result.update_id, str)
    assert_type(result.status, int)
    assert_type(result.etag, str | None)
    assert_type(result.version, int | None)
    assert_type(result.attempts, int)
    assert_type(result.latency, float)
    assert_type(result.queued, float)
    assert_type(result.body, Any)
    await client.update("d-1", session=typed_variables())

    update = ca.StateUpdate(dialog_id="d-1", session={"a": 1})
    assert_type(update.payload(), dict[str, Any])
    assert_type(update.dialog_id, str)
    assert_type(update.session, dict[str, Any])
    assert_type(update.user, dict[str, Any])
    assert_type(update.next_step, str | None)
    assert_type(update.if_match, str | None)
    assert_type(update.update_id, str | None)
    assert_type(update.user_id, str | None)
    assert_type(update.profile_id, str | None)
    assert_type(update.metadata, dict[str, str])
    assert_type(update.fields(), dict[str, Any])
    assert_type(update.replace(next_step="n"), ca.StateUpdate)
    assert_type(ca.StateUpdate.from_fields(ca.Limits(), update.fields()), ca.StateUpdate)
    assert_type(update.with_limits(ca.Limits.cognigy_saas()), ca.StateUpdate)

    pending = await client.submit(update, retry=policy(), timeout=1.0)
    assert_type(pending, ca.PendingUpdate)
    assert_type(client.submit_nowait({"dialog_id": "d-1", "next_step": "n"}), ca.PendingUpdate)
    assert_type(pending.done(), bool)
    assert_type(pending.withdraw(), bool)
    assert_type(pending.update_id, str)
    assert_type(pending.dialog_id, str)
    assert_type(await pending, ca.UpdateResult)


def typed_variables() -> dict[str, int]:
    return {"visits": 1}


async def writing_many(client: ca.AsyncStateClient) -> None:
    def rows() -> Iterator[ca.StateUpdate | dict[str, Any]]:
        yield ca.StateUpdate(dialog_id="d-1", user={"a": 1})
        yield {"dialog_id": "d-1", "user": {"a": 1}}

    async def arriving() -> AsyncIterator[ca.StateUpdate]:
        yield ca.StateUpdate(dialog_id="d-1", user={"a": 1})

    async with client.update_many(rows(), retry=policy(), timeout=1.0) as outcomes:
        assert_type(outcomes, ca.UpdateStream)
        async for outcome in outcomes:
            assert_type(outcome, ca.UpdateOutcome)
            assert_type(outcome.index, int)
            assert_type(outcome.update, ca.StateUpdate | None)
            assert_type(outcome.update_id, str | None)
            assert_type(outcome.ok, bool)
            assert_type(outcome.result, ca.UpdateResult | None)
            assert_type(outcome.error, ca.CognigyError | None)
    client.update_many([{"dialog_id": "d-1", "next_step": "n"}])
    client.update_many({"dialog_id": d, "session": {"a": 1}} for d in ("d-1", "d-2"))
    stream = client.update_many(arriving())
    assert_type(await anext(stream), ca.UpdateOutcome)
    await stream.aclose()


async def rows(client: ca.AsyncStateClient, untyped: dict[str, Any]) -> None:
    """Mappings: those that a checker knows have to match, those with values of type Any pass."""
    row: ca.UpdateFields = {"dialog_id": "d-1", "session": None, "metadata": {"actor": "a"}}
    mapping: Mapping[str, Any] = untyped
    client.update_many([row, untyped, mapping, {"dialog_id": "d-1", "user": typed_variables()}])
    client.update_many(untyped for _ in range(2))
    await client.submit(row)
    client.submit_nowait(untyped, retry=policy(), deadline=1.0, coalesce=False, priority="bulk")
    ca.plan([row, untyped, mapping])

    await client.submit({"dialog_id": "d-1", "sesion": {"a": 1}})  # pyright: ignore[reportArgumentType]
    await client.submit({"dialog_id": 1, "session": {"a": 1}})  # pyright: ignore[reportArgumentType]
    client.submit_nowait({"session": {"a": 1}})  # pyright: ignore[reportArgumentType]
    client.update_many([{"dialog_id": "d-1", "session": 1}])  # pyright: ignore[reportArgumentType]
    ca.plan([{"dialog_id": "d-1", "next_stop": "n"}])  # pyright: ignore[reportArgumentType]
    await client.submit(row, timeout="1")  # type: ignore[arg-type]
    await client.get_state("d-1", coalesce=True)  # type: ignore[call-arg]


class CartVariables(TypedDict, total=False):
    """Session variables of the user's."""

    cart_total: float


class CartRow(TypedDict):
    """Rows of the user's, which need not derive from `UpdateFields`."""

    dialog_id: str
    session: CartVariables


class MySession(BaseModel):
    """A model of session variables."""

    cart_total: float


async def typed_rows(auth: ca.TokenProvider) -> None:
    """Rows and variables with types of the user's, and the model that checks them when they run."""
    client = ca.AsyncStateClient(
        "https://api.example", auth=auth, variables=MySession, encode="json"
    )
    assert_type(client.limits.variables, type[BaseModel] | None)
    cart: CartVariables = {"cart_total": 1.5}
    typed: list[CartRow] = [{"dialog_id": "d-1", "session": cart}]
    client.update_many(typed)
    client.update_many(row for row in typed)
    await client.submit(typed[0])
    client.submit_nowait(typed[0])
    await client.update("d-1", session=cart)
    ca.plan(typed, limits=ca.Limits(variables=MySession))
    made = ca.StateUpdate("d-1", session={"since": datetime.now()}, encode="json")
    assert_type(made.replace(session={"since": datetime.now()}, encode="json"), ca.StateUpdate)
    ca.StateUpdate("d-1", session=cart, encode="xml")  # type: ignore[arg-type]
    ca.AsyncStateClient("https://api.example", auth=auth, variables=CartRow)  # type: ignore[arg-type]
    ca.AsyncStateClient("https://api.example")  # type: ignore[call-arg]
    wrong: CartRow = {"dialog_id": "d-1", "session": {"cart_total": "1.5"}}  # type: ignore[typeddict-item]
    client.update_many([wrong])


def planning() -> None:
    found = ca.plan(
        [ca.StateUpdate("d-1", session={"a": 1}), {"dialog_id": "d-2", "session": {"a": 1}}],
        rate_limit=ca.RateLimit(1000, per=300),
        coalesce=True,
        limits=ca.Limits(),
        session_ttl=1800.0,
        api=ca.RuntimeApi(),
    )
    assert_type(found, ca.Plan)
    assert_type(found.requests, int)
    assert_type(found.dialogs, int)
    assert_type(found.seconds, float | None)
    assert_type(found.warning, str | None)
    ca.plan([], rate_limit=[ca.RateLimit(20, per=1), ca.RateLimit(1000, per=300)])


def without_asyncio(provider: ca.TokenProvider, untyped: dict[str, Any]) -> None:
    with sync.StateClient("https://api.example", auth=provider, coalesce=True) as client:
        assert_type(client, sync.StateClient)
        assert_type(client.update("d-1", session={"a": 1}, deadline=1.0), ca.UpdateResult)
        assert_type(client.get_state("d-1", timeout=1.0), ca.DialogState)
        assert_type(client.modify("d-1", lambda state: None), ca.UpdateResult | None)
        assert_type(client.reset_state("d-1", user_id="u-1"), ca.UpdateResult)
        assert_type(client.create_profile("p" * 24, active=True), ca.UpdateResult)
        assert_type(client.update_profile("p" * 24, active=True), ca.UpdateResult)
        assert_type(client.paused_dialogs(), Mapping[str, ca.DialogPausedError])
        client.flush()
        client.restore_quota(client.quota_state())
        handle = client.submit({"dialog_id": "d-1", "next_step": "n"}, priority="bulk")
        assert_type(handle, sync.UpdateHandle)
        assert_type(client.submit_nowait(untyped), sync.UpdateHandle)
        assert_type(handle.result(), ca.UpdateResult)
        assert_type(handle.done(), bool)
        assert_type(handle.withdraw(), bool)
        assert_type(handle.update_id, str)
        with client.update_many([untyped], deadline=1.0) as outcomes:
            assert_type(outcomes, sync.Outcomes)
            for outcome in outcomes:
                assert_type(outcome, ca.UpdateOutcome)
            outcomes.stop()
        assert_type(client.metrics, ca.MetricsSnapshot)
        assert_type(client.is_open, bool)
        assert_type(client.close_report, ca.CloseReport | None)
        assert_type(client.base_url, str)

        @client.on_state_updated(retries=1)
        def note(event: ca.UpdateEvent) -> int:
            return len(event.update_id)

        assert_type(note(ca.UpdateEvent("d-1", "u-1", None, None, None)), int)
    assert_type(client.close(drain=False), ca.CloseReport)

    sync.StateClient("https://api.example")  # type: ignore[call-arg]
    client.update("d-1", sesion={"a": 1})  # type: ignore[call-arg]
    client.get_state("d-1", coalesce=True)  # type: ignore[call-arg]
    client.submit({"dialog_id": 1, "session": {"a": 1}})  # pyright: ignore[reportArgumentType]
    client.update_many(7)  # type: ignore[arg-type]


async def resetting(client: ca.AsyncStateClient) -> None:
    reset = await client.reset_context(
        "s-1",
        user_id="u-1",
        flow_reference_id="f",
        entrypoint="e",
        retry=policy(),
        timeout=1.0,
    )
    assert_type(reset, ca.UpdateResult)
    assert_type(await client.reset_state("s-1", user_id="u-1"), ca.UpdateResult)
    found: ca.Injection | None = await ca.probe_inject(client, "s-1", user_id="u-1")
    assert_type(found, Literal["merge", "merge recursively", "replace"] | None)


async def writing_profiles(client: ca.AsyncStateClient) -> None:
    created = await client.create_profile("p" * 24, profile={"a": 1}, contact_ids=("u-1",))
    assert_type(created, ca.UpdateResult)
    updated = await client.update_profile("p" * 24, active=False, retry=policy(), deadline=1.0)
    assert_type(updated, ca.UpdateResult)
    await client.create_profile(contact_ids=["u-1"])  # type: ignore[call-arg]
    await client.update_profile("p" * 24, coalesce=True)  # type: ignore[call-arg]


async def reading(client: ca.AsyncStateClient) -> None:
    state = await client.get_state("d-1", retry=policy(), timeout=1.0)
    assert_type(state, ca.DialogState)
    assert_type(state.dialog_id, str)
    assert_type(state.session, Mapping[str, Any])
    assert_type(state.user, Mapping[str, Any])
    assert_type(state.next_step, str | None)
    assert_type(state.etag, str | None)
    assert_type(state.version, int | None)

    def visit(state: ca.DialogState) -> dict[str, Any] | None:
        visits = state.session.get("visits", 0)
        return {"session": {"visits": visits + 1}} if visits < 10 else None

    assert_type(await client.modify("d-1", visit), ca.UpdateResult | None)
    await client.modify("d-1", lambda s: {"session": {"n": s.version}}, timeout=1.0)
    await client.modify("d-1", visit, metadata={"actor": "agent-7"})


async def messages(client: ca.AsyncStateClient) -> None:
    data: dict[str, object] = {"pages": 3}
    assert_type(
        await client.inject("d-1", text="ready", data=data, user_id="u-1", timeout=1.0),
        ca.UpdateResult,
    )
    files = [{"name": "a", "url": "https://files.example/a"}]
    await client.notify("d-1", text="ready", attachments=files, metadata={"actor": "a"})
    await client.update("d-1", session={"a": 1}, inject={"text": "ready"})
    row: ca.UpdateFields = {"dialog_id": "d-1", "notify": {"text": "ready"}}
    await client.submit(row)
    assert_type(ca.StateUpdate("d-1", inject={"text": "ready"}).inject, dict[str, Any])
    assert_type(client.endpoint, ca.Endpoint | None)
    ca.AsyncStateClient(
        "https://a", auth=ca.ApiKey("k"), endpoint=ca.Endpoint("https://e", SecretStr("t"))
    )


def listening(client: ca.AsyncStateClient) -> None:
    @client.on_state_updated
    async def sync_crm(event: ca.UpdateEvent) -> None:
        assert_type(event.dialog_id, str)
        assert_type(event.update_id, str)
        assert_type(event.update, ca.StateUpdate | None)
        assert_type(event.result, ca.UpdateResult | None)
        assert_type(event.error, ca.CognigyError | None)
        assert_type(event.payload, dict[str, Any])
        assert_type(event.metadata, Mapping[str, str])

    def bury(letter: ca.DeadLetter) -> None:
        assert_type(letter.event, ca.UpdateEvent)
        assert_type(letter.error, ca.CallbackError)
        assert_type(letter.attempts, int)

    @client.on_update_failed(
        timeout=5.0,
        retries=1,
        concurrency=2,
        max_queue=10,
        overflow="dead_letter",
        on_dead_letter=bury,
    )
    def note(event: ca.UpdateEvent) -> int:
        return len(event.update_id)

    # A callback goes on being what it was.
    assert_type(note(ca.UpdateEvent("d-1", "u-1", None, None, None)), int)
    client.on_state_updated(sync_crm, retries=0)
    client.on_update_failed(print)
    options: ca.HookOptions = {"timeout": 1.0, "overflow": "wait"}
    client.on_state_updated(sync_crm, **options)


async def living() -> None:
    async with client() as open_client:
        assert_type(open_client, ca.AsyncStateClient)
        await open_client.flush()
        assert_type(open_client.paused_dialogs(), Mapping[str, ca.DialogPausedError])
        open_client.resume()
        open_client.resume("d-1")
        assert_type(open_client.is_open, bool)
        assert_type(open_client.close_report, ca.CloseReport | None)
        report = await open_client.aclose(drain=False, timeout=1.0)
    assert_type(report, ca.CloseReport)
    assert_type(report.applied, int)
    assert_type(report.unsent, tuple[ca.StateUpdate, ...])


def measuring(client: ca.AsyncStateClient) -> None:
    client.add_observer(Looks())
    assert_type(client.metrics, ca.Metrics)
    assert_type(client.metrics.persistence_rate, float)
    assert_type(client.metrics.mean_latency, float)
    snapshot = client.metrics.snapshot()
    assert_type(snapshot, ca.MetricsSnapshot)
    assert_type(snapshot.retries, Mapping[str, int])
    assert_type(snapshot.latency, ca.Distribution)
    assert_type(snapshot.latency.p99, float)
    assert_type(snapshot.audit_dropped, int)


async def failing(client: ca.AsyncStateClient) -> None:
    try:
        await client.update("d-1", session={"a": 1})
    except ca.UnsupportedByApiError as unsupported:
        assert_type(unsupported.path, str)
    except ca.UpdateValidationError as invalid:
        assert_type(invalid.faults, tuple[ca.Fault, ...])
        assert_type(invalid.path, str)
        as_value_error: ValueError = invalid
        print(as_value_error, invalid.faults[0].remedy)
    except ca.StateConflictError as conflict:
        assert_type(conflict.current_etag, str | None)
        assert_type(conflict.current_version, int | None)
    except ca.AuthenticationError as refused:
        assert_type(refused.transient, bool)
    except ca.NoResponseError as lost:
        assert_type(lost.timed_out, bool)
    except ca.DeadlineExceededError as late:
        assert_type(late.retry_after, float | None)
    except ca.DialogPausedError as paused:
        assert_type(paused.waiting, int)
    except (
        ca.AmbiguousUpdateError,
        ca.BadRequestError,
        ca.DialogNotFoundError,
        ca.NotSentError,
        ca.PayloadTooLargeError,
        ca.PermissionDeniedError,
        ca.RateLimitedError,
        ca.ServerError,
        ca.UnexpectedAnswerError,
        ca.UpdateWithdrawnError,
    ) as error:
        some_error: ca.CognigyError = error
        print(some_error)
    except ca.UpdateError as failed:
        assert_type(failed.status, int | None)
        assert_type(failed.dialog_id, str | None)
        assert_type(failed.update_id, str | None)
        assert_type(failed.attempts, int)
        assert_type(failed.trace_id, str | None)
        assert_type(failed.retry_after, float | None)
        assert_type(failed.applied_parts, int)
        assert_type(failed.detail, str | None)
        assert_type(failed.code, int | None)
    except (ca.ClientClosedError, ca.ClientUsageError, ca.ConfigurationError, ca.CallbackError):
        raise
    except ca.AuditError as unaudited:
        print(unaudited)
    except ca.QueueFullError as full:
        assert_type(full.max_pending, int)
    type_error: type[TypeError] = ca.VariableTypeError
    response_kind: ca.ResponseKind = ca.RuntimeApi().classify(ca.Response(200, {}))
    print(type_error, response_kind)
