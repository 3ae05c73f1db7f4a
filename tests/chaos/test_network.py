"""Each transport over a network that breaks connections: what the client reports is what happened.

The faults are those of a seed; the moments at which threads and sockets meet them are not.
"""

from __future__ import annotations

import itertools
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tenacity import wait_random_exponential

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    CognigyError,
    RetryPolicy,
    StateUpdate,
    UpdateResult,
)
from cognigy_async.emulator import Emulator, Faults, serve
from tests.chaos.proxy import FAULTS, ChaosProxy, breaking
from tests.integration.tls import server_context, trusting_context
from tests.integration.transport_cases import CASES, TRUSTING, Case, backend_of, name_of, opened
from tests.process import descriptors, measured

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(600)]

KEY = "the-key"
DIALOGS = 20
EACH = 30
CONNECTIONS = 10_000


class Way(NamedTuple):
    """The server, and the proxy before it."""

    emulator: Emulator
    proxy: ChaosProxy
    url: str


@pytest.fixture(params=[case for case in CASES if case.kind in TRUSTING], ids=name_of)
def case(request: pytest.FixtureRequest) -> Case:
    given: Case = request.param
    return given


@pytest.fixture
def anyio_backend(case: Case) -> tuple[str, dict[str, Any]]:
    return backend_of(case)


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """A thread for the server and the proxy, whatever the event loop of the client."""
    with start_blocking_portal() as portal:
        yield portal


def connect(
    stack: ExitStack,
    portal: BlockingPortal,
    emulator: Emulator,
    proxy: ChaosProxy,
    tls: ssl.SSLContext | None = None,
) -> Way:
    enter = portal.wrap_async_context_manager
    base_url = stack.enter_context(enter(serve(emulator)))
    target = int(base_url.rpartition(":")[2])
    if tls is not None:
        # Behind the faults, so that these break TLS.
        unharmed = ChaosProxy(0, ["none"])
        unharmed.target = target
        target = stack.enter_context(enter(breaking(unharmed, tls)))
    proxy.target = target
    port = stack.enter_context(enter(breaking(proxy)))
    return Way(emulator, proxy, f"{'http' if tls is None else 'https'}://127.0.0.1:{port}")


@asynccontextmanager
async def client_of(
    case: Case, way: Way, tls: bool, **options: Any
) -> AsyncIterator[AsyncStateClient]:
    trusts = trusting_context() if tls else None
    async with (
        opened(case, trusts=trusts) as transport,
        AsyncStateClient(
            way.url, auth=ApiKey(KEY), transport=transport, max_in_flight=16, **options
        ) as client,
    ):
        yield client


def updates(chance: random.Random) -> list[StateUpdate]:
    """Updates of all dialogs, every third with a transition, some too long for one piece."""
    made = []
    for number, dialog in itertools.product(range(EACH), range(DIALOGS)):
        session: dict[str, Any] = {"seq": number + 1, "text": "x" * chance.choice((1, 400, 2000))}
        step = "next" if chance.randrange(3) == 0 else None
        update_id = f"u-{dialog}-{number + 1}"
        made.append(
            StateUpdate(f"d-{dialog}", session=session, next_step=step, update_id=update_id)
        )
    return made


def check(emulator: Emulator, outcomes: dict[StateUpdate, UpdateResult | CognigyError]) -> None:
    """Compare the log of the server with what the client reported."""
    times: Counter[str | None] = Counter()
    for dialog in emulator.dialogs.values():
        times.update(entry.key for entry in dialog.history)
        seqs = [entry.seq for entry in dialog.history]
        assert seqs == sorted(seqs), f"{dialog.dialog_id} is out of order"
    for update, outcome in outcomes.items():
        applied = times[update.update_id]
        if update.next_step is not None:
            assert applied <= 1, f"{update.update_id} moved its dialog {applied} times"
        if isinstance(outcome, UpdateResult):
            assert applied, f"{update.update_id} is reported as applied, and is not"
        elif not isinstance(outcome, AmbiguousUpdateError):
            assert not applied, f"{update.update_id} is reported as {outcome!r}, and is applied"
    assert emulator.stats.violations() == {}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("fault", [*FAULTS[1:], "all"])
async def test_what_is_reported_is_what_happened(
    case: Case, portal: BlockingPortal, seed: int, fault: str, tls: bool
) -> None:
    emulator = Emulator(api_key=KEY, seed=seed, faults=Faults(latency=0.001, latency_jitter=0.002))
    proxy = ChaosProxy(seed, FAULTS if fault == "all" else [fault])
    outcomes: dict[StateUpdate, UpdateResult | CognigyError] = {}
    retry = RetryPolicy(wait=wait_random_exponential(multiplier=0.01, max=0.1))
    with ExitStack() as stack:
        way = connect(stack, portal, emulator, proxy, server_context() if tls else None)
        async with client_of(case, way, tls, timeout=0.5, retry=retry) as client:

            async def update(one: StateUpdate) -> None:
                try:
                    outcomes[one] = await pending[one]
                except CognigyError as error:
                    outcomes[one] = error

            with anyio.fail_after(120):
                given = updates(random.Random(seed))
                pending = {one: client.submit_nowait(one) for one in given}
                async with anyio.create_task_group() as tasks:
                    for one in given:
                        tasks.start_soon(update, one)
            assert client.metrics.pending == client.metrics.in_flight == 0
        report = client.close_report
    assert report is not None
    assert not report.unsent
    assert len(outcomes) == DIALOGS * EACH
    check(emulator, outcomes)
    kinds = Counter(type(outcome).__name__ for outcome in outcomes.values())
    print(f"{dict(kinds)}; {proxy.accepted} connections, {dict(proxy.struck)}")
    assert proxy.struck.total() if fault == "all" else proxy.struck[fault]
    # What breaks is tried again.
    assert kinds["UpdateResult"] > len(outcomes) / 2


@measured
async def test_connections_that_come_and_go_leave_nothing(
    case: Case, portal: BlockingPortal, seed: int
) -> None:
    emulator = Emulator(api_key=KEY)
    proxy = ChaosProxy(seed, ["cut"])
    with ExitStack() as stack:
        way = connect(stack, portal, emulator, proxy)
        async with client_of(case, way, tls=False, timeout=5.0) as client:
            counts = []

            async def churn(until: int) -> None:
                for number in itertools.count():
                    if proxy.accepted >= until:
                        break
                    rows = (
                        {"dialog_id": f"d-{dialog}", "session": {"seq": number}}
                        for dialog in range(100)
                    )
                    async with client.update_many(rows) as outcomes:
                        async for _ in outcomes:
                            pass
                # What is closed is closed by both threads.
                await anyio.sleep(0.5)
                counts.append(descriptors())

            await churn(CONNECTIONS // 10)
            await churn(CONNECTIONS)
    print(f"{proxy.accepted} connections, descriptors {counts}, {dict(proxy.struck)}")
    assert counts[1] <= counts[0] + 16
