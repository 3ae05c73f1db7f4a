"""A small HTTP server of the runtime API, as fast as Python allows, that checks the order."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import NamedTuple, Self


class Write(NamedTuple):
    """A request that the server has applied."""

    at: float
    dialog: str
    n: int
    key: str


class TenantServer:
    """Applies each assignment of a number `n` after `delay` seconds, and keeps what it did."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.writes: list[Write] = []
        self.arrived = asyncio.Event()
        """Set when a request has arrived, before it is applied."""
        self.written = asyncio.Event()
        """Set when something was applied."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()
        # The tasks of the connections end.
        await asyncio.sleep(0.05)

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def after(self, count: int) -> None:
        """Wait until a number of requests were applied."""
        while len(self.writes) < count:
            self.written.clear()
            await self.written.wait()

    def sent(self, dialog: str) -> list[int]:
        """Return the numbers of a dialog in the order of their first requests, without repeats."""
        return list(dict.fromkeys(write.n for write in self.writes if write.dialog == dialog))

    def stale(self) -> list[Write]:
        """Return the writes that came after a write of a later update of their dialog."""
        last: dict[str, int] = {}
        found = []
        for write in self.writes:
            if write.n < last.get(write.dialog, -1):
                found.append(write)
            else:
                last[write.dialog] = write.n
        return found

    def repeated(self) -> int:
        """Return the number of requests whose key had been seen before."""
        return len(self.writes) - len({write.key for write in self.writes})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                dialog = lines[0].split(" ")[1].split("/dialogs/")[1].split("/")[0]
                self.arrived.set()
                await asyncio.sleep(self.delay)
                now = asyncio.get_running_loop().time()
                n = json.loads(body)["session"]["n"]
                self.writes.append(Write(now, dialog, n, headers["idempotency-key"]))
                self.written.set()
                content = json.dumps({"version": len(self.writes)})
                writer.write(
                    (
                        f'HTTP/1.1 200 OK\r\netag: "{len(self.writes)}"\r\n'
                        f"content-length: {len(content)}\r\n\r\n{content}"
                    ).encode()
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()
