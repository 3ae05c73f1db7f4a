"""pytest plugin of cognigy-async: fixtures with an emulator in the process and a client of it.

pytest imports this module in each run, also in those of programs that do not use the fixtures. It
stands beside the package, so that the package is imported by the first fixture that is used.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
    from typing import Literal

    from cognigy_async import AsyncStateClient
    from cognigy_async.emulator import Emulator
    from cognigy_async.sync import StateClient

LOOP_SCOPES: tuple[Literal["function", "class", "module", "package", "session"], ...] = (
    "function",
    "class",
    "module",
    "package",
    "session",
)
"""Scopes of the event loops of pytest-asyncio."""


HAS_FAILED = pytest.StashKey[bool]()
"""Whether a test has failed, or its steps that were left have been reported."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test has failed."""
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report


@pytest.fixture
def cognigy_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Emulator in the process, for one test. Override it to choose its arguments.

    A test that leaves steps of `Emulator.script` ends with an error.
    """
    from cognigy_async.emulator import Emulator

    emulator = Emulator()
    yield emulator
    _check_steps(request.node, emulator)


@pytest.fixture
def cognigy_arguments(
    request: pytest.FixtureRequest, cognigy_emulator: Emulator
) -> Iterator[dict[str, Any]]:
    """Arguments of any number of clients of `cognigy_emulator`, with backoffs of milliseconds.

    A test that leaves steps of `Emulator.script` ends with an error.
    """
    import httpx
    import tenacity

    from cognigy_async import Endpoint, HttpxTransport, OAuthConfig, OAuthTokenProvider, RetryPolicy

    class SharedTransport(HttpxTransport):
        """Serves several clients, of which the first to end would close it; it has no sockets."""

        async def aclose(self) -> None:
            pass

    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=cognigy_emulator))
    transport = SharedTransport(http)
    config = OAuthConfig(
        token_url="http://localhost/oauth/token",
        client_id="emulator-client",
        client_secret="emulator-secret",
    )
    yield {
        "base_url": "http://localhost",
        "auth": OAuthTokenProvider(config, transport=transport),
        "transport": transport,
        "endpoint": Endpoint("http://localhost", "emulator-url-token"),
        # Without a wait, a conflict that never ends would be repeated thousands of times a second.
        "retry": RetryPolicy(wait=tenacity.wait_exponential(multiplier=0.001), max_elapsed=20.0),
    }
    # The emulator's own fixture may be one of the user.
    _check_steps(request.node, cognigy_emulator)


def _check_steps(test: pytest.Item, emulator: Emulator) -> None:
    """Report steps that were left, unless the test has failed: the steps would hide the cause."""
    if emulator.untaken_steps and not test.stash.get(HAS_FAILED, False):
        test.stash[HAS_FAILED] = True
        pytest.fail(_untaken(emulator.untaken_steps), pytrace=False)


def _untaken(left: Mapping[tuple[str, str | None], tuple[object, ...]]) -> str:
    lines = ["cognigy_emulator: no request took these steps of script(...):"]
    for (method, dialog_id), steps in left.items():
        where = "any dialog" if dialog_id is None else f"dialog {dialog_id!r}"
        requests = "token requests" if method == "POST" else f"{method} of {where}"
        lines.append(f"  {requests}: {', '.join(map(repr, steps))}")
    lines.append(
        'Steps are for writes, unless script(..., method="GET") says otherwise. '
        "Script fewer steps, or call cognigy_emulator.reset() at the end of the test."
    )
    return "\n".join(lines)


@pytest.fixture
def cognigy_client(request: pytest.FixtureRequest) -> AsyncStateClient | StateClient:
    """Open client of `cognigy_emulator`: an `AsyncStateClient`, in plain tests a `StateClient`."""
    if "anyio_backend" in request.fixturenames:
        name = "_cognigy_anyio_client"
    elif inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        name = f"_cognigy_asyncio_client_{_loop_scope(request)}"
    else:
        name = "_cognigy_sync_client"
    client: AsyncStateClient | StateClient = request.getfixturevalue(name)
    return client


@pytest.fixture
def _cognigy_sync_client(cognigy_arguments: dict[str, Any]) -> Iterator[StateClient]:
    from cognigy_async.sync import StateClient

    with StateClient(**cognigy_arguments) as client:
        yield client


def _opening() -> Callable[[dict[str, Any]], AsyncIterator[AsyncStateClient]]:
    """Return a new function for an asynchronous fixture; pytest-asyncio marks each in its way."""

    async def open_client(cognigy_arguments: dict[str, Any]) -> AsyncIterator[AsyncStateClient]:
        from cognigy_async import AsyncStateClient

        async with AsyncStateClient(**cognigy_arguments) as client:
            yield client
        await cognigy_arguments["auth"].aclose()

    return open_client


_cognigy_anyio_client = pytest.fixture(name="_cognigy_anyio_client")(_opening())


def _loop_scope(request: pytest.FixtureRequest) -> str:
    """Return the scope of the event loop in which pytest-asyncio runs a test."""
    if not request.config.pluginmanager.hasplugin("asyncio"):
        pytest.fail(
            "cognigy_client: no plugin runs this coroutine. Mark the test with pytest.mark.anyio, "
            "or install pytest-asyncio and mark it with pytest.mark.asyncio.",
            pytrace=False,
        )
    marker = request.node.get_closest_marker("asyncio")
    given = marker.kwargs.get("loop_scope") if marker is not None else None
    return given or request.config.getini("asyncio_default_test_loop_scope") or "function"


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures that pytest-asyncio runs, where it is active."""
    if config.pluginmanager.hasplugin("asyncio"):
        import pytest_asyncio

        fixtures = ModuleType("cognigy_async with pytest-asyncio")
        for scope in LOOP_SCOPES:
            name = f"_cognigy_asyncio_client_{scope}"
            fixture = pytest_asyncio.fixture(loop_scope=scope, name=name)
            setattr(fixtures, name, fixture(_opening()))
        config.pluginmanager.register(fixtures)
