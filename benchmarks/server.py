"""A server that costs as little as one in Python can, so that the client is what is measured.

    python benchmarks/server.py                        # the same response to every request
    python benchmarks/server.py --fault-every 50       # 429, 409, 503 and a hang-up, in turns
    python benchmarks/server.py --tls CERTIFICATE KEY  # two PEM files
    python benchmarks/server.py --times                # records when each request came
    python benchmarks/server.py --latency 0.02         # answers after 20 ms
    python benchmarks/server.py --latency 0.02 --heavy-tail   # after 20 ms in the mean

It prints its port, keeps connections open, parses no more of a request than its end, gives a token
to everyone, and stops when its stdin ends.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import ssl
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import cast

import anyio

LENGTH = b"content-length:"
POLL = 0.00005


def answer(content: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Return the bytes of a response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


APPLIED = answer(b'{"dialogId":"d","version":1,"message":"state updated"}', headers='ETag: "1"\r\n')
STATE = answer(b'{"dialogId":"d","version":1,"session":{},"user":{}}', headers='ETag: "1"\r\n')
TOKEN = answer(b'{"access_token":"0123456789abcdef","token_type":"Bearer","expires_in":3600}')
PAUSE = "Retry-After: 1\r\nX-RateLimit-Scope: dialog\r\n"
HANG_UP = b""
FAULTS = (
    answer(b'{"message":"too many requests"}', "429 Too Many Requests", PAUSE),
    answer(b'{"message":"the state has changed"}', "409 Conflict"),
    answer(b'{"message":"overloaded"}', "503 Service Unavailable"),
    HANG_UP,
)


class Faults:
    """Chooses the response to each update, over all connections."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._updates = 0

    def answer(self) -> bytes:
        self._updates += 1
        number, rest = divmod(self._updates, self._every)
        return APPLIED if rest else FAULTS[number % len(FAULTS)]


class Delay:
    """Holds responses back for `seconds` in the mean, and measures how long it really was.

    With a heavy tail, latencies have a log-normal distribution: half of them are below 0.61 of the
    mean, one of a hundred is above 6.2 of it. While a response is held back, the clock is polled:
    timers of an event loop count in milliseconds, and would answer in bursts.
    """

    def __init__(
        self,
        seconds: float,
        *,
        heavy_tail: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._heavy_tail = heavy_tail
        self._random = random.Random(1)
        self._held: list[tuple[float, int, float, asyncio.Transport, bytes]] = []
        self._ties = 0
        self._sum = 0.0
        self._count = 0

    def write(self, transport: asyncio.Transport, response: bytes) -> None:
        """Write a response later."""
        # exp(mu + sigma^2 / 2), the mean of this distribution, is 1.
        factor = self._random.lognormvariate(-0.5, 1.0) if self._heavy_tail else 1.0
        received = self._clock()
        due = received + self._seconds * factor
        self._ties += 1
        heapq.heappush(self._held, (due, self._ties, received, transport, response))
        if len(self._held) == 1:
            self._poll()

    def _poll(self) -> None:
        """Write the responses that are due; poll again while others are held back."""
        held = self._held
        while held and held[0][0] <= self._clock():
            _, _, received, transport, response = heapq.heappop(held)
            if not transport.is_closing():
                transport.write(response)
                self._sum += self._clock() - received
                self._count += 1
        if held:
            # uvloop takes it for no delay at all.
            asyncio.get_running_loop().call_later(POLL, self._poll)

    def take_mean(self) -> float:
        """Return the mean latency since the last call, in seconds."""
        mean = self._sum / self._count if self._count else self._seconds
        self._sum, self._count = 0.0, 0
        return mean


class Answering(asyncio.Protocol):
    """One connection; requests may be pipelined and may come in pieces."""

    def __init__(
        self,
        faults: Faults | None = None,
        times: list[float] | None = None,
        delay: Delay | None = None,
    ) -> None:
        self._faults = faults
        self._times = times
        self._delay = delay
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Transports of uvloop have the methods, but not this class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        while (end := unread.find(b"\r\n\r\n")) >= 0:
            head = unread[:end].lower()
            at = head.find(LENGTH)
            size = end + 4
            if at >= 0:
                size += int(head[at + len(LENGTH) :].partition(b"\r\n")[0])
            if len(unread) < size:
                break
            unread = unread[size:]
            if not (response := self._answer(head)):
                self._transport.abort()
                return
            if self._delay is None or head.startswith(b"get "):
                self._transport.write(response)
            else:
                self._delay.write(self._transport, response)
        self._unread = unread

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"get /times"):
            response = answer(json.dumps(self._times).encode())
            if self._times is not None:
                self._times.clear()
            return response
        if head.startswith(b"get /latency") and self._delay is not None:
            return answer(json.dumps(self._delay.take_mean()).encode())
        if head.startswith(b"get "):
            return STATE
        if head.startswith(b"post /oauth/"):
            return TOKEN
        if self._times is not None:
            self._times.append(time.monotonic())
        return APPLIED if self._faults is None else self._faults.answer()


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fault-every", type=int, default=0, metavar="N")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--times", action="store_const", const=[])
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--heavy-tail", action="store_true")
    options = parser.parse_args()
    faults = Faults(options.fault_every) if options.fault_every else None
    delay = Delay(options.latency, heavy_tail=options.heavy_tail) if options.latency else None
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
    server = await asyncio.get_running_loop().create_server(
        lambda: Answering(faults, options.times, delay), "127.0.0.1", 0, backlog=4096, ssl=context
    )
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
