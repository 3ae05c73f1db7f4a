"""A server that behaves like Cognigy.AI's APIs, for tests and demonstrations.

The emulator implements versions and etags, scopes, quotas, idempotency keys and the constraints on
variables. It injects faults, and counts violations of the rules for clients. In a test, the
emulator runs in the process of the test, on asyncio and on trio::

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

`serve` runs the emulator on a socket in asyncio. `run` runs it in the foreground. Both functions
need the extra ``emulator``. The emulator uses the clock of the event loop, also a virtual clock.
"""

from .app import Emulator
from .faults import Fault, Faults, Step
from .rules import Rules, Throttling
from .server.serve import run, serve
from .state import Dialog, HistoryEntry, Merging, Profile
from .stats import Stats

__all__ = [
    "Dialog",
    "Emulator",
    "Fault",
    "Faults",
    "HistoryEntry",
    "Merging",
    "Profile",
    "Rules",
    "Stats",
    "Step",
    "Throttling",
    "run",
    "serve",
]
