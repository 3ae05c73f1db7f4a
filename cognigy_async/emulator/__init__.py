"""A server that behaves like Cognigy.AI's APIs, for tests and demonstrations.

It implements versions and etags, scopes, quotas, idempotency keys and the constraints on
variables, injects faults, and counts violations of the rules for clients. In a test it runs in the
process, on asyncio and on trio::

    @pytest.fixture
    async def cognigy():
        emulator = Emulator(api_key="k")
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator))
        async with http, AsyncStateClient(
            "http://localhost", auth=ApiKey("k"), transport=HttpxTransport(http)
        ) as client:
            yield emulator, client

    async def test_checkout(cognigy):
        emulator, client = cognigy
        emulator.script("drop_after", 503, dialog_id="d-1")
        await client.update("d-1", session={"cart_total": 149.99})
        assert emulator.dialogs["d-1"].session == {"cart_total": 149.99}
        assert not emulator.stats.violations()

`serve` runs it over sockets in asyncio, `run` in the foreground; both need the extra ``emulator``.
Times are by the clock of the event loop, so that a virtual clock works too.
"""

from .app import Emulator
from .faults import Fault, Faults, Step
from .rules import Rules, Throttling
from .server.serve import run, serve
from .state import Dialog, HistoryEntry, Profile
from .stats import Stats

__all__ = [
    "Dialog",
    "Emulator",
    "Fault",
    "Faults",
    "HistoryEntry",
    "Profile",
    "Rules",
    "Stats",
    "Step",
    "Throttling",
    "run",
    "serve",
]
