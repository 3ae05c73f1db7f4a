"""A proxy that breaks connections in the ways of networks, byte by byte, whatever they carry."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

FAULTS = ("none", "reset", "blackhole", "bandwidth", "jitter", "half_close", "truncate")

LONGEST_LIFE = 6000
"""Bytes of one direction within which a fault strikes: some requests of a connection go well."""
SLOWEST, FASTEST = 3000, 30_000
"""Bytes in a second of a connection without much bandwidth."""
PIECE = 256
LONGEST_JITTER = 0.06
"""Seconds."""


class _Reader(asyncio.StreamReader):
    """Knows that the other side closed, although there is more to read."""

    ended = False

    def feed_eof(self) -> None:
        self.ended = True
        super().feed_eof()

    def set_exception(self, exc: BaseException) -> None:
        self.ended = True
        super().set_exception(exc)


class ChaosProxy:
    """Forwards each connection to one server, and does at most one harm to it.

    What the server has not got when the client closes is dropped: no request arrives after its
    client gave it up.

    Args:
        seed: of the faults; each connection has its own, by its number.
        faults: those that connections meet, "none" included. "cut" ends the connection after the
            first piece of an answer, by a FIN or a RST.

    Attributes:
        target: port of the server.
        accepted: number of connections.
        struck: connections by the fault that they met.
    """

    def __init__(self, seed: int, faults: Collection[str] = FAULTS) -> None:
        self.accepted = 0
        self.struck: Counter[str] = Counter()
        self.target = 0
        self._seed = seed
        self.faults = tuple(faults)
        self._serving: set[asyncio.Task[None]] = set()

    def protocol(self) -> asyncio.Protocol:
        """Return what serves one connection."""
        return asyncio.StreamReaderProtocol(_Reader(), self._accept)

    async def aclose(self) -> None:
        """End what is served."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        chance = random.Random(f"{self._seed}-{self.accepted}")
        task = asyncio.create_task(self._serve(reader, writer, chance))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random
    ) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
                fault = chance.choice(self.faults)
                harmed = chance.choice(("request", "answer"))
                if fault in ("truncate", "cut"):
                    harmed = "answer"
                there = _Way(reader, upstream, chance, self.struck)
                back = _Way(answers, writer, chance, self.struck)
                (there if harmed == "request" else back).fault = fault
                await _copy_both(there, back, until_both=fault == "half_close")
        finally:
            # The server first: the client may send anew as soon as it knows.
            for each in (upstream, writer):
                if each is not None:
                    each.transport.abort()


async def _copy_both(there: _Way, back: _Way, *, until_both: bool) -> None:
    copying = [asyncio.create_task(there.copy()), asyncio.create_task(back.copy())]
    try:
        when = asyncio.ALL_COMPLETED if until_both else asyncio.FIRST_COMPLETED
        await asyncio.wait(copying, return_when=when)
    finally:
        for each in copying:
            each.cancel()
        await asyncio.gather(*copying, return_exceptions=True)


class _Way:
    """One direction of a connection."""

    def __init__(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        chance: random.Random,
        strikes: Counter[str],
    ) -> None:
        self.fault = "none"
        self._source = source
        self._sink = sink
        self._chance = chance
        self._strikes = strikes
        self._struck = False
        self._left = chance.randrange(LONGEST_LIFE)
        self._speed = chance.uniform(SLOWEST, FASTEST)

    async def copy(self) -> None:
        """Copy until an end of the source, or one of the fault."""
        with suppress(OSError):
            while data := await self._source.read(PIECE):
                if not await self._forward(data):
                    return
            self._sink.write_eof()

    async def _forward(self, data: bytes) -> bool:
        """Whether the direction goes on."""
        fault = self.fault
        if fault in ("bandwidth", "jitter"):
            self._strike()
            slow = len(data) / self._speed
            await asyncio.sleep(slow if fault == "bandwidth" else self._delay())
            if getattr(self._source, "ended", False):
                return False
        elif fault == "cut":
            self._strike()
            self._sink.write(data)
            if self._chance.randrange(2):
                self._reset()
            else:
                self._sink.close()
            return False
        elif fault != "none":
            passing = data[: self._left]
            self._left -= len(passing)
            if len(passing) < len(data):
                self._strike()
                self._sink.write(passing)
                return await self._end()
        self._sink.write(data)
        await self._sink.drain()
        return True

    def _strike(self) -> None:
        if not self._struck:
            self._struck = True
            self._strikes[self.fault] += 1

    def _delay(self) -> float:
        return self._chance.random() ** 3 * LONGEST_JITTER

    async def _end(self) -> bool:
        if self.fault == "blackhole":
            while await self._source.read(PIECE):
                pass
        elif self.fault == "half_close":
            self._sink.write_eof()
        elif self.fault == "reset":
            self._reset()
        else:
            # Of TLS, in the middle of a record and without its own farewell.
            self._sink.close()
        return False

    def _reset(self) -> None:
        connection: socket.socket = self._sink.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sink.transport.abort()


@asynccontextmanager
async def breaking(proxy: ChaosProxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a proxy on a free port, which is returned; with `tls`, it takes that off."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(proxy.protocol, "127.0.0.1", 0, ssl=tls)
    try:
        port: int = server.sockets[0].getsockname()[1]
        yield port
    finally:
        server.close()
        await proxy.aclose()
