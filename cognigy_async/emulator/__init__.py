"""A server that behaves like Cognigy.AI's APIs, for tests and demonstrations.

It has versions and etags, scopes, quotas, idempotency keys and the constraints on variables; it
fails on demand; and it tells what no client may do. In a test it runs in the process, on asyncio
and on trio::

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

Over real sockets it runs in asyncio by `serve`, in the foreground by `run`; both need the extra
``emulator``. Times are those of the event loop's clock, so a virtual clock serves as well.
"""

from .app import Emulator
from .faults import Fault, Faults, Step
from .profiles import Profile
from .serve import run, serve
from .state import Dialog, HistoryEntry
from .stats import Stats

__all__ = [
    "Dialog",
    "Emulator",
    "Fault",
    "Faults",
    "HistoryEntry",
    "Profile",
    "Stats",
    "Step",
    "run",
    "serve",
]
